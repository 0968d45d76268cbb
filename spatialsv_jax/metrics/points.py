"""Distances between point clouds. float64, no jax.

Neighbours come from SciPy's KD-tree; jax itself depends on SciPy, so it is always there.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

_KEYS = (
    "accuracy_mean",
    "accuracy_median",
    "completeness_mean",
    "completeness_median",
    "chamfer_sum",
    "f_score",
)


def point_metrics(prediction, target, threshold: float = 0.05) -> dict[str, float | int | None]:
    """Accuracy, completeness, Chamfer distance and F-score of two point clouds as they lie.

    accuracy = distances prediction -> nearest target; completeness = target -> nearest prediction;
    chamfer_sum = the sum of their means (not the half sum); f_score = harmonic mean of the shares of
    both strictly below `threshold`. Align before, with `geometry.umeyama` on corresponding pixels.

    Args:
      prediction: [..., 3]; all leading axes are points.
      target: [..., 3].
      threshold: length of the F-score, in the clouds' unit.

    Returns:
      The six numbers, None if either cloud is empty, and n: the number of predicted points, 0 if
      either is empty.

    Raises:
      ValueError: a last axis other than 3, or non-finite points.
    """
    clouds = []
    for name, points in (("prediction", prediction), ("target", target)):
        points = np.asarray(points, np.float64)
        if points.shape[-1:] != (3,):
            raise ValueError(f"'{name}' has shape {points.shape}, expected [..., 3].")
        points = points.reshape(-1, 3)
        wrong = int((~np.isfinite(points).all(-1)).sum())
        if wrong:
            raise ValueError(f"'{name}' has {wrong} non-finite points of {len(points)}.")
        clouds.append(points)
    if not all(len(points) for points in clouds):
        return {**dict.fromkeys(_KEYS), "n": 0}
    accuracy, completeness = _distances(clouds[0], clouds[1]), _distances(clouds[1], clouds[0])
    precision, recall = np.mean(accuracy < threshold), np.mean(completeness < threshold)
    both = precision + recall
    return {
        "accuracy_mean": float(accuracy.mean()),
        "accuracy_median": float(np.median(accuracy)),
        "completeness_mean": float(completeness.mean()),
        "completeness_median": float(np.median(completeness)),
        "chamfer_sum": float(accuracy.mean() + completeness.mean()),
        "f_score": float(2 * precision * recall / both) if both else 0.0,
        "n": len(clouds[0]),
    }


def _distances(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Distance of every source point to its nearest target point."""
    return cKDTree(target).query(source)[0]
