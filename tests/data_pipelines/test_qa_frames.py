"""Which frame a question's picture is, and what several scans in one row become."""

from __future__ import annotations

import base64
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw
from raw_layouts import LAYOUTS, made

ROOM = LAYOUTS / "scannet/exported/scene9000_00"


@pytest.fixture
def scans(tmp_path):
    """Two rooms in ScanNet's export layout, every frame with a pose: the second is the first, its colours inverted."""
    for name in ("kitchen", "office"):
        place = shutil.copytree(ROOM, tmp_path / "scans" / name)
        shutil.copy(place / "pose/3.txt", place / "pose/2.txt")  # -inf in the miniature
    for file in (place / "color").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file, quality=95)
    return tmp_path / "scans"


def asked(tmp_path, media, geometry, *images, **fields):
    """(record, counts of its pictures) of one question."""
    raw = tmp_path / "asked"
    raw.mkdir(exist_ok=True)
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Left."}]
    (raw / "questions.jsonl").write_text(json.dumps({"images": images, "messages": turns, **fields}))
    (record,), counts, left = made("messages", raw, media=str(media), geometry=geometry)
    assert not left
    return record, {name.removeprefix("pictures/"): n for name, n in counts.items() if name.startswith("pictures/")}


def test_pictures_of_two_scans_get_no_common_world(scans, tmp_path):
    geometry = f"posed_rgbd={scans}"
    for images, posed in (
        (["kitchen/color/1.jpg", "kitchen/color/3.jpg"], 2),
        (["kitchen/color/1.jpg", "office/color/1.jpg"], 0),
    ):
        record, counts = asked(tmp_path, scans, geometry, *images)
        assert record.pose_valid.sum() == sum(map(bool, record.depths)) == posed == counts.get("with_geometry", 0)
        assert counts.get("of_several_scenes", 0) == counts.get("without_geometry", 0) == 2 - posed
        assert record.depth_unit_m == (0.001 if posed else 0.0)
        assert list(record.images) == [(scans / image).read_bytes() for image in images]  # shown all the same


def test_two_units_are_not_one(scans, tmp_path):
    (tmp_path / "fine").mkdir()
    shutil.move(scans / "office", tmp_path / "fine/office")
    geometry = f"posed_rgbd={scans},posed_rgbd:depth_unit=0.0002={tmp_path / 'fine'}"
    record, counts = asked(tmp_path, tmp_path, geometry, "scans/kitchen/color/1.jpg", "fine/office/color/1.jpg")
    assert not any(record.depths) and counts["of_several_scenes"] == 2


def drawn(picture):
    """With a small arrow."""
    ImageDraw.Draw(picture).line([(100, 20), (118, 24)], fill=(255, 0, 0), width=4)
    return picture


@pytest.mark.parametrize("name, change, count", [
    ("kitchen/color/1.jpg", None, "with_geometry"),  # the scan's own file
    ("kitchen/stills/1.jpg", None, "with_geometry"),  # a copy, by its name
    ("kitchen/stills/frame_000001.png", lambda picture: picture.resize((64, 48)), "with_geometry"),  # by its number
    ("stills/kitchen_1.jpg", None, "with_geometry"),
    ("stills/kitchen_frame-000001.color.png", None, "with_geometry"),
    ("kitchen/topdown/floorplan_v1.jpg", None, "of_no_frame"),
    ("annotated/question17_arrow_1.png", None, "of_no_frame"),
    ("kitchen/stills/1.png", drawn, "unlike_their_frame"),
    ("kitchen/depth_shown/1.png", lambda picture: Image.new("RGB", picture.size, "grey"), "unlike_their_frame"),
])  # fmt: skip
def test_a_picture_is_a_frame_where_it_shows_it(scans, tmp_path, name, change, count):
    frame = scans / "kitchen/color/1.jpg"
    media = scans if name == "kitchen/color/1.jpg" else tmp_path / "media"
    file = media / name
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(frame).convert("RGB")
    if file != frame:
        (change(picture) if change else picture).save(file)
    record, counts = asked(tmp_path, media, f"posed_rgbd={scans}", name, scene_name="kitchen")
    joined = count == "with_geometry"
    assert counts[count] == 1 and ("without_geometry" in counts) != joined == bool(record.pose_valid[0])
    assert record.images[0] == (frame if joined else file).read_bytes()
    if joined:
        np.testing.assert_allclose(record.camera_to_world[0], np.loadtxt(scans / "kitchen/pose/1.txt"), atol=1e-5)


def test_a_picture_inside_a_row_is_no_frame(scans, tmp_path):
    """The digits of its base64 say nothing."""
    url = "data:image/jpeg;base64," + base64.b64encode((scans / "kitchen/color/1.jpg").read_bytes()).decode()
    record, counts = asked(tmp_path, scans, f"posed_rgbd={scans}", url, scene_name="kitchen")
    assert counts == {"of_no_frame": 1, "without_geometry": 1} and not record.pose_valid.any()


def rig(tmp_path, shades=((60, 70), (160, 170))):
    """nerfstudio: two cameras whose pictures are called alike."""
    frames = []
    for camera, own in enumerate(shades):
        for number, shade in enumerate(own, 1):
            file = tmp_path / f"captures/rig/images/cam{camera}/{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((48, 64, 3), shade, np.uint8)).save(file)
            depth = file.with_name(f"depth{number}.png")
            Image.fromarray(np.full((48, 64), 1000 * (camera + 1), np.uint16)).save(depth)
            pose = np.eye(4)
            pose[0, 3] = 5 * camera + number
            names = {
                "file_path": f"images/cam{camera}/{file.name}",
                "depth_file_path": f"images/cam{camera}/{depth.name}",
            }
            frames.append({**names, "transform_matrix": pose.tolist()})
    values = {"fl_x": 60, "fl_y": 60, "cx": 32, "cy": 24, "w": 64, "h": 48, "frames": frames}
    (tmp_path / "captures/rig/transforms.json").write_text(json.dumps(values))
    return tmp_path / "captures"


def test_a_rigs_cameras_are_told_apart(tmp_path):
    captures = rig(tmp_path)
    copies = shutil.copytree(captures, tmp_path / "copies")
    flat = tmp_path / "flat/rig/0002.png"
    flat.parent.mkdir(parents=True)
    shutil.copy(captures / "rig/images/cam1/0002.png", flat)
    for media in (captures, copies):
        record, _ = asked(tmp_path, media, f"nerfstudio={captures}", "rig/images/cam1/0002.png")
        assert np.asarray(Image.open(io.BytesIO(record.images[0]))).mean() == 170
        assert record.pose_valid.all() and record.camera_to_world[0, 0, 3] == 7
        assert record.metadata["frames"] == ["images/cam1/0002.png"]
    (captures / "rig/right").symlink_to(captures / "rig/images/cam1")  # the frame's own file under another name
    record, _ = asked(tmp_path, captures, f"nerfstudio={captures}", "rig/right/0002.png")
    assert record.metadata["frames"] == ["images/cam1/0002.png"] and record.pose_valid.all()
    record, counts = asked(tmp_path, tmp_path / "flat", f"nerfstudio={captures}", "rig/0002.png")
    assert counts["of_no_frame"] == 1 and not record.pose_valid.any()  # two frames are called so
    names = made("nerfstudio", captures, views=4)[0][0].view_ids
    assert names == tuple(f"images/cam{camera}/000{number}.png" for camera in (0, 1) for number in (1, 2))
