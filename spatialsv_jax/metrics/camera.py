"""Relative pose errors over all pairs of views. float64, no jax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spatialsv_jax.geometry import invert_pose, rotation_angle_deg

THRESHOLDS_DEG = (5, 15, 30)
AUC_THRESHOLDS_DEG = (3, 5, 15, 30)
# Pairs with a true baseline below this share of the scene scale have no translation direction.
MIN_BASELINE = 0.01


class PairErrors(NamedTuple):
    """Errors of all pairs i < j of valid views, in that order."""

    rotation_deg: np.ndarray  # float64[pairs], 0 to 180
    translation_deg: np.ndarray  # float64[pairs], folded: 0 to 90; 0 where not has_translation
    has_translation: np.ndarray  # bool[pairs]
    translation_unfolded_deg: np.ndarray  # float64[pairs], 0 to 180; 0 where not has_translation


def pairwise_errors(prediction, target, valid, scene_scale: float = 1.0) -> PairErrors:
    """Rotation and translation-direction errors of relative poses inverse(pose_i) pose_j.

    Rotation: the angle of R^T R'. Translation: the angle between the two directions, folded at 90
    degrees (a direction and its opposite count as equal, as in VGGT and DA3) and as it is; a predicted
    translation of exactly 0 has no direction and counts as 90 in both. Neither changes when all predicted
    cameras are moved, turned or scaled together.

    Args:
      prediction: [V, 4, 4] camera_to_world.
      target: [V, 4, 4] camera_to_world.
      valid: bool[V], views with a true and a predicted pose.
      scene_scale: length that 1 % is taken of; 1 for normalised targets.

    Raises:
      ValueError: wrong shapes, or a valid pose that is not finite.
    """
    prediction, target, valid = checked_poses(prediction, target, valid)
    prediction, target = prediction[valid], target[valid]
    first, second = np.triu_indices(len(target), 1)
    relative = [relative_poses(pose, first, second) for pose in (prediction, target)]
    rotation = rotation_angle_deg(relative[0][:, :3, :3], relative[1][:, :3, :3])
    moved, truth = (pose[:, :3, 3] for pose in relative)
    has_translation = np.linalg.norm(truth, axis=-1) >= MIN_BASELINE * scene_scale
    sine, cosine = np.linalg.norm(np.cross(moved, truth), axis=-1), (moved * truth).sum(-1)
    still = (moved == 0).all(-1)
    folded, unfolded = (
        np.where(has_translation, np.where(still, 90.0, np.degrees(np.arctan2(sine, value))), 0.0)
        for value in (np.abs(cosine), cosine)
    )
    return PairErrors(rotation, folded, has_translation, unfolded)


def checked_poses(prediction, target, valid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses in float64 and the flags, after the checks that `pairwise_errors` names."""
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    valid = np.asarray(valid)
    if valid.ndim != 1 or valid.dtype != bool:
        raise ValueError(f"'valid' must be bool[V], not {valid.dtype}{list(valid.shape)}.")
    for name, pose in (("prediction", prediction), ("target", target)):
        if pose.shape != (valid.size, 4, 4):
            raise ValueError(f"'{name}' has shape {pose.shape}, expected {(valid.size, 4, 4)}.")
        if not np.isfinite(pose[valid]).all():
            raise ValueError(f"'{name}' has non-finite poses among the valid views.")
    return prediction, target, valid


def relative_poses(pose: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """inverse(pose[first]) pose[second], [pairs, 4, 4]."""
    return invert_pose(pose[first]) @ pose[second]


def camera_metrics(
    prediction,
    target,
    valid,
    scene_scale: float = 1.0,
    auc_thresholds: Sequence[int] = AUC_THRESHOLDS_DEG,
    fold: bool = True,
) -> dict[str, float | int | None]:
    """Relative pose errors, accuracies and AUC over the pairs of one sample.

    rotation_error_deg and translation_error_deg are means over pairs; rra_t and rta_t the shares
    with an error strictly below t degrees. AUC@t takes the larger of a pair's two errors, and comes in
    three conventions: `auc30_hist_max` averages the cumulative shares over integer-degree bins (VGGT's
    code, which its copies share; the last bin holds an error of exactly t), `auc30_exact_max` is the exact area under
    the recall step curve divided by t, which is mean(max(0, 1 - error / t)), and `auc30_trapezoid_max` is
    SuperGlue's and LoFTR's code: trapezoids through the steps' corners, at most half a pair above the exact area.
    Pairs with a true baseline under 1 % of the scene scale count for rotation
    only: they are no part of the translation numbers, and their AUC error is the rotation error.

    Args and errors as `pairwise_errors`, and:
      auc_thresholds: whole degrees t >= 1.
      fold: whether translation angles are folded at 90 degrees. Without it every number that depends on them has
        `_unfolded` at the end of its name.

    Returns:
      The numbers that the keys name. Without pairs (or, for translation_error_deg and rta_t,
      without pairs that have a translation) values are None and the count, n_pairs or
      n_pairs_translation, is 0. Shares and AUC lie in 0..1.
    """
    return pair_metrics(pairwise_errors(prediction, target, valid, scene_scale), auc_thresholds, fold)


def pair_metrics(
    errors: PairErrors, auc_thresholds: Sequence[int] = AUC_THRESHOLDS_DEG, fold: bool = True
) -> dict[str, float | int | None]:
    """The numbers of `camera_metrics` over given pairs, of one sample or of many.

    Raises:
      ValueError: an AUC threshold that is not a whole number of degrees from 1 on.
    """
    for limit in auc_thresholds:
        if limit != int(limit) or limit < 1:
            raise ValueError(f"AUC thresholds are whole degrees from 1 on, not {limit}.")
    angle, end = (errors.translation_deg, "") if fold else (errors.translation_unfolded_deg, "_unfolded")
    rotation, translation = errors.rotation_deg, angle[errors.has_translation]
    largest = np.maximum(rotation, angle)
    result: dict[str, float | int | None] = {
        "rotation_error_deg": _mean(rotation),
        f"translation_error_deg{end}": _mean(translation),
    }
    for threshold in THRESHOLDS_DEG:
        result[f"rra_{threshold}"] = _mean(rotation < threshold)
        result[f"rta_{threshold}{end}"] = _mean(translation < threshold)
    for limit in map(int, auc_thresholds):
        result[f"auc{limit}_hist_max{end}"] = _histogram_area(largest, limit)
        result[f"auc{limit}_exact_max{end}"] = _mean(np.maximum(0.0, 1 - largest / limit))
        result[f"auc{limit}_trapezoid_max{end}"] = _trapezoid_area(largest, limit)
    return {**result, "n_pairs": int(rotation.size), "n_pairs_translation": int(translation.size)}


def _histogram_area(errors: np.ndarray, limit: int) -> float | None:
    """Mean over the bins 0-1, 1-2, ... of the share of errors up to the bin's end (VGGT)."""
    counts, _ = np.histogram(errors, bins=np.arange(limit + 1))
    return float(np.mean(np.cumsum(counts) / errors.size)) if errors.size else None


def _trapezoid_area(errors: np.ndarray, limit: float) -> float | None:
    """Area / limit under straight lines through (0, 0) and (k-th smallest error, k / n), level from the last on."""
    if not errors.size:
        return None
    below = np.sort(errors[errors < limit])
    recall = np.arange(len(below) + 1) / errors.size
    return float(np.trapezoid(np.append(recall, recall[-1]), np.concatenate([[0.0], below, [limit]])) / limit)


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if values.size else None
