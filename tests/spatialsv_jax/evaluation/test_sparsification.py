"""Sparsification by brute force and closed form; gaps between heads from a made disagreement."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from spatialsv_jax import geometry
from spatialsv_jax.evaluation.head_agreement import head_gaps
from spatialsv_jax.evaluation.sparsification import sparsification, summarise


def _brute(order, error):
    return np.mean([np.mean(error[order][k:]) for k in range(len(error))]) / np.mean(error)


def test_areas_by_brute_force():
    rng = np.random.default_rng(0)
    error, sureness = rng.exponential(size=60), rng.standard_normal(60)
    found = sparsification(sureness, error)
    assert found["area"] == pytest.approx(_brute(np.argsort(sureness), error))
    assert found["oracle_area"] == pytest.approx(_brute(np.argsort(-error), error))
    assert found["ause"] == pytest.approx(found["area"] - found["oracle_area"])
    assert found["curve"][0] == pytest.approx(1.0) and found["curve"][10] == pytest.approx(
        error[np.argsort(sureness)][30:].mean() / error.mean()
    )


def test_perfect_reverse_and_ignorant_confidence():
    error = np.arange(1.0, 101)
    perfect = sparsification(-error, error)
    # What is left after k is 1 .. N-k with mean (N-k+1)/2; the mean over k of that over (N+1)/2 is (N+3)/2/(N+1).
    assert perfect["area"] == perfect["oracle_area"] == pytest.approx(103 / 2 / 101)
    assert perfect["ause"] == 0 and perfect["gain"] == pytest.approx(1)
    assert sparsification(np.ones(100), error)["area"] == pytest.approx(1)
    assert sparsification(np.ones(100), error)["gain"] == pytest.approx(0, abs=1e-12)
    assert sparsification(error, error)["gain"] < -0.9


def test_ties_are_the_mean_over_their_orders():
    error, sureness = np.array([4.0, 1, 7, 2, 5]), np.array([0, 1, 1, 1, 2])
    orders = [np.array([0, *order, 4]) for order in permutations((1, 2, 3))]
    assert sparsification(sureness, error)["area"] == pytest.approx(np.mean([_brute(order, error) for order in orders]))


def test_nothing_to_know():
    assert sparsification(np.zeros(0), np.zeros(0)) is None and sparsification(np.ones(3), np.zeros(3)) is None
    equal = sparsification(np.arange(4.0), np.full(4, 2.0))
    assert equal["area"] == pytest.approx(1) and equal["gain"] is None
    with pytest.raises(ValueError, match="finite and not negative"):
        sparsification(np.zeros(2), np.array([1.0, np.nan]))
    empty = summarise([None, None], ["a", "b"])
    assert empty["records"] == 0 and empty["ause"]["value"] is None and empty["curve"] == []


def test_summary_is_the_mean_over_records():
    rng = np.random.default_rng(1)
    rows = [sparsification(rng.standard_normal(50), rng.exponential(size=50)) for _ in range(4)]
    found = summarise([*rows, None], ["a", "a", "b", "c", "d"])
    assert found["records"] == 4 and found["ause"]["scenes"] == 3
    assert found["ause"]["value"] == pytest.approx(np.mean([row["ause"] for row in rows]))
    np.testing.assert_allclose(found["curve"], np.mean([row["curve"] for row in rows], 0))


def test_gaps_between_heads_are_those_that_were_made():
    rng = np.random.default_rng(2)
    ray = rng.standard_normal((2, 5, 6, 6))
    depth = rng.uniform(1, 3, (2, 5, 6))
    agreed = {"depth": depth, "ray": ray, "points": geometry.points_from_rays(ray, depth)}
    for name, gap in head_gaps(agreed).items():
        np.testing.assert_allclose(gap, 0, atol=1e-5, err_msg=name)
    # A point 30 % further along the ray and turned away from it by 10 degrees.
    direction = ray[..., 3:]
    length = np.linalg.norm(direction, axis=-1, keepdims=True)
    side = np.cross(direction, rng.standard_normal(direction.shape))
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    along = 1.3 * depth[..., None] * direction
    reach = np.linalg.norm(along, axis=-1, keepdims=True) * np.tan(np.radians(10))
    gaps = head_gaps({**agreed, "points": ray[..., :3] + along + reach * side})
    np.testing.assert_allclose(gaps["depth_points"], 0.3, atol=1e-9)
    np.testing.assert_allclose(gaps["ray_points"], 10, atol=1e-6)
    square = (0.3 * depth * length[..., 0]) ** 2 + reach[..., 0] ** 2
    np.testing.assert_allclose(gaps["all"], np.sqrt(square), atol=1e-9)


def test_a_point_at_the_origin_of_its_ray_and_missing_heads():
    ray = np.array([[[1.0, 2, 3, 0, 0, 1]]])
    gaps = head_gaps({"depth": np.array([[2.0]]), "ray": ray, "points": ray[..., :3]})
    assert gaps["ray_points"] == 180 and gaps["depth_points"] == 1 and gaps["all"] == 2
    assert head_gaps({"depth": np.ones((1, 1)), "ray": ray}) == {}
