"""Does a confidence say where the errors are? The mean error of what is left as the least sure pixels are taken away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatialsv_jax.evaluation.statistics import mean_with_interval

FRACTIONS = np.linspace(0, 0.95, 20)  # of the curve that is drawn
SPARSIFICATION_METHOD = (
    "Pixels of a record are taken away from the least sure to the surest (ties: their mean error, as in random order); "
    "the curve is the mean error of those left over the mean error of all, area = its mean over 0 .. N-1 pixels taken "
    "away. 1 = as good as chance. The oracle takes the largest error first. ause = area - oracle's area (Ilg et al. 2018); "
    "gain = (1 - area) / (1 - oracle's area): 1 = the oracle, 0 = chance. Means over records, intervals by scene."
)


def sparsification(sureness: np.ndarray, error: np.ndarray) -> dict | None:
    """Areas under the sparsification curves of some pixels (`SPARSIFICATION_METHOD`).

    Args:
      sureness: float[N], larger = surer; a confidence, or minus a disagreement.
      error: float[N], >= 0.

    Returns:
      {"area", "oracle_area", "ause", "gain": number or None, "curve", "oracle_curve": at `FRACTIONS`, "n"}; None without
      pixels or without an error. gain is None where all errors are equal: there is nothing to know.

    Raises:
      ValueError: lengths differ, or a negative or non-finite error.
    """
    sureness, error = np.asarray(sureness, np.float64), np.asarray(error, np.float64)
    if sureness.shape != error.shape or error.ndim != 1:
        raise ValueError(f"Sureness of shape {sureness.shape} and error of shape {error.shape}: expected two of [N].")
    if not (np.isfinite(error).all() and (error >= 0).all()):
        raise ValueError("Errors must be finite and not negative.")
    if not len(error) or not error.any():
        return None
    own, oracle = _curve(sureness, error), _curve(-error, error)
    area, best = float(own.mean()), float(oracle.mean())
    at = np.minimum(np.round(FRACTIONS * len(error)).astype(int), len(error) - 1)
    return {
        "area": area,
        "oracle_area": best,
        "ause": area - best,
        "gain": (1 - area) / (1 - best) if best < 1 - 1e-12 else None,
        "curve": own[at].tolist(),
        "oracle_curve": oracle[at].tolist(),
        "n": len(error),
    }


def _curve(sureness: np.ndarray, error: np.ndarray) -> np.ndarray:
    """float64[N]: mean error without the k least sure, k = 0 .. N-1, over that of all."""
    _, place, counts = np.unique(sureness, return_inverse=True, return_counts=True)
    expected = (np.bincount(place, error) / counts)[place]  # of a pixel of its tie, whichever is taken first
    ordered = expected[np.argsort(place, kind="stable")]
    left = np.cumsum(ordered[::-1])[::-1] / np.arange(len(error), 0, -1)
    return left / error.mean()


def summarise(rows: Sequence[dict | None], scenes: Sequence[str]) -> dict:
    """Means over records of `sparsification`, with intervals clustered by scene.

    Args:
      rows: of the records; None = nothing to know there.
      scenes: of the same records.

    Returns:
      {"records", "fractions", "curve", "oracle_curve"} and area, oracle_area, ause, gain as `mean_with_interval`.
    """
    chosen = [(row, scene) for row, scene in zip(rows, scenes, strict=True) if row is not None]
    result: dict = {"records": len(chosen), "fractions": FRACTIONS.tolist()}
    for name in ("curve", "oracle_curve"):
        result[name] = np.mean([row[name] for row, _ in chosen], 0).tolist() if chosen else []
    for name in ("area", "oracle_area", "ause", "gain"):
        kept = [(row[name], scene) for row, scene in chosen if row[name] is not None]
        result[name] = mean_with_interval([value for value, _ in kept], [scene for _, scene in kept])
    return result
