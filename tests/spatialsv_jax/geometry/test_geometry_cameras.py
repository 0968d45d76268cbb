"""Rays, points and the closed-form camera against definitions written out per pixel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spatialsv_jax import geometry
from spatialsv_jax.geometry.cameras import point_distances

SOLVE = {np: geometry.solve_camera, jnp: jax.jit(geometry.solve_camera)}


def cameras(number: int, height: int, width: int, seed: int = 0, skew: float = 0.0):
    rng = np.random.default_rng(seed)
    intrinsics = np.tile(np.eye(3), (number, 1, 1))
    intrinsics[:, 0, 0] = rng.uniform(0.6, 2, number) * width
    intrinsics[:, 1, 1] = rng.uniform(0.6, 2, number) * width
    intrinsics[:, 0, 2] = rng.uniform(0.3, 0.7, number) * width
    intrinsics[:, 1, 2] = rng.uniform(0.3, 0.7, number) * height
    intrinsics[:, 0, 1] = skew
    pose = np.tile(np.eye(4), (number, 1, 1))
    pose[:, :3, :3] = Rotation.random(number, random_state=seed).as_matrix()
    pose[:, :3, 3] = rng.normal(size=(number, 3))
    return intrinsics, pose


def test_rays_and_points_follow_the_definition():
    height, width = 5, 7
    intrinsics, pose = cameras(2, height, width, skew=0.8)
    depth = np.random.default_rng(1).uniform(0.5, 3, (2, height, width))
    ray = geometry.rays_from_camera(intrinsics, pose, height, width)
    points = geometry.points_from_depth(depth, intrinsics, pose)
    assert ray.dtype == points.dtype == np.float64 and ray.shape == (2, 5, 7, 6)
    for view in range(2):
        for v in range(height):
            for u in range(width):
                direction = pose[view, :3, :3] @ np.linalg.inv(intrinsics[view]) @ [u + 0.5, v + 0.5, 1]
                np.testing.assert_allclose(ray[view, v, u], [*pose[view, :3, 3], *direction], atol=1e-14)
                expected = pose[view, :3, 3] + depth[view, v, u] * direction
                np.testing.assert_allclose(points[view, v, u], expected, atol=1e-13)
    for result, expected in (
        (geometry.rays_from_camera(jnp.asarray(intrinsics), jnp.asarray(pose), height, width), ray),
        (geometry.points_from_depth(jnp.asarray(depth), intrinsics, pose), points),
    ):
        assert isinstance(result, jax.Array) and result.dtype == jnp.float32
        np.testing.assert_allclose(result, expected, atol=3e-6)


@pytest.mark.parametrize("skew", [0.0, 0.8])
def test_distances_are_those_of_the_points(skew):
    intrinsics, pose = cameras(3, 6, 9, skew=skew)
    depth = np.random.default_rng(1).uniform(0.5, 3, (3, 6, 9))
    wanted = np.linalg.norm(geometry.points_from_depth(depth, intrinsics, pose), axis=-1)
    np.testing.assert_array_equal(
        point_distances(depth, intrinsics, pose), wanted
    )  # scales of scenes stay what they were


def test_leading_axes_broadcast_and_errors_name_the_array():
    intrinsics, pose = cameras(3, 4, 4)
    one = geometry.rays_from_camera(intrinsics[0], pose, 4, 4)
    np.testing.assert_array_equal(one[1], geometry.rays_from_camera(intrinsics[0], pose[1], 4, 4))
    with pytest.raises(ValueError, match="camera_to_world.*expected"):
        geometry.rays_from_camera(intrinsics, pose[:, :3], 4, 4)
    with pytest.raises(ValueError, match="upper triangular"):
        geometry.rays_from_camera(np.swapaxes(intrinsics, -1, -2), pose, 4, 4)
    with pytest.raises(ValueError, match="'depth'"):
        geometry.points_from_rays(one, np.ones((3, 4, 5)))
    with pytest.raises(ValueError, match="'confidence'"):
        geometry.solve_camera(one, np.ones((3, 4, 5)))


def test_project_inverts_points_from_depth():
    intrinsics, pose = cameras(2, 6, 8)
    depth = np.random.default_rng(1).uniform(0.5, 3, (2, 6, 8))
    points = geometry.points_from_depth(depth, intrinsics, pose).reshape(2, 48, 3)
    pixels, z = geometry.project(points, intrinsics, pose)
    v, u = np.mgrid[:6, :8] + 0.5
    np.testing.assert_allclose(pixels[1], np.stack([u, v], -1).reshape(-1, 2), atol=1e-10)
    np.testing.assert_allclose(z.reshape(depth.shape), depth, atol=1e-12)


@pytest.mark.parametrize("shape", [(448, 448), (9, 14)])
def test_camera_from_rays_recovers_cameras(shape):
    intrinsics, pose = cameras(4, *shape, seed=2, skew=1.5)
    ray = geometry.rays_from_camera(intrinsics, pose, *shape)
    weight = np.random.default_rng(3).uniform(1, 5, ray.shape[:-1])
    for confidence in (None, weight):
        found, found_pose = geometry.camera_from_rays(ray, confidence)
        np.testing.assert_allclose(found / shape[1], intrinsics / shape[1], atol=1e-12)
        np.testing.assert_allclose(found_pose, pose, atol=1e-12)
        fit = SOLVE[jnp](jnp.asarray(ray), None if confidence is None else jnp.asarray(weight))
        assert bool(fit.ok.all()) and fit.intrinsics.dtype == jnp.float32
        np.testing.assert_allclose(fit.intrinsics, intrinsics, atol=0.005)
        rotation = np.asarray(fit.camera_to_world, np.float64)[:, :3, :3]
        assert geometry.rotation_angle_deg(rotation, pose[:, :3, :3]).max() < 5e-4
        np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-6)


def test_camera_from_noisy_rays_is_the_weighted_least_squares_solution():
    height, width = 6, 9
    intrinsics, pose = cameras(1, height, width)
    rng = np.random.default_rng(4)
    ray = geometry.rays_from_camera(intrinsics, pose, height, width)[0]
    ray = ray + 0.02 * rng.normal(size=ray.shape)
    weight = rng.uniform(1, 9, (height, width))
    v, u = np.mgrid[:height, :width] + 0.5
    pixels = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3)
    root = np.sqrt(weight.reshape(-1, 1))
    solution = np.linalg.lstsq(root * pixels, root * ray[..., 3:].reshape(-1, 3), rcond=None)[0].T
    q, upper = np.linalg.qr(solution)
    sign = np.sign(np.diag(upper))
    q, upper = q * sign, sign[:, None] * upper
    found, found_pose = geometry.camera_from_rays(ray, weight)
    np.testing.assert_allclose(found, np.linalg.inv(upper / upper[2, 2]), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found_pose[:3, :3], q, atol=1e-11)
    np.testing.assert_allclose(found_pose[:3, 3], np.average(ray[..., :3].reshape(-1, 3), 0, weight.ravel()))
    assert abs(found[0, 1]) > 1e-6 and found[1, 0] == 0, "the skew is kept"


def test_weight_zero_pixels_may_hold_anything():
    intrinsics, pose = cameras(1, 8, 8)
    ray = geometry.rays_from_camera(intrinsics, pose, 8, 8)
    weight = np.ones((1, 8, 8))
    weight[0, :3] = 0
    ray[0, :3] = np.nan
    for xp in (np, jnp):
        fit = SOLVE[xp](xp.asarray(ray), xp.asarray(weight))
        assert bool(fit.ok[0])
        np.testing.assert_allclose(fit.camera_to_world, pose, atol=1e-5)

    def size(ray):
        return sum(jnp.sum(x**2) for x in geometry.camera_from_rays(ray, jnp.asarray(weight)))

    gradient = np.asarray(jax.jit(jax.grad(size))(jnp.asarray(ray, jnp.float32)))
    assert np.isfinite(gradient).all() and not gradient[0, :3].any() and gradient[0, 3:].any()


@pytest.mark.parametrize("namespace", [np, jnp])
def test_impossible_cameras_are_flagged_and_identity(namespace):
    intrinsics, pose = cameras(6, 8, 8, seed=5)
    ray = geometry.rays_from_camera(intrinsics, pose, 8, 8)
    weight = np.ones((6, 8, 8))
    weight[0] = 0  # no weight
    ray[1, ..., 3] *= -1  # a mirrored camera: det A < 0
    ray[2, ..., 3:] = [0.3, 0.2, 1]  # all rays parallel
    weight[3, 1:] = 0  # one row determines no camera
    ray[4, 2, 2] = np.nan
    fit = SOLVE[namespace](namespace.asarray(ray), namespace.asarray(weight))
    assert np.asarray(fit.ok).tolist() == [False] * 5 + [True]
    np.testing.assert_array_equal(fit.intrinsics[:5], np.tile(np.eye(3), (5, 1, 1)))
    np.testing.assert_array_equal(fit.camera_to_world[:5], np.tile(np.eye(4), (5, 1, 1)))
    np.testing.assert_allclose(fit.camera_to_world[5], pose[5], atol=1e-5)


def test_camera_from_rays_gradient_and_batch_axes():
    intrinsics, pose = cameras(6, 5, 6, seed=6)
    ray = geometry.rays_from_camera(intrinsics, pose, 5, 6).reshape(2, 3, 5, 6, 6)
    assert geometry.camera_from_rays(ray)[1].shape == (2, 3, 4, 4)
    rng = np.random.default_rng(7)
    direction = rng.normal(size=ray.shape)
    weights = rng.normal(size=(2, 3, 3, 3)) / 6, rng.normal(size=(2, 3, 4, 4))

    def score(ray):
        return sum((w * x).sum() for w, x in zip(weights, geometry.camera_from_rays(ray), strict=True))

    step = 1e-6
    numeric = (score(ray + step * direction) - score(ray - step * direction)) / (2 * step)
    analytic = jax.jit(lambda r, d: jax.jvp(score, (r,), (d,))[1])(jnp.asarray(ray), jnp.asarray(direction))
    np.testing.assert_allclose(analytic, numeric, rtol=2e-4)
