"""Numbers that are no camera: refused where they are one scene's or a lens, dropped with a count where they are a frame's."""

from __future__ import annotations

import json
import shutil
import struct

import numpy as np
import pytest
from raw_layouts import LAYOUTS, STATED, made

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed import cameras
from data_pipelines.sources.posed.cameras import Distortion, impossible, pinhole, undistorting
from experiments.prepare import main


def nerf(tmp_path, frame=None, **change):
    """The nerfstudio miniature with other values at the top, or in its third frame."""
    raw = shutil.copytree(LAYOUTS / "nerfstudio", tmp_path / "nerf", dirs_exist_ok=True)
    values = json.loads((LAYOUTS / "nerfstudio/transforms.json").read_text()) | change
    values["frames"][2] |= frame or {}
    (raw / "transforms.json").write_text(json.dumps(values))
    return raw


BAD_LENSES = {
    "far_out": dict(k1=1e9),
    "overflows": dict(k1=1e300),
    "folded": dict(k1=-900.0),  # turns over within a few pixels of the middle
    "decentred": dict(p1=40.0),
    "fisheye": dict(camera_model="OPENCV_FISHEYE", k1=-1e4),
}


@pytest.mark.parametrize("name", BAD_LENSES)
def test_lenses_that_leave_the_picture_are_refused_with_their_numbers(name, tmp_path, capsys):
    raw = nerf(tmp_path, **BAD_LENSES[name])
    with pytest.raises(PrepareError, match="transforms.json, frame 0: the lens .* with fx = 58.* picture of 64 x 48"):
        made("nerfstudio", raw)
    assert main(["--source", "nerfstudio", "--raw", str(raw), "--dry_run"]) == 1
    assert f"{BAD_LENSES[name].get('k1', 40.0)}" in capsys.readouterr().err
    size = nerf(tmp_path, w=0, h=0, cx=32.0, cy=24.0, **BAD_LENSES[name])  # the size is known when a picture is read
    with pytest.raises(PrepareError, match="Frame frame_0000.: the lens"):
        made("nerfstudio", size)


def test_lenses_of_reconstructions_are_refused_by_line(tmp_path):
    raw = shutil.copytree(LAYOUTS / "colmap", tmp_path / "colmap", ignore=shutil.ignore_patterns("sparse_bin"))
    file = raw / "sparse/0/cameras.txt"
    file.write_text("1 SIMPLE_RADIAL 64 48 58 32 24 1e9\n")
    with pytest.raises(PrepareError, match=r"cameras.txt, line 1: the lens opencv \(1000000000.0, .* 64 x 48"):
        made("colmap", raw)
    file.write_text("1 SIMPLE_RADIAL 64 48 58 32 24 0.1")  # may have been 0.12
    with pytest.raises(PrepareError, match="cameras.txt ends without a line break"):
        made("colmap", raw)


def inverse(lens, wanted, steps=200):
    """Points of the plane that a lens brings to `wanted` (fixed point)."""
    found = wanted
    for _ in range(steps):
        found = found + 0.5 * (wanted - lens.apply(found))
    return found


@pytest.mark.parametrize("lens", [
    Distortion("opencv", (0.1, -0.02, 0.003, 0.004, 0.0, 0.0, 0.0, 0.0)),
    Distortion("opencv", (-0.3, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)),
    Distortion("opencv", (-0.35, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)),  # turns over at 0.98: beyond this picture's corner
    Distortion("fisheye", (0.02, -0.003, 0.001, 0.0)),
])  # fmt: skip
def test_lenses_that_are_some_stay_one_to_one(lens):
    """Each place of the undistorted picture is the only one that shows it: undone by iteration, it comes back."""
    size, matrix = (64, 48), pinhole(50, 52, 31, 25)
    new, places = undistorting(matrix, lens, size)
    assert (places >= 0).all() and (places <= [64, 48]).all() and 1 <= new[0, 0] / 50 < 2
    plane = (places - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]
    rows, columns = np.mgrid[:48, :64] + 0.5
    wanted = (np.stack([columns, rows], -1) - [32, 24]) / new[[0, 1], [0, 1]]
    np.testing.assert_allclose(inverse(lens, plane), wanted, atol=1e-4)


