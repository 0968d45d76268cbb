"""GLB and PLY come back from trimesh with the points and colours that went in."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from spatialsv_jax.report import pointcloud_files


def _cloud(seed=0, number=500):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(number, 3)).astype(np.float32), rng.integers(0, 256, (number, 3)).astype(np.uint8)


def test_files_reload_with_equal_points_and_colours(tmp_path):
    points, colours = _cloud()
    camera = np.array([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]])
    lines = pointcloud_files.frustum_lines(camera, np.eye(4), 24, 32, 0.2)
    cameras = {"predicted": lines, "true": lines[:0]}
    write = lambda name: pointcloud_files.write_cloud(tmp_path / name, points, colours, cameras)
    glb, ply = write("room.glb"), write("room.ply")
    flat = trimesh.load(ply)
    np.testing.assert_array_equal(np.asarray(flat.vertices, np.float32), points)
    np.testing.assert_array_equal(flat.colors[:, :3], colours)
    scene = trimesh.load(glb)
    assert sorted(scene.geometry) == ["cameras_predicted", "points"]
    np.testing.assert_array_equal(np.asarray(scene.geometry["points"].vertices, np.float32), points)
    np.testing.assert_array_equal(scene.geometry["points"].colors[:, :3], colours)
    turned, _ = scene.graph.get("points")  # viewers see y up
    np.testing.assert_allclose(turned, np.diag([1.0, -1, -1, 1]), atol=1e-12)
    corners = scene.geometry["cameras_predicted"].vertices
    np.testing.assert_allclose(np.abs(corners).max(0), [0.16, 0.12, 0.2], atol=1e-6)


def test_frustum_follows_the_camera():
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    pose[:3, 3] = [1, 2, 3]
    lines = pointcloud_files.frustum_lines(np.array([[10.0, 0, 5], [0, 10, 5], [0, 0, 1]]), pose, 10, 10, 2.0)
    assert lines.shape == (8, 2, 3)
    np.testing.assert_allclose(lines[:4, 0], np.tile([1.0, 2, 3], (4, 1)))
    np.testing.assert_allclose(lines[:4, 1, 0], 3.0)  # the optical axis points along world x
    np.testing.assert_allclose(np.ptp(lines[:4, 1], 0), [0, 2, 2], atol=1e-12)


def test_an_empty_or_broken_cloud_is_an_error(tmp_path):
    points, colours = _cloud(number=3)
    with pytest.raises(ValueError, match="0 points"):
        pointcloud_files.write_cloud(tmp_path / "x.ply", points[:0], colours[:0])
    points[1, 1] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        pointcloud_files.write_cloud(tmp_path / "x.glb", points, colours)
    assert not list(tmp_path.iterdir())
