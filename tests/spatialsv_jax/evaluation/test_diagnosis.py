"""Bins and correlations on made-up questions whose dependence is known; permutation p-values by SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spatialsv_jax.evaluation import diagnosis


def _rows(count=400, seed=0):
    """Hard scenes have bad depth and wrong answers; at one difficulty the two have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        scene = number % 80
        hard = (scene * 7) % 8
        rows.append(
            {
                "scene": f"s{scene}", "question_type": ("name", "count")[number % 2], "form": "word", "views": 1 + number % 3,
                "score": float(rng.random() < 0.9 - 0.1 * hard), "object_count": hard, "occlusion": 0.1 + 0.01 * hard,
                "quality": {"rmse": hard + rng.uniform(0, 0.9), "abs_rel": 0.1},
            }
        )  # fmt: skip
    return rows


def test_bins_are_quarters_with_their_means():
    quality = np.arange(16.0)[::-1]
    score = (quality < 6).astype(float)
    found = diagnosis.quality_bins(quality, score, [f"s{i // 2}" for i in range(16)])
    assert [entry["score"]["value"] for entry in found["bins"]] == [1, 0.5, 0, 0]
    assert [entry["quality_low"] for entry in found["bins"]] == [0, 4, 8, 12]
    assert found["best_minus_worst"]["value"] == 1 and found["left_out"] == 0


def test_equal_qualities_share_a_bin():
    quality = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5], [10, 1, 1, 1, 1])
    found = diagnosis.quality_bins(quality, np.ones(14), np.arange(14).astype(str))
    assert [entry["score"]["n"] for entry in found["bins"]] == [10, 0, 0, 4]
    assert found["bins"][1]["quality_mean"] is None


def test_all_wrong_leaves_a_difference_open_to_both_sides():
    quality, scenes = np.arange(40.0), np.arange(40).astype(str)
    for value in (0.0, 1.0):
        found = diagnosis.quality_bins(quality, np.full(40, value), scenes)["best_minus_worst"]
        # Wilson's bound of 0 of 10: z^2 / (n + z^2).
        assert found["value"] == 0 and found["interval_95"] == pytest.approx([-0.27753, 0.27753], abs=1e-4)


def test_stratified_bins_hold_the_mix_of_types_fixed():
    # Type "easy" is always right and has small errors, "hard" neither: the pooled bins differ, those within types do not.
    types = np.repeat(["easy", "hard"], 40)
    quality = np.concatenate([np.linspace(0, 1, 40), np.linspace(2, 3, 40)])
    score = (types == "easy").astype(float)
    scenes = np.tile(np.arange(40), 2).astype(str)
    pooled = diagnosis.quality_bins(quality, score, scenes)
    inside = diagnosis.quality_bins(quality, score, scenes, types)
    assert pooled["best_minus_worst"]["value"] == 1 and inside["best_minus_worst"]["value"] == 0
    assert [entry["score"]["value"] for entry in inside["bins"]] == [0.5] * 4
    few = diagnosis.quality_bins(quality, score, scenes, ["a"] * 78 + ["b"] * 2)
    assert few["left_out"] == 2 and few["strata"] == 1


def test_strata_of_any_size_spread_equally_over_the_quarters():
    # 60 strata of 5 questions all right, one of 400 all wrong: depth tells nothing within any.
    rng = np.random.default_rng(0)
    strata = [f"small {number // 5}" for number in range(300)] + ["large"] * 400
    score, scenes = np.repeat([1.0, 0.0], [300, 400]), rng.integers(0, 100, 700).astype(str)
    for quality in (rng.random(700), rng.integers(0, 6, 700)):  # the second with many ties
        found = diagnosis.quality_bins(quality, score, scenes, strata)
        kept = 700 - found["left_out"]
        mix = (kept - 400) / kept
        assert found["best_minus_worst"] == {"value": 0.0, "interval_95": None}
        assert [entry["score"]["value"] for entry in found["bins"]] == pytest.approx([mix] * 4, abs=1e-12)


