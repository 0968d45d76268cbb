"""The four choices of a reference view, against loops and against the published program's."""

import jax.numpy as jnp
import numpy as np
import pytest
import teacher_runs as runs

from spatialsv_jax.teachers.da3.reference_view import STRATEGIES, choose_reference


def rows(views=6, number=20, seed=0):
    return np.random.default_rng(seed).standard_normal((number, views, 12)) + 0.7


def balanced(rows):
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    scores = [
        [(sum(u @ v for v in unit) - 1) / (len(unit) - 1) for u in unit],
        np.linalg.norm(rows, axis=-1),
        [u.var(ddof=1) for u in unit],
    ]
    scaled = [(np.array(s) - min(s)) / (max(s) - min(s) + 1e-8) for s in scores]
    return np.argmin(sum(np.abs(s - 0.5) for s in scaled))


def most_range(rows):
    """The two views that may win (the most similar pair, where all similarities are positive)."""
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    similarity = unit @ unit.T - np.eye(len(unit))
    reach = similarity.max(1) - similarity.min(1)
    return np.flatnonzero(reach > reach.max() - 1e-5)


def test_the_published_choices():
    wanted = runs.reference("da3", "parts.npz")
    tokens = wanted["select/tokens"]
    for strategy in STRATEGIES:
        found = np.asarray(choose_reference(jnp.asarray(tokens), strategy))
        theirs = wanted[f"select/idx_{strategy}"]
        if strategy == "saddle_sim_range":  # two views tie but for rounding
            assert all(
                one in most_range(np.float64(t)) and other in most_range(np.float64(t))
                for one, other, t in zip(found, theirs, tokens, strict=True)
            )
        else:
            np.testing.assert_array_equal(found, theirs)


def test_against_loops():
    given = rows()
    found = choose_reference(jnp.asarray(given), "saddle_balanced")
    np.testing.assert_array_equal(found, [balanced(one) for one in given])
    found = choose_reference(jnp.asarray(given), "saddle_sim_range")
    assert all(one in most_range(other) for one, other in zip(found, given, strict=True))
    assert choose_reference(jnp.asarray(given), "middle").tolist() == [3] * 20
    assert choose_reference(jnp.asarray(given), "first").tolist() == [0] * 20


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_valid_views_count(strategy):
    given = rows(7)
    valid = np.array([False, True, True, False, True, True, True])
    wanted = np.asarray(choose_reference(jnp.asarray(given[:, valid]), strategy))
    given[:, ~valid] = 1e4
    found = choose_reference(jnp.asarray(given), strategy, jnp.asarray(np.tile(valid, (20, 1))))
    np.testing.assert_array_equal(found, np.flatnonzero(valid)[wanted])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_below_three_views_the_first_valid_one(strategy):
    valid = np.array([[False, True, False, True], [False, False, True, False]])
    found = choose_reference(jnp.asarray(rows(4, 2)), strategy, jnp.asarray(valid))
    assert found.tolist() == [1, 2]
    assert choose_reference(jnp.asarray(rows(2, 3)), strategy).tolist() == [0, 0, 0]


def test_bfloat16_rows_are_compared_in_float32():
    given = jnp.asarray(rows(), jnp.bfloat16)
    np.testing.assert_array_equal(choose_reference(given), [balanced(np.float64(one)) for one in given])


def test_unknown_strategy():
    with pytest.raises(ValueError, match="saddle_balanced"):
        choose_reference(jnp.zeros((1, 3, 4)), "best")
