"""Which differences between runs are more than noise: paired by question, clustered by scene, with the spread of seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from spatialsv_jax.evaluation.statistics import bootstrap_intervals, mean_with_interval, wilson

METHOD = {
    "score": "right or wrong; numbers by mean relative accuracy, which enter their own type only. Questions that all runs "
    "answered; a variant's score of a question is the mean over its seeds",
    "difference": "second minus first, paired by question",
    "several_means": "of a benchmark whose score is a mean of tasks' means: the standard error adds up, within a scene, the scene's parts of all "
    "tasks, each times sqrt(G/(G-1)) of the task's own G scenes; degrees of freedom by Welch and Satterthwaite over the tasks, at most the scenes less one; both intervals are "
    "t intervals, no bootstrap. A task of fewer than two scenes leaves the whole unknown",
    "interval_scenes": "bootstrap: 2.5 and 97.5 % quantiles over resamples of G of the G scenes with replacement (seed 0), "
    "runs held fixed; where no question differs, Wilson's bound for 0 of G to both sides; none where all scenes differ by the same, "
    "which bounds nothing",
    "interval_95": "with two seeds or more of both: difference +- t * sqrt(se^2 + s1^2 / n1 + s2^2 / n2), se = cluster-robust "
    "standard error by scene of the seed-averaged differences, s = standard deviation of the whole score over n seeds, "
    "degrees of freedom by Welch and Satterthwaite (G-1 scenes; the seeds' part alone n1-1 and n2-1). A question's luck "
    "with a seed is in both parts, so it is a little too wide. With seeds of one side alone, its spread is taken for "
    "the other, but for a given base model, which has none. Without seeds: interval_scenes, which says nothing about training again",
    "p": "two-sided, t statistic of the same standard error, but never below 2^(1-D), the least that a sign-flip test can give where D scenes "
    "differ (exactly its p where all differ by the same); p_holm: over the types of a pair (Holm's correction)",
    "verdict": "better or worse where p < 0.05 and interval_95, if there is one, does not hold 0 (the bootstrap alone is too sure with few scenes), "
    "else within noise; unknown with fewer than two scenes; of a type 'doubtful' where p_holm >= 0.05",
    "forgetting": "against the base model: lost = share of questions that the base has right and the run wrong, gained the other way "
    "(mean over seeds; of numbers: mean fall and mean rise of the score)",
    "depth_rmse": "of a record's lifted depth, each pair over the records that all of its seeds have lifted; smaller is better",
    "gradient_share": "norm of a term's weighted gradient at the trunk over the sum of all terms' norms, mean over probed "
    "steps (first and last quarter of them beside); norms ignore that gradients may point against each other",
}
LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Score:
    """A number that is a weighted sum of means over items: one mean over all, or a benchmark's mean of its tasks' means.

    Attributes:
      members: bool[N,K], which of K means an item enters; every mean has an item.
      weights: float[K].
    """

    members: np.ndarray
    weights: np.ndarray

    @classmethod
    def mean(cls, chosen: np.ndarray) -> Score:
        """The plain mean over the items bool[N] that are chosen."""
        return cls(np.asarray(chosen, bool)[:, None], np.ones(1))

    @property
    def inside(self) -> np.ndarray:
        """bool[N]: the items that count."""
        return self.members[:, self.weights != 0].any(1)

    def means(self, values: np.ndarray) -> np.ndarray:
        """float[...,K]: the K means of values float[...,N]."""
        return values @ self.members / np.maximum(self.members.sum(0), 1)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The number for values float[...,N]."""
        return self.means(values) @ self.weights

    def spread(self, values: np.ndarray, scenes: Sequence[str]) -> tuple[float, float] | None:
        """(standard error, degrees of freedom) of the number for values float[N], clustered by scene (`METHOD`).

        A scene's part of a mean is the sum of (value - mean) over its items, over the mean's items, times sqrt(G/(G-1)) of that mean's own
        G scenes; parts of the means add up within a scene. None where a mean that counts has fewer than two scenes: nothing
        says how much it varies.
        """
        _, index = np.unique(np.asarray(scenes, dtype=str), return_inverse=True)
        parts, variances, freedom = np.zeros(int(index.max(initial=-1)) + 1), [], []
        for place in np.flatnonzero(self.weights):
            inside = self.members[:, place]
            groups = len(np.unique(index[inside]))
            if groups < 2:
                return None
            share = self.weights[place] / inside.sum() * math.sqrt(groups / (groups - 1))
            own = share * (values[inside] - values[inside].mean())
            sums = np.bincount(index[inside], weights=own, minlength=len(parts))
            parts += sums
            variances.append(float(sums @ sums))
            freedom.append(groups - 1)
        if not variances:
            return None
        error = math.sqrt(float(parts @ parts))
        if error <= 1e-12 * float(np.abs(values).max()):  # rounding
            error = 0.0
        scenes_in_all = len(np.unique(index[self.inside]))  # parts of one scene are no independent draws
        return error, min(_satterthwaite(variances, freedom), scenes_in_all - 1.0)

    def scenes_that_differ(self, gaps: np.ndarray, scenes: Sequence[str]) -> int:
        """How many scenes change the number for gaps float[N]."""
        parts = (self.members * (self.weights / np.maximum(self.members.sum(0), 1))).sum(1) * gaps
        _, index = np.unique(np.asarray(scenes, dtype=str), return_inverse=True)
        sums = np.bincount(index, weights=parts)
        return int((np.abs(sums) > 1e-12 * np.abs(parts).max(initial=0.0)).sum())


