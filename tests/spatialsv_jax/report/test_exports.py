"""Every export read back by a reader that is not ours, or is the one of our data sources."""

from __future__ import annotations

import builtins
import dataclasses

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from data_pipelines.sources.posed import colmap_files
from spatialsv_jax.report import exports
from spatialsv_jax.report.figure import at_map_size, shown_points
from spatialsv_jax.report.scene_section import write_scene


@pytest.fixture(scope="module")
def written(room, tmp_path_factory):
    """(folder with all default exports, the shown points)."""
    folder = tmp_path_factory.mktemp("exports")
    shown = shown_points(room)
    paths = exports.write_exports(room, shown, folder, "scene1", exports.DEFAULT)
    assert all(path.is_file() for path in paths) and len({path.suffix for path in paths}) == 4
    return folder, shown


def test_glb_and_ply_of_every_cloud(written):
    folder, shown = written
    for name, cloud in shown.clouds.items():
        stem = f"scene1_{exports.file_name(name)}"
        for loaded in (trimesh.load(folder / f"{stem}.ply"), trimesh.load(folder / f"{stem}.glb").geometry["points"]):
            np.testing.assert_array_equal(np.asarray(loaded.vertices, np.float32), cloud.points[cloud.present])
            np.testing.assert_array_equal(loaded.colors[:, :3], shown.colours[cloud.present])
        cameras = set(trimesh.load(folder / f"{stem}.glb").geometry) - {"points"}
        assert cameras == {"cameras_true", "cameras_predicted"}


def test_npz_holds_the_exact_values(written, room):
    folder, shown = written
    with np.load(folder / "scene1.npz", allow_pickle=False) as arrays:
        assert tuple(arrays["shape"]) == (3, 24, 32) and arrays["scene_scale_m"] == 2.5
        view, place = arrays["pixel"] // (24 * 32), arrays["pixel"] % (24 * 32)
        np.testing.assert_array_equal(arrays["view"], view)
        guess = room.predicted.points["points head"].reshape(3, -1, 3)[view, place]
        np.testing.assert_array_equal(arrays["points_head/points"], guess.astype(np.float32))
        sure = room.predicted.confidence.reshape(3, -1)[view, place]
        np.testing.assert_array_equal(arrays["points_head/confidence"], sure.astype(np.float32))
        true = arrays["true/points"]
        np.testing.assert_array_equal(np.isfinite(true).all(-1), room.true.points_valid.reshape(3, -1)[view, place])
        gap = np.linalg.norm(guess - true, axis=-1)
        np.testing.assert_allclose(arrays["points_head/error"], gap, atol=1e-6)  # NaN where there is no truth
        np.testing.assert_array_equal(arrays["cameras/predicted/ok"], [True, True, False])
        np.testing.assert_array_equal(arrays["cameras/true/camera_to_world"], room.true.camera_to_world)


