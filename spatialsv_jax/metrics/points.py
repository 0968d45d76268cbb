"""Distances between point clouds. float64, no jax.

Neighbours come from SciPy's KD-tree; jax itself depends on SciPy, so it is always there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

_DISTANCES = ("accuracy", "completeness")
_NORMALS = ("accuracy_mean", "accuracy_median", "completeness_mean", "completeness_median")


def point_metrics(
    prediction,
    target,
    thresholds: float | Sequence[float] = (0.05,),
    prediction_normals=None,
    target_normals=None,
) -> dict[str, float | int | None]:
    """Accuracy, completeness, Chamfer distance, F-score and normal consistency of two point clouds as they lie.

    accuracy = distances prediction -> nearest target; completeness = target -> nearest prediction;
    chamfer_sum = the sum of their means, chamfer_half_sum = half of that; precision_t and recall_t = the shares of
    the two strictly below t, f_score_t = their harmonic mean, 0 where both are 0. With normals,
    normal_consistency_abs_accuracy = |n . n'| of a predicted point and its nearest true one, ..._completeness the
    other way, and normal_consistency_abs the mean of their two means; "abs" because a normal and its opposite
    count as equal (as in the DUSt3R family). Align before, with `fit_similarity` on corresponding pixels.

    Args:
      prediction: [..., 3]; all leading axes are points.
      target: [..., 3].
      thresholds: lengths of the F-score, in the clouds' unit.
      prediction_normals: the shape of `prediction`, any length; zero vectors are unknown. Both or neither.
      target_normals: the shape of `target`.

    Returns:
      The numbers, None if either cloud is empty, and n: the number of predicted points, 0 if
      either is empty. With normals also n_normals: the matches of both directions in which both normals are
      known; a mean without any is None.

    Raises:
      ValueError: a last axis other than 3, non-finite points or normals, a threshold that is not positive.
    """
    thresholds = [float(value) for value in np.atleast_1d(thresholds)]
    if not all(value > 0 for value in thresholds):
        raise ValueError(f"Thresholds of the F-score must be positive lengths, not {thresholds}.")
    if (prediction_normals is None) != (target_normals is None):
        raise ValueError("Give the normals of both clouds or of neither.")
    clouds = [_vectors("prediction", prediction), _vectors("target", target)]
    normals = None
    if prediction_normals is not None:
        normals = [
            _unit(_vectors("prediction_normals", prediction_normals)),
            _unit(_vectors("target_normals", target_normals)),
        ]
        for name, cloud, own in zip(("prediction", "target"), clouds, normals, strict=True):
            if len(cloud) != len(own):
                raise ValueError(f"{len(own)} '{name}_normals' for {len(cloud)} points.")
    if not all(len(points) for points in clouds):
        return _empty(thresholds, normals is not None)
    found = [cKDTree(other).query(points) for points, other in (clouds, clouds[::-1])]
    result: dict[str, float | int | None] = {}
    for name, (distance, _) in zip(_DISTANCES, found, strict=True):
        result[f"{name}_mean"], result[f"{name}_median"] = float(distance.mean()), float(np.median(distance))
    total = result["accuracy_mean"] + result["completeness_mean"]
    result["chamfer_sum"], result["chamfer_half_sum"] = total, total / 2
    for threshold in thresholds:
        precision, recall = (float(np.mean(distance < threshold)) for distance, _ in found)
        both = precision + recall
        score = 2 * precision * recall / both if both else 0.0
        result.update(zip(_threshold_names(threshold), (precision, recall, score), strict=True))
    if normals is not None:
        result.update(_consistency(normals, [nearest for _, nearest in found]))
    return {**result, "n": len(clouds[0])}


def point_names(thresholds: Sequence[float], normals: bool = False) -> list[str]:
    """The names of the numbers of `point_metrics`, without its counts."""
    names = [f"{name}_{kind}" for name in _DISTANCES for kind in ("mean", "median")]
    names += ["chamfer_sum", "chamfer_half_sum", *(name for value in thresholds for name in _threshold_names(value))]
    if normals:
        names += ["normal_consistency_abs", *(f"normal_consistency_abs_{name}" for name in _NORMALS)]
    return names


def _threshold_names(threshold: float) -> list[str]:
    return [f"{name}_{threshold:g}" for name in ("precision", "recall", "f_score")]


def _empty(thresholds: Sequence[float], normals: bool) -> dict[str, float | int | None]:
    counts = {"n_normals": 0, "n": 0} if normals else {"n": 0}
    return {**dict.fromkeys(point_names(thresholds, normals)), **counts}


def _consistency(normals: Sequence[np.ndarray], nearest: Sequence[np.ndarray]) -> dict[str, float | int | None]:
    values = []
    for own, other, index in ((*normals, nearest[0]), (*normals[::-1], nearest[1])):
        other = other[index]
        known = own.any(-1) & other.any(-1)
        values.append(np.abs((own * other).sum(-1))[known])
    found = [float(kind(part)) if part.size else None for part in values for kind in (np.mean, np.median)]
    means = [found[0], found[2]]
    both = None if None in means else (means[0] + means[1]) / 2
    names = (f"normal_consistency_abs_{name}" for name in _NORMALS)
    return {
        "normal_consistency_abs": both,
        **dict(zip(names, found, strict=True)),
        "n_normals": sum(part.size for part in values),
    }


def _vectors(name: str, vectors) -> np.ndarray:
    """[N, 3] in float64, checked."""
    vectors = np.asarray(vectors, np.float64)
    if vectors.shape[-1:] != (3,):
        raise ValueError(f"'{name}' has shape {vectors.shape}, expected [..., 3].")
    vectors = vectors.reshape(-1, 3)
    wrong = int((~np.isfinite(vectors).all(-1)).sum())
    if wrong:
        raise ValueError(f"'{name}' has {wrong} non-finite points of {len(vectors)}.")
    return vectors


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1; zero vectors stay."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 0, vectors / np.where(length > 0, length, 1.0), 0.0)
