"""The published DPT: resizes, embedding, units, transposed convolutions, each against loops over its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax.lifting.dpt import Reassembly, ResidualUnit
from spatialsv_jax.partitioning import create
from spatialsv_jax.teachers import key_tables
from spatialsv_jax.teachers.dpt import Output, Pyramid, add_sine, reassembly, resize_aligned, sine_embedding


def made(module, *inputs, seed=0):
    params = create(jax.random.key(seed), jax.eval_shape(module.init, jax.random.key(0), *inputs))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.2 * rng.standard_normal(leaf.shape), jnp.float32), params)


@pytest.mark.parametrize("size", [(8, 10), (7, 3), (4, 5), (1, 1)])
def test_corners_stay_corners(size):
    x = np.random.default_rng(0).standard_normal((1, 4, 5, 2)).astype(np.float32)
    found = np.asarray(resize_aligned(jnp.asarray(x), size))
    for row, column in np.ndindex(*size):
        y, z = (
            place * (old - 1) / max(new - 1, 1) for place, old, new in zip((row, column), (4, 5), size, strict=True)
        )
        i, j = min(int(y), 2), min(int(z), 3)
        a, b = y - i, z - j
        wanted = (1 - a) * ((1 - b) * x[0, i, j] + b * x[0, i, j + 1]) + a * (
            (1 - b) * x[0, i + 1, j] + b * x[0, i + 1, j + 1]
        )
        np.testing.assert_allclose(found[0, row, column], wanted, atol=1e-5)
    assert size == (1, 1) or np.allclose(found[0, -1, -1], x[0, -1, -1], atol=1e-6)


def test_sine_embedding():
    height, width, channels, aspect = 3, 4, 8, 70 / 56
    across, down = sine_embedding(height, width, channels, aspect)
    found = across + down
    for row, column in np.ndindex(height, width):
        for axis, (place, count, length) in enumerate(((column, width, aspect), (row, height, 1.0))):
            reach = length / np.sqrt(aspect**2 + 1) * (count - 1) / count
            value = -reach + 2 * reach * place / (count - 1)
            for k in range(channels // 4):
                angle, first = value * 100 ** (-k / (channels // 4)), axis * channels // 2 + k
                np.testing.assert_allclose(found[row, column, first], 0.1 * np.sin(angle), atol=1e-7)
                np.testing.assert_allclose(found[row, column, first + channels // 4], 0.1 * np.cos(angle), atol=1e-7)
    x = np.random.default_rng(0).standard_normal((2, height, width, channels)).astype(np.float32)
    np.testing.assert_allclose(add_sine(jnp.asarray(x), aspect), x + found, atol=1e-6)


def test_the_units_differ_where_x_is_negative():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 3, 4)), jnp.float32)
    params = made(ResidualUnit(4), x)
    added, clipped = ResidualUnit(4).apply(params, x), ResidualUnit(4, clipped=True).apply(params, x)
    np.testing.assert_allclose(added - clipped, jnp.minimum(x, 0), atol=1e-6)


def test_pyramids_hand_the_choice_on():
    maps = [
        jnp.asarray(np.random.default_rng(n).standard_normal((1, s, s, 4)), jnp.float32)
        for n, s in enumerate((8, 4, 2, 1))
    ]
    params = made(Pyramid(4), maps)
    added, clipped = jax.jit(Pyramid(4).apply)(params, maps), Pyramid(4, clipped=True).apply(params, maps)
    assert added.shape == (1, 16, 16, 4) and np.abs(added - clipped).max() > 1e-2


@pytest.mark.parametrize("factor", [4, 2])
def test_transposed_convolutions(factor):
    """out[o, r f + a, c f + b] = sum_i x[i, r, c] W[i, o, a, b] + bias[o], from the stored tensor; and back."""
    rng, level = np.random.default_rng(0), (4, 2).index(factor)
    kernel, bias = rng.standard_normal((3, 5, factor, factor)), rng.standard_normal(5)
    x = rng.standard_normal((1, 2, 2, 3)).astype(np.float32)
    wanted = np.einsum("nrci,ioab->nracbo", x, kernel).reshape(1, 2 * factor, 2 * factor, 5) + bias
    rules = {rule.source: rule for rule in key_tables.reassembly_rules("", "")}
    rule = rules[f"resize_layers.{level}.weight"]
    assert (
        rule.target == f"resize_{level}/kernel"
        and rules[f"resize_layers.{level}.bias"].target == f"resize_{level}_bias"
    )
    ours = rule.transform.to_ours(kernel)
    np.testing.assert_array_equal(rule.transform.to_theirs(ours), kernel)
    module = reassembly((5,) * 4, 5, None, jnp.float32, "r")
    grids = [jnp.zeros((1, 2, 2, 5))] * 4
    params = made(module, grids)["params"]
    params[f"project_{level}"] = {"kernel": jnp.eye(5), "bias": jnp.zeros(5)}
    padded = np.zeros((5, factor, factor, 5))
    padded[:3] = ours.reshape(3, factor, factor, 5)
    params[f"resize_{level}"] = {"kernel": jnp.asarray(padded.reshape(5, -1), jnp.float32)}
    params[f"resize_{level}_bias"] = jnp.asarray(bias, jnp.float32)
    identity = jnp.zeros((3, 3, 5, 5)).at[1, 1].set(jnp.eye(5))
    params[f"reduce_{level}"] = {"kernel": identity}
    grids[level] = jnp.asarray(np.pad(x, ((0, 0),) * 3 + ((0, 2),)))
    np.testing.assert_allclose(module.apply({"params": params}, grids)[level], wanted, atol=1e-5)


def test_existing_heads_are_what_they_were():
    """Without the new options: a bias per pixel of an enlarged token, nothing embedded."""
    grids = [jnp.zeros((1, 2, 2, 3))] * 4
    boxed = jax.eval_shape(Reassembly((4,) * 4, 4).init, jax.random.key(0), grids)["params"]
    assert boxed["resize_0"]["bias"].value.shape == (64,) and "resize_0_bias" not in boxed


def test_the_norm_of_an_output():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 3, 4)), jnp.float32)
    params = made(Output(2, norm=True), x)
    plain = {"params": {name: params["params"][name] for name in ("refine", "predict")}}
    assert np.abs(Output(2, norm=True).apply(params, x) - Output(2).apply(plain, x)).max() > 0.1
    small = {
        "params": {**params["params"], "refine": jax.tree.map(lambda leaf: 1e-3 * leaf, params["params"]["refine"])}
    }
    values = jax.tree.map(np.asarray, small["params"])
    kernel, axes = values["refine"]["kernel"], ("NHWC", "HWIO", "NHWC")
    hidden = np.asarray(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes))
    hidden = hidden + values["refine"]["bias"]
    normed = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True) + 1e-5)
    normed = np.maximum(normed * values["norm"]["scale"] + values["norm"]["bias"], 0)
    wanted = normed @ values["predict"]["kernel"] + values["predict"]["bias"]
    np.testing.assert_allclose(Output(2, norm=True).apply(small, x), wanted, atol=1e-3)