def test_colmap_reads_the_cameras_and_its_points_project_where_they_say(written, room):
    folder, shown = written
    for kind, geometry, views in (("true", room.true, 3), ("predicted", room.predicted, 2)):
        place = folder / f"scene1_{kind}_colmap"
        cameras, pictures = colmap_files.read_model(place)
        assert [picture.name for picture in pictures] == [f"view{v + 1}.png" for v in range(views)]
        for view, picture in enumerate(pictures):
            camera = cameras[picture.camera]
            assert camera.size == (32, 24) and camera.distortion is None
            np.testing.assert_allclose(camera.intrinsics, geometry.intrinsics[view], rtol=1e-8)
            np.testing.assert_allclose(picture.pose.matrix, geometry.camera_to_world[view], atol=1e-7)
            seen = np.asarray(Image.open(place / "images" / picture.name))
            np.testing.assert_array_equal(seen, at_map_size(room.images, 24, 32)[view])
        lines = [line for line in (place / "images.txt").read_text().splitlines() if not line.startswith("#")]
        tracks = [np.array(line.split(), float).reshape(-1, 3) for line in lines[1::2]]
        rows = [line.split() for line in (place / "points3D.txt").read_text().splitlines() if not line.startswith("#")]
        cloud = shown.clouds["true" if kind == "true" else "points head"]
        assert len(rows) == (cloud.present & (shown.view < views)).sum() == sum(map(len, tracks))
        for number, row in enumerate(rows[:: max(1, len(rows) // 200)]):
            xyz, (image, corner) = np.array(row[1:4], float), map(int, row[8:10])
            x, y, identity = tracks[image - 1][corner]
            assert int(identity) == int(row[0]), number
            local = np.linalg.inv(geometry.camera_to_world[image - 1]) @ [*xyz, 1]
            u, v, w = geometry.intrinsics[image - 1] @ local[:3]
            np.testing.assert_allclose([u / w, v / w], [x, y], atol=1e-4)
            red = at_map_size(room.images, 24, 32)[image - 1, int(y), int(x)]
            np.testing.assert_array_equal([int(value) for value in row[4:7]], red)


def test_tum_trajectory_is_that_of_the_cameras(written, room):
    folder, _ = written
    for kind, geometry, views in (("true", room.true, 3), ("predicted", room.predicted, 2)):
        rows = np.loadtxt(folder / f"scene1_{kind}_tum.txt")
        np.testing.assert_array_equal(rows[:, 0], np.arange(views) + 1)
        np.testing.assert_allclose(rows[:, 1:4], geometry.camera_to_world[:views, :3, 3], atol=1e-8)
        turns = Rotation.from_quat(rows[:, 4:]).as_matrix()  # x, y, z, w
        np.testing.assert_allclose(turns, geometry.camera_to_world[:views, :3, :3], atol=1e-7)


def test_a_rerun_recording_holds_clouds_and_cameras(room, tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk (the extra 'viewer') is not installed")
    from rerun.chunk import RrdReader

    shown = shown_points(room)
    (path,) = exports.write_exports(room, shown, tmp_path, "scene1", ["rerun"])
    found = {}
    for chunk in RrdReader(path).store().stream().to_chunks():
        for name, column in chunk.to_record_batch().to_pydict().items():
            found[chunk.entity_path, name] = next((value for value in column if value is not None), None)
    for name, cloud in shown.clouds.items():
        place = f"/world/{exports.file_name(name)}"
        np.testing.assert_array_equal(
            np.array(found[place, "Points3D:positions"], np.float32), cloud.points[cloud.present]
        )
        packed = np.array(found[place, "Points3D:colors"], np.uint32)
        rgb = np.stack([packed >> 24, packed >> 16 & 255, packed >> 8 & 255], -1)
        np.testing.assert_array_equal(rgb, shown.colours[cloud.present])
    camera = found["/world/cameras_true/view2", "Pinhole:image_from_camera"]
    np.testing.assert_allclose(np.reshape(camera, (3, 3)).T, room.true.intrinsics[1])  # columns first
    centre = found["/world/cameras_true/view2", "Transform3D:translation"]
    np.testing.assert_allclose(np.ravel(centre), room.true.camera_to_world[1, :3, 3], atol=1e-6)
    assert not any(place.endswith("cameras_predicted/view3") for place, _ in found)  # that camera failed


def test_unknown_formats_and_a_missing_package_are_named(room, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"\['obj'\]. Formats: glb, ply, npz, colmap, tum, rerun"):
        exports.check_kinds(["glb", "obj"])
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == "rerun":
            raise ImportError("no rerun")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"rerun-sdk: pip install 'spatialsv-jax\[viewer\]'"):
        write_scene(room, tmp_path, "scene1", ("rerun",))


def test_a_scene_without_cameras_or_exports_writes_none(room, tmp_path):
    blind = dataclasses.replace(room.predicted, camera_ok=np.zeros(3, bool))
    alone = dataclasses.replace(room, true=None, predicted=blind)
    paths = exports.write_exports(alone, shown_points(alone), tmp_path, "a", exports.DEFAULT)
    assert {path.name for path in paths} == {"a_points_head.glb", "a_points_head.ply", "a.npz"}
    html, entries = write_scene(room, tmp_path, "b", ())
    assert not list(tmp_path.glob("b*")) and len(entries) == 1 and ".ply" not in html
