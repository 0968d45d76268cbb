"""Bad steps are left out within a budget: nothing but the counters moves; one more ends the run with a message."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_cases import make_step, one_device, tiny_batch, tiny_config

from spatialsv_jax import assembly
from spatialsv_jax.training import loop, optimizer, sharding, step
from spatialsv_jax.training.state import BEGINNINGS, RECENT, SEEN, TrainState

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


@pytest.mark.parametrize(("name", "moments"), [("adamw", "float32"), ("adamw", "bfloat16"), ("muon", "float32")])
def test_the_rate_that_is_reported_is_applied_after_skipped_steps_too(monkeypatch, name, moments):
    """With a constant gradient of 1 an Adam update is the rate itself; Muon's Adam looks ahead (Nesterov)."""
    steps = 20
    config = optimizer.OptimizerConfig(name=name, moments=moments, lifting=1.0, warmup_share=0.5, clip=1e9)
    rates = optimizer.schedules(config, steps)
    parts = step.StepParts(None, None, optimizer.make_optimizer(config, steps), (), rates, skip_budget=10)
    monkeypatch.setattr(step, "count_examples", lambda batch: dict.fromkeys(SEEN, 0))
    monkeypatch.setattr(step, "count_tokens", lambda batch: 0)

    def constant(parts, state, bad, places=None):
        value = jnp.where(bad, jnp.nan, 1.0)
        return (value, {}), jax.tree.map(lambda leaf: jnp.full_like(leaf, value), state.params)

    monkeypatch.setattr(step, "value_and_gradients", constant)
    params = {"lifting": {"norm": {"bias": jnp.zeros(4)}}}
    zero, begun = jnp.int32(0), {key: jnp.asarray(value) for key, value in BEGINNINGS.items()}
    state = TrainState(zero, params, parts.tx.init(params), zero - 1, dict.fromkeys(SEEN, zero), {}, **begun)
    run = jax.jit(lambda state, bad: step.train_step(parts, state, bad))
    updates, ahead = 0, 1.0
    for number in range(steps):
        before, bad = state.params["lifting"]["norm"]["bias"], number in (2, 3, 4, 12)
        state, metrics = run(state, bad)
        applied = np.asarray(before - state.params["lifting"]["norm"]["bias"])
        expected = number / 10 if number < 10 else (1 + np.cos(np.pi * (number - 10) / 10)) / 2
        np.testing.assert_allclose(metrics["learning_rate/lifting"], expected, rtol=1e-5)
        updates += not bad
        if name == "muon":
            ahead = 0.9 * (1 - 0.9**updates) / (1 - 0.9 ** (updates + 1)) + 0.1 / (1 - 0.9**updates)
        expected = 0 if bad else expected * ahead
        np.testing.assert_allclose(applied, expected, rtol=0.02 if moments == "bfloat16" else 1e-3)
    assert int(state.skipped) == 4


def test_the_median_is_numpys():
    rng = np.random.default_rng(0)
    for known in (8, 9, 31, 32):
        recent = np.full(RECENT, -1, np.float32)
        recent[RECENT - known :] = rng.uniform(1, 3, known)
        median = np.median(recent[RECENT - known :])
        for factor, expected in ((1.99, False), (2.01, True)):
            assert bool(step._is_spike(jnp.float32(factor * median), jnp.asarray(recent), 2.0)) == expected


def test_a_spike_limit_needs_a_budget():
    with pytest.raises(ValueError, match="config.training.skip_spike is 5.0.*skip_budget"):
        assembly.read_settings(tiny_config(training=dict(skip_spike=5.0)))