def _satterthwaite(variances: Sequence[float], freedom: Sequence[float]) -> float:
    """Degrees of freedom of a sum of variance estimates (Welch and Satterthwaite)."""
    squares = sum(value**2 / free for value, free in zip(variances, freedom, strict=True))
    return sum(variances) ** 2 / squares if squares else float(min(freedom))


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    scenes: Sequence[str],
    score: Score | None = None,
    smaller_is_better: bool = False,
    resamples: int = 2000,
    first_is_given: bool = False,
) -> dict:
    """Second minus first with intervals and a verdict (`METHOD`).

    Args:
      first, second: float[S1,N] and float[S2,N], scores of the same N items by each seed.
      scenes: of the items.
      score: what is compared; default the mean of all items.
      smaller_is_better: of errors; turns the verdict.
      resamples: of the bootstrap.
      first_is_given: it is one model, not one of several that could have been trained (S1 = 1).

    Returns:
      {"value", "interval_scenes" and "interval_95" (each None where nothing bounds it), "standard_error", "p", "noise": what the interval holds, "verdict": "better",
      "worse", "within noise" or "unknown", "n", "scenes"}.

    Raises:
      ValueError: other shapes.
    """
    first, second = (np.asarray(values, np.float64) for values in (first, second))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or first.shape[1] != len(scenes):
        raise ValueError(
            f"Scores of shapes {first.shape} and {second.shape} for {len(scenes)} items: expected [seeds, items]."
        )
    score = score or Score.mean(np.ones(len(scenes), bool))
    inside = score.inside
    groups = len(set(np.asarray(scenes, dtype=str)[inside].tolist()))
    result = {
        "value": None, "interval_scenes": None, "interval_95": None, "standard_error": None, "p": None,
        "noise": "scenes", "verdict": "unknown", "n": int(inside.sum()), "scenes": groups,
    }  # fmt: skip
    if not inside.any():
        return result
    gaps = second.mean(0) - first.mean(0)
    value = result["value"] = float(score(gaps))
    spread = score.spread(gaps, scenes)
    if spread is None:
        return result
    of_scenes, degrees = spread
    if (score.weights != 0).sum() > 1:
        # A resample of a task of few questions is too often without them, and its bootstrap too narrow.
        half = _t_quantile(degrees) * of_scenes
        found = [value - half, value + half] if of_scenes else None
    else:
        found = bootstrap_intervals(gaps, score.members, scenes, score.weights[None], resamples)[0]
    if not gaps[inside].any() and not smaller_is_better:  # errors have no bounds that equality could be measured by
        bound = wilson(0.0, groups)[1]
        found = [-bound, bound]
    result["interval_scenes"] = result["interval_95"] = found
    variance, freedom, noise = _seeds(score(first), score(second), first_is_given)
    error = math.sqrt(of_scenes**2 + sum(variance))
    if variance and error:
        result["noise"] = noise
        degrees = _satterthwaite([of_scenes**2, *variance], [degrees, *freedom])
        half = _t_quantile(degrees) * error
        result["interval_95"] = [value - half, value + half]
    result["standard_error"] = error
    result["p"] = 1.0
    if abs(value) > 1e-12 * max(np.abs(first).max(), np.abs(second).max()):  # else the mean of equal ones, rounded
        least = 2.0 ** (1 - score.scenes_that_differ(gaps, scenes))
        result["p"] = max(least, _p_value(value / error, degrees)) if error else least
    bounds = result["interval_95"]
    if result["p"] >= LEVEL or (bounds and bounds[0] <= 0 <= bounds[1]):
        result["verdict"] = "within noise"
    else:
        result["verdict"] = "better" if (value > 0) != smaller_is_better else "worse"
    return result


