"""Intervals, medians, ranks and JSON against independent computations."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats

from spatialsv_jax.evaluation import statistics


def test_interval_with_one_item_per_scene_is_the_textbook_t_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, 40)
    result = statistics.mean_with_interval(values, range(40))
    low, high = scipy.stats.t.interval(0.95, 39, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose(result["interval_95"], [low, high], rtol=1e-12)
    assert (result["n"], result["scenes"]) == (40, 40)


def test_interval_of_repeated_answers_equals_that_of_the_scene_means():
    # Ten equal answers in a scene carry one answer's information: 10 times the items, the same interval.
    scene_values = np.random.default_rng(1).uniform(0, 1, 30)
    once = statistics.mean_with_interval(scene_values, range(30))
    tenfold = statistics.mean_with_interval(np.repeat(scene_values, 10), np.repeat(np.arange(30), 10))
    np.testing.assert_allclose(tenfold["interval_95"], once["interval_95"], rtol=1e-12)
    assert tenfold["n"] == 300


def test_interval_covers_the_truth_in_95_percent_of_clustered_draws():
    rng = np.random.default_rng(2)
    hits, naive_hits, trials = 0, 0, 400
    for _ in range(trials):
        probability = np.clip(0.5 + 0.3 * rng.standard_normal(40), 0.02, 0.98)
        sizes = rng.integers(5, 15, 40)
        clusters = np.repeat(np.arange(40), sizes)
        values = rng.random(len(clusters)) < probability[clusters]
        low, high = statistics.mean_with_interval(values, clusters, share=True)["interval_95"]
        half = 1.96 * values.std() / math.sqrt(len(values))
        hits += low <= 0.5 <= high
        naive_hits += abs(values.mean() - 0.5) <= half
    assert 0.90 <= hits / trials <= 0.985
    assert naive_hits / trials < 0.85  # what forgetting the scenes would give


def test_intervals_end_where_the_numbers_do():
    # One scene far off: the t interval of (0.1, 0.1, 2) reaches below 0, where no error lies.
    values = np.array([0.1, 0.1, 2.0])
    low, high = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
    assert low < 0
    assert statistics.mean_with_interval(values, range(3))["interval_95"] == pytest.approx([low, high], rel=1e-12)
    assert statistics.mean_with_interval(values, range(3), error=True)["interval_95"] == pytest.approx([0, high])
    for scenes in range(2, 60):  # exactly, not within rounding
        assert statistics.mean_with_interval(np.zeros(scenes), range(scenes), share=True)["interval_95"][0] == 0
        assert statistics.mean_with_interval(np.ones(scenes), range(scenes), share=True)["interval_95"][1] == 1


def test_an_item_of_weight_3_counts_as_three_items_of_its_scene():
    rng = np.random.default_rng(3)
    values, weights, clusters = rng.random(40), rng.integers(1, 4, 40), np.arange(40) % 9
    found = statistics.mean_with_interval(values, clusters, weights=0.25 * weights)
    repeated = [np.repeat(column, weights) for column in (values, clusters)]
    expected = statistics.mean_with_interval(*repeated)
    for key in ("value", "interval_95", "standard_error"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-12)
    assert (found["n"], found["scenes"]) == (40, 9)
    with pytest.raises(ValueError, match="weights above 0"):
        statistics.mean_with_interval([1.0, 0.0], "ab", weights=[1.0, 0.0])

    parts = rng.integers(0, 4, (40, 2))
    rule = np.array([[1.0, -1.0]])
    pair = statistics.bootstrap_intervals(values, 0.25 * parts, clusters, rule, 200)
    each = np.repeat(np.arange(80), parts.T.ravel())  # a row for each time that an item counts in a mean
    members = (each // 40)[:, None] == np.arange(2)
    same = statistics.bootstrap_intervals(values[each % 40], members, clusters[each % 40], rule, 200)
    np.testing.assert_allclose(pair, same, rtol=1e-12)


def test_shares_stay_in_range_and_degenerate_cases_are_defined():
    assert statistics.mean_with_interval([], [])["value"] is None
    assert statistics.mean_with_interval([], [])["n"] == 0
    single = statistics.mean_with_interval([1.0, 0.0], ["a", "a"])
    assert single["value"] == 0.5 and single["interval_95"] is None
    perfect = statistics.mean_with_interval([1.0] * 12, [0, 1, 2, 3] * 3, share=True)["interval_95"]
    wilson = scipy.stats.binomtest(4, 4).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(perfect, [wilson.low, wilson.high], atol=1e-9)
    for equal in ([0.3] * 12, [0.1, 0.5, 0.3] * 4):  # scenes that do not vary bound nothing
        same = statistics.mean_with_interval(equal, sorted([0, 1, 2, 3] * 3), share=True)
        assert same["interval_95"] is None and same["standard_error"] == 0
    low, high = statistics.mean_with_interval([0.0] * 20 + [1.0], range(21), share=True)["interval_95"]
    assert low == 0.0 and 0 < high < 1
    with pytest.raises(ValueError, match="not finite"):
        statistics.mean_with_interval([1.0, math.nan], ["a", "b"])
    with pytest.raises(ValueError, match="2 values, but 1"):
        statistics.mean_with_interval([1.0, 2.0], ["a"])


def test_weighted_median_minimises_the_weighted_absolute_error():
    rng = np.random.default_rng(3)
    values, weights = rng.uniform(0.2, 4, (9, 5)), rng.uniform(0, 1, (9, 5))
    weights[:, 4] = 0
    weights[2:, 3] = 0
    found = statistics.weighted_median(values, weights)
    for column in range(4):
        cost = [np.sum(weights[:, column] * np.abs(candidate - values[:, column])) for candidate in values[:, column]]
        best = np.sum(weights[:, column] * np.abs(found[column] - values[:, column]))
        assert best <= min(cost) + 1e-12
    assert np.isnan(found[4])


def test_spearman_with_ties_is_scipys():
    rng = np.random.default_rng(4)
    first, second = rng.integers(0, 6, 60), rng.integers(0, 6, 60)
    expected = scipy.stats.spearmanr(first, second).statistic
    assert statistics.spearman(first, second) == pytest.approx(expected, abs=1e-12)
    assert statistics.spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert statistics.spearman([1, 2], [1, 2]) is None


def test_calibration_bins_are_ordered_by_confidence_and_hold_every_pixel():
    confidence = np.random.default_rng(5).permutation(1003) / 1003 + 1
    result = statistics.calibration(confidence, 3 - confidence)
    assert len(result["bins"]) == 10 and sum(row["n"] for row in result["bins"]) == 1003
    errors = [row["error_mean"] for row in result["bins"]]
    assert errors == sorted(errors, reverse=True)
    assert result["spearman"] == pytest.approx(-1)
    assert statistics.calibration([], []) == {"n": 0, "spearman": None, "bins": []}


def test_most_frequent_breaks_ties_alphabetically():
    assert statistics.most_frequent(["red", "blue", "red", "blue", "green"]) == ("blue", 0.4)
    assert statistics.most_frequent([]) == (None, None)


def test_json_has_no_nan(tmp_path):
    value = {"a": np.float32("nan"), "b": [np.inf, np.int64(3), np.bool_(True)], "c": np.array([1.0, np.nan]), 4: None}
    statistics.write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == {"a": None, "b": [None, 3, True], "c": [1.0, None], "4": None}
    statistics.write_json_lines(tmp_path / "x.jsonl", [value, value])
    assert [json.loads(line)["4"] for line in (tmp_path / "x.jsonl").read_text().splitlines()] == [None, None]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.jsonl"]
