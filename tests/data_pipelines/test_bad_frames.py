"""What may be wrong with pictures, depth, cameras and names, in posed sources and beside questions: masked, dropped or refused.

The table of rules is in docs/sources/README.md. Poses and depth of the exported layout: test_posed_rgbd.py.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from raw_layouts import LAYOUTS, STATED, made

from data_pipelines.manifest import PrepareError
from data_pipelines.sources import SOURCES
from data_pipelines.sources.posed import decoding
from data_pipelines.sources.posed.depth_stream import DepthStream
from data_pipelines.sources.posed.pictures import depth_from_metres
from data_pipelines.sources.qa import video
from experiments.prepare import look


def posed(tmp_path, change=None, frames=None, **arguments):
    """The nerfstudio miniature with other values in transforms.json and other files for its third picture."""
    raw = shutil.copytree(LAYOUTS / "nerfstudio", tmp_path / "posed", dirs_exist_ok=True)
    values = json.loads((raw / "transforms.json").read_text()) | (change or {})
    values["frames"] = (frames or (lambda rows: rows))(values["frames"])
    (raw / "transforms.json").write_text(json.dumps(values))
    for name, data in arguments.pop("files", {}).items():
        (raw / name).write_bytes(data)
    return made("nerfstudio", raw, views=1, metric=True, **arguments)


def asked(tmp_path, data=None, name="images/x", **arguments):
    """A question about one picture."""
    raw = tmp_path / "asked"
    (raw / "images").mkdir(parents=True, exist_ok=True)
    if data is not None:
        (raw / "images/x").write_bytes(data)
    shutil.copy(LAYOUTS / "conversations/images/a.jpg", raw / "images/a.jpg")
    turns = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Left."}]
    rows = [{"image": image, "conversations": turns} for image in ("images/a.jpg", name)]
    (raw / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records, counts, reasons = made("llava", raw, files=("rows.jsonl",), **arguments)
    return records[1:], counts, reasons.get("rows.jsonl, line 2", "")


def both(tmp_path, data):
    """(posed record or None, reason), (question's record or None, reason) of one picture."""
    records, _, reasons = posed(tmp_path, files={"images/frame_00003.jpg": data})
    by_frame = {record.metadata["frames"][0]: record for record in records}
    questions, _, reason = asked(tmp_path, data)
    scene_reason = reasons.get("posed/frame_00003", "")
    return (by_frame.get(2), scene_reason), (questions[0] if questions else None, reason)


def encoded(picture, kind="PNG", **arguments):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **arguments)
    return buffer.getvalue()


def png(width, height, bits, colour, rows=b""):
    """A PNG of any header: `rows` are its pixels with a filter byte before each row."""
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def gradient():
    rows, columns = np.mgrid[:48, :64]
    return np.stack([columns * 4, rows * 5, 255 - columns * 4], -1).astype(np.uint8)


def deep_png():
    values = (gradient().astype(int) * 256 + 7).astype(">u2")
    return png(64, 48, 16, 2, b"".join(b"\0" + row.tobytes() for row in values))


