"""The constant predictor against brute force and against what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spatialsv_jax.evaluation import baselines


def _sample(rng, setting="walk", views=2, size=4):
    poses = np.tile(np.eye(4), (views, 1, 1))
    poses[1:, :3, :3] = Rotation.from_euler("y", rng.uniform(10, 30), degrees=True).as_matrix()
    poses[1:, :3, 3] = rng.normal(0.3, 0.1, 3)
    return {
        "depth": rng.uniform(0.3, 3, (views, size, size)),
        "depth_mask": rng.random((views, size, size)) < 0.8,
        "intrinsics": np.tile(np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]]), (views, 1, 1)),
        "camera_to_world": poses,
        "pose_valid": np.ones(views, bool),
        "setting": setting,
        "scene": f"room{rng.integers(1e9)}",
    }


def test_depth_map_is_abs_rel_optimal_by_brute_force():
    rng = np.random.default_rng(0)
    depth, valid = rng.uniform(0.3, 3, (25, 3, 3)), rng.random((25, 3, 3)) < 0.7
    found = baselines.abs_rel_optimal_depth(depth, valid)
    grid = np.linspace(0.3, 3, 5001)
    for row in range(3):
        for column in range(3):
            truth = depth[valid[:, row, column], row, column]
            cost = np.mean(np.abs(grid[:, None] - truth) / truth, axis=1)
            mine = np.mean(np.abs(found[row, column] - truth) / truth)
            assert mine <= cost.min() + 1e-9
            assert np.mean(np.abs(np.median(truth) - truth) / truth) >= mine  # the plain median is no better


def test_pixels_without_any_label_get_the_overall_optimum():
    depth, valid = np.full((4, 2, 2), 2.0), np.ones((4, 2, 2), bool)
    valid[:, 0, 0], depth[:, 0, 0] = False, 0.0
    np.testing.assert_array_equal(baselines.abs_rel_optimal_depth(depth, valid), np.full((2, 2), 2.0))


def test_chordal_mean_minimises_the_frobenius_distance():
    rotations = Rotation.random(7, random_state=1).as_matrix()
    mean = baselines.chordal_mean(rotations)
    np.testing.assert_allclose(mean @ mean.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(mean) == pytest.approx(1)
    cost = np.sum((rotations - mean) ** 2)
    for step in Rotation.random(200, random_state=2).as_rotvec() * 0.05:
        other = mean @ Rotation.from_rotvec(step).as_matrix()
        assert np.sum((rotations - other) ** 2) >= cost - 1e-12
    np.testing.assert_array_equal(baselines.chordal_mean(np.zeros((0, 3, 3))), np.eye(3))


def test_fit_uses_only_valid_entries_and_knows_settings():
    rng = np.random.default_rng(3)
    samples = [_sample(rng), _sample(rng), _sample(rng, "rotation")]
    samples[2]["camera_to_world"][1, :3, 3] = 0
    samples[0]["pose_valid"][1] = False
    samples[0]["camera_to_world"][1] = 1e6  # garbage behind the flag
    samples[1]["depth"][~samples[1]["depth_mask"]] = -7.0
    fitted = baselines.fit_constant(samples)
    poses = [samples[1]["camera_to_world"][1], samples[2]["camera_to_world"][1]]
    np.testing.assert_allclose(fitted.camera_to_world[1, :3, 3], np.mean([pose[:3, 3] for pose in poses], 0))
    np.testing.assert_allclose(fitted.camera_of_setting["rotation"][1], poses[1], atol=1e-12)
    np.testing.assert_array_equal(fitted.camera_to_world[0], np.eye(4))
    assert (fitted.depth > 0).all() and fitted.points().shape == (2, 4, 4, 3)
    np.testing.assert_allclose(fitted.points()[0, ..., 2], fitted.depth[0])
    assert fitted.records == 3 and len(fitted.scenes) == 3


def test_fit_without_depth_says_so():
    sample = _sample(np.random.default_rng(4))
    sample["depth_mask"][:] = False
    with pytest.raises(ValueError, match="No valid depth in the 1 training records"):
        baselines.fit_constant([sample])
