"""Depth, camera and point scores against loops, closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spatialsv_jax import metrics


def depth_example(seed=0):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0.5, 4, (3, 5, 6))
    mask = rng.random(target.shape) < 0.7
    return target * np.exp(0.2 * rng.normal(size=target.shape)), target, mask


def test_depth_metrics_by_loops():
    prediction, target, mask = depth_example()
    sums = np.zeros(8)
    for d, g in zip(prediction[mask].tolist(), target[mask].tolist(), strict=True):
        ratio = max(d / g, g / d)
        logs = (np.log(d / g) ** 2, abs(np.log10(d / g)))
        sums += [abs(d - g) / g, (d - g) ** 2 / g, (d - g) ** 2, *logs, *(ratio < 1.25**k for k in (1, 2, 3))]
    expected = sums / mask.sum()
    expected[2:4] **= 0.5
    prediction[~mask], target[~mask] = np.nan, -1
    result = metrics.depth_metrics(prediction, target, mask, "none")
    assert list(result) == ["abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "delta_1", "delta_2", "delta_3", "n"]
    np.testing.assert_allclose(list(result.values()), [*expected, mask.sum()], rtol=1e-12)
    assert 0 < result["delta_1"] < result["delta_2"] < 1 and isinstance(result["n"], int)


def test_alignments_undo_what_they_name_and_are_optimal():
    prediction, target, mask = depth_example()
    for alignment in ("median_ratio", "ratio_median", "scale", "scale_shift"):
        assert metrics.depth_metrics(0.3 * target, target, mask, alignment)["abs_rel"] < 1e-12
    assert metrics.depth_metrics(2 * target + 0.7, target, mask, "scale_shift")["rmse"] < 1e-12
    assert metrics.depth_metrics(1 / (2 / target + 0.1), target, mask, "scale_shift_disparity")["rmse"] < 1e-12
    d, g = prediction[mask], target[mask]
    np.testing.assert_allclose(
        metrics.align_depth(prediction, target, mask, "median_ratio")[mask], d * np.median(g) / np.median(d)
    )
    np.testing.assert_allclose(
        metrics.align_depth(prediction, target, mask, "ratio_median")[mask], d * np.median(g / d)
    )
    slope, offset = np.polyfit(d, g, 1)
    np.testing.assert_allclose(
        metrics.align_depth(prediction, target, mask, "scale_shift")[mask], slope * d + offset, rtol=1e-9
    )
    best = metrics.depth_metrics(prediction, target, mask, "scale")["rmse"]
    scale = metrics.align_depth(prediction, target, mask, "scale")[mask][0] / d[0]
    for factor in (0.99, 1.01):
        assert np.sqrt(np.mean((factor * scale * d - g) ** 2)) > best


def test_depth_without_pixels_constant_and_with_mistakes():
    prediction, target, mask = depth_example()
    for alignment in metrics.ALIGNMENTS:
        empty = metrics.depth_metrics(prediction, target, np.zeros_like(mask), alignment)
        assert empty["n"] == 0 and all(value is None for key, value in empty.items() if key != "n")
        for constant in (1.0, 0.0):
            result = metrics.depth_metrics(np.full_like(target, constant), target, mask, alignment)
            assert np.isfinite(list(result.values())).all(), alignment
    constant = metrics.depth_metrics(np.ones_like(target), target, mask, "scale_shift")
    assert constant["rmse"] == pytest.approx(target[mask].std())
    with pytest.raises(ValueError, match="Unknown alignment 'mean'"):
        metrics.depth_metrics(prediction, target, mask, "mean")
    with pytest.raises(ValueError, match="'target' has shape"):
        metrics.depth_metrics(prediction, target[0], mask, "none")
    prediction[mask] = np.nan
    with pytest.raises(ValueError, match="'prediction' is not finite"):
        metrics.depth_metrics(prediction, target, mask, "none")
    with pytest.raises(ValueError, match="'target' is not a finite depth > 0"):
        metrics.depth_metrics(target, 0 * target, mask, "none")


def poses(number: int, seed: int = 0):
    pose = np.tile(np.eye(4), (number, 1, 1))
    pose[:, :3, :3] = Rotation.random(number, random_state=seed).as_matrix()
    pose[:, :3, 3] = np.random.default_rng(seed).normal(size=(number, 3))
    return pose


def disturbed(pose, seed=1, size=0.2):
    rng = np.random.default_rng(seed)
    noisy = pose.copy()
    noisy[:, :3, :3] = pose[:, :3, :3] @ Rotation.from_rotvec(size * rng.normal(size=(len(pose), 3))).as_matrix()
    noisy[:, :3, 3] += size * rng.normal(size=(len(pose), 3))
    return noisy


def test_camera_metrics_by_loops_with_scipy_rotations():
    target = poses(7)
    target[4, :3, 3] = target[2, :3, 3] + [0.009, 0, 0]  # a rotation-only pair
    prediction, valid = disturbed(target), np.array([True] * 6 + [False])
    prediction[6] = np.nan
    rotation, translation, largest = [], [], []
    for i in range(6):
        for j in range(i + 1, 6):
            a, b = (np.linalg.inv(p[i]) @ p[j] for p in (prediction, target))
            angle = (Rotation.from_matrix(a[:3, :3]).inv() * Rotation.from_matrix(b[:3, :3])).magnitude()
            rotation.append(np.degrees(angle))
            largest.append(rotation[-1])
            if (i, j) != (2, 4):
                cosine = a[:3, 3] @ b[:3, 3] / np.linalg.norm(a[:3, 3]) / np.linalg.norm(b[:3, 3])
                translation.append(np.degrees(np.arccos(abs(cosine))))
                largest[-1] = max(largest[-1], translation[-1])
    result = metrics.camera_metrics(prediction, target, valid)
    assert (result["n_pairs"], result["n_pairs_translation"]) == (15, 14)
    assert result["rotation_error_deg"] == pytest.approx(np.mean(rotation))
    assert result["translation_error_deg"] == pytest.approx(np.mean(translation))
    for limit in (5, 15, 30):
        assert result[f"rra_{limit}"] == np.mean([r < limit for r in rotation])
        assert result[f"rta_{limit}"] == np.mean([t < limit for t in translation])
    shares = [np.mean([e < b for e in largest]) for b in range(1, 31)]
    assert result["auc30_hist_max"] == pytest.approx(np.mean(shares))
    grid = (np.arange(300_000) + 0.5) / 10_000
    recall = np.searchsorted(np.sort(largest), grid) / len(largest)
    assert result["auc30_exact_max"] == pytest.approx(recall.mean(), abs=1e-5)
    assert 0.1 < result["auc30_hist_max"] < 0.9


def test_camera_metrics_ignore_a_common_similarity_and_fold_translations():
    target, valid = poses(5), np.ones(5, bool)
    common = np.eye(4)
    common[:3, :3], common[:3, 3] = Rotation.random(random_state=9).as_matrix(), [1, 2, 3]
    moved = target.copy()
    moved[:, :3, 3] *= 0.3
    result = metrics.camera_metrics(common @ moved, target, valid)
    assert result["rotation_error_deg"] < 1e-5 and result["translation_error_deg"] < 1e-5
    assert result["auc30_hist_max"] == 1 and result["auc30_exact_max"] == pytest.approx(1, abs=1e-6)
    noisy = disturbed(target)
    first, second = (metrics.camera_metrics(common @ noisy, t, valid) for t in (target, common @ target))
    assert first["rotation_error_deg"] == pytest.approx(second["rotation_error_deg"])
    opposite = target.copy()
    opposite[:, :3, 3] *= -1
    assert metrics.camera_metrics(opposite, target, valid)["translation_error_deg"] < 1e-5
    still = target.copy()
    still[:, :3, 3] = 1.0
    assert metrics.camera_metrics(still, target, valid)["translation_error_deg"] == pytest.approx(90)


def test_undefined_camera_scores_are_none():
    target = poses(3)
    for valid in (np.zeros(3, bool), np.array([False, True, False])):
        result = metrics.camera_metrics(target, target, valid)
        assert result["n_pairs"] == result["n_pairs_translation"] == 0
        assert all(value is None for key, value in result.items() if not key.startswith("n_"))
    target[:, :3, 3] = 0.5  # turning on the spot
    result = metrics.camera_metrics(target, target, np.ones(3, bool))
    assert result["n_pairs"] == 3 and result["n_pairs_translation"] == 0 and result["rra_5"] == 1
    assert result["translation_error_deg"] is None and result["rta_30"] is None and result["auc30_hist_max"] == 1
    line = poses(3)
    line[:, :3, 3] = np.arange(3)[:, None]
    assert metrics.camera_metrics(line, line, np.ones(3, bool))["translation_error_deg"] < 1e-5
    with pytest.raises(ValueError, match="'prediction' has shape"):
        metrics.camera_metrics(line[:, :3], line, np.ones(3, bool))
    line[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="non-finite"):
        metrics.camera_metrics(line, poses(3), np.ones(3, bool))


def test_point_metrics_by_brute_force():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(4, 30, 3)), rng.normal(size=(90, 3))
    distance = np.linalg.norm(prediction.reshape(-1, 1, 3) - target, axis=-1)
    accuracy, completeness = distance.min(1), distance.min(0)
    precision, recall = (accuracy < 0.4).mean(), (completeness < 0.4).mean()
    expected = {
        "accuracy_mean": accuracy.mean(),
        "accuracy_median": np.median(accuracy),
        "completeness_mean": completeness.mean(),
        "completeness_median": np.median(completeness),
        "chamfer_sum": accuracy.mean() + completeness.mean(),
        "f_score": 2 * precision * recall / (precision + recall),
        "n": 120,
    }
    assert metrics.point_metrics(prediction, target, 0.4) == pytest.approx(expected, rel=1e-12)


def test_point_metrics_limits():
    points = np.random.default_rng(1).normal(size=(50, 3))
    assert metrics.point_metrics(points, points, 0.1)["f_score"] == 1
    far = metrics.point_metrics(points, points + 100, 0.1)
    assert far["f_score"] == 0 and far["chamfer_sum"] > 300
    one = metrics.point_metrics([[0.0, 0, 0]], [[0.5, 0, 0]], 0.5)
    assert one["f_score"] == 0 and one["chamfer_sum"] == 1, "the threshold is strict, the sum is whole"
    for pair in ((points, points[:0]), (points[:0], points)):
        empty = metrics.point_metrics(*pair, 0.1)
        assert empty.pop("n") == 0 and set(empty.values()) == {None}
    with pytest.raises(ValueError, match="'target' has shape"):
        metrics.point_metrics(points, points[:, :2], 0.1)
    points[0] = np.inf
    with pytest.raises(ValueError, match="'prediction' has 1 non-finite"):
        metrics.point_metrics(points, points[1:], 0.1)
