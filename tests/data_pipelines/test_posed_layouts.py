"""Layouts of posed frames on miniatures with known depth and cameras, and the camera mathematics behind them."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation, Slerp

from data_pipelines.manifest import PrepareError
from data_pipelines.sources import SOURCES
from data_pipelines.sources.posed import cameras
from data_pipelines.sources.posed.colmap_files import camera_of, read_model
from data_pipelines.sources.posed.depth_stream import DepthStream, frame_offsets
from data_pipelines.storage import open_split
from experiments.prepare import prepare

LAYOUTS = Path(__file__).parents[1] / "layouts"
STATED = dict(camera=(58, 58, 32, 24))
CASES = {  # name -> (source, raw, settings, expected file)
    "exported": ("posed_rgbd", "scannet/exported", {}, "scannet"),
    "sens": ("scannet", "scannet", {}, "scannet"),
    "iphone": ("scannetpp", "scannetpp", dict(picture="depth"), "scannetpp_iphone"),
    "arkit": ("arkitscenes", "arkitscenes/raw", dict(upright=False), "arkitscenes"),
    "arkit_upright": ("arkitscenes", "arkitscenes/raw", {}, "arkitscenes"),
    "sevenscenes": ("sevenscenes", "sevenscenes", STATED, "sevenscenes"),
    "tum": ("tum", "tum", STATED, "tum"),
    "nerfstudio": ("nerfstudio", "nerfstudio", dict(metric=True), "nerfstudio"),
    "colmap": ("colmap", "colmap", {}, "colmap"),
}


def converted(source, raw, out, **settings):
    manifest = prepare(source, SOURCES[source].settings(raw=str(raw), **settings), out, workers=None, progress=False)
    return open_split(out, "train"), manifest["splits"]["train"]["counts"]


def depth_of(record, view):
    return np.asarray(Image.open(io.BytesIO(record.depths[view]))) * (record.depth_unit_m or 0.001)


@pytest.mark.parametrize("name", CASES)
def test_depth_and_cameras_are_as_made(name, tmp_path):
    source, raw, settings, expected = CASES[name]
    records, counts = converted(source, LAYOUTS / raw, tmp_path / "out", views=4, **settings)
    (record,) = [records[index] for index in range(len(records))]
    wanted = np.load(LAYOUTS / "expected" / f"{expected}.npz")
    prefix = "upright_" if name == "arkit_upright" else ""
    assert record.pose_valid.tolist() == wanted.get("valid_pose", np.ones(4, bool)).tolist()
    posed = record.pose_valid
    np.testing.assert_allclose(record.intrinsics, wanted[prefix + "intrinsics"], atol=1e-9)
    np.testing.assert_allclose(record.camera_to_world[posed], wanted[prefix + "camera_to_world"][posed], atol=2e-6)
    with_depth = [view for view in range(4) if record.depths[view]]
    assert with_depth == ([0] if name == "colmap" else [0, 1, 2, 3])
    for view in with_depth:
        truth = wanted[prefix + "depth"][view]
        found = depth_of(record, view)
        assert Image.open(io.BytesIO(record.images[view])).size == truth.shape[::-1]
        np.testing.assert_array_equal(found > 0, truth > 0)
        np.testing.assert_allclose(found, truth, atol=6e-4)  # one rounding to a millimetre
    assert record.depth_unit_m == (0.0 if name == "colmap" else 0.0002 if name == "tum" else 0.001)
    assert counts["frames_kept"] == 4 and counts.get("pose_masked/not_finite", 0) == (expected == "scannet")


def test_colour_keeps_its_size_where_asked(tmp_path):
    for source, raw, expected in (("scannet", "scannet", "scannet"), ("scannetpp", "scannetpp", "scannetpp_iphone")):
        records, _ = converted(source, LAYOUTS / raw, tmp_path / source, picture="colour")
        wanted = np.load(LAYOUTS / "expected" / f"{expected}.npz")
        record = records[0]
        np.testing.assert_allclose(record.intrinsics, wanted["intrinsics_color"], atol=1e-9)
        assert Image.open(io.BytesIO(record.images[0])).size == (128, 96)
        depth = depth_of(record, 0)
        np.testing.assert_array_equal(depth[::2, ::2], depth[1::2, 1::2])  # nearest: every pixel twice
        np.testing.assert_allclose(depth[::2, ::2], wanted["depth"][0], atol=6e-4)


def test_scans_are_aligned_on_request(tmp_path):
    wanted = np.load(LAYOUTS / "expected/scannet.npz")
    record = converted("scannet", LAYOUTS / "scannet", tmp_path / "out", align=True)[0][0]
    aligned = wanted["axis_alignment"] @ wanted["camera_to_world"][0]
    np.testing.assert_allclose(record.camera_to_world[0], aligned, atol=2e-6)


def test_fisheye_pictures_become_pinhole_pictures(tmp_path):
    """A fisheye picture of a plane of stripes: what was equidistant is a perspective view afterwards."""
    folder = shutil.copytree(LAYOUTS / "scannetpp/data/0a0a0a0a0a", tmp_path / "scene")
    width, height, focal = 64, 48, 40.0
    rows, columns = np.mgrid[:height, :width] + 0.5
    x, y = (columns - width / 2) / focal, (rows - height / 2) / focal
    angle = np.hypot(x, y)  # equidistant: distance from the middle = angle
    plane = np.where(angle > 1e-9, np.tan(angle) / np.maximum(angle, 1e-9), 1.0) * x  # X of the plane Z = 1
    shade = np.clip(128 + 100 * np.sin(6 * plane), 0, 255).astype(np.uint8)
    for path in (folder / "dslr/resized_images").iterdir():
        path.unlink()
        Image.fromarray(np.repeat(shade[..., None], 3, -1)).save(path.with_suffix(".JPG"), "PNG")
    (folder / "dslr/render_depth").mkdir()
    steps = np.round(1000 * (2 + plane)).astype(np.uint16)  # a plane that tilts to the right
    for index in range(1, 5):
        Image.fromarray(steps).save(folder / f"dslr/render_depth/DSC0000{index}.png")
    record = converted("scannetpp", folder, tmp_path / "out", device="dslr")[0][0]
    wanted = np.load(LAYOUTS / "expected/scannetpp_dslr.npz")
    np.testing.assert_allclose(record.camera_to_world, wanted["camera_to_world"], atol=1e-6)
    matrix = record.intrinsics[0]
    assert matrix[0, 0] == focal and matrix[0, 2] == width / 2 and matrix[1, 2] == height / 2
    seen = np.asarray(Image.open(io.BytesIO(record.images[0])).convert("L"), float)
    exact = 128 + 100 * np.sin(6 * (columns - width / 2) / matrix[0, 0])
    assert np.abs(seen - exact)[4:-4, 4:-4].mean() < 4  # bilinear on a picture of few pixels
    depth = depth_of(record, 0)
    assert (depth > 0).all()  # the pinhole picture shows nothing that the fisheye one does not
    np.testing.assert_allclose(depth, 2 + (columns - width / 2) / matrix[0, 0], atol=0.04)


def test_both_forms_of_depth_bin_and_reading_backwards():
    place = LAYOUTS / "scannetpp/data/0a0a0a0a0a/iphone"
    truth = np.load(LAYOUTS / "expected/scannetpp_iphone.npz")["depth"]
    assert len(frame_offsets(place / "depth.bin")) == 4 and not frame_offsets(place / "depth_global_variant.bin")
    for name in ("depth.bin", "depth_global_variant.bin"):
        stream = DepthStream(place / name, 4, 128 / 96)
        assert stream.size == (64, 48)
        for number in (0, 2, 1, 3, 3, 0):
            np.testing.assert_allclose(stream.read(number), truth[number], atol=1e-6)
    with pytest.raises(PrepareError, match="holds 4 depth maps for 5 frames"):
        DepthStream(place / "depth.bin", 5, 128 / 96)


def test_text_and_binary_models_are_one(tmp_path):
    (text, text_images), (binary, binary_images) = (
        read_model(LAYOUTS / "colmap" / name) for name in ("sparse/0", "sparse_bin/0")
    )
    assert text.keys() == binary.keys() and [i.name for i in text_images] == [i.name for i in binary_images]
    for key, camera in text.items():
        np.testing.assert_array_equal(camera.intrinsics, binary[key].intrinsics)
    for one, other in zip(text_images, binary_images, strict=True):
        np.testing.assert_allclose(one.pose.matrix, other.pose.matrix, atol=1e-12)
    for name in ("cameras.bin", "images.bin"):
        (tmp_path / name).write_bytes((LAYOUTS / "colmap/sparse_bin/0" / name).read_bytes()[:-9])
    with pytest.raises(PrepareError, match="cameras.bin is truncated"):
        read_model(tmp_path)


@pytest.mark.parametrize("model, values", [
    ("SIMPLE_RADIAL", (40, 32, 24, 0.1)), ("RADIAL", (40, 32, 24, 0.1, -0.02)),
    ("OPENCV", (40, 41, 32, 24, 0.1, -0.02, 0.003, 0.004)), ("OPENCV_FISHEYE", (40, 41, 32, 24, 0.1, -0.02, 0.003, 0.004)),
    ("FULL_OPENCV", (40, 41, 32, 24, 0.1, -0.02, 0.003, 0.004, 0.01, 0.02, 0.01, 0.005)),
    ("SIMPLE_RADIAL_FISHEYE", (40, 32, 24, 0.1)), ("RADIAL_FISHEYE", (40, 32, 24, 0.1, -0.02)),
])  # fmt: skip
def test_lenses_bend_as_documented(model, values):
    """Against the formulas of COLMAP's camera models written out point by point."""
    camera = camera_of(model, (64, 48), values, "test")
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(-0.5, 0.5, (20, 2)):
        one = model.startswith("SIMPLE") or "RADIAL" in model
        k = list(values[3 if one else 4 :])
        r2 = x * x + y * y
        if "FISHEYE" in model:
            r = np.sqrt(r2)
            theta = np.arctan2(r, 1)
            k += [0] * (4 - len(k))
            factor = theta * (1 + sum(c * theta ** (2 * n + 2) for n, c in enumerate(k))) / r
            wanted = (x * factor, y * factor)
        else:
            k1, k2, p1, p2, k3, k4, k5, k6 = (*k, *[0] * (8 - len(k)))
            radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
            wanted = (
                x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y),
            )  # fmt: skip
        np.testing.assert_allclose(camera.distortion.apply(np.array([x, y])), wanted, rtol=1e-12)