def test_a_picture_shows_nothing_twice():
    """A wide barrel lens that folds the corners: the pinhole picture ends before that."""
    lens, matrix = Distortion("opencv", (-0.35, *[0.0] * 7)), pinhole(30, 30, 32, 24)
    folds = 1 / np.sqrt(3 * 0.35)  # where d/dr (r - 0.35 r^3) = 0
    assert np.hypot(32 / 30, 24 / 30) > folds
    new, _ = undistorting(matrix, lens, (64, 48))
    assert np.hypot(32, 24) / new[0, 0] <= folds * 1.001 and np.hypot(32, 24) / new[0, 0] > folds * 0.97


def test_the_search_is_made_once_a_camera():
    cameras._zoom.cache_clear()
    lens = Distortion("opencv", (0.1, *[0.0] * 7))
    for _ in range(3):
        undistorting(pinhole(50, 50, 32, 24), lens, (64, 48))
    assert cameras._zoom.cache_info().misses == 1


@pytest.mark.parametrize("change, message", [
    (dict(fl_x=1e-9), "fx = 1e-09 is no focal length of a picture of 64 x 48"),
    (dict(fl_y=1e12), "fy = 1e\\+12 is no focal length"),
    (dict(fl_x=6.0, fl_y=58.0), "fx = 6, fy = 58, skew = 0 are no camera's"),
    (dict(cx=60.0), "cx = 60 does not fit a picture of 64 x 48"),
])  # fmt: skip
def test_cameras_of_frames_are_dropped_with_a_count(change, message, tmp_path, capsys):
    raw = nerf(tmp_path, frame=change)
    records, counts, reasons = made("nerfstudio", raw, views=1)
    assert len(records) == 3 and counts["frames_dropped"] == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(reasons["nerf/frame_00003"])
    assert main(["--source", "nerfstudio", "--raw", str(raw), "--dry_run"]) == 0
    assert "1 would be dropped (" in capsys.readouterr().out


def test_cameras_of_scenes_are_refused(tmp_path):
    for source in ("sevenscenes", "tum"):
        for camera in ((1e300, 58, 32, 24), (1e15, 58, 32, 24), (58, 58, 2, 24), (58, 1e-6, 32, 24)):
            with pytest.raises(PrepareError, match="--camera"):
                made(source, LAYOUTS / source, camera=camera)
        assert made(source, LAYOUTS / source, **STATED)[0]
    exported = shutil.copytree(LAYOUTS / "scannet/exported", tmp_path / "exported")
    for file in exported.rglob("intrinsic_*.txt"):
        file.write_text("1e-7 0 31.5 0 58 23.5 0 0 1")
    with pytest.raises(PrepareError, match="intrinsic: fx = 1e-07 is no focal length|does not fit"):
        made("posed_rgbd", exported)
    sens = shutil.copytree(LAYOUTS / "scannet/scans", tmp_path / "scans")
    file = sens / "scene9000_00/scene9000_00.sens"
    data = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", data[4:12])
    struct.pack_into("<f", data, 12 + length, 1e20)
    file.write_bytes(data)
    with pytest.raises(PrepareError, match="intrinsics of colour: fx = 1e\\+20 is no focal length"):
        made("scannet", sens)
    struct.pack_into("<f", data, 12 + length, 116.0)
    struct.pack_into("<i", data, 12 + length + 256, 0)  # colour that is not packed
    file.write_bytes(data)
    with pytest.raises(PrepareError, match="has raw colour, which is not read"):
        made("scannet", sens)


@pytest.mark.parametrize("change", [
    dict(is_fisheye=True), dict(is_fisheye=True, camera_model="OPENCV"), dict(ftheta_p0=0.1), dict(equirectangular=True),
    dict(latlong=True),
])  # fmt: skip
def test_instant_ngps_other_lenses_are_refused(change, tmp_path):
    with pytest.raises(
        PrepareError, match=f"frame 0: a lens with '{next(iter(change))}' is not read. Say camera_model"
    ):
        made("nerfstudio", nerf(tmp_path, **change))
    assert made("nerfstudio", nerf(tmp_path, is_fisheye=False))[0]
    assert made("nerfstudio", nerf(tmp_path, is_fisheye=True, camera_model="OPENCV_FISHEYE"))[0]


def test_matrices_that_are_none():
    good = np.array([[58.0, 0, 32], [0, 58, 24], [0, 0, 1]])
    assert impossible(good, (64, 48)) == ""
    for place, value in (
        ((0, 0), np.nan),
        ((1, 0), 1.0),
        ((2, 2), 2.0),
        ((0, 1), 40.0),
        ((0, 0), -58.0),
        ((1, 2), np.inf),
    ):
        bad = good.copy()
        bad[place] = value
        assert impossible(bad, (64, 48))
