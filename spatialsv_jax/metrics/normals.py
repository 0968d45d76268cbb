"""Angles between predicted and true surface normals. float64, no jax."""

from __future__ import annotations

import numpy as np

THRESHOLDS_DEG = (11.25, 22.5, 30)
NORMAL_NAMES = (
    "angle_mean_deg",
    "angle_median_deg",
    "angle_rmse_deg",
    *(f"within_{limit:g}" for limit in THRESHOLDS_DEG),
)


def normal_metrics(prediction, target, mask) -> dict[str, float | int | None]:
    """Angles between normals over valid pixels, in degrees of 0 to 180: opposite normals are as wrong as can be.

    angle_mean_deg, angle_median_deg and angle_rmse_deg; within_t = share of angles strictly below t of 11.25, 22.5
    and 30 degrees (Fouhey et al. 2013). Angles are atan2(|n x n'|, n . n'), exact near 0 and 180 too.

    Args:
      prediction: [..., 3], any length. A zero vector where `mask` has no direction and counts as 90 degrees.
      target: [..., 3]. Pixels whose true vector is zero are left out: there is nothing to compare with.
      mask: bool[...]. What lies outside is not read.

    Returns:
      The six numbers (None without a pixel) and n, the number of pixels that counted.

    Raises:
      ValueError: shapes that differ, a mask that is not bool, non-finite normals where `mask`.
    """
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(f"'mask' must be bool, not {mask.dtype}.")
    for name, vectors in (("prediction", prediction), ("target", target)):
        if vectors.shape != (*mask.shape, 3):
            raise ValueError(f"'{name}' has shape {vectors.shape}, but 'mask' asks for {(*mask.shape, 3)}.")
        wrong = int((~np.isfinite(vectors[mask]).all(-1)).sum())
        if wrong:
            raise ValueError(f"'{name}' is not finite at {wrong} of {int(mask.sum())} valid pixels.")
    prediction, target = prediction[mask], target[mask]
    known = target.any(-1)
    prediction, target = prediction[known], target[known]
    if not len(target):
        return {**dict.fromkeys(NORMAL_NAMES), "n": 0}
    # A largest component of 1 before the products, so that very short and very long vectors keep their direction.
    prediction, target = (
        vectors / np.where(largest > 0, largest, 1.0)
        for vectors in (prediction, target)
        for largest in [np.abs(vectors).max(-1, keepdims=True)]
    )
    sine = np.linalg.norm(np.cross(prediction, target), axis=-1)
    angle = np.degrees(np.arctan2(sine, (prediction * target).sum(-1)))
    angle = np.where(prediction.any(-1), angle, 90.0)
    values = (np.mean(angle), np.median(angle), np.sqrt(np.mean(angle**2)))
    shares = (np.mean(angle < limit) for limit in THRESHOLDS_DEG)
    return {**dict(zip(NORMAL_NAMES, map(float, (*values, *shares)), strict=True)), "n": len(angle)}