def test_interpolated_poses_and_rotations_equal_scipys():
    rng = np.random.default_rng(1)
    turns = Rotation.from_rotvec(rng.uniform(-1, 1, (5, 3)))
    stamps, places = np.arange(5) * 0.1, rng.uniform(-1, 1, (5, 3))
    poses = np.stack([cameras.posed(turn, place) for turn, place in zip(turns.as_matrix(), places, strict=True)])
    for stamp in (0.03, 0.17, 0.399):
        found = cameras.interpolated(stamps, poses, stamp, 1e-4, 0.2)
        np.testing.assert_allclose(found[:3, :3], Slerp(stamps, turns)(stamp).as_matrix(), atol=1e-9)
        np.testing.assert_allclose(found[:3, 3], [np.interp(stamp, stamps, places[:, k]) for k in range(3)], atol=1e-12)
    np.testing.assert_array_equal(cameras.interpolated(stamps, poses, 0.2004, 0.005, 0.2), poses[2])
    assert cameras.interpolated(stamps, poses, 0.55, 0.005, 0.2) is None
    assert cameras.interpolated(stamps, poses, 0.25, 0.005, 0.05) is None
    for vector, quaternion in zip(turns.as_rotvec(), turns.as_quat(), strict=True):
        np.testing.assert_allclose(
            cameras.from_axis_angle(vector), Rotation.from_rotvec(vector).as_matrix(), atol=1e-12
        )
        np.testing.assert_allclose(
            cameras.from_quaternion(*3 * quaternion), Rotation.from_quat(quaternion).as_matrix(), atol=1e-12
        )
        np.testing.assert_allclose(cameras.axis_angle(cameras.from_axis_angle(vector)), vector, atol=1e-9)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_cameras_see_the_same_points(turns):
    rng = np.random.default_rng(turns)
    pose = cameras.posed(Rotation.from_rotvec(rng.uniform(-1, 1, 3)).as_matrix(), rng.uniform(-1, 1, 3))
    matrix, size = cameras.pinhole(50, 40, 30, 26), (64, 48)
    point = (pose @ [0.1, -0.2, 1.5, 1.0])[:3]

    def pixel(matrix, pose):
        seen = np.linalg.inv(pose) @ [*point, 1]
        return (matrix @ seen[:3])[:2] / seen[2]

    u, v = pixel(matrix, pose)
    found = pixel(*cameras.turned(matrix, pose, size, turns))
    wanted = {1: (size[1] - v, u), 2: (size[0] - u, size[1] - v), 3: (v, size[0] - u)}[turns]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("sampler, settings, expected", [
    ("first", dict(views=3), [[0, 1, 2]]),
    # The frames move along a line and turn: the ends lie furthest apart, then the one between them.
    ("spread", dict(views=2, records_per_scene=1), [[0, 3]]),
    ("spread", dict(views=2, records_per_scene=2), [[0, 3], [1, 2]]),
])  # fmt: skip
def test_named_samplers_record_their_frames(sampler, settings, expected, tmp_path):
    records, _ = converted("nerfstudio", LAYOUTS / "nerfstudio", tmp_path / "out", sampler=sampler, **settings)
    assert [records[index].metadata["frames"] for index in range(len(records))] == expected
    assert records[0].metadata["sampler"] == sampler