def _seeds(first: np.ndarray, second: np.ndarray, first_is_given: bool) -> tuple[list[float], list[float], str]:
    """Variances of both seeds' mean scores, their degrees of freedom, and what they are called; [] without seeds."""
    counts = [len(values) for values in (first, second)]
    spread = [values.var(ddof=1) if len(values) > 1 else None for values in (first, second)]
    if spread[0] is None and spread[1] is None:
        return [], [], "scenes"
    if first_is_given:
        return [spread[1] / counts[1]], [counts[1] - 1], "scenes and seeds of the second"
    if None not in spread:
        return [spread[0] / counts[0], spread[1] / counts[1]], [counts[0] - 1, counts[1] - 1], "scenes and seeds"
    place = 0 if spread[0] is not None else 1
    variance = spread[place] * (1 / counts[0] + 1 / counts[1])
    return [variance], [counts[place] - 1], f"scenes, seeds of the {'first' if place == 0 else 'second'} for both"


def _t_quantile(degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - LEVEL / 2))


def _p_value(statistic: float, degrees: float) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(degrees, -abs(statistic)))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values after Holm's step-down correction; None stays None and is not counted."""
    known = sorted((value, place) for place, value in enumerate(values) if value is not None)
    result: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (value, place) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - rank)))
        result[place] = highest
    return result


def by_type(
    first: np.ndarray,
    second: np.ndarray,
    scenes: Sequence[str],
    types: Mapping[str, Score],
    resamples: int = 2000,
    first_is_given: bool = False,
) -> dict[str, dict]:
    """`paired_difference` of each question type, with both scores, p_holm over the types, and 'doubtful' verdicts.

    Args:
      first, second, scenes, resamples, first_is_given: as there.
      types: the score of each type.
    """
    result = {}
    for name, score in types.items():
        entry = paired_difference(first, second, scenes, score, resamples=resamples, first_is_given=first_is_given)
        result[name] = {"first": float(score(first).mean()), "second": float(score(second).mean()), **entry}
    corrected = holm([entry["p"] for entry in result.values()])
    for entry, value in zip(result.values(), corrected, strict=True):
        entry["p_holm"] = value
        if entry["verdict"] in ("better", "worse") and not (value is not None and value < LEVEL):
            entry["verdict"] = "doubtful"
    return result


def moved(base: np.ndarray, run: np.ndarray) -> dict[str, float | None]:
    """{"lost", "gained"}: mean fall and mean rise of the items' scores, base float[S1,N] to run float[S2,N] over all pairs."""
    if not base.shape[1]:
        return {"lost": None, "gained": None}
    gaps = run[None] - base[:, None]
    return {"lost": float(np.maximum(-gaps, 0).mean()), "gained": float(np.maximum(gaps, 0).mean())}


def variant_score(scores: np.ndarray, scenes: Sequence[str], score: Score) -> dict:
    """Score of one variant float[S,N] with its interval by scene, each seed's score, and their standard deviation.

    The interval of one mean is `mean_with_interval`'s, that of several t times `Score.spread`.
    """
    inside = score.inside
    if not inside.any():
        return {**mean_with_interval([], []), "seeds": [], "seed_spread": None}
    mean, scenes = scores.mean(0), np.asarray(scenes, dtype=str)
    found = mean_with_interval(mean[inside], scenes[inside], share=True)
    value = float(score(mean))
    if (score.weights != 0).sum() > 1:
        error, degrees = score.spread(mean, scenes) or (None, 0.0)
        half = _t_quantile(degrees) * error if error else 0.0
        found["standard_error"] = error
        found["interval_95"] = [max(0.0, value - half), min(1.0, value + half)] if half else None
    seeds = [float(value) for value in score(scores)]
    spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
    return {**found, "value": value, "seeds": seeds, "seed_spread": spread}


def gradient_shares(rows: Sequence[Mapping], terms: Sequence[str]) -> dict | None:
    """Each term's share of the gradient norms at the trunk (`METHOD["gradient_share"]`).

    Args:
      rows: of a metrics.jsonl, in order.
      terms: names to look for under `gradient_norm/`.

    Returns:
      {"probes", "mean": {term: share}, "first_quarter", "last_quarter"}; None without a probe.
    """
    probes = []
    for row in rows:
        norms = {term: row.get(f"gradient_norm/{term}") for term in terms}
        norms = {term: value for term, value in norms.items() if value is not None}
        if norms and sum(norms.values()) > 0:
            probes.append({term: value / sum(norms.values()) for term, value in norms.items()})
    if not probes:
        return None
    quarter = max(1, len(probes) // 4)
    names = [term for term in terms if any(term in probe for probe in probes)]
    mean = lambda some: {term: float(np.mean([probe.get(term, 0.0) for probe in some])) for term in names}
    return {
        "probes": len(probes),
        "mean": mean(probes),
        "first_quarter": mean(probes[:quarter]),
        "last_quarter": mean(probes[-quarter:]),
    }
