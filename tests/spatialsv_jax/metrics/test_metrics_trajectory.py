"""Paths and alignments against evo's numbers, closed forms and cases that evo refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from spatialsv_jax import geometry, metrics

GOLDENS = json.loads((Path(__file__).parents[2] / "goldens/trajectories.json").read_text())


def poses(rows) -> np.ndarray:
    rows = np.asarray(rows)
    result = np.tile(np.eye(4), (len(rows), 1, 1))
    result[:, :3, :3], result[:, :3, 3] = Rotation.from_quat(rows[:, 3:]).as_matrix(), rows[:, :3]
    return result


def straight(frames: int, step=(1.0, 2.0, -1.0)) -> np.ndarray:
    result = np.tile(np.eye(4), (frames, 1, 1))
    result[:, :3, 3] = np.arange(frames)[:, None] * np.array(step)
    return result


@pytest.mark.parametrize("alignment", ["sim3", "se3", "none"])
@pytest.mark.parametrize("case", [name for name in GOLDENS if name != "line"])
def test_ate_rpe_and_umeyama_are_those_of_evo(case, alignment):
    golden = GOLDENS[case][alignment]
    prediction, target = (poses(GOLDENS[case][name]) for name in ("prediction", "target"))
    valid = np.ones(len(target), bool)
    for delta in (1, 3):
        result = metrics.trajectory_metrics(prediction, target, valid, (alignment,), delta)
        assert result[f"ate_rmse_{alignment}"] == pytest.approx(golden["ate_rmse"], rel=1e-9)
        expected = golden[f"rpe_translation_rmse_{delta}"]
        assert result[f"rpe{delta}_translation_rmse_{alignment}"] == pytest.approx(expected, rel=1e-9)
        expected = golden[f"rpe_rotation_rmse_deg_{delta}"]
        assert result[f"rpe{delta}_rotation_rmse_deg"] == pytest.approx(expected, rel=1e-9)
        assert (result["n_frames"], result["n_pairs"]) == (len(target), len(target) - delta)
    fitted = metrics.fit_similarity(prediction[:, :3, 3], target[:, :3, 3], alignment)
    if alignment != "none":
        np.testing.assert_allclose(fitted.rotation, golden["rotation"], atol=1e-9)
        np.testing.assert_allclose(fitted.translation, golden["translation"], atol=1e-9)
        assert fitted.scale == pytest.approx(golden["scale"], rel=1e-9)
    assert alignment != "sim3" or result["scale_sim3"] == pytest.approx(golden["scale"], rel=1e-9)


def test_a_path_on_a_line_that_evo_refuses_has_the_least_squares_error():
    case = GOLDENS["line"]
    assert "Degenerate" in case["sim3"]["error"]
    prediction, target = poses(case["prediction"]), poses(case["target"])
    rng = np.random.default_rng(0)
    result = metrics.trajectory_metrics(prediction, target, np.ones(9, bool))
    assert result["ate_rmse_sim3"] < 1e-6 and result["scale_sim3"] == pytest.approx(1 / 0.7, rel=1e-6)
    assert result["rpe1_translation_rmse_sim3"] < 1e-6 and result["rpe1_rotation_rmse_deg"] < 1e-4
    prediction[:, :3, 3] += 0.2 * rng.normal(size=(9, 3))  # the true path alone lies on a line

    def rms(parameters):
        turned = Rotation.from_rotvec(parameters[:3]).apply(prediction[:, :3, 3])
        residual = np.exp(parameters[3]) * turned + parameters[4:] - target[:, :3, 3]
        return np.sqrt(np.mean((residual**2).sum(-1)))

    best = min(minimize(rms, rng.normal(size=7), method="BFGS", options={"gtol": 1e-10}).fun for _ in range(8))
    assert metrics.trajectory_metrics(prediction, target, np.ones(9, bool))["ate_rmse_sim3"] == pytest.approx(
        best, rel=1e-6
    )


def test_too_few_frames_leave_nothing_to_measure():
    path = straight(4)
    fewest = {"sim3": 3, "se3": 2, "none": 1}
    for frames in range(4):
        valid = np.arange(4) < frames
        result = metrics.trajectory_metrics(np.where(valid[:, None, None], 1.5 * path, np.nan), path, valid)
        assert (result["n_frames"], result["n_pairs"]) == (frames, max(0, frames - 1))
        for alignment, least in fewest.items():
            assert (result[f"ate_rmse_{alignment}"] is None) == (frames < least), (frames, alignment)
            none = frames < max(least, 2)
            assert (result[f"rpe1_translation_rmse_{alignment}"] is None) == none, (frames, alignment)
        assert (result["rpe1_rotation_rmse_deg"] is None) == (frames < 2)
        assert (result["scale_sim3"] is None) == (frames < 3)
    empty = metrics.trajectory_metrics(path[:0], path[:0], np.zeros(0, bool))
    assert empty.pop("n_frames") == empty.pop("n_pairs") == 0 and set(empty.values()) == {None}


@pytest.mark.parametrize("place", [0.0, 0.1, 1e6])
def test_paths_without_movement_are_aligned_with_scale_one(place):
    """0.1 is no sum of binary fractions: the mean of equal centres differs from them by rounding."""
    moving, still = straight(7), np.tile(np.eye(4), (7, 1, 1))
    still[:, :3, 3] = place
    spread = np.sqrt(np.mean(((moving[:, :3, 3] - moving[:, :3, 3].mean(0)) ** 2).sum(-1)))
    for prediction, target in ((still, moving), (moving, still)):
        result = metrics.trajectory_metrics(prediction, target, np.ones(7, bool))
        assert result["scale_sim3"] == 1.0
        assert result["ate_rmse_sim3"] == pytest.approx(spread) == result["ate_rmse_se3"]
        assert result["rpe1_translation_rmse_sim3"] == pytest.approx(np.sqrt(6))
    both = metrics.trajectory_metrics(still, still, np.ones(7, bool))
    assert both["ate_rmse_sim3"] == pytest.approx(0, abs=1e-8) and both["scale_sim3"] == 1.0


def test_pairs_need_both_frames_and_keep_their_distance():
    target = straight(6)
    prediction = target.copy()
    prediction[3:, :3, 3] += [0, 0, 5.0]  # one jump, between frames 2 and 3
    valid = np.array([True, True, False, True, True, True])
    result = metrics.trajectory_metrics(prediction, target, valid, ("none",))
    assert result["n_pairs"] == 3 and result["rpe1_translation_rmse_none"] == 0, "1 and 3 are no neighbours"
    result = metrics.trajectory_metrics(prediction, target, valid, ("none",), delta=2)
    assert result["n_pairs"] == 2 and result["rpe2_translation_rmse_none"] == pytest.approx(np.sqrt((25 + 0) / 2))


def test_mistakes_are_named():
    path, valid = straight(3), np.ones(3, bool)
    with pytest.raises(ValueError, match="Unknown alignment 'sim'.*none, se3, sim3"):
        metrics.trajectory_metrics(path, path, valid, ("sim",))
    with pytest.raises(ValueError, match="'delta' is 0"):
        metrics.trajectory_metrics(path, path, valid, delta=0)
    with pytest.raises(ValueError, match="'source' has 1 non-finite"):
        metrics.fit_similarity([[np.nan, 0, 0], [0, 0, 0]], np.zeros((2, 3)), "se3")
    with pytest.raises(ValueError, match="'target' has shape"):
        metrics.fit_similarity(np.zeros((2, 3)), np.zeros((3, 3)), "se3")


def test_a_similarity_moves_points_normals_and_poses_alike():
    fitted = metrics.Similarity(Rotation.from_euler("z", 90, degrees=True).as_matrix(), np.array([1.0, 0, 0]), 2.0)
    np.testing.assert_allclose(fitted.points([[1.0, 0, 0]]), [[1, 2, 0]], atol=1e-12)
    np.testing.assert_allclose(fitted.normals([[1.0, 0, 0]]), [[0, 1, 0]], atol=1e-12)
    moved = fitted.poses(straight(2))
    np.testing.assert_allclose(moved[1, :3, 3], fitted.points(straight(2)[1, :3, 3]))
    np.testing.assert_allclose(geometry.invert_pose(moved) @ moved, np.tile(np.eye(4), (2, 1, 1)), atol=1e-12)
