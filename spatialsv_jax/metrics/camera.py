"""Relative pose errors over all pairs of views. float64, no jax."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spatialsv_jax.geometry import invert_pose, rotation_angle_deg

THRESHOLDS_DEG = (5, 15, 30)
AUC_THRESHOLD_DEG = 30
# Pairs with a true baseline below this share of the scene scale have no translation direction.
MIN_BASELINE = 0.01


class PairErrors(NamedTuple):
    """Errors of all pairs i < j of valid views, in that order."""

    rotation_deg: np.ndarray  # float64[pairs], 0 to 180
    translation_deg: np.ndarray  # float64[pairs], 0 to 90; 0 where not has_translation
    has_translation: np.ndarray  # bool[pairs]


def pairwise_errors(prediction, target, valid, scene_scale: float = 1.0) -> PairErrors:
    """Rotation and translation-direction errors of relative poses inverse(pose_i) pose_j.

    Rotation: the angle of R^T R'. Translation: the angle between the two directions, folded at 90
    degrees (a direction and its opposite count as equal, as in VGGT and DA3); a predicted
    translation of exactly 0 has no direction and counts as 90. Neither changes when all predicted
    cameras are moved, turned or scaled together.

    Args:
      prediction: [V, 4, 4] camera_to_world.
      target: [V, 4, 4] camera_to_world.
      valid: bool[V], views with a true and a predicted pose.
      scene_scale: length that 1 % is taken of; 1 for normalised targets.

    Raises:
      ValueError: wrong shapes, or a valid pose that is not finite.
    """
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    valid = np.asarray(valid)
    if valid.ndim != 1 or valid.dtype != bool:
        raise ValueError(f"'valid' must be bool[V], not {valid.dtype}{list(valid.shape)}.")
    for name, pose in (("prediction", prediction), ("target", target)):
        if pose.shape != (valid.size, 4, 4):
            raise ValueError(f"'{name}' has shape {pose.shape}, expected {(valid.size, 4, 4)}.")
        if not np.isfinite(pose[valid]).all():
            raise ValueError(f"'{name}' has non-finite poses among the valid views.")
    prediction, target = prediction[valid], target[valid]
    first, second = np.triu_indices(len(target), 1)
    relative = [_relative_poses(pose, first, second) for pose in (prediction, target)]
    rotation = rotation_angle_deg(relative[0][:, :3, :3], relative[1][:, :3, :3])
    moved, truth = (pose[:, :3, 3] for pose in relative)
    has_translation = np.linalg.norm(truth, axis=-1) >= MIN_BASELINE * scene_scale
    sine = np.linalg.norm(np.cross(moved, truth), axis=-1)
    cosine = np.abs((moved * truth).sum(-1))
    angle = np.degrees(np.arctan2(sine, cosine))
    angle = np.where((moved == 0).all(-1), 90.0, angle)
    return PairErrors(rotation, np.where(has_translation, angle, 0.0), has_translation)


def _relative_poses(pose: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """inverse(pose[first]) pose[second], [pairs, 4, 4]."""
    return invert_pose(pose[first]) @ pose[second]


def camera_metrics(prediction, target, valid, scene_scale: float = 1.0) -> dict[str, float | int | None]:
    """Relative pose errors, accuracies and AUC over the pairs of one sample.

    rotation_error_deg and translation_error_deg are means over pairs; rra_t and rta_t the shares
    with an error strictly below t degrees. AUC@30 takes the larger of a pair's two errors:
    `auc30_hist_max` averages the cumulative shares over integer-degree bins (VGGT's code),
    `auc30_exact_max` is the exact area under the recall step curve divided by 30, which is
    mean(max(0, 1 - error / 30)); SuperGlue's trapezoids through the steps' corners lie above it by
    at most half a pair. Pairs with a true baseline under 1 % of the scene scale count for rotation
    only: they are no part of the translation numbers, and their AUC error is the rotation error.

    Args and errors as `pairwise_errors`.

    Returns:
      The twelve numbers that the keys name. Without pairs (or, for translation_error_deg and rta_t,
      without pairs that have a translation) values are None and the count, n_pairs or
      n_pairs_translation, is 0. Shares and AUC lie in 0..1.
    """
    return pair_metrics(pairwise_errors(prediction, target, valid, scene_scale))


def pair_metrics(errors: PairErrors) -> dict[str, float | int | None]:
    """The numbers of `camera_metrics` over given pairs, of one sample or of many."""
    rotation, translation = errors.rotation_deg, errors.translation_deg[errors.has_translation]
    largest = np.maximum(rotation, errors.translation_deg)
    result: dict[str, float | int | None] = {
        "rotation_error_deg": _mean(rotation),
        "translation_error_deg": _mean(translation),
    }
    for threshold in THRESHOLDS_DEG:
        result[f"rra_{threshold}"] = _mean(rotation < threshold)
        result[f"rta_{threshold}"] = _mean(translation < threshold)
    limit = AUC_THRESHOLD_DEG
    counts, _ = np.histogram(largest, bins=np.arange(limit + 1))
    result["auc30_hist_max"] = float(np.mean(np.cumsum(counts) / rotation.size)) if rotation.size else None
    result["auc30_exact_max"] = _mean(np.maximum(0.0, 1 - largest / limit))
    return {**result, "n_pairs": int(rotation.size), "n_pairs_translation": int(translation.size)}


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if values.size else None
