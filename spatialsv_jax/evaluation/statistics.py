"""Means with intervals clustered by scene, rank correlation, calibration, and JSON without NaN.

Every question of a scene shares its pictures, so questions are not independent draws: all
intervals here treat the scene as the unit of sampling.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

INTERVAL_METHOD = (
    "95 % interval of the plain mean over items: cluster-robust standard error by scene "
    "(sum over scenes of (sum of residuals)^2, times G/(G-1)) and the t quantile of G-1 degrees of freedom, G scenes. "
    "Shares are cut at 0 and 1, errors at 0; where every item is right or every item is wrong the Wilson bound with n = G is given. "
    "Fewer than two scenes, or scenes that do not vary otherwise: no interval."
)
# A spread below this share of the largest value is rounding: the scenes are equal, which bounds nothing.
_ROUNDING = 1e-12


def mean_with_interval(
    values: Sequence[float],
    clusters: Sequence,
    share: bool = False,
    weights: Sequence[float] | None = None,
    error: bool = False,
) -> dict:
    """Mean of items with a 95 % interval clustered by scene (`INTERVAL_METHOD`; ours).

    Args:
      values: one number per item (a 0/1 result, an MRA, an error); length N.
      clusters: the scene of each item; length N.
      share: the values lie in 0..1, so the interval does too.
      weights: > 0, how much of each item counts; None = all of it. Mean and residuals are weighted alike.
      error: the values are 0 or more, so the interval is too.

    Returns:
      {"value", "interval_95": [low, high] or None, "standard_error" or None, "n", "scenes"};
      value None with n = 0 where there is no item.

    Raises:
      ValueError: lengths differ, a value is not finite or a weight not positive.
    """
    values = np.asarray(values, np.float64)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    if len(weights) != len(values) or not (weights > 0).all():
        raise ValueError(f"{len(values)} values need as many weights above 0.")
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values, but {len(clusters)} cluster names.")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} values are not finite; leave them out.")
    if len(values) == 0:
        return {"value": None, "interval_95": None, "standard_error": None, "n": 0, "scenes": 0}
    total = float(weights.sum())
    mean = float((weights * values).sum() / total)
    _, index = np.unique(np.asarray([str(name) for name in clusters]), return_inverse=True)
    groups = int(index.max()) + 1
    result = {"value": mean, "interval_95": None, "standard_error": None, "n": len(values), "scenes": groups}
    if groups < 2:
        return result
    sums = np.bincount(index, weights=weights * (values - mean), minlength=groups)
    spread = math.sqrt(groups / (groups - 1) * float(sums @ sums)) / total
    result["standard_error"] = spread
    if share and np.all(values == values[0]) and values[0] in (0.0, 1.0):
        result["interval_95"] = list(wilson(mean, groups))
        return result
    if spread <= _ROUNDING * float(np.abs(values).max()):
        result["standard_error"] = 0.0
        return result
    half = _t_quantile(groups - 1) * spread
    low, high = mean - half, mean + half
    result["interval_95"] = [max(0.0, low) if share or error else low, min(1.0, high) if share else high]
    return result


BOOTSTRAP_METHOD = (
    "95 % interval: 2.5 and 97.5 % quantiles (linear interpolation) of the same rule on resamples that draw G of the G "
    "clusters with replacement (NumPy's default_rng, seed 0). A resample in which a needed mean has no item is left out; "
    "no interval if that is more than half of them, if fewer than two clusters hold the items of any mean that it needs, or if the resamples do not vary; "
    "for shares, where every item is right, or every one wrong, the Wilson bound with n = G."
)


def bootstrap_intervals(
    values: Sequence[float],
    members: np.ndarray,
    clusters: Sequence[str],
    rules: np.ndarray,
    resamples: int = 2000,
    shares: Sequence[bool] | None = None,
) -> list[list[float] | None]:
    """Cluster bootstrap of numbers that are weighted sums of means (`BOOTSTRAP_METHOD`).

    Args:
      values: one number per item; length N.
      members: bool[N,K], which of K means an item enters; or float[N,K] >= 0, with which weight.
      clusters: what is drawn together; length N.
      rules: float[R,K], the weights of the means in each of R numbers; a mean with weight 0 is not needed.
      resamples: how many are drawn.
      shares: which of the R numbers are shares, for which Wilson's bound makes sense; default none.

    Returns:
      For each rule [low, high] or None.
    """
    shares = [False] * len(rules) if shares is None else shares
    values, members, rules = (np.asarray(given, np.float64) for given in (values, members, rules))
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    groups = int(index.max()) + 1 if len(index) else 0
    sums, counts = np.zeros((groups, members.shape[1])), np.zeros((groups, members.shape[1]))
    np.add.at(sums, index, members * values[:, None])
    np.add.at(counts, index, members)
    rng, drawn = np.random.default_rng(0), []
    for start in range(0, resamples if groups > 1 else 0, 200):
        chances = np.full(groups, 1 / groups)
        weights = rng.multinomial(groups, chances, size=min(200, resamples - start)).astype(np.float64)
        total = weights @ counts
        means = np.divide(weights @ sums, total, out=np.full(total.shape, np.nan), where=total > 0)
        needed = np.where(rules[None] != 0, means[:, None], 0.0)
        drawn.append((needed * rules[None]).sum(-1))
    found = np.concatenate(drawn) if drawn else np.empty((0, len(rules)))
    result: list[list[float] | None] = []
    for place, (rule, share) in enumerate(zip(rules, shares, strict=True)):
        whole = found[~np.isnan(found[:, place]), place]
        inside = members[:, rule != 0].any(1)
        own = len(np.unique(index[inside]))
        least = min((len(np.unique(index[column > 0])) for column in members[:, rule != 0].T), default=0)
        if least < 2 or 2 * len(whole) < resamples:
            result.append(None)
        elif share and np.unique(values[inside]).tolist() in ([0.0], [1.0]):
            result.append(list(wilson(float(values[inside][0]), own)))
        elif np.ptp(whole) <= _ROUNDING * np.abs(values[inside]).max():
            result.append(None)
        else:
            result.append(np.quantile(whole, [0.025, 0.975]).tolist())
    return result


def _t_quantile(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def wilson(share: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's 95 % bounds of a share seen in `n` independent draws."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends one bound is the share itself; rounding would leave 1e-17 instead of 0.
    return 0.0 if share == 0 else max(0.0, centre - half), 1.0 if share == 1 else min(1.0, centre + half)


def most_frequent(answers: Sequence[str]) -> tuple[str | None, float | None]:
    """The commonest answer and its share; of several the alphabetically first. (None, None) for no answers."""
    if not answers:
        return None, None
    counts = Counter(answers)
    answer = min(counts, key=lambda name: (-counts[name], name))
    return answer, counts[answer] / len(answers)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Lower weighted median along axis 0: the smallest value at which half of the weight is reached.

    With weights 1/value it minimises sum |c - value| / value, that is AbsRel.

    Args:
      values: float[N,*].
      weights: float[N,*], >= 0; entries of weight 0 count as absent.

    Returns:
      float64[*]; NaN where the total weight is 0.
    """
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    if values.shape != weights.shape:
        raise ValueError(f"Values of shape {values.shape}, but weights of shape {weights.shape}.")
    total = weights.sum(0)
    if values.shape[0] == 0:
        return np.full(values.shape[1:], np.nan)
    order = np.argsort(np.where(weights > 0, values, np.inf), axis=0, kind="stable")
    values, weights = np.take_along_axis(values, order, 0), np.take_along_axis(weights, order, 0)
    reached = np.cumsum(weights, 0) >= 0.5 * total * (1 - 1e-12)
    picked = np.take_along_axis(values, np.argmax(reached, 0)[None], 0)[0]
    return np.where(total > 0, picked, np.nan)


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's rank correlation with mean ranks for ties; None below 3 items or for a constant side."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values against {len(second)}.")
    if len(first) < 3:
        return None
    ranks = [_ranks(values) for values in (first, second)]
    ranks = [rank - rank.mean() for rank in ranks]
    norm = math.sqrt(float((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    return float(ranks[0] @ ranks[1]) / norm if norm > 0 else None


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]


def calibration(confidence: np.ndarray, error: np.ndarray, bins: int = 10) -> dict:
    """Error by confidence decile, lowest confidence first, and Spearman's correlation of the two.

    A useful confidence has a falling error and a correlation near -1.

    Args:
      confidence: float[N], the head's c >= 1.
      error: float[N], the error of the same pixels.
      bins: number of equally filled bins.

    Returns:
      {"n", "spearman", "bins": [{"confidence_mean", "error_mean", "error_median", "n"}]}; no bins with n = 0.
    """
    confidence, error = np.asarray(confidence, np.float64), np.asarray(error, np.float64)
    if len(confidence) == 0:
        return {"n": 0, "spearman": None, "bins": []}
    order = np.argsort(confidence, kind="stable")
    rows = [
        {
            "confidence_mean": float(confidence[part].mean()),
            "error_mean": float(error[part].mean()),
            "error_median": float(np.median(error[part])),
            "n": len(part),
        }
        for part in np.array_split(order, bins)
        if len(part)
    ]
    return {"n": len(confidence), "spearman": spearman(confidence, error), "bins": rows}


def plain(value):
    """`value` with NumPy scalars and arrays as Python numbers and lists, and NaN or inf as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def write_json(path: Path, value) -> None:
    """Writes `value` as indented JSON without NaN, through a temporary name so that no half file is left."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")
    temporary.replace(path)


def write_json_lines(path: Path, rows: Sequence[Mapping]) -> None:
    """Writes one JSON object per line, without NaN."""
    temporary = path.with_name(path.name + ".partial")
    lines = [json.dumps(plain(row), allow_nan=False, ensure_ascii=False) + "\n" for row in rows]
    temporary.write_text("".join(lines), "utf-8")
    temporary.replace(path)
