"""Rank correlation over questions that share scenes, also within strata and with covariates held fixed. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

CORRELATION_METHOD = (
    "Spearman's correlation with mean ranks for ties; within strata: of what is left of both ranks after subtracting "
    "their means in each stratum; partial: of what is left after a least-squares fit of the covariates' ranks too. "
    "95 % interval: quantiles of the same number on resamples that draw G of the G scenes with replacement (ranks, "
    "means and fits made anew; seed 0). No value below 3 items or where a side does not vary, no interval below 2 scenes "
    "or if more than half of the resamples have no value."
)
NEGLIGIBLE = 1e-9  # share of a side's variance below which nothing is left to correlate


def rank_correlation(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence,
    strata: Sequence | None = None,
    covariates: Mapping[str, Sequence[float]] | None = None,
    resamples: int = 1000,
) -> dict:
    """Spearman's correlation, within strata and at fixed covariates, with an interval by scene (`CORRELATION_METHOD`).

    Args:
      first, second: one number per item, finite; length N.
      clusters: the scene of each item.
      strata: the stratum of each item; None = one stratum.
      covariates: name -> one number per item, held fixed.
      resamples: of the interval.

    Returns:
      {"value": number or None, "interval_95": [low, high] or None, "n", "scenes", "strata", "covariates": names}.

    Raises:
      ValueError: lengths differ, or a number is not finite.
    """
    columns = {"first": first, "second": second, **(covariates or {})}
    arrays = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    count = len(clusters)
    for name, values in arrays.items():
        if values.shape != (count,):
            raise ValueError(f"{name} has shape {values.shape}, but there are {count} cluster names.")
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: {int((~np.isfinite(values)).sum())} of {count} values are not finite.")
    if strata is not None and len(strata) != count:
        raise ValueError(f"{len(strata)} strata, but {count} cluster names.")
    _, scene = np.unique(np.asarray([str(name) for name in clusters]), return_inverse=True)
    _, stratum = np.unique(np.asarray([str(name) for name in strata or [""] * count]), return_inverse=True)
    groups = int(scene.max()) + 1 if count else 0
    result = {
        "value": None, "interval_95": None, "n": count, "scenes": groups,
        "strata": int(stratum.max()) + 1 if count else 0, "covariates": sorted(covariates or {}),
    }  # fmt: skip
    if count < 3:
        return result
    places = [np.unique(values, return_inverse=True)[1] for values in arrays.values()]
    result["value"] = _weighted(places, stratum, np.ones(count))
    if result["value"] is None or groups < 2:
        return result
    rng = np.random.default_rng(0)
    found = []
    for _ in range(resamples):
        drawn = np.bincount(rng.integers(0, groups, groups), minlength=groups)
        value = _weighted(places, stratum, drawn[scene].astype(np.float64))
        if value is not None:
            found.append(value)
    if found and 2 * len(found) >= resamples:
        result["interval_95"] = np.quantile(found, [0.025, 0.975]).tolist()
    return result


def _weighted(places: Sequence[np.ndarray], stratum: np.ndarray, weights: np.ndarray) -> float | None:
    """The correlation of the sample in which item i stands weights[i] times.

    Args:
      places: of both sides and the covariates: each item's place among the distinct values, in order.
    """
    total = weights.sum()
    kept = weights > 0
    if kept.sum() < 3:
        return None
    columns, spread = [], []
    share = np.bincount(stratum, weights)
    for place in places:
        counts = np.bincount(place, weights)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
        spread.append(np.sum(weights * (ranks - weights @ ranks / total) ** 2))
        means = np.bincount(stratum, weights * ranks) / np.where(share > 0, share, 1)
        columns.append(ranks - means[stratum])
    first, second, *others = columns
    if others:
        table = np.stack(others, -1) * np.sqrt(weights)[:, None]
        sides = np.stack([first, second], -1) * np.sqrt(weights)[:, None]
        # Least squares by the pseudo-inverse: a covariate that does not vary takes nothing away.
        first, second = (sides - table @ (np.linalg.pinv(table) @ sides)).T
        weights = np.ones(len(first))
    powers = weights @ first**2, weights @ second**2
    if min(powers[0] - NEGLIGIBLE * spread[0], powers[1] - NEGLIGIBLE * spread[1]) <= 0:
        return None
    return float(np.clip(weights @ (first * second) / np.sqrt(powers[0] * powers[1]), -1, 1))