def test_questions_at_a_border_and_equal_ones_count_in_part():
    # By hand: a quarter holds 1.5 of 6 questions, so that the sorted places 0 to 6 are cut at 1.5, 3 and 4.5. The second
    # and third share the places 1 to 3: a quarter of each lies in the first bin, three quarters in the second.
    quality, score = [1.0, 2.0, 2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    found = diagnosis.quality_bins(quality, score, list("abcdef"), ["t"] * 6)
    parts = np.array([[1, 0.25, 0.25, 0, 0, 0], [0, 0.75, 0.75, 0, 0, 0], [0, 0, 0, 1, 0.5, 0], [0, 0, 0, 0, 0.5, 1]])
    expected = parts @ score / 1.5
    assert [entry["score"]["value"] for entry in found["bins"]] == pytest.approx(expected)
    assert [entry["quality_mean"] for entry in found["bins"]] == pytest.approx(parts @ quality / 1.5)
    assert [entry["score"]["n"] for entry in found["bins"]] == [3, 2, 2, 2]
    assert found["best_minus_worst"]["value"] == pytest.approx(expected[0] - expected[3])


def test_the_stratified_interval_holds_0_where_depth_tells_nothing():
    # Types of very different difficulty, answers by chance: about 95 % of the intervals hold 0.
    rng, held = np.random.default_rng(1), 0
    types = np.repeat(np.arange(12), [5] * 10 + [100] * 2)
    for _ in range(100):
        score = (rng.random(250) < rng.random(12)[types]).astype(float)
        found = diagnosis.quality_bins(rng.random(250), score, rng.integers(0, 50, 250), types)["best_minus_worst"]
        held += found["interval_95"][0] <= 0 <= found["interval_95"][1]
    assert 88 <= held <= 100


def test_difficulty_explains_a_correlation_away():
    rows = _rows()
    found = diagnosis.within_run(rows, "rmse", resamples=200)
    pooled, controlled = found["pooled"], found["pooled"]["controlled"]
    assert pooled["correlation"]["interval_95"][1] < 0 and pooled["within_strata"]["value"] < -0.3
    low, high = controlled["correlation"]["interval_95"]
    assert low < 0 < high and controlled["without_difficulty"] == 0
    assert controlled["same_questions_uncontrolled"]["value"] == pooled["within_strata"]["value"]
    assert controlled["difficulty_and_quality"]["object_count"]["value"] > 0.9
    scores = [entry["score"]["value"] for entry in pooled["stratified_bins"]["bins"]]
    assert scores == sorted(scores, reverse=True) and pooled["stratified_bins"]["strata"] == 6
    assert found["by_type"].keys() == {"name (word)", "count (word)"} and found["by_views"].keys() == {"1", "2", "3"}


def test_what_cannot_be_judged_is_counted():
    rows = _rows(40)
    rows[0]["quality"] = None
    rows[1]["form"] = "number"
    rows[2]["occlusion"] = None
    found = diagnosis.within_run(rows, "rmse", resamples=20)
    assert (found["questions"], found["without_quality"], found["number_questions"]) == (40, 1, 1)
    assert found["pooled"]["n"] == 38 and found["pooled"]["controlled"]["without_difficulty"] == 1
    assert found["by_type"]["count (number)"]["n"] == 1
    empty = diagnosis.within_run([], "rmse", resamples=20)
    assert empty["pooled"]["bins"]["bins"] == [] and empty["pooled"]["controlled"]["correlation"]["value"] is None


def test_across_runs():
    rng = np.random.default_rng(0)
    errors, accuracies = rng.random(6), rng.random(6)
    found = diagnosis.across_runs([*errors, None], [*accuracies, 0.5])
    assert (found["runs"], found["left_out"]) == (6, 1)
    assert found["spearman"] == pytest.approx(stats.spearmanr(errors, accuracies).statistic)
    assert found["pearson"] == pytest.approx(stats.pearsonr(errors, accuracies).statistic)
    exact = stats.permutation_test(
        (errors,), lambda x: stats.spearmanr(x, accuracies).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert found["p_spearman"] == pytest.approx(exact.pvalue)
    many = diagnosis.across_runs(np.arange(12.0), -np.arange(12.0))
    assert many["spearman"] == -1 and many["p_spearman"] == 1 / 10000
    assert diagnosis.across_runs([0.1, 0.2], [1, 2])["spearman"] is None
    assert diagnosis.across_runs([0.1, 0.1, 0.1], [1, 2, 3])["p_spearman"] is None
