"""Is a model right where its lifted depth is right? Bins, correlations and their controls, within a run and across runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

from spatialsv_jax.evaluation.correlation import CORRELATION_METHOD, rank_correlation
from spatialsv_jax.evaluation.statistics import bootstrap_intervals, mean_with_interval, spearman

BINS = 4
DIFFICULTY = ("object_count", "occlusion")
MOST_EXACT = 8  # runs whose orders are all tried
CONVENTIONS = {
    "quality": "error of the lifted depth at the valid pixels of the views that a question is about (all views where it "
    "names none), scene units, no alignment: rmse (the paper's) or abs_rel; smaller is better. A question whose views "
    "have no measured depth, or of a model without depth head, has none and is counted",
    "score": "right or wrong for words and letters; questions with numbers (mean relative accuracy) stand in tables of "
    "their own and are in no pooled number",
    "pooled_bins": "quarters of all questions by quality; questions of equal quality share a bin",
    "stratified_bins": "exact quarters of each stratum (question type and number of views), joined: a question at the border of "
    "two quarters counts in both, with the part of it that lies in each, and questions of equal quality are spread alike over the "
    "quarters that they fill together, so that every bin holds a quarter of every stratum. A bin's score is the weighted mean, "
    "its n counts questions that lie in it wholly or in part. Strata with fewer than 4 distinct qualities are left out and counted",
    "best_minus_worst": "difference of the first and last bin's score; cluster bootstrap by scene, bins held fixed. Within strata it "
    "is that of the scores minus their stratum's mean, which is the same number (0 where scores differ between strata alone) "
    "without the chance of which strata a resample draws; no interval where resamples do not vary. "
    "Where all questions are right, or all wrong, the bounds are those of the two shares (Wilson)",
    "correlation": f"of error and score: negative = right where the depth is right. {CORRELATION_METHOD}",
    "difficulty": "object_count: boxes of things that any pixel's ray of the question's views meets; occlusion: of the rays "
    "that meet a box, the share that something nearer stops (by the measured depth), mean over boxes and views. Known "
    "where a record's metadata has boxes; the controlled correlation is over those questions",
    "across_runs": "one point a run: mean depth error over records against accuracy over word and letter questions; "
    f"Spearman and Pearson; p of Spearman two-sided by all orders of up to {MOST_EXACT} runs, else 10,000 random ones (seed 0). "
    "Runs share their questions and their data, so this says nothing about cause",
}


def quality_bins(
    quality: Sequence[float], score: Sequence[float], scenes: Sequence[str], strata: Sequence | None = None
) -> dict:
    """The score in four bins of depth error, best first (`CONVENTIONS`).

    Args:
      quality: error of each question's lifted depth; length N.
      score: of its answer, 0 to 1.
      scenes: of each question.
      strata: exact quarters are taken within each; None = quarters of all, each question in one bin.

    Returns:
      {"bins": [{"quality_low", "quality_high", "quality_mean", "score": as `mean_with_interval`}], "best_minus_worst":
      {"value", "interval_95"}, "left_out": questions of small strata, "strata"}; no bins where none is large enough.
    """
    quality, score = np.asarray(quality, np.float64), np.asarray(score, np.float64)
    names = np.asarray([str(name) for name in strata]) if strata is not None else np.full(len(quality), "")
    part = np.zeros((len(quality), BINS))  # of each question in each bin; rows add up to 1, or to 0 where left out
    centred, used = score.copy(), 0
    for name in np.unique(names):
        inside = np.flatnonzero(names == name)
        if len(np.unique(quality[inside])) >= BINS:
            used += 1
            if strata is None:
                edges = np.quantile(quality[inside], np.arange(1, BINS) / BINS)
                part[inside, np.searchsorted(edges, quality[inside], side="left")] = 1.0
            else:
                part[inside] = _exact_quarters(quality[inside])
                varies = np.ptp(score[inside]) > 0  # else exactly 0, without rounding
                centred[inside] = score[inside] - score[inside].mean() if varies else 0.0
    kept = part.any(1)
    result: dict = {"bins": [], "left_out": int((~kept).sum()), "strata": used}
    result["best_minus_worst"] = {"value": None, "interval_95": None}
    if not kept.any():
        return result
    scenes = np.asarray([str(scene) for scene in scenes])
    for number in range(BINS):
        chosen = part[:, number] > 0
        values, weights = quality[chosen], part[chosen, number]
        edge = lambda pick, values=values: float(pick(values)) if len(values) else None
        result["bins"].append(
            {
                "quality_low": edge(np.min),
                "quality_high": edge(np.max),
                "quality_mean": edge(lambda values, weights=weights: np.average(values, weights=weights)),
                "score": mean_with_interval(score[chosen], scenes[chosen], share=True, weights=weights),
            }
        )
    best, worst = (result["bins"][number]["score"] for number in (0, BINS - 1))
    if best["value"] is None or worst["value"] is None:
        return result
    pair = None
    if len(np.unique(score[kept])) > 1:
        rule = np.array([[1.0, *(0.0,) * (BINS - 2), -1.0]])
        pair = bootstrap_intervals(centred[kept], part[kept], scenes[kept], rule)[0]
    elif best["interval_95"] and worst["interval_95"]:  # no resample would differ: from the shares' own bounds
        pair = [best["interval_95"][0] - worst["interval_95"][1], best["interval_95"][1] - worst["interval_95"][0]]
    first, last = (float(np.average(centred, weights=part[:, number])) for number in (0, BINS - 1))
    result["best_minus_worst"] = {"value": first - last, "interval_95": pair}
    return result


def _exact_quarters(quality: np.ndarray) -> np.ndarray:
    """float[N,4]: the part of each of N questions that lies in each quarter; a quarter holds N / 4 of them, ties alike."""
    _, which, counts = np.unique(quality, return_inverse=True, return_counts=True)
    size, end = counts[which, None], np.cumsum(counts)[which, None]
    edges = len(quality) / BINS * np.arange(BINS + 1)
    overlap = np.minimum(end, edges[1:]) - np.maximum(end - size, edges[:-1])
    return np.maximum(overlap, 0.0) / size


def within_run(rows: Sequence[Mapping], measure: str, resamples: int = 1000) -> dict:
    """Bins and correlations over the questions of one run.

    Args:
      rows: of questions: `scene`, `question_type`, `form`, `views` (their number), `score`, `quality` {measure: error}
        or None, `object_count` and `occlusion` or None.
      measure: which error, "rmse" or "abs_rel".
      resamples: of the correlations' intervals.

    Returns:
      {"measure", "questions", "without_quality", "number_questions", "pooled": {"bins", "stratified_bins", "correlation",
      "within_strata", "controlled"}, "by_type", "by_views": {name: {"form", "n", "bins", "correlation"}}}.
    """
    judged = [row for row in rows if row["quality"] is not None]
    exact = [row for row in judged if row["form"] != "number"]
    pooled = _cell(exact, measure, resamples)
    stratum = [(row["question_type"], row["views"]) for row in exact]
    pooled["stratified_bins"] = quality_bins(*_columns(exact, measure), stratum)
    pooled["within_strata"] = rank_correlation(*_columns(exact, measure), stratum, resamples=resamples)
    pooled["controlled"] = _controlled(exact, measure, resamples)
    by_type: dict[str, list] = {}
    for row in judged:
        by_type.setdefault(f"{row['question_type']} ({row['form']})", []).append(row)
    by_views: dict[str, list] = {}
    for row in exact:
        by_views.setdefault(str(row["views"]), []).append(row)
    return {
        "measure": measure,
        "questions": len(rows),
        "without_quality": len(rows) - len(judged),
        "number_questions": len(judged) - len(exact),
        "pooled": pooled,
        "by_type": {name: _cell(members, measure, resamples) for name, members in sorted(by_type.items())},
        "by_views": {name: _cell(members, measure, resamples) for name, members in sorted(by_views.items())},
    }


def _columns(rows: Sequence[Mapping], measure: str) -> tuple[list, list, list]:
    """Error, score and scene of each row."""
    return (
        [row["quality"][measure] for row in rows],
        [float(row["score"]) for row in rows],
        [row["scene"] for row in rows],
    )


def _cell(rows: Sequence[Mapping], measure: str, resamples: int) -> dict:
    columns = _columns(rows, measure)
    return {
        "n": len(rows),
        "score": mean_with_interval(columns[1], columns[2], share=True),
        "bins": quality_bins(*columns),
        "correlation": rank_correlation(*columns, resamples=resamples),
    }


def _controlled(rows: Sequence[Mapping], measure: str, resamples: int) -> dict:
    """Within strata, with difficulty held fixed; and the same questions without that, to compare with."""
    known = [row for row in rows if all(row[name] is not None for name in DIFFICULTY)]
    columns = _columns(known, measure)
    stratum = [(row["question_type"], row["views"]) for row in known]
    covariates = {name: [float(row[name]) for row in known] for name in DIFFICULTY}
    return {
        "method": "partial rank correlation within strata of question type and view count",
        "without_difficulty": len(rows) - len(known),
        "same_questions_uncontrolled": rank_correlation(*columns, stratum, resamples=resamples),
        "correlation": rank_correlation(*columns, stratum, covariates, resamples),
        "difficulty_and_quality": {
            name: rank_correlation(values, columns[0], columns[2], resamples=resamples)
            for name, values in covariates.items()
        },
        "difficulty_and_score": {
            name: rank_correlation(values, columns[1], columns[2], resamples=resamples)
            for name, values in covariates.items()
        },
    }


def across_runs(errors: Sequence[float | None], accuracies: Sequence[float | None]) -> dict:
    """Depth error against accuracy over runs (`CONVENTIONS["across_runs"]`).

    Args:
      errors: of each run; None = no depth head.
      accuracies: of the same runs; None = no word or letter question.

    Returns:
      {"runs", "left_out", "spearman", "pearson", "p_spearman"}, the numbers None below 3 runs or without variation.
    """
    both = [(e, a) for e, a in zip(errors, accuracies, strict=True) if e is not None and a is not None]
    result = {"runs": len(both), "left_out": len(errors) - len(both), "spearman": None, "pearson": None}
    result["p_spearman"] = None
    if len(both) < 3:
        return result
    error, accuracy = np.asarray(both, np.float64).T
    result["spearman"] = spearman(error, accuracy)
    if result["spearman"] is None:
        return result
    result["pearson"] = float(np.corrcoef(error, accuracy)[0, 1])
    if len(both) <= MOST_EXACT:
        orders = list(permutations(range(len(both))))
    else:
        rng = np.random.default_rng(0)
        orders = [np.arange(len(both)), *(rng.permutation(len(both)) for _ in range(9999))]
    found = [abs(spearman(error, accuracy[list(order)])) for order in orders]
    as_far = sum(value >= abs(result["spearman"]) - 1e-12 for value in found)
    result["p_spearman"] = as_far / len(orders)
    return result
