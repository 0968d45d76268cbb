"""Depth, camera and point scores against loops, closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spatialsv_jax import metrics
from spatialsv_jax.metrics import camera


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


def test_depth_per_image_is_the_mean_of_images_scored_alone():
    prediction, target, mask = depth_example()
    target *= np.array([0.5, 1, 3])[:, None, None]  # images that no common factor aligns
    mask[1] = False
    mask[2, 1:] = False
    for alignment in metrics.ALIGNMENTS:
        alone = [metrics.depth_metrics(prediction[v], target[v], mask[v], alignment) for v in (0, 2)]
        result = metrics.depth_metrics(prediction, target, mask, alignment, per="image")
        assert (result.pop("n"), result.pop("n_images")) == (mask.sum(), 2) and alone[0]["n"] != alone[1]["n"]
        assert result == pytest.approx({key: (alone[0][key] + alone[1][key]) / 2 for key in result})
        if alignment != "none":
            pooled = metrics.depth_metrics(prediction, target, mask, alignment)
            assert result["abs_rel"] < 0.7 * pooled["abs_rel"], alignment
    empty = metrics.depth_metrics(prediction, target, np.zeros_like(mask), "scale", per="image")
    assert (empty.pop("n"), empty.pop("n_images")) == (0, 0) and set(empty.values()) == {None}
    with pytest.raises(ValueError, match="per image"):
        metrics.depth_metrics(prediction[0], target[0], mask[0], per="image")
    with pytest.raises(ValueError, match="'per' is 'view'"):
        metrics.depth_metrics(prediction, target, mask, per="view")


def test_depth_of_one_pixel_and_of_extreme_numbers_is_finite():
    one = np.ones((1, 1), bool)
    for alignment in metrics.ALIGNMENTS:
        for d, g in ((2.0, 3.0), (-1.0, 3.0), (0.0, 5e-324), (1e38, 1e-30), (1e-30, 1e38)):
            result = metrics.depth_metrics(np.full((1, 1), d), np.full((1, 1), g), one, alignment)
            assert np.isfinite(list(result.values())).all(), (alignment, d, g)
        if alignment != "none":
            assert metrics.depth_metrics(np.full((1, 1), 2.0), np.full((1, 1), 3.0), one, alignment)["rmse"] < 1e-12
    huge = metrics.depth_metrics(np.full((1, 4), 1e200), np.full((1, 4), 2.0), np.ones((1, 4), bool), "scale")
    assert huge["rmse"] < 1e-12, "squares of 1e200 are not finite"


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


@pytest.mark.parametrize("limit", [1, 3, 5, 15, 30, 90])
def test_three_areas_by_their_own_definitions(limit):
    """VGGT's histogram bin by bin, the step curve and SuperGlue's straight lines on a fine grid."""
    largest = np.random.default_rng(limit).exponential(12, 23)
    largest[:2] = 0.0, 29.5
    zeros = np.zeros(23)
    errors = camera.PairErrors(largest, zeros, zeros == 0, zeros)
    result = camera.pair_metrics(errors, [limit])
    shares = [np.mean([e < b for e in largest]) for b in range(1, limit + 1)]
    assert result[f"auc{limit}_hist_max"] == pytest.approx(np.mean(shares))
    grid = (np.arange(400_000) + 0.5) * limit / 400_000
    recall = np.searchsorted(np.sort(largest), grid) / 23
    assert result[f"auc{limit}_exact_max"] == pytest.approx(recall.mean(), abs=1e-5)
    inside = np.sort(largest[largest < limit])
    lines = np.interp(grid, [0, *inside], np.arange(len(inside) + 1) / 23)
    assert result[f"auc{limit}_trapezoid_max"] == pytest.approx(lines.mean(), abs=1e-4)
    assert result[f"auc{limit}_exact_max"] < result[f"auc{limit}_trapezoid_max"]
    assert result[f"auc{limit}_trapezoid_max"] - result[f"auc{limit}_exact_max"] <= 0.5 / 23 + 1e-12


def test_an_error_of_exactly_the_threshold_and_wrong_thresholds():
    one = np.array([30.0])
    result = camera.pair_metrics(camera.PairErrors(one, one, one > 0, one), [30])
    assert result["auc30_hist_max"] == pytest.approx(1 / 30), "NumPy's last bin is closed, as in VGGT's code"
    assert result["auc30_exact_max"] == result["auc30_trapezoid_max"] == result["rra_30"] == 0
    for limit in (0, 2.5, -5):
        with pytest.raises(ValueError, match="whole degrees"):
            camera.pair_metrics(camera.PairErrors(one, one, one > 0, one), [limit])


def test_unfolded_translations_have_names_of_their_own():
    target = poses(6)
    prediction = disturbed(target, size=0.05)
    prediction[0, :3, 3] *= -1
    folded, unfolded = (
        metrics.camera_metrics(prediction, target, np.ones(6, bool), fold=fold) for fold in (True, False)
    )
    angles = []
    for i in range(6):
        for j in range(i + 1, 6):
            a, b = ((np.linalg.inv(p[i]) @ p[j])[:3, 3] for p in (prediction, target))
            angles.append(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))
    assert max(angles) > 90
    assert unfolded["translation_error_deg_unfolded"] == pytest.approx(np.mean(angles))
    assert folded["translation_error_deg"] == pytest.approx(np.mean(np.minimum(angles, 180 - np.array(angles))))
    assert unfolded["rta_30_unfolded"] == np.mean([a < 30 for a in angles])
    changed = set(unfolded) - set(folded)
    assert all(name.endswith("_unfolded") for name in changed) and len(changed) == 1 + 3 + 4 * 3
    still = target.copy()
    still[:, :3, 3] = 1.0
    result = metrics.camera_metrics(still, target, np.ones(6, bool), fold=False)
    assert result["translation_error_deg_unfolded"] == pytest.approx(90)


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
        "chamfer_half_sum": (accuracy.mean() + completeness.mean()) / 2,
        "precision_0.4": precision,
        "recall_0.4": recall,
        "f_score_0.4": 2 * precision * recall / (precision + recall),
        "n": 120,
    }
    assert metrics.point_metrics(prediction, target, 0.4) == pytest.approx(expected, rel=1e-12)


def test_f_scores_at_several_thresholds_and_normals_by_brute_force():
    rng = np.random.default_rng(5)
    clouds = [rng.normal(size=(70, 3)), rng.normal(size=(50, 3))]
    normals = [rng.normal(size=cloud.shape) for cloud in clouds]
    normals[0][3] = normals[1][7] = 0
    result = metrics.point_metrics(*clouds, (0.2, 0.4), *normals)
    assert result["f_score_0.2"] < result["f_score_0.4"] == metrics.point_metrics(*clouds, 0.4)["f_score_0.4"]
    found = []
    for own, other in ((0, 1), (1, 0)):
        values = []
        for point, normal in zip(clouds[own], normals[own], strict=True):
            nearest = normals[other][np.argmin(((clouds[other] - point) ** 2).sum(-1))]
            if normal.any() and nearest.any():
                values.append(abs(normal @ nearest) / np.linalg.norm(normal) / np.linalg.norm(nearest))
        found.append(values)
    assert result["n_normals"] == len(found[0]) + len(found[1]) < 120
    for name, values in zip(("accuracy", "completeness"), found, strict=True):
        assert result[f"normal_consistency_abs_{name}_mean"] == pytest.approx(np.mean(values))
        assert result[f"normal_consistency_abs_{name}_median"] == pytest.approx(np.median(values))
    assert result["normal_consistency_abs"] == pytest.approx((np.mean(found[0]) + np.mean(found[1])) / 2)
    opposite = metrics.point_metrics(clouds[0], clouds[0], 0.1, normals[0], -2 * normals[0])
    assert opposite["normal_consistency_abs"] == pytest.approx(1)
    unknown = metrics.point_metrics(*clouds, 0.1, 0 * normals[0], normals[1])
    assert unknown["normal_consistency_abs"] is None and unknown["n_normals"] == 0 and unknown["n"] == 70
    assert list(unknown) == list(result)[:6] + list(unknown)[6:9] + list(result)[12:]
    empty = metrics.point_metrics(clouds[0][:0], clouds[1], 0.1, normals[0][:0], normals[1])
    assert sorted(empty) == sorted(unknown) and set(empty.values()) == {None, 0}
    with pytest.raises(ValueError, match="both clouds or of neither"):
        metrics.point_metrics(*clouds, 0.1, normals[0])
    with pytest.raises(ValueError, match="50 'prediction_normals' for 70 points"):
        metrics.point_metrics(*clouds, 0.1, normals[1], normals[1])
    with pytest.raises(ValueError, match="must be positive"):
        metrics.point_metrics(*clouds, (0.1, 0.0))


def test_point_metrics_limits():
    points = np.random.default_rng(1).normal(size=(50, 3))
    assert metrics.point_metrics(points, points, 0.1)["f_score_0.1"] == 1
    far = metrics.point_metrics(points, points + 100, 0.1)
    assert far["f_score_0.1"] == 0 and far["chamfer_sum"] > 300
    one = metrics.point_metrics([[0.0, 0, 0]], [[0.5, 0, 0]], 0.5)
    assert one["f_score_0.5"] == 0 and one["chamfer_sum"] == 1, "the threshold is strict, the sum is whole"
    for pair in ((points, points[:0]), (points[:0], points)):
        empty = metrics.point_metrics(*pair, 0.1)
        assert empty.pop("n") == 0 and set(empty.values()) == {None}
    with pytest.raises(ValueError, match="'target' has shape"):
        metrics.point_metrics(points, points[:, :2], 0.1)
    points[0] = np.inf
    with pytest.raises(ValueError, match="'prediction' has 1 non-finite"):
        metrics.point_metrics(points, points[1:], 0.1)
