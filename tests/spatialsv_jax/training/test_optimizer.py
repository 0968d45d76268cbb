"""Groups, schedules and the two optimizers against hand computations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spatialsv_jax.training import optimizer as optimizer_lib
from spatialsv_jax.training.optimizer import OptimizerConfig, make_optimizer, schedule
from spatialsv_jax.training.state import merge_params, split_params


def _params():
    key = jax.random.split(jax.random.key(0), 4)
    return {
        "backbone": {
            "vision": {"kernel": jax.random.normal(key[0], (6, 4))},
            "projector": {"kernel": jax.random.normal(key[1], (4, 6))},
            "language": {"block": {"kernel": jax.random.normal(key[2], (2, 6, 6))}, "embedding": jnp.ones((5, 6))},
        },
        "lifting": {"conv": {"kernel": jax.random.normal(key[3], (3, 3, 2, 2))}},
    }


def test_schedule_warms_up_linearly_and_ends_at_zero():
    rate = schedule(2.0, 100, 0.1)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(100)], [0, 1, 2, 0], atol=1e-6)
    np.testing.assert_allclose(rate(55), 2.0 * 0.5 * (1 + math.cos(math.pi * 45 / 90)), rtol=1e-5)


def test_first_adamw_step_is_the_groups_rate_times_the_sign():
    config = OptimizerConfig(vision=0.5, projector=0.1, language=0.2, lifting=0.3, warmup_share=0.0, clip=1e9)
    tx, params = make_optimizer(config, 10), _params()
    state = tx.init(params)
    gradients = jax.tree.map(lambda leaf: jnp.where(leaf > 0, 1.0, -1.0), params)
    _, state = tx.update(gradients, state, params)  # rate 0 at step 0
    updates, _ = tx.update(gradients, state, params)
    rates = optimizer_lib.schedules(config, 10)
    for group, path in [("vision", ("backbone", "vision", "kernel")), ("lifting", ("lifting", "conv", "kernel"))]:
        update, gradient = updates, gradients
        for key in path:
            update, gradient = update[key], gradient[key]
        np.testing.assert_allclose(update, -rates[group](1) * gradient, rtol=1e-4)


def test_clip_is_over_all_groups_together():
    params = _params()
    tx = make_optimizer(OptimizerConfig(clip=1.0, b1=0.9), 10)
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, 7.0), params)
    _, state = tx.update(gradients, tx.init(params), params)
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3, 3, 2, 2)]
    assert len(moments) == 2  # Adam's first and second moment of the convolution
    np.testing.assert_allclose(moments[0], 0.1 / total**0.5, rtol=1e-5)  # 7 / (7 sqrt(total)), and 1 - b1


def test_muon_takes_the_projectors_and_leaves_the_dpts():
    matrix = {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)}
    lifting = {
        "projector_0": {"up": matrix},
        "distill_projector": {"down": matrix},
        "depth": {"fusion": {"mix_0": matrix}},
    }
    found = optimizer_lib.matrix_dimensions({"lifting": lifting})["lifting"]
    assert found["projector_0"]["up"]["kernel"] and found["distill_projector"]["down"]["kernel"]
    assert found["depth"]["fusion"]["mix_0"]["kernel"] is None and found["projector_0"]["up"]["bias"] is None


def test_muon_orthogonalises_each_stacked_matrix_and_leaves_the_rest_to_adam():
    config = OptimizerConfig(
        name="muon", vision=1.0, projector=1.0, language=1.0, lifting=1.0, warmup_share=0.0, clip=1e9
    )
    tx, params = make_optimizer(config, 10), _params()
    state = tx.init(params)
    gradients = jax.tree.map(lambda leaf: leaf + 0.1, params)
    _, state = tx.update(gradients, state, params)
    updates, _ = tx.update(gradients, state, params)
    for layer in updates["backbone"]["language"]["block"]["kernel"]:
        values = np.linalg.svd(np.asarray(layer), compute_uv=False)
        assert values.min() > 0.4 and values.max() < 1.4  # Newton-Schulz brings singular values near 1
    rate = optimizer_lib.schedules(config, 10)["language"]
    adam = optax.adamw(rate, 0.9, 0.999, weight_decay=0.0, nesterov=True)  # Muon's companion has momentum as it has
    leaf = {"embedding": params["backbone"]["language"]["embedding"]}
    expected, adam_state = None, adam.init(leaf)
    for _ in range(2):
        gradient = {"embedding": gradients["backbone"]["language"]["embedding"]}
        expected, adam_state = adam.update(gradient, adam_state, leaf)
    np.testing.assert_allclose(updates["backbone"]["language"]["embedding"], expected["embedding"], rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 3])
def test_newton_schulz_takes_the_steps_asked_for(steps):
    config = OptimizerConfig(name="muon", language=1.0, warmup_share=0.0, clip=1e9, newton_schulz_steps=steps)
    tx, gradients = make_optimizer(config, 10), _params()
    _, state = tx.update(gradients, tx.init(gradients), gradients)
    updates, _ = tx.update(gradients, state, gradients)  # the same gradient twice: momentum keeps its direction
    rate = float(optimizer_lib.schedules(config, 10)["language"](1))
    for update, gradient in zip(
        updates["backbone"]["language"]["block"]["kernel"],
        gradients["backbone"]["language"]["block"]["kernel"],
        strict=True,
    ):
        x = np.asarray(gradient, np.float64)
        x = x / np.linalg.norm(x)
        for _ in range(steps):
            square = x @ x.T
            x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
        np.testing.assert_allclose(update, -rate * x, atol=1e-5)


def test_wrong_muon_settings_are_named():
    with pytest.raises(ValueError, match="newton_schulz_steps is 0"):
        OptimizerConfig(newton_schulz_steps=0)
    with pytest.raises(ValueError, match="preconditioning is 'col'"):
        OptimizerConfig(preconditioning="col")


def test_frozen_groups_have_no_state():
    params = _params()
    trainable, frozen = split_params(params, ("vision",))
    assert "vision" not in trainable["backbone"] and set(frozen) == {"backbone"}
    state = make_optimizer(OptimizerConfig(), 10).init(trainable)
    assert not [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path(state)
        if "'kernel'" in str(path) and "vision'" in str(path[3:])
    ]
    sizes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert (6, 4) not in sizes and (4, 6) in sizes
    assert jax.tree.structure(merge_params(trainable, frozen)) == jax.tree.structure(params)


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="choose adamw or muon"):
        OptimizerConfig(name="sgd")
    with pytest.raises(ValueError, match="belongs to none"):
        optimizer_lib.group_of(("head", "kernel"))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_bfloat16_moments_follow_float32_ones(name):
    """Half the bytes, and the same mean: rounding to nearest would leave the second moment where it is (b2 = 0.999)."""
    params = {"backbone": {"language": {"kernel": jnp.full((64, 64), 0.5)}}}
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.01), params)
    states, moved = {}, {}
    for moments in ("float32", "bfloat16"):
        tx = make_optimizer(OptimizerConfig(name=name, language=1e-3, moments=moments, clip=1e9), 400)
        update = jax.jit(tx.update)
        state, weights = tx.init(params), params
        for step in range(200):
            grown = jax.tree.map(lambda g, step=step: g * (1 + step // 100), gradients)
            updates, state = update(grown, state, weights)
            weights = optax.apply_updates(weights, updates)
        kernel = weights["backbone"]["language"]["kernel"]
        states[moments], moved[moments] = state, np.asarray(kernel)
        assert kernel.dtype == jnp.float32
    large = lambda state: [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (64, 64)]
    pairs = list(zip(large(states["float32"]), large(states["bfloat16"]), strict=True))
    assert len(pairs) == (2 if name == "adamw" else 1)
    for whole, half in pairs:
        assert whole.dtype == jnp.float32 and half.dtype == jnp.bfloat16
        np.testing.assert_allclose(half.astype(jnp.float32).mean(), whole.mean(), rtol=2e-3)
    if name == "muon":  # it makes as much of the rounding as of this gradient of rank one
        return
    change = moved["float32"] - 0.5
    np.testing.assert_allclose((moved["bfloat16"] - 0.5).mean(), change.mean(), rtol=1e-2)


def test_stochastic_rounding_keeps_the_mean_and_what_is_not_finite():
    x = jnp.full(20_000, 1 + 2**-10)  # an eighth of the way between two bfloat16
    rounded = optimizer_lib._round_stochastically(x, jax.random.key(0)).astype(jnp.float32)
    assert set(np.unique(rounded)) == {1.0, 1 + 2**-7}
    np.testing.assert_allclose(rounded.mean() - 1, 2**-10, rtol=0.1)
    odd = jnp.array([jnp.inf, -jnp.inf, jnp.nan, 0.0, -1.0])
    np.testing.assert_array_equal(optimizer_lib._round_stochastically(odd, jax.random.key(0)).astype(jnp.float32), odd)


def test_moments_are_named():
    with pytest.raises(ValueError, match="config.optimizer.moments is 'int8'"):
        OptimizerConfig(moments="int8")
