"""Rank correlations against SciPy, dummies in ordinary least squares, and the textbook formula of one covariate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spatialsv_jax.evaluation.correlation import _weighted, rank_correlation


def _sample(count=120, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.integers(0, 6, count).astype(float)  # ties
    first = hard + rng.standard_normal(count)
    second = (rng.random(count) < 1 / (1 + np.exp(hard - 3))).astype(float)
    return first, second, hard, [f"scene{i}" for i in rng.integers(0, 20, count)]


def test_plain_correlation_is_scipys():
    first, second, _, scenes = _sample()
    found = rank_correlation(first, second, scenes, resamples=50)
    assert found["value"] == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    assert found["n"] == 120 and found["scenes"] == 20 and found["strata"] == 1
    assert found["interval_95"][0] < found["value"] < found["interval_95"][1]


def test_one_covariate_is_the_textbook_formula():
    first, second, hard, scenes = _sample()
    ranks = [stats.rankdata(values) for values in (first, second, hard)]
    a, b, c = np.corrcoef(ranks)[np.triu_indices(3, 1)]  # xy, xz, yz
    expected = (a - b * c) / np.sqrt((1 - b**2) * (1 - c**2))
    found = rank_correlation(first, second, scenes, covariates={"hard": hard}, resamples=0)
    assert found["value"] == pytest.approx(expected, abs=1e-12) and found["covariates"] == ["hard"]
    assert abs(found["value"]) < abs(rank_correlation(first, second, scenes, resamples=0)["value"]) / 2


def test_strata_are_dummies_in_least_squares():
    first, second, hard, scenes = _sample()
    strata = np.array(["a", "b", "c"])[np.random.default_rng(1).integers(0, 3, 120)]
    first = first + 10 * (strata == "b")
    table = np.stack([*(strata == name for name in "abc"), stats.rankdata(hard)], -1).astype(float)
    left = [y - table @ np.linalg.lstsq(table, y, rcond=None)[0] for y in map(stats.rankdata, (first, second))]
    found = rank_correlation(first, second, scenes, list(strata), {"hard": hard}, resamples=0)
    assert found["value"] == pytest.approx(np.corrcoef(left)[0, 1], abs=1e-12) and found["strata"] == 3


def test_a_weight_is_a_repeated_item():
    first, second, hard, _ = _sample(40)
    strata = np.arange(40) % 3
    times = np.random.default_rng(2).integers(0, 4, 40)
    again = np.repeat(np.arange(40), times)
    places = lambda *columns: [np.unique(values, return_inverse=True)[1] for values in columns]
    expected = _weighted(places(first[again], second[again], hard[again]), strata[again], np.ones(len(again)))
    assert _weighted(places(first, second, hard), strata, times.astype(float)) == pytest.approx(expected, abs=1e-12)


def test_the_interval_is_that_of_a_bootstrap_by_scene_and_widens_with_shared_scenes():
    rng = np.random.default_rng(3)
    first = rng.standard_normal(200)
    second = 0.5 * first + rng.standard_normal(200)
    scenes = np.arange(200) // 10
    draw, found = np.random.default_rng(9), []
    for _ in range(1000):
        chosen = np.concatenate([np.flatnonzero(scenes == scene) for scene in draw.integers(0, 20, 20)])
        found.append(stats.spearmanr(first[chosen], second[chosen]).statistic)
    own = rank_correlation(first, second, scenes)["interval_95"]
    np.testing.assert_allclose(own, np.quantile(found, [0.025, 0.975]), atol=0.03)
    # Ten copies of every item in its scene are no new scenes.
    copies = rank_correlation(np.repeat(first, 10), np.repeat(second, 10), np.repeat(scenes, 10))["interval_95"]
    np.testing.assert_allclose(copies, own, atol=1e-3)


@pytest.mark.parametrize(
    "first, second, more",
    [
        ([1, 2], [1, 2], {}),
        ([1, 1, 1, 1], [1, 2, 3, 4], {}),
        ([1, 2, 3, 4], [0, 0, 1, 1], {"strata": [0, 0, 1, 1]}),  # no stratum in which both vary
        ([1, 2, 3, 4], [4, 1, 2, 2], {"covariates": {"same": [1, 2, 3, 4]}}),
    ],
)
def test_nothing_to_correlate_gives_none(first, second, more):
    found = rank_correlation(first, second, ["a", "b", "c", "d"][: len(first)], resamples=20, **more)
    assert found["value"] is None and found["interval_95"] is None


def test_a_constant_covariate_and_one_scene():
    first, second, _, scenes = _sample()
    plain = rank_correlation(first, second, scenes, resamples=0)["value"]
    assert rank_correlation(first, second, scenes, covariates={"c": np.ones(120)}, resamples=0)["value"] == (
        pytest.approx(plain, abs=1e-12)
    )
    assert rank_correlation(first, second, ["one"] * 120)["interval_95"] is None


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="second has shape"):
        rank_correlation([1, 2, 3], [1, 2], ["a"] * 3)
    with pytest.raises(ValueError, match="first: 1 of 3 values are not finite"):
        rank_correlation([1, np.nan, 3], [1, 2, 3], ["a"] * 3)
