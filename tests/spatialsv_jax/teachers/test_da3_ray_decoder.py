"""Cameras from ray maps: the published program's on its own samples, and the truth."""

import numpy as np
import pytest
import teacher_runs as runs
from scipy.spatial.transform import Rotation

from spatialsv_jax.geometry import rays_from_camera, rotation_angle_deg
from spatialsv_jax.teachers.da3.ray_decoder import cameras_from_rays


def case(name):
    parts = runs.reference("da3", "parts.npz")
    found = {key.removeprefix(f"{name}/"): value for key, value in parts.items() if key.startswith(f"{name}/")}
    found["ray"] = np.concatenate([found["ray"][..., 3:], found["ray"][..., :3]], -1)  # ours: origin first
    return found, tuple(found["image_hw"].tolist())


@pytest.mark.parametrize("name", ["centred", "noisy", "offcentre"])
def test_the_published_cameras(name):
    given, size = case(name)
    fit = cameras_from_rays(given["ray"], given["ray_conf"], size, samples=given["sample_idx"])
    assert fit.ok.all()
    assert runs.error(fit.camera_to_world, given["c2w"]) < 1e-4
    assert runs.error(fit.intrinsics, given["intrinsics"]) < 1e-4
    assert runs.error(np.linalg.inv(fit.camera_to_world)[..., :3, :], given["extrinsics_w2c"]) < 1e-4


def test_the_truth():
    """Centred pictures either way; off the centre only the exact factorisation, the published one mirrors the point."""
    given, size = case("centred")
    fit = cameras_from_rays(given["ray"], given["ray_conf"], size)
    assert np.abs(fit.intrinsics - given["true_intrinsics"]).max() < 0.2
    given, size = case("offcentre")
    wanted, rotation = given["true_intrinsics"], given["true_c2w"][..., :3, :3]
    exact = cameras_from_rays(given["ray"], given["ray_conf"], size, centred=False)
    theirs = cameras_from_rays(given["ray"], given["ray_conf"], size)
    assert np.abs(exact.intrinsics - wanted).max() < 0.5 < 2 < np.abs(theirs.intrinsics - wanted).max()
    assert rotation_angle_deg(exact.camera_to_world[..., :3, :3], rotation).max() < 0.3
    assert rotation_angle_deg(theirs.camera_to_world[..., :3, :3], rotation).max() > 0.5


def posed(seed=0, height=24, width=32, size=(96, 128)):
    """Rays [origin, direction] of a known camera on the 8/14-like coarser grid, pixel centres at +0.5."""
    intrinsics = np.array([[100.0, 0, size[1] / 2], [0, 110.0, size[0] / 2], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", [10, -20, 5], degrees=True).as_matrix()
    pose[:3, 3] = (0.3, -0.2, 0.5)
    coarse = np.diag([width / size[1], height / size[0], 1]) @ intrinsics
    return rays_from_camera(coarse, pose, height, width), intrinsics, pose, size


def test_our_ray_maps_and_outliers():
    ray, intrinsics, pose, size = posed()
    rng = np.random.default_rng(0)
    confidence = rng.uniform(5, 9, ray.shape[:-1])
    bad = rng.random(ray.shape[:-1]) < 0.2
    ray[bad, 3:] += rng.standard_normal((bad.sum(), 3))
    fit = cameras_from_rays(ray, np.where(bad, 1.0, confidence), size)
    np.testing.assert_allclose(fit.intrinsics, intrinsics, atol=0.5)
    assert rotation_angle_deg(fit.camera_to_world[:3, :3], pose[:3, :3]) < 0.2
    np.testing.assert_allclose(fit.camera_to_world[:3, 3], pose[:3, 3], atol=1e-9)


def test_mirrored_homographies_are_turned():
    """A camera that looks back: the homography's last entry is negative."""
    ray, intrinsics, pose, size = posed()
    back = np.diag([1.0, -1, -1, 1]) @ pose
    rays = ray.copy()
    rays[..., :3], rays[..., 3:] = ray[..., :3] @ np.diag([1, -1, -1]), ray[..., 3:] @ np.diag([1.0, -1, -1])
    fit = cameras_from_rays(rays, np.ones(ray.shape[:-1]), size)
    assert np.linalg.det(fit.camera_to_world[:3, :3]) > 0.99
    np.testing.assert_allclose(fit.intrinsics, intrinsics, atol=0.2)
    assert rotation_angle_deg(fit.camera_to_world[:3, :3], back[:3, :3]) < 0.2


def test_no_camera():
    ray, _, _, size = posed()
    fit = cameras_from_rays(ray[None], np.zeros((1, *ray.shape[:-1])), size)
    assert not fit.ok.any()
    np.testing.assert_array_equal(fit.camera_to_world[0], np.eye(4))
    with pytest.raises(ValueError, match="expected"):
        cameras_from_rays(ray[..., :3], np.ones(ray.shape[:-1]), size)
    with pytest.raises(ValueError, match="fewer than 8"):
        cameras_from_rays(ray[:2, :3], np.ones((2, 3)), size)