def test_wrong_input_is_named(tmp_path):
    def copied(name):
        return shutil.copytree(LAYOUTS / name, tmp_path / name, dirs_exist_ok=True)

    def fails(source, raw, message, **settings):
        with pytest.raises(PrepareError, match=message):
            converted(source, raw, tmp_path / "out", **settings)

    fails("tum", copied("tum"), "names none of freiburg1, freiburg2, freiburg3.*Give --camera")
    fails("tum", copied("tum"), "--camera must be four numbers", camera=(1, 2))
    (tmp_path / "tum/rgbd_dataset_invented/groundtruth.txt").write_text("1.0 2.0\n")
    fails("tum", tmp_path / "tum", r"groundtruth.txt, line 1: 2 words, expected 8", camera=(58, 58, 32, 24))
    sens = copied("scannet") / "scans/scene9000_00/scene9000_00.sens"
    sens.write_bytes(sens.read_bytes()[:-50])
    fails("scannet", tmp_path / "scannet", "scene9000_00.sens is truncated")
    file = copied("nerfstudio") / "transforms.json"
    values = json.loads(file.read_text())
    for change, message in (
        ({"camera_model": "EQUIRECTANGULAR"}, "frame 0: camera_model 'EQUIRECTANGULAR' is none of"),
        ({"fl_x": "wide"}, "frame 0: fl_x, fl_y, cx, cy, w, h must be numbers"),
        ({"frames": [{"file_path": "../../etc/passwd"}]}, "leads out of the folder"),
        ({"frames": []}, "expected an object with a list 'frames'"),
    ):
        file.write_text(json.dumps({**values, **change}))
        fails("nerfstudio", file.parent, message)
    fails("sevenscenes", LAYOUTS / "tum", "holds no scene of the layout 'sevenscenes'")
    fails("colmap", LAYOUTS / "tum", "no sparse model")


def test_bad_frames_are_counted(tmp_path):
    raw = shutil.copytree(LAYOUTS / "nerfstudio", tmp_path / "raw")
    values = json.loads((raw / "transforms.json").read_text())
    values["frames"][1]["transform_matrix"][0][0] = float("-inf")
    values["frames"][2]["transform_matrix"] = [[2.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    (raw / "transforms.json").write_text(json.dumps(values))
    picture = Image.open(raw / "images/frame_00004.jpg").convert("CMYK")
    picture.save(raw / "images/frame_00004.jpg")
    records, counts = converted("nerfstudio", raw, tmp_path / "out", metric=True)
    assert records[0].pose_valid.tolist() == [True, False, False, True]
    assert counts["pose_masked/not_finite"] == counts["pose_masked/not_a_rigid_motion"] == 1
    assert Image.open(io.BytesIO(records[0].images[3])).mode == "RGB"
