"""Rotations, alignment, scene normalisation, normals, pooling, multi-view filter."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spatialsv_jax import geometry


def test_numpy_use_imports_no_jax():
    code = (
        "import sys, numpy as np; from spatialsv_jax import geometry, metrics;"
        "geometry.camera_from_rays(geometry.rays_from_camera(np.eye(3), np.eye(4), 4, 4)); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rotation_angle_against_scipy_also_at_0_and_180():
    first, second = (Rotation.random(50, random_state=seed) for seed in (0, 1))
    expected = np.degrees((first.inv() * second).magnitude())
    np.testing.assert_allclose(geometry.rotation_angle_deg(first.as_matrix(), second.as_matrix()), expected, atol=1e-9)
    for angle in (0.0, 1e-7, 179.9999999, 180.0):
        turn = Rotation.from_rotvec(np.radians(angle) * np.array([0.6, 0, 0.8])).as_matrix()
        assert geometry.rotation_angle_deg(turn) == pytest.approx(angle, abs=1e-12)
    gradient = jax.grad(lambda r: geometry.rotation_angle_deg(r))(jnp.eye(3))
    assert np.isfinite(gradient).all()


def test_nearest_rotation_is_the_mean_rotation():
    turns = Rotation.random(1, random_state=0)[0] * Rotation.from_rotvec(
        0.3 * np.random.default_rng(0).normal(size=(9, 3))
    )
    rotation, _ = geometry.nearest_rotation(turns.as_matrix().mean(0))
    np.testing.assert_allclose(rotation, turns.mean().as_matrix(), atol=1e-9)


@pytest.mark.parametrize("namespace", [np, jnp])
def test_umeyama_recovers_a_weighted_similarity(namespace):
    rng = np.random.default_rng(0)
    source = rng.normal(size=(30, 3))
    rotation = Rotation.random(random_state=3).as_matrix()
    target = 2.5 * source @ rotation.T + [1, -2, 3]
    weights = rng.uniform(0.1, 1, 30)
    weights[:4] = 0
    target[:4] = np.nan
    found = geometry.umeyama(*(namespace.asarray(array) for array in (source, target, weights)))
    for value, expected in zip(found, (rotation, [1, -2, 3], 2.5), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-12 if namespace is np else 3e-6)


def test_umeyama_minimises_and_never_mirrors():
    rng = np.random.default_rng(1)
    source, weights = rng.normal(size=(20, 3)), rng.uniform(0.2, 2, 20)
    target = source * [1, 1, -1] + 0.05 * rng.normal(size=(20, 3))
    for with_scale in (True, False):
        rotation, translation, scale = geometry.umeyama(source, target, weights, with_scale)
        assert np.linalg.det(rotation) == pytest.approx(1) and scale > 0 and (with_scale or scale == 1)

        def cost(turn, shift, size):
            moved = size * source @ turn.T + shift
            return (weights * ((target - moved) ** 2).sum(-1)).sum()

        best = cost(rotation, translation, scale)
        assert best > 1, "a mirrored cloud leaves a residual"
        for _ in range(40):
            turn = Rotation.from_rotvec(0.02 * rng.normal(size=3)).as_matrix() @ rotation
            size = scale * np.exp(0.02 * rng.normal()) if with_scale else 1.0
            assert cost(turn, translation + 0.02 * rng.normal(size=3), size) > best


def test_umeyama_degenerate_clouds_and_errors():
    point = np.ones((5, 3))
    rotation, translation, scale = geometry.umeyama(point, 3 * point)
    assert scale == 1 and np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(rotation @ point[0] + translation, 3 * point[0])
    line = np.arange(5)[:, None] * np.array([[1.0, 2, 3]])
    rotation, translation, scale = geometry.umeyama(line, 2 * line + 1)
    np.testing.assert_allclose(scale * line @ rotation.T + translation, 2 * line + 1, atol=1e-12)
    for arguments in ((line, line[:4]), (line[:0], line[:0]), (line, line, np.ones(4)), (line, line, np.zeros(5))):
        with pytest.raises(ValueError):
            geometry.umeyama(*arguments)


def scene(views=3, size=16, seed=0):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(1, 4, (views, size, size))
    intrinsics = np.tile(np.array([[20.0, 0, size / 2], [0, 20, size / 2], [0, 0, 1]]), (views, 1, 1))
    pose = np.tile(np.eye(4), (views, 1, 1))
    pose[:, :3, :3] = Rotation.random(views, random_state=seed).as_matrix()
    pose[:, :3, 3] = rng.normal(size=(views, 3))
    return depth, intrinsics, pose, rng.random(depth.shape) < 0.8


def test_normalize_scene_frame_scale_and_invalid_views():
    depth, intrinsics, pose, valid = scene(4)
    pose_valid = np.array([False, True, True, True])
    valid[1] = False  # posed but without depth: not the reference
    depth[~valid] = np.nan
    pose[0] = np.nan
    result = geometry.normalize_scene(depth, intrinsics, pose, valid, pose_valid)
    assert result.reference_view == 2 and result.has_geometry
    np.testing.assert_array_equal(result.camera_to_world[[0, 2]], np.tile(np.eye(4), (2, 1, 1)))
    assert (result.depth[~valid] == 0).all() and np.isfinite(result.depth).all()
    total, count = 0.0, 0
    for view in (2, 3):
        world = geometry.points_from_depth(result.depth[view], intrinsics[view], result.camera_to_world[view])
        total, count = total + np.linalg.norm(world[valid[view]], axis=-1).sum(), count + valid[view].sum()
    assert total / count == pytest.approx(1, abs=1e-12)
    # The same metric points, seen from the reference camera.
    metric = geometry.points_from_depth(depth[3], intrinsics[3], np.linalg.inv(pose[2]) @ pose[3])[valid[3]]
    unit = geometry.points_from_depth(result.depth[3], intrinsics[3], result.camera_to_world[3])[valid[3]]
    np.testing.assert_allclose(unit * result.scale, metric, atol=1e-12)
    np.testing.assert_allclose(result.depth[0][valid[0]] * result.scale, depth[0][valid[0]])


def test_normalize_scene_without_enough_geometry():
    depth, intrinsics, pose, valid = scene(2)
    nothing = geometry.normalize_scene(depth, intrinsics, pose, valid, np.zeros(2, bool))
    assert nothing.scale == 1 and nothing.reference_view is None and not nothing.has_geometry
    few = np.zeros_like(valid)
    few[0, 0, :9], few[1, :9, :10] = True, True
    assert not geometry.normalize_scene(depth, intrinsics, pose, few, np.ones(2, bool)).has_geometry
    few[0, 1, 0] = True
    assert geometry.normalize_scene(depth, intrinsics, pose, few, np.ones(2, bool)).has_geometry
    depth[1, 0, 0] = np.nan
    few[1, 0, 0] = True
    with pytest.raises(ValueError, match=r"views \[1\]"):
        geometry.normalize_scene(depth, intrinsics, pose, few, np.ones(2, bool))
    with pytest.raises(ValueError, match="pose_valid"):
        geometry.normalize_scene(depth, intrinsics, pose, valid, np.ones(3, bool))


def test_surface_normals_of_a_plane_face_the_camera():
    depth, intrinsics, pose, _ = scene(1, 9)
    normal = np.array([0.2, -0.3, -0.9]) / np.linalg.norm([0.2, -0.3, -0.9])
    ray = geometry.rays_from_camera(intrinsics[0], np.eye(4), 9, 9)
    points = geometry.points_from_rays(ray, -2 / (ray[..., 3:] @ normal))
    valid = np.ones((9, 9), bool)
    valid[4, 4] = False
    points[4, 4] = 0
    found, known = geometry.surface_normals(points, valid)
    assert known.sum() == 80 and not found[4, 4].any()
    np.testing.assert_allclose(found[known], np.broadcast_to(normal, (80, 3)), atol=1e-12)


def test_area_pool_is_adaptive_average_pooling():
    features = np.random.default_rng(0).normal(size=(2, 7, 10, 3))
    for namespace in (np, jnp):
        pooled = np.asarray(geometry.area_pool(namespace.asarray(features), 3, 4))
        for i in range(3):
            for j in range(4):
                rows = slice(int(np.floor(i * 7 / 3)), int(np.ceil((i + 1) * 7 / 3)))
                columns = slice(int(np.floor(j * 10 / 4)), int(np.ceil((j + 1) * 10 / 4)))
                np.testing.assert_allclose(pooled[:, i, j], features[:, rows, columns].mean((1, 2)), atol=1e-6)


def test_multi_view_filter_by_loops():
    views, size = 3, 8
    depth, intrinsics, pose, valid = scene(views, size, seed=4)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = 8
    depth = 2 + 0.1 * depth
    pose[:] = np.eye(4)
    pose[:, 0, 3] = [0, 0.3, 1.2]
    pose[2, :3, :3] = Rotation.from_euler("y", -30, degrees=True).as_matrix()
    agreed, seen = np.zeros_like(valid), np.zeros_like(valid)
    for i, v, u in np.argwhere(valid):
        point = pose[i] @ [*(np.linalg.inv(intrinsics[i]) @ [u + 0.5, v + 0.5, 1] * depth[i, v, u]), 1]
        for j in set(range(views)) - {i}:
            x, y, z = (np.linalg.inv(pose[j]) @ point)[:3]
            a, b, _ = intrinsics[j] @ [x / z, y / z, 1]
            row, column = int(np.floor(b)), int(np.floor(a))
            if z > 0 and 0 <= row < size and 0 <= column < size and valid[j, row, column]:
                seen[i, v, u] = True
                agreed[i, v, u] |= abs(z - depth[j, row, column]) / z < 0.05
    assert 20 < agreed.sum() < seen.sum() < valid.sum()
    keep = geometry.multi_view_filter(depth, intrinsics, pose, valid)
    np.testing.assert_array_equal(keep, agreed)
    keep = geometry.multi_view_filter(depth, intrinsics, pose, valid, keep_unless_contradicted=True)
    np.testing.assert_array_equal(keep, valid & (agreed | ~seen))
