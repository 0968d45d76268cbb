"""The step: sharding changes nothing, weight 0 is no term, frozen means frozen, non-finite stops updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_cases import make_step, one_device, tiny_batch, tiny_config

from spatialsv_jax.training import flops, sharding, step
from spatialsv_jax.training.state import merge_params, split_params


def _loss_and_gradients(config, mesh, batch):
    parts, _, state = make_step(config, mesh, batch)
    trainable, frozen = split_params(state.params, parts.frozen_groups)
    rows = sharding.put_batch(batch, mesh)

    def loss(trainable, rows):
        return step.evaluate_losses(parts, merge_params(trainable, frozen), rows, 0)[0]

    with jax.set_mesh(mesh):
        value, gradients = jax.jit(jax.value_and_grad(loss))(trainable, rows)
    return float(value), jax.tree.map(np.asarray, gradients)


@pytest.fixture(scope="module")
def reference():
    batch = tiny_batch()
    batch["valid"][::2, :, 3:9] = False  # uneven counts per shard: means must be global
    batch["question_valid"][1, 1:] = False
    batch["answer_valid"] &= batch["question_valid"][..., None]
    batch["has_geometry"][2] = False
    return batch, _loss_and_gradients(tiny_config(), one_device(), batch)


LOOPED = dict(remat="full", chunk_views=1, loop_heads=True)


@pytest.mark.parametrize(
    "sizes, lifting", [((8, 1, 1), {}), ((1, 8, 1), {}), ((2, 2, 2), {}), ((1, 8, 1), LOOPED), ((2, 2, 2), LOOPED)]
)
def test_sharded_equals_unsharded(reference, sizes, lifting):
    batch, (value, gradients) = reference
    mesh = sharding.make_mesh(sharding.MeshConfig(*sizes))
    sharded_value, sharded = _loss_and_gradients(tiny_config(lifting=lifting), mesh, batch)
    np.testing.assert_allclose(sharded_value, value, rtol=1e-4)
    for (path, want), have in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(sharded), strict=True
    ):
        scale = np.abs(want).max()
        assert np.abs(have - want).max() <= 1e-4 * max(scale, 1e-6), jax.tree_util.keystr(path)


def test_parameters_are_really_split():
    _, shapes, state = make_step(tiny_config(), sharding.make_mesh(sharding.MeshConfig(2, 2, 2)), tiny_batch())
    kernel = state.params["backbone"]["language"]["layers"]["mlp"]["down"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes.opt_state))
    assert sharding.bytes_per_device(shapes.opt_state) < 0.6 * whole


def test_with_all_3d_weights_zero_a_step_is_plain_text_tuning_bit_for_bit():
    off = dict(depth=0.0, ray=0.0, points=0.0)
    batch, results = tiny_batch(rows=2), []
    for lifting in (dict(heads=("depth", "ray", "points")), dict(heads=())):
        parts, shapes, state = make_step(tiny_config(losses=off, lifting=lifting), one_device(), batch)
        run, rows = step.jit_step(parts, shapes), sharding.put_batch(batch, one_device())
        new, _ = run(state, rows)
        new, metrics = run(new, rows)
        results.append((jax.device_get(new.params["backbone"]), float(metrics["total"])))
    assert results[0][1] == results[1][1]
    for one, other in zip(jax.tree.leaves(results[0][0]), jax.tree.leaves(results[1][0]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def compiled():
    """(run, make, batch): the step of the default objective, new initial states, and a batch of two rows."""
    batch = tiny_batch(rows=2)
    parts, shapes, state = make_step(tiny_config(), one_device(), batch)
    initial = jax.device_get(state)
    layout = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    return step.jit_step(parts, shapes), lambda: jax.device_put(initial, layout), batch


@pytest.mark.parametrize("trainable", [False, True])
def test_the_frozen_encoder_has_no_backward_pass(trainable):
    batch = tiny_batch(rows=2)
    parts, shapes, _ = make_step(tiny_config(vision=dict(trainable=trainable)), one_device(), batch)
    once = flops.count(parts.apply, shapes.params, batch)["vision"]
    whole = flops.count(lambda state, batch: step.train_step(parts, state, batch), shapes, batch)["vision"]
    assert once > 0 and whole == (3 * once if trainable else once)  # a backward pass is two products for each one


def test_the_frozen_encoder_never_moves(compiled):
    run, make, batch = compiled
    state = make()
    before = jax.device_get(state.params)
    rows = sharding.put_batch(batch, one_device())
    for _ in range(2):  # the rate is 0 at step 0
        state, metrics = run(state, rows)
    after = jax.device_get(state.params)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
    assert not any(jax.tree.leaves(moved["backbone"]["vision"]))
    assert all(any(jax.tree.leaves(moved["backbone"][part])) for part in ("projector", "language"))
    assert any(jax.tree.leaves(moved["lifting"]))
    assert "learning_rate/vision" not in metrics and "learning_rate/lifting" in metrics


def test_a_nan_stops_every_update_and_remembers_its_step(compiled):
    run, make, batch = compiled
    rows = sharding.put_batch(batch, one_device())
    state, _ = run(make(), rows)
    good = jax.device_get(state.params)
    bad = sharding.put_batch({**batch, "pixel_values": np.full_like(batch["pixel_values"], np.nan)}, one_device())
    state, metrics = run(state, bad)
    assert not np.isfinite(metrics["total"]) and int(state.first_nonfinite) == 1
    state, _ = run(state, rows)  # a good batch afterwards changes nothing any more
    assert int(state.first_nonfinite) == 1 and int(state.step) == 3
    for one, other in zip(jax.tree.leaves(good), jax.tree.leaves(jax.device_get(state.params)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_gradient_norms_of_the_terms_at_the_trunk():
    config = tiny_config(losses=dict(depth=2.0))
    batch = tiny_batch(rows=2)
    parts, _, state = make_step(config, one_device(), batch)
    rows = sharding.put_batch(batch, one_device())
    norms = jax.jit(lambda s, b: step.trunk_gradient_norms(parts, s, b))(state, rows)
    assert set(norms) == {f"gradient_norm/{name}" for name in ("text", "depth", "ray", "points")}

    def depth_alone(trunk):
        params = {**state.params, "backbone": {**state.params["backbone"], **trunk}}
        return 2.0 * step.evaluate_losses(parts, params, rows, 0, names=("depth",))[1]["depth"]

    trunk = {part: state.params["backbone"][part] for part in ("language", "projector")}
    squares = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(jax.jit(jax.grad(depth_alone))(trunk)))
    np.testing.assert_allclose(norms["gradient_norm/depth"], squares**0.5, rtol=1e-4)


def test_stop_gradient_control_leaves_the_trunk_to_text():
    batch = tiny_batch(rows=2)
    parts, _, state = make_step(tiny_config(lifting=dict(stop_gradient=True)), one_device(), batch)
    norms = jax.jit(lambda s, b: step.trunk_gradient_norms(parts, s, b))(state, sharding.put_batch(batch, one_device()))
    assert float(norms["gradient_norm/depth"]) == 0.0 and float(norms["gradient_norm/text"]) > 0
