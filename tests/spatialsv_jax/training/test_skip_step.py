"""Bad steps are left out within a budget: nothing but the counters moves; one more ends the run with a message."""

import jax
import numpy as np
import pytest
from step_cases import make_step, one_device, tiny_batch, tiny_config

from spatialsv_jax import assembly
from spatialsv_jax.training import loop, sharding, step
from spatialsv_jax.training.state import RECENT

TEXT = dict(losses=dict(depth=0.0, ray=0.0, points=0.0), lifting=dict(heads=()))


def compiled(batch, **training):
    config = tiny_config(**TEXT, training=training)
    parts, shapes, state = make_step(config, one_device(), batch)
    return step.jit_step(parts, shapes), state


@pytest.fixture(scope="module")
def batches():
    batch = tiny_batch(rows=2)
    bad = {**batch, "pixel_values": np.full_like(batch["pixel_values"], np.nan)}
    return batch, bad


def test_a_skipped_step_changes_nothing_and_training_goes_on(batches):
    good, bad = (sharding.put_batch(batch, one_device()) for batch in batches)
    run, state = compiled(batches[0], skip_budget=2)
    state, _ = run(state, good)
    state, _ = run(state, good)
    before = jax.device_get(state)
    state, metrics = run(state, bad)
    assert int(metrics["skipped"]) == 1 and int(metrics["first_nonfinite"]) == -1
    after = jax.device_get(state)
    assert int(after.step) == 3
    for name in ("params", "opt_state", "ema", "recent_norms"):
        for old, new in zip(jax.tree.leaves(getattr(before, name)), jax.tree.leaves(getattr(after, name)), strict=True):
            np.testing.assert_array_equal(old, new)
    state, metrics = run(state, good)
    assert int(metrics["skipped"]) == 1
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), after.params, jax.device_get(state.params))
    assert any(jax.tree.leaves(moved["backbone"]["language"]))
    assert list(np.asarray(state.recent_norms) >= 0) == [False] * (RECENT - 3) + [True] * 3
    for number in (2, 3):  # the third is one too many
        state, metrics = run(state, bad)
        assert int(metrics["skipped"]) == number
    assert int(state.first_nonfinite) == 5
    stopped = jax.device_get(state.params)
    state, metrics = run(state, good)
    assert int(metrics["skipped"]) == 3 and int(state.first_nonfinite) == 5
    for old, new in zip(jax.tree.leaves(stopped), jax.tree.leaves(jax.device_get(state.params)), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(loop.NonFiniteError, match=r"Step 5 was bad step number 3.*skip_budget = 2 allows"):
        loop._check_finite(state, None, lambda state, bad: "")


def test_a_spike_is_skipped_once_enough_norms_are_known(batches):
    good = sharding.put_batch(batches[0], one_device())
    run, state = compiled(batches[0], skip_budget=3, skip_spike=1.5)
    norms = np.full(RECENT, -1.0, np.float32)
    norms[-7:] = 1e-6
    layout = state.recent_norms.sharding
    state, metrics = run(step.dataclasses.replace(state, recent_norms=jax.device_put(norms, layout)), good)
    assert int(metrics["skipped"]) == 0  # seven are too few
    state, metrics = run(state, good)
    assert int(metrics["skipped"]) == 1
    norms[-8:] = float(metrics["gradient_norm/all"]) / 1.4
    state, metrics = run(step.dataclasses.replace(state, recent_norms=jax.device_put(norms, layout)), good)
    assert int(metrics["skipped"]) == 1


def test_the_median_is_numpys():
    rng = np.random.default_rng(0)
    for known in (8, 9, 31, 32):
        recent = np.full(RECENT, -1, np.float32)
        recent[RECENT - known :] = rng.uniform(1, 3, known)
        median = np.median(recent[RECENT - known :])
        for factor, expected in ((1.99, False), (2.01, True)):
            assert bool(step._is_spike(jax.numpy.float32(factor * median), jax.numpy.asarray(recent), 2.0)) == expected


def test_a_spike_limit_needs_a_budget():
    with pytest.raises(ValueError, match="config.training.skip_spike is 5.0.*skip_budget"):
        assembly.read_settings(tiny_config(training=dict(skip_spike=5.0)))