GREY = Image.fromarray(gradient()).convert("L")
KINDS = {  # name -> (bytes, expected RGB, tolerance)
    "palette": (encoded(Image.fromarray(gradient()).quantize(256)), gradient(), 24),
    "grey": (encoded(GREY), np.repeat(np.asarray(GREY)[..., None], 3, -1), 0),
    "bilevel": (encoded(GREY.point(lambda v: 255 * (v > 90), "1")), 255 * (np.repeat(np.asarray(GREY)[..., None], 3, -1) > 90), 0),
    "cmyk": (encoded(Image.fromarray(gradient()).convert("CMYK"), "JPEG", quality=95), gradient(), 12),
    "clear": (encoded(Image.fromarray(np.dstack([gradient(), np.zeros((48, 64), np.uint8)]))), np.full((48, 64, 3), 255), 0),
    "clear_colour": (encoded(Image.new("RGB", (64, 48), (9, 8, 7)), transparency=(9, 8, 7)), np.full((48, 64, 3), 255), 0),
    "sixteen_bits": (deep_png(), gradient(), 0),
    "webp": (encoded(Image.fromarray(gradient()), "WEBP", lossless=True), gradient(), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_pictures_of_other_kinds_become_8_bit_rgb(name, tmp_path):
    data, wanted, tolerance = KINDS[name]
    for record, reason in both(tmp_path, data):
        assert not reason
        with Image.open(io.BytesIO(record.images[0])) as picture:
            assert picture.mode == "RGB" and "transparency" not in picture.info and record.images[0][24:25] != b"\x10"
            assert np.abs(np.asarray(picture).astype(int) - wanted).max() <= tolerance


def exif(tag):
    found = Image.Exif()
    found[274] = tag
    return found


half = len(encoded(Image.fromarray(gradient()))) // 2
BROKEN = {  # name -> (bytes, reason in a posed source, reason beside a question, "" = it is used)
    "truncated_jpeg": (encoded(Image.fromarray(gradient()), "JPEG")[:-300], "cannot be decoded", "cannot be decoded"),
    "truncated_png": (encoded(Image.fromarray(gradient()))[:half], "cannot be decoded", "cannot be decoded"),
    "empty": (b"", "cannot be decoded", "cannot be decoded"),
    "grey_of_16_bits": (encoded(Image.fromarray(np.full((48, 64), 3000, np.uint16))), "has mode I;16", "has mode I;16"),
    "program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n", "cannot be decoded", "cannot be decoded"),
    "bomb": (png(20000, 20000, 1, 0), "has more than 178956970 pixels", "has more than 178956970 pixels"),
    "turned_by_exif": (encoded(Image.fromarray(gradient()), "JPEG", exif=exif(6)), "EXIF orientation 6", ""),
    "mirrored_by_exif": (encoded(Image.fromarray(gradient()), exif=exif(2)), "EXIF orientation 2", ""),
    # Portrait, though the camera and depth are those of a landscape picture.
    "portrait": (encoded(Image.fromarray(gradient().swapaxes(0, 1))), "is \\(48, 64\\), its camera was made for \\(64, 48\\)", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_pictures_that_cannot_be_used_are_dropped_with_their_reason(name, tmp_path):
    data, *wanted = BROKEN[name]
    for (record, reason), message in zip(both(tmp_path, data), wanted, strict=True):
        assert (record is None) == bool(message)
        with pytest.raises(AssertionError, match=message or "^$"):
            raise AssertionError(reason)
    record = both(tmp_path, data)[1][0]
    if "exif" in name:
        shown = np.asarray(Image.open(io.BytesIO(record.images[0]))).astype(int)
        upright = np.rot90(gradient(), -1) if name.startswith("turned") else gradient()[:, ::-1]
        assert np.abs(shown - upright).max() < 30  # JPEG


def test_a_dry_run_opens_some_frames(tmp_path, capsys):
    posed(tmp_path, files={"images/frame_00003.jpg": BROKEN["turned_by_exif"][0], "images/frame_00001.jpg": b""})
    look("nerfstudio", SOURCES["nerfstudio"].settings(raw=str(tmp_path / "posed")))
    said = capsys.readouterr().out
    assert "2 with depth" in said and "1 would be dropped (EXIF orientation 6" in said
    assert "1 would be dropped (frame_00001.jpg cannot be decoded" in said


def test_between_the_two_thresholds_pictures_are_used_without_a_warning(tmp_path, monkeypatch):
    data = encoded(Image.fromarray(gradient()))  # 3072 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(not reason for _, reason in both(tmp_path, data))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 3000)
    assert all("has 64 x 48 pixels, more than 3000" in reason for _, reason in both(tmp_path, data))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    assert all("has more than 3000 pixels" in reason for _, reason in both(tmp_path, data))


def test_portrait_scenes_of_one_shape_are_kept(tmp_path):
    """Pictures, depth and camera all portrait: nothing is turned, the camera is the one stated."""
    change = dict(w=48, h=64, cx=24.0, cy=32.0)
    files = {}
    for number in range(1, 5):
        files[f"images/frame_0000{number}.jpg"] = encoded(Image.fromarray(gradient().swapaxes(0, 1)))
        files[f"depths/frame_0000{number}.png"] = encoded(Image.fromarray(np.full((64, 48), 1500, np.uint16)))
    records, _, reasons = posed(tmp_path, change, files=files)
    assert len(records) == 4 and not reasons
    np.testing.assert_allclose(records[0].intrinsics[0], [[58, 0, 24], [0, 58, 32], [0, 0, 1]])
    assert Image.open(io.BytesIO(records[0].depths[0])).size == (48, 64)


def test_cameras_for_another_size_are_scaled_refused_or_dropped(tmp_path):
    double = dict(w=128, h=96, fl_x=116.0, fl_y=116.0, cx=64.0, cy=48.0)
    records, _, _ = posed(tmp_path, double)
    np.testing.assert_allclose(records[0].intrinsics[0], [[58, 0, 32], [0, 58, 24], [0, 0, 1]])
    with pytest.raises(AssertionError, match="cx = 64 does not fit a picture of 64 x 48"):
        raise AssertionError(posed(tmp_path, double | dict(w=0, h=0))[2]["posed/frame_00001"])
    for source, message in (("sevenscenes", "Give --camera"), ("tum", "Give --camera")):
        raw = shutil.copytree(LAYOUTS / source, tmp_path / source)
        for path in raw.rglob("*.png"):
            Image.new("RGB", (64, 64)).save(path)
        (raw / "rgbd_dataset_invented").is_dir() and (raw / "rgbd_dataset_invented").rename(raw / "freiburg1_x")
        with pytest.raises(PrepareError, match=message):
            made(source, raw)
    exported = shutil.copytree(LAYOUTS / "scannet/exported", tmp_path / "exported")
    with pytest.raises(PrepareError, match="is for pictures of \\(48, 64\\)|does not fit"):
        made("posed_rgbd", exported, intrinsics_size="48x64")


@pytest.mark.parametrize("data, problem", [
    (png(20000, 20000, 16, 0), "undecodable"),
    (png(64, 48, 16, 0, b"\0" * 20), "undecodable"),
    (encoded(Image.fromarray(np.zeros((48, 64), np.uint16))), "no_valid_pixel"),
    (encoded(Image.fromarray(np.full((48, 64), 65535, np.uint16))), "no_valid_pixel"),
])  # fmt: skip
def test_bad_depth_leaves_the_picture(data, problem, tmp_path):
    records, counts, reasons = posed(tmp_path, files={"depths/frame_00003.png": data})
    assert len(records) == 4 and not reasons and counts[f"depth_missing/{problem}"] == 1
    assert [bool(record.depths[0]) for record in records] == [True, True, False, True]


def test_depth_of_another_shape_drops_the_frame_and_colour_as_depth_is_refused(tmp_path):
    turned = encoded(Image.fromarray(np.full((64, 48), 1500, np.uint16)))
    _, _, reasons = posed(tmp_path, files={"depths/frame_00003.png": turned})
    assert "is (64, 48), its depth (48, 64)" in reasons["posed/frame_00003"]
    with pytest.raises(PrepareError, match="frame_00003.png has mode RGB: depth must be a 16-bit grey PNG"):
        posed(tmp_path, files={"depths/frame_00003.png": encoded(Image.fromarray(gradient()))})


def test_depth_arrays_that_lie_about_their_size(tmp_path):
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }"
    found = {}
    for name, shape, body in (("huge", (10**9, 10**9), b""), ("short", (48, 64), b"\0" * 100), ("good", (48, 64), b"")):
        text = head % shape
        text += b" " * (64 - (10 + len(text) + 1) % 64) + b"\n"
        body = np.full((48, 64), 1.5, "<f4").tobytes() if name == "good" else body
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body
        named = lambda rows: [{**row, "depth_file_path": "depths/d.npy"} for row in rows]
        found[name] = posed(tmp_path, frames=named, files={"depths/d.npy": data})[1]
    assert found["huge"]["depth_missing/undecodable"] == found["short"]["depth_missing/undecodable"] == 4
    assert not found["good"]["depth_missing/undecodable"]


def test_metres_that_are_none_are_holes():
    metres = np.array([[1.5, np.inf, -np.inf, np.nan, 0.0, -2.0, 65.534, 65.535, 1e30]])
    assert depth_from_metres(metres, 0.001).steps.tolist() == [[1500, 0, 0, 0, 0, 0, 65534, 0, 0]]


def test_packed_depth_unpacks_to_no_more_than_a_map(tmp_path):
    raw = shutil.copytree(LAYOUTS / "scannet", tmp_path / "scannet", ignore=shutil.ignore_patterns("exported"))
    file = raw / "scans/scene9000_00/scene9000_00.sens"
    data = bytearray(file.read_bytes())
    header = SOURCES["scannet"].layout.open(file.parent, SOURCES["scannet"].settings(raw=str(raw)))
    at, (colour, depth) = header.views[1].key
    bomb = zlib.compress(b"\1" * (1 << 24), 9)  # 16 MiB in place of 6 KiB
    data[at + 96 + colour : at + 96 + colour + depth] = bomb
    data[at + 64 + 16 + 8 : at + 64 + 16 + 16] = struct.pack("<Q", len(bomb))
    file.write_bytes(data)
    tracemalloc.start()
    _, counts, _ = made("scannet", raw, views=1)
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()
    assert counts["depth_missing/undecodable"] == 1 and counts["frames_kept"] == 4
    stream = tmp_path / "depth.bin"
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream.write_bytes(packer.compress(np.ones((4, 48, 64), "<f4").tobytes()) + packer.flush())
    np.testing.assert_array_equal(DepthStream(stream, 4, 64 / 48).read(3), np.ones((48, 64)))
    stream.write_bytes(stream.read_bytes()[:-2])
    with pytest.raises(PrepareError, match="depth.bin (is truncated|holds)"):
        DepthStream(stream, 4, 64 / 48)


def test_videos_with_frames_too_large_or_cut_short(tmp_path, monkeypatch):
    whole = (LAYOUTS / "conversations/videos/v.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(video.VideoError, match="cannot be decoded"):
        video.read_frames(tmp_path / "cut.mp4", 4, "uniform")
    other = whole.replace(b"avc1", b"zzzz")
    assert other != whole
    (tmp_path / "other.mp4").write_bytes(other)
    with pytest.raises(video.VideoError, match="codec that cannot be decoded"):
        video.read_frames(tmp_path / "other.mp4", 4, "uniform")
    monkeypatch.setattr(video, "MAX_PIXELS", 100)
    with pytest.raises(video.VideoError, match="has frames of .* pixels, more than 100"):
        video.read_frames(LAYOUTS / "conversations/videos/v.mp4", 4, "uniform")


POSES = {
    "not_finite": [[float("nan")] * 4] * 4,
    "all_zero": [[0.0] * 4] * 4,
    "not_a_rigid_motion": np.diag([1.0, 1.0, -1.0, 1.0]).tolist(),  # left-handed
    "unreadable": "north",
    "too_far": [[1.0, 0.0, 0.0, 1e300], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
}


@pytest.mark.parametrize("problem", POSES)
def test_bad_poses_are_masked(problem, tmp_path):
    replaced = lambda rows: [*rows[:3], {**rows[3], "transform_matrix": POSES[problem]}]
    records, counts, _ = posed(tmp_path, frames=replaced)
    assert counts[f"pose_masked/{problem}"] == 1 and [bool(r.pose_valid[0]) for r in records] == [True] * 3 + [False]


def test_lost_poses_are_masked_beside_questions_too(tmp_path):
    """An identity that repeats is what a tracker writes when it is lost; a scan joined by --geometry is no exception."""
    scans = shutil.copytree(LAYOUTS / "scannet/exported", tmp_path / "scans")
    (scene,) = [path for path in scans.iterdir() if path.is_dir()]
    for number in (0, 1):
        np.savetxt(scene / "pose" / f"{number}.txt", np.eye(4))
    raw = shutil.copytree(LAYOUTS / "vlm3r", tmp_path / "vlm3r")
    (record,), _, _ = made("llava", raw, geometry=f"posed_rgbd={scans}", frames=4)
    assert record.pose_valid.tolist() == [False, False, False, True]  # the third is -inf


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path):
    secret = tmp_path / "secret.jpg"
    shutil.copy(LAYOUTS / "conversations/images/a.jpg", secret)
    (tmp_path / "asked/images").mkdir(parents=True)
    (tmp_path / "asked/link.jpg").symlink_to(secret)
    (tmp_path / "asked/loop.jpg").symlink_to(tmp_path / "asked/loop.jpg")
    os.mkfifo(tmp_path / "asked/pipe.jpg")
    names = {
        "../secret.jpg": "leads out", "images/../../secret.jpg": "leads out", str(secret): "leads out",
        "C:\\secret.jpg": "leads out", "..\\secret.jpg": "leads out", "file:///etc/passwd": "leads out",
        "link.jpg": "leads out of the folder through a link", "loop.jpg": "is not there", "pipe.jpg": "no regular file",
        "x" * 5000: "letters", "\ud800.jpg": "letters", "images/a\0.jpg": "leads out",
    }  # fmt: skip
    for name, message in names.items():
        records, _, reason = asked(tmp_path, name=name)
        assert not records and message in reason, (name, reason)
    assert asked(tmp_path, name="link.jpg", links=True)[0]
    exported = shutil.copytree(LAYOUTS / "scannet/exported", tmp_path / "exported")
    pipe = next(exported.rglob("color/0.*"))
    pipe.unlink()
    os.mkfifo(pipe)
    assert "no regular file" in made("posed_rgbd", exported, views=1)[2][f"{pipe.parents[1].name}/0"]
    for name in ("../secret.jpg", str(secret), "C:\\secret.jpg"):
        renamed = lambda rows, name=name: [*rows[:3], {**rows[3], "file_path": name}]
        with pytest.raises(PrepareError, match="leads out of the folder"):
            posed(tmp_path, frames=renamed)
    shutil.rmtree(tmp_path / "posed")
    tum = shutil.copytree(LAYOUTS / "tum", tmp_path / "tum")
    table = tum / "rgbd_dataset_invented/rgb.txt"
    table.write_text(table.read_text() + f"1305031103.0 {secret}\n")
    with pytest.raises(PrepareError, match="leads out of the folder"):
        made("tum", tum, **STATED)
    colmap = shutil.copytree(LAYOUTS / "colmap", tmp_path / "colmap")
    images = colmap / "sparse/0/images.txt"
    images.write_text(images.read_text().replace("frame_00002.jpg", "../../secret.jpg"))
    with pytest.raises(PrepareError, match="leads out of the folder"):
        made("colmap", colmap)
