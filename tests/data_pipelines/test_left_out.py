"""What lies in a folder of frames and comes into no record is counted and listed; dry runs look at every frame's files."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from raw_layouts import LAYOUTS, STATED, made

from data_pipelines.manifest import PrepareError
from data_pipelines.sources import SOURCES
from data_pipelines.sources.posed.decoding import FORMATS, PICTURE_SUFFIXES, VIDEO_SUFFIXES
from data_pipelines.sources.posed.pictures import masked
from data_pipelines.sources.posed.scene import Depth
from experiments.prepare import look


def photo(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), (90, 60, 30)).save(path, **options)


def said(capsys, source, raw, **arguments):
    look(source, SOURCES[source].settings(raw=str(raw), **arguments))
    return capsys.readouterr().out


def test_one_table_of_endings_is_read_whole(tmp_path):
    """Every ending of the table is a picture that is read, and every format that is decoded has an ending."""
    endings = Image.registered_extensions()
    assert {endings[suffix] for suffix in PICTURE_SUFFIXES} == set(FORMATS)
    for suffix in PICTURE_SUFFIXES:
        photo(tmp_path / "hall" / f"p{suffix.upper()}", format=endings[suffix])
    (record,), counts, reasons = made("pictures", tmp_path, views=len(PICTURE_SUFFIXES))
    assert len(record.images) == len(PICTURE_SUFFIXES) and not reasons and not counts["frames_dropped"]


def test_folders_of_pictures_keep_account_of_all_that_lies_in_them(tmp_path, capsys):
    for name in ("1.jpg", "2.webp", "3.tif", "4.gif"):
        photo(tmp_path / "photos/hall" / name)
    for name in ("5.heic", "notes.txt", "._1.jpg", ".DS_Store"):
        (tmp_path / "photos/hall" / name).write_bytes(b"?")
    photo(tmp_path / "elsewhere/1.jpg")
    (tmp_path / "photos/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/hall/back").symlink_to(tmp_path / "photos")  # leads into itself
    (tmp_path / "photos/hall/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "photos/raw").mkdir()
    (tmp_path / "photos/raw/1.heic").write_bytes(b"?")
    photo(tmp_path / "photos/__MACOSX/1.jpg")
    for suffix in (".mpg", ".wmv"):
        shutil.copy(LAYOUTS / "conversations/videos/v.mp4", tmp_path / f"photos/walk{suffix}")
    assert {".mpg", ".wmv"} <= set(VIDEO_SUFFIXES)
    records, counts, reasons = made("pictures", tmp_path / "photos", views=1)
    assert {record.scene for record in records} == {"hall", "linked", "walk.mpg", "walk.wmv"}
    assert [r.view_ids[0] for r in records if r.scene == "hall"] == ["1.jpg", "2.webp", "3.tif", "4.gif"]
    assert counts["left_out/files_of_no_frame"] == 4 and counts["frames_dropped"] == 1
    assert reasons["hall/5.heic"] == reasons["hall/notes.txt"] == "is no picture of a known kind"
    assert (
        reasons["hall/._1.jpg"] == reasons["hall/.DS_Store"] == "is a hidden file"
        and reasons["__MACOSX"] == "is hidden"
    )
    assert "gone.jpg cannot be read" in reasons["hall/gone.jpg"] and reasons["raw"] == "1 files, no picture: 1.heic"
    out = said(capsys, "pictures", tmp_path / "photos", views=1)
    assert "hall: left out: 2 files_of_no_frame (notes.txt, 5.heic): is no picture of a known kind" in out
    assert (
        "raw: no scene (1 files, no picture: 1.heic)" in out
        and "files: colour 4 (1 missing, the first gone.jpg)" in out
    )
    each = made("pictures", tmp_path / "photos/hall", views=1, each=True)
    assert each[2]["5.heic"] == "is no picture or video of a known kind" and each[2]["._1.jpg"] == "is hidden"
    with pytest.raises(PrepareError, match="holds no scene .*1.heic"):
        made("pictures", tmp_path / "photos/raw", views=1)


def test_dry_runs_count_the_files_of_all_frames(tmp_path, capsys):
    """Of 40 frames a sample of eight would miss one file; numbers that are given are of all."""
    raw = shutil.copytree(LAYOUTS / "scannet/exported", tmp_path / "raw")
    (scene,) = [path for path in raw.iterdir() if path.is_dir()]
    for number in range(4, 40):
        for kind in ("color/{}.jpg", "depth/{}.png", "pose/{}.txt"):
            shutil.copy(scene / kind.format(1), scene / kind.format(number))
    for number in (3, 17, 33):
        (scene / f"depth/{number}.png").unlink()
    (scene / "color/thumbs.db").write_bytes(b"?")
    (scene / "depth/99.png").write_bytes(b"?")
    out = said(capsys, "posed_rgbd", raw)
    assert (
        "40 frames; " in out
        and "files: colour 40, depth 37 (3 missing, the first 3); of 8 looked at: 8 with depth" in out
    )
    assert (
        "1 files_of_no_frame (99.png): belongs to no frame" in out
        and "(thumbs.db): is no picture of a known kind" in out
    )
    _, counts, reasons = made("posed_rgbd", raw)
    assert counts["left_out/files_of_no_frame"] == 2 and reasons[f"{scene.name}/99.png"] == "belongs to no frame"
    tum = shutil.copytree(LAYOUTS / "tum", tmp_path / "tum")
    next(tum.rglob("rgb/*.png")).unlink()
    assert "files: colour 3 (1 missing" in said(capsys, "tum", tum, **STATED)


def test_hidden_files_take_no_frames_place(tmp_path):
    raw = shutil.copytree(LAYOUTS / "arkitscenes/raw", tmp_path / "raw")
    for path in sorted(raw.rglob("*_100.*")):
        (path.parent / f"._{path.name}").write_bytes(b"AppleDouble")
    (pictures,) = raw.rglob("lowres_wide")
    (pictures / "._41000001_100.150.png").write_bytes(b"AppleDouble")  # of a picture that is not there
    records, counts, _ = made("arkitscenes", raw)
    assert len(records) == 1 and counts["frames_listed"] == counts["frames_kept"] == 4
    assert (
        counts["left_out/files_of_no_frame"] == 5 and not counts["depth_missing/undecodable"]
    )  # those of the pictures


def test_frames_without_a_picture_are_listed(tmp_path, capsys):
    raw = shutil.copytree(LAYOUTS / "scannetpp", tmp_path / "raw")
    (place,) = raw.rglob("iphone")
    for number in (1, 2):
        (place / f"rgb/frame_00000{number}.jpg").unlink()
    records, counts, reasons = made("scannetpp", raw, views=2)
    assert records[0].metadata["frames"] == [0, 3] and counts["left_out/frames_without_picture"] == 2
    assert reasons == {"0a0a0a0a0a/frame_000001-frame_000002": "has no picture in rgb/"}
    assert "2 frames_without_picture (frame_000001-frame_000002)" in said(capsys, "scannetpp", raw)


def depths_of(record):
    return [np.asarray(Image.open(io.BytesIO(depth))) if depth else None for depth in record.depths]


@pytest.mark.parametrize("device", ["dslr", "iphone"])
def test_frames_marked_bad_are_left_out_and_masked_pixels_have_no_depth(device, tmp_path):
    raw = shutil.copytree(LAYOUTS / "scannetpp", tmp_path / "raw")
    (place,) = raw.rglob(device)
    iphone = device == "iphone"
    masks = place / ("rgb_masks" if iphone else "resized_anon_masks")
    pictures = sorted((place / ("rgb" if iphone else "resized_images")).iterdir())
    size = Image.open(pictures[0]).size
    blot = np.full(size[::-1], 255, np.uint8)
    blot[:, : size[0] // 2] = 0  # the left half
    masks.mkdir(exist_ok=True)
    for picture in pictures:
        Image.fromarray(np.full(size[::-1], 255, np.uint8)).save(masks / f"{picture.stem}.png")
        if not iphone:
            (place / "render_depth").mkdir(exist_ok=True)
            Image.fromarray(np.full(size[::-1], 1500, np.uint16)).save(place / f"render_depth/{picture.stem}.png")
    whole = made("scannetpp", raw, device=device, views=1)[0]
    Image.fromarray(blot).save(masks / f"{pictures[1].stem}.png")
    (masks / f"{pictures[2].stem}.png").write_bytes(b"?")
    frames = [{"file_path": picture.name, "is_bad": number == 3} for number, picture in enumerate(pictures)]
    (place / "nerfstudio").mkdir(exist_ok=True)
    (place / "nerfstudio/transforms.json").write_text(json.dumps({"frames": frames[:2], "test_frames": frames[2:]}))
    records, counts, reasons = made("scannetpp", raw, device=device, views=1)
    assert [record.metadata["frames"] for record in records] == [[0], [1], [2]]
    assert counts["left_out/frames_marked_bad"] == 1 and "is_bad in nerfstudio/transforms.json" in reasons.values()
    assert [record.images for record in records] == [record.images for record in whole[:3]]  # pictures stay
    (clean,), (half,), (none,) = map(depths_of, records)
    np.testing.assert_array_equal(clean, depths_of(whole[0])[0])
    before, middle = depths_of(whole[1])[0], half.shape[1] // 2
    edge = 0 if iphone else 1  # of the undistorted picture
    assert not half[:, : middle - edge].any()
    np.testing.assert_array_equal(half[:, middle + edge :], before[:, middle + edge :])
    assert (before[:, middle:] > 0).any() and none is None and counts["depth_missing/no_mask"] == 1
    (place / "nerfstudio/transforms.json").write_text('{"frames": [{"is_bad": true}]}')
    with pytest.raises(PrepareError, match="transforms.json: expected an object with lists 'frames'"):
        made("scannetpp", raw, device=device)


def test_masks_and_bad_frames_of_transforms_json(tmp_path):
    raw = shutil.copytree(LAYOUTS / "nerfstudio", tmp_path / "nerf")
    values = json.loads((raw / "transforms.json").read_text())
    mask = np.ones((48, 64), bool)
    mask[10:20, 30:40] = False
    Image.fromarray(mask).save(raw / "mask.png")  # 1 bit
    values["frames"][0]["mask_path"] = "mask.png"
    values["frames"][1]["mask_path"] = "none.png"
    values["frames"][2]["is_bad"] = True
    values["test_frames"] = [values["frames"][3]]
    photo(raw / "images/frame_00009.jpg")
    (raw / "transforms.json").write_text(json.dumps(values))
    records, counts, reasons = made("nerfstudio", raw, views=3, metric=True)
    plain = made("nerfstudio", LAYOUTS / "nerfstudio", views=4, metric=True)[0][0]
    first, second, last = depths_of(records[0])
    np.testing.assert_array_equal(first, np.where(mask, depths_of(plain)[0], 0))
    assert second is None and counts["depth_missing/no_mask"] == 1 and last is not None
    assert records[0].images == tuple(plain.images[k] for k in (0, 1, 3)) and records[0].metadata["frames"] == [0, 1, 3]
    assert reasons["nerf/frame_00003"] == "is_bad in transforms.json" and counts["left_out/frames_held_out"] == 1
    assert reasons["nerf/frame_00009.jpg"] == "belongs to no frame"
    values["frames"][0]["mask_path"] = "../../mask.png"
    (raw / "transforms.json").write_text(json.dumps(values))
    with pytest.raises(PrepareError, match="leads out of the folder"):
        made("nerfstudio", raw)


def test_masks_of_a_larger_picture_are_brought_to_the_depths_size(tmp_path):
    large = np.full((96, 128), 255, np.uint8)
    large[20:40, 60:80] = 0
    Image.fromarray(large).save(tmp_path / "large.png")
    depth = Depth(np.full((48, 64), 7, np.uint16))
    kept, why = masked(depth, tmp_path / "large.png", 128, "mask")
    np.testing.assert_array_equal(kept.steps > 0, large[1::2, 1::2] > 0)
    assert not why
    Image.fromarray(large.T.copy()).save(tmp_path / "turned.png")
    assert masked(depth, tmp_path / "turned.png", 128, "mask") == (None, "mask_of_other_size")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "black.png")
    assert masked(depth, tmp_path / "black.png", 128, "mask") == (None, "all_masked")


CUTS = {"a_number": lambda text: text.rsplit(None, 1)[0], "inside_the_last": lambda text: text.rstrip()[:-3]}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("source, where, name, settings", [
    ("arkitscenes", "arkitscenes/raw", "lowres_wide.traj", {}), ("tum", "tum", "groundtruth.txt", STATED),
])  # fmt: skip
def test_a_cut_trajectory_loses_its_last_pose_alone(source, where, name, settings, cut, tmp_path, capsys):
    """A number cut short is a number: a last line without a line break is not trusted, all others are."""
    raw = shutil.copytree(LAYOUTS / where, tmp_path / "raw")
    (file,) = raw.rglob(name)
    whole = made(source, raw, **settings)[0][0]
    text = file.read_text()
    lines = len(text.splitlines())
    file.write_text(CUTS[cut](text))
    (record,), counts, reasons = made(source, raw, **settings)
    good = record.pose_valid
    assert good.sum() == 3 and not good[-1] and counts["pose_masked/no_pose_at_its_time"] == 1
    np.testing.assert_array_equal(record.camera_to_world[good], whole.camera_to_world[good])
    assert reasons[f"{record.scene}/{name}, line {lines}"] == "ends without a line break: it may be cut"
    assert counts["left_out/poses_cut_off"] == 1
    assert "1 poses_cut_off" in said(capsys, source, raw, **settings)
    for words, message in ((["1.0", "2.0"], "2 words, expected"), (["nan"] + ["0"] * (6 if "traj" in name else 7), "is no time"),
                           (["x"] * 3, "could not convert")):  # fmt: skip
        file.write_text(" ".join(words) + "\n" + text)
        with pytest.raises(PrepareError, match=f"{name}, line 1: .*{message}"):
            made(source, raw, **settings)
