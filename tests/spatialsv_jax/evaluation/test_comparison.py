"""Paired differences against SciPy's t tests, brute-force resampling and a simulation without any difference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from spatialsv_jax.evaluation import comparison


def test_one_item_a_scene_and_no_seeds_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 1, 50))
    scenes = np.arange(50).astype(str)
    found = comparison.paired_difference(first, second, scenes)
    test = stats.ttest_rel(second[0], first[0])
    assert found["p"] == pytest.approx(test.pvalue) and found["value"] == pytest.approx(np.mean(second - first))
    assert found["standard_error"] == pytest.approx(np.std(second - first, ddof=1) / np.sqrt(50))
    assert found["noise"] == "scenes" and found["interval_95"] == found["interval_scenes"]


def test_the_interval_is_a_bootstrap_by_scene():
    rng = np.random.default_rng(1)
    scenes = np.repeat(np.arange(25), rng.integers(1, 9, 25))
    effect = rng.standard_normal(25)[scenes] * 0.3  # shared within a scene
    first = rng.random((1, len(scenes)))
    second = first + 0.1 + effect
    found = comparison.paired_difference(first, second, scenes.astype(str), resamples=4000)
    gaps, drawn = (second - first)[0], []
    for _ in range(4000):
        chosen = np.concatenate([np.flatnonzero(scenes == scene) for scene in rng.integers(0, 25, 25)])
        drawn.append(gaps[chosen].mean())
    np.testing.assert_allclose(found["interval_scenes"], np.quantile(drawn, [0.025, 0.975]), atol=0.02)
    naive = 1.96 * gaps.std() / np.sqrt(len(gaps))
    assert found["interval_scenes"][1] - found["value"] > 1.3 * naive


def test_seeds_alone_are_welchs_t_test():
    first, second = np.array([0.50, 0.53, 0.49]), np.array([0.55, 0.54, 0.58, 0.56])
    wide = [np.repeat(values[:, None], 30, 1) for values in (first, second)]  # every question moves alike
    found = comparison.paired_difference(*wide, np.arange(30).astype(str))
    test = stats.ttest_ind(second, first, equal_var=False)
    assert found["p"] == pytest.approx(test.pvalue) and found["noise"] == "scenes and seeds"
    assert found["interval_95"] == pytest.approx(list(test.confidence_interval()))
    one = comparison.paired_difference(wide[0][:1], wide[1], np.arange(30).astype(str))
    assert "seeds of the second for both" in one["noise"]
    assert one["standard_error"] == pytest.approx(np.std(second, ddof=1) * np.sqrt(1 + 1 / 4))
    given = comparison.paired_difference(wide[0][:1], wide[1], np.arange(30).astype(str), first_is_given=True)
    assert given["p"] == pytest.approx(stats.ttest_1samp(second, first[0]).pvalue)


def test_without_a_difference_few_verdicts_find_one():
    rng = np.random.default_rng(2)
    scenes = np.repeat(np.arange(30), 10).astype(str)
    wrong = 0
    for _ in range(300):
        hard = rng.standard_normal(30).repeat(10) + rng.standard_normal(300)
        runs = [hard + 0.3 * rng.standard_normal((3, 1)) + rng.standard_normal((3, 300)) for _ in range(2)]
        wrong += (
            comparison.paired_difference(*(run > 0 for run in runs), scenes, resamples=20)["verdict"] != "within noise"
        )
    assert wrong / 300 < 0.08
    missed = 0
    for _ in range(100):  # and with one seed each, shared luck of a seed looks like a difference
        hard = rng.standard_normal(30).repeat(10) + rng.standard_normal(300)
        runs = [hard + 0.3 * rng.standard_normal((1, 1)) + rng.standard_normal((1, 300)) for _ in range(2)]
        missed += (
            comparison.paired_difference(*(run > 0 for run in runs), scenes, resamples=20)["verdict"] != "within noise"
        )
    assert missed / 100 > 0.2


def test_edges():
    same = np.ones((1, 6))
    found = comparison.paired_difference(same, same, list("aabbcc"))
    assert found["value"] == 0 and found["verdict"] == "within noise" and found["p"] == 1
    assert found["interval_95"][0] == -found["interval_95"][1] < 0
    alone = comparison.paired_difference(same, 0 * same, ["a"] * 6)
    assert alone["verdict"] == "unknown" and alone["interval_95"] is None and alone["value"] == -1
    none = comparison.paired_difference(np.zeros((1, 0)), np.zeros((1, 0)), [])
    assert none["value"] is None and none["n"] == 0
    error = np.tile([1.0, 1.1, 0.9, 1.05], (1, 10))
    assert comparison.paired_difference(error + 1, error, np.arange(40), smaller_is_better=True)["verdict"] == "better"
    with pytest.raises(ValueError, match="expected \\[seeds, items\\]"):
        comparison.paired_difference(np.ones((1, 3)), np.ones((1, 4)), list("abc"))


def test_p_is_never_below_that_of_all_sign_flips():
    # Every scene differs by the same: of the 2^G sign flips only two are as extreme, whatever the t statistic says.
    for scenes, verdict in ((3, "within noise"), (5, "within noise"), (6, "better")):
        first = np.zeros((1, 4 * scenes))
        found = comparison.paired_difference(first, first + 0.1, np.repeat(np.arange(scenes), 4))
        sums = [sum(signs) for signs in itertools.product((-1, 1), repeat=scenes)]
        assert found["p"] == np.mean(np.abs(sums) >= scenes) and found["verdict"] == verdict
        assert found["interval_95"] is None and found["interval_scenes"] is None
    nearly = comparison.paired_difference(np.zeros((1, 4)), np.array([[1, 1.01, 0.99, 1]]), list("abcd"))
    assert nearly["p"] == 2 / 16 and nearly["verdict"] == "within noise"
    # Equal errors are no share: Wilson's bound does not apply to them.
    error = np.full((1, 12), 0.7)
    same = comparison.paired_difference(error, error, list("aabbccddeeff"), smaller_is_better=True)
    assert same["interval_95"] is None and same["p"] == 1 and same["verdict"] == "within noise"


def test_a_mean_of_means_by_brute_force():
    # Two tasks of unlike size, each with half the weight, in 14 scenes: value, jackknife error and bootstrap from definitions.
    rng = np.random.default_rng(5)
    scenes, task = np.repeat(np.arange(14), 9), rng.random(126) < 0.8
    first = rng.random((2, 126))
    second = first + 0.1 * rng.standard_normal((2, 126)) + 0.2 * rng.standard_normal(14)[scenes]
    score = comparison.Score(np.stack([task, ~task], 1), np.array([0.5, 0.5]))
    found = comparison.paired_difference(first[:1], second[:1], scenes, score, resamples=4000)
    rule = lambda values, task: 0.5 * values[task].mean() + 0.5 * values[~task].mean()
    gaps = (second - first)[0]
    assert found["value"] == pytest.approx(rule(gaps, task))
    # By definition: a scene's residuals in each task over the task's questions, with the task's own small-sample factor.
    parts = np.zeros(14)
    for inside in (task, ~task):
        groups = len(set(scenes[inside]))
        for scene in range(14):
            own = inside & (scenes == scene)
            parts[scene] += (
                0.5 * np.sqrt(groups / (groups - 1)) * (gaps[own] - gaps[inside].mean()).sum() / inside.sum()
            )
    assert found["standard_error"] == pytest.approx(np.sqrt(np.sum(parts**2)))
    left = [rule(gaps[scenes != scene], task[scenes != scene]) for scene in range(14)]
    assert found["standard_error"] == pytest.approx(np.sqrt(13 / 14 * np.sum((left - np.mean(left)) ** 2)), rel=0.1)
    low, high = found["interval_scenes"]
    assert (low + high) / 2 == pytest.approx(found["value"])
    assert stats.t(13).ppf(0.975) - 1e-9 <= (high - low) / 2 / found["standard_error"] <= stats.t(8).ppf(0.975)
    own = comparison.variant_score(second, scenes, score)
    assert own["value"] == pytest.approx(rule(second.mean(0), task))
    assert own["seeds"] == pytest.approx([rule(values, task) for values in second])


def test_tasks_of_few_questions_do_not_make_verdicts():
    rng = np.random.default_rng(9)
    # One question alone in its task: nothing says how that mean varies.
    task = np.r_[np.repeat(np.arange(7), 40), 7]
    members = np.stack([task == number for number in range(8)], 1)
    score, scenes = comparison.Score(members, np.full(8, 1 / 8)), rng.integers(0, 100, len(task)).astype(str)
    first = np.zeros((1, len(task)))
    second = first.copy()
    second[0, -1] = 1
    found = comparison.paired_difference(first, second, scenes, score)
    assert found["value"] == pytest.approx(1 / 8) and found["verdict"] == "unknown" and found["interval_95"] is None
    assert comparison.variant_score(second, scenes, score)["interval_95"] is None
    # Two of them in two scenes, of which one differs: no sign flip tells anything.
    task = np.r_[task, 7]
    score = comparison.Score(np.stack([task == number for number in range(8)], 1), np.full(8, 1 / 8))
    scenes = np.append(scenes, "alone")
    found = comparison.paired_difference(np.zeros((1, 282)), np.r_[second[0], 0][None], scenes, score)
    assert found["p"] == 1 and found["verdict"] == "within noise"
    # Random questions of unequal tasks, two models without any difference.
    shares = np.repeat(np.arange(10), [56, 83, 95, 29, 32, 32, 32, 71, 19, 62])
    weights, wrong, tried = np.array([1 / 8] * 4 + [1 / 24] * 3 + [1 / 8] * 3), 0, 0
    for _ in range(300):
        drawn, scenes = rng.choice(shares, 80, replace=False), rng.integers(0, 288, 80).astype(str)
        members = np.stack([drawn == number for number in range(10)], 1)
        if members.any(0).all():
            answers = rng.random((2, 1, 80)) < 0.4
            verdict = comparison.paired_difference(*answers, scenes, comparison.Score(members, weights))["verdict"]
            wrong, tried = wrong + (verdict in ("better", "worse")), tried + 1
    assert tried > 200 and wrong / tried < 0.08


def test_holm_by_hand():
    assert comparison.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert comparison.holm([0.9, 0.8]) == [1, 1] and comparison.holm([]) == []


def test_types_are_corrected_together():
    rng = np.random.default_rng(3)
    scenes = np.tile(np.arange(40), 30).astype(str)
    types = np.repeat([f"t{number}" for number in range(30)], 40)
    first = (rng.random((1, 1200)) < 0.5).astype(float)
    second = (rng.random((1, 1200)) < 0.5).astype(float)
    second[:, types == "t7"] = 1
    scores = {name: comparison.Score.mean(types == name) for name in sorted(set(types))}
    found = comparison.by_type(first, second, scenes, scores, resamples=200)
    assert found["t7"]["verdict"] == "better" and found["t7"]["second"] == 1
    assert {name for name, entry in found.items() if entry["verdict"] in ("better", "worse")} == {"t7"}
    assert [entry["p_holm"] for entry in found.values()] == comparison.holm([entry["p"] for entry in found.values()])


def test_what_was_lost_and_gained():
    base, run = np.array([[1.0, 1, 0, 0]]), np.array([[1.0, 0, 1, 0], [0, 0, 0, 0]])
    assert comparison.moved(base, run) == {"lost": 3 / 8, "gained": 1 / 8}
    gap = run.mean() - base.mean()
    assert comparison.moved(base, run)["gained"] - comparison.moved(base, run)["lost"] == pytest.approx(gap)


def test_gradient_shares_by_hand():
    norms = [(1, 1), (2, 6), (0, 4), (3, 1)]
    rows = [
        {"step": 0},
        *({"gradient_norm/text": t, "gradient_norm/depth": d, "gradient_norm/all": 9} for t, d in norms),
    ]
    found = comparison.gradient_shares(rows, ("text", "depth", "ray"))
    assert found["probes"] == 4 and found["mean"] == pytest.approx({"text": 0.375, "depth": 0.625})
    assert found["first_quarter"]["text"] == 0.5 and found["last_quarter"]["text"] == 0.75
    assert comparison.gradient_shares([{"step": 0, "text": 1.0}], ("text",)) is None
