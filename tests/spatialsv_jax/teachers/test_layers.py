"""Blocks of the published teachers: epsilons, rotary, views, taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax.partitioning import create
from spatialsv_jax.teachers.layers import (
    Block,
    BlockConfig,
    Layers,
    PairedLayers,
    PatchTokens,
    patch_positions,
    rotary_turn,
    rotate_halves,
)

PLAIN = BlockConfig(16, 2, 24)
MIXED = BlockConfig(16, 2, 24, qk_norm=True)


def made(module, *inputs, seed=0):
    """Random parameters, biases and scales among them."""
    params = create(jax.random.key(seed), jax.eval_shape(module.init, jax.random.key(0), *inputs))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.2 * rng.standard_normal(leaf.shape), jnp.float32), params)


def tokens(views=2, rows=7, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((1, views, rows, 16)), jnp.float32)


def turn(grid=(2, 3)):
    return rotary_turn(patch_positions(grid, 1), MIXED.head_dim)


def test_positions():
    np.testing.assert_array_equal(patch_positions((2, 2), 2), [(0, 0), (0, 0), (1, 1), (1, 2), (2, 1), (2, 2)])


def test_rotary_is_a_rotation_by_row_and_column():
    """As complex numbers: features (k, k + m/2) of each half turn by position * 100^(-2k/m)."""
    dim, places = 16, np.array([[0, 0], [1, 3], [2, 1]])
    x = np.random.default_rng(0).standard_normal((1, 1, 3, 1, dim))
    found = rotate_halves(jnp.asarray(x, jnp.float32), rotary_turn(places, dim))
    for axis in range(2):
        half = x[0, 0, :, 0, axis * 8 : axis * 8 + 8]
        wanted = (half[:, :4] + 1j * half[:, 4:]) * np.exp(
            1j * places[:, axis, None] * 100.0 ** (-2 * np.arange(4) / 8)
        )
        part = np.asarray(found)[0, 0, :, 0, axis * 8 : axis * 8 + 8]
        np.testing.assert_allclose(part[:, :4] + 1j * part[:, 4:], wanted, atol=1e-6)


def test_epsilons():
    """A row whose variance is of their size tells 1e-6 in the blocks from 1e-5 in q/k norms."""
    small = 1e-3 * tokens()
    for config, changed in ((PLAIN, {"epsilon": 1e-5}), (MIXED, {"qk_epsilon": 1e-6})):
        block = Block(config)
        params = made(block, small)
        if config.qk_norm:  # small queries and keys
            for name in ("q", "k"):
                layer = params["params"]["attention"][name]
                params["params"]["attention"][name] = jax.tree.map(lambda leaf: 1e-3 * leaf, layer)
        other = Block(BlockConfig(**{**config.__dict__, **changed}))
        assert np.abs(jax.jit(block.apply)(params, small) - jax.jit(other.apply)(params, small)).max() > 1e-3
    assert (PLAIN.epsilon, MIXED.qk_epsilon) == (1e-6, 1e-5)


def test_within_and_across():
    x, block = tokens(), Block(MIXED)
    params = made(block, x, turn())
    across = Block(MIXED, across=True)
    alone = jax.jit(block.apply)(params, x[:, :1], turn())
    np.testing.assert_allclose(jax.jit(block.apply)(params, x, turn())[:, :1], alone, atol=1e-6)
    np.testing.assert_allclose(jax.jit(across.apply)(params, x[:, :1], turn()), alone, atol=1e-6)
    assert np.abs(jax.jit(across.apply)(params, x, turn())[:, :1] - alone).max() > 1e-3
    masked = jax.jit(across.apply)(params, x, turn(), jnp.asarray([[True, False]]))
    np.testing.assert_allclose(masked[:, :1], alone, atol=1e-6)


@pytest.mark.parametrize("backend", ["xla", "splash"])
def test_attention_goes_through_the_projects_kernels(backend, monkeypatch):
    """The backend of the config is the one that is asked for."""
    import spatialsv_jax.teachers.layers as layers

    asked = []
    real = layers.self_attention
    monkeypatch.setattr(
        layers, "self_attention", lambda *given, backend, **options: asked.append(backend) or real(*given, **options)
    )
    block = Block(BlockConfig(16, 2, 24, attention=backend))
    made(block, tokens())
    assert set(asked) == {backend}


def test_stacks_and_taps_are_the_blocks_in_turn():
    x = tokens()
    stack = Layers(PLAIN, 5, (1, 2, 4))
    params = made(stack, x)
    states, found = [x], jax.jit(stack.apply)(params, x)
    block = jax.jit(Block(PLAIN).apply)
    for number in range(5):
        own = jax.tree.map(lambda leaf: leaf[number], params["params"]["layers"]["block"])
        states.append(block({"params": own}, states[-1]))
    np.testing.assert_allclose(found.x, states[-1], atol=1e-5)
    np.testing.assert_allclose(found.taps, jnp.stack([states[number + 1] for number in (1, 2, 4)]), atol=1e-5)
    np.testing.assert_allclose(found.first_rows, jnp.stack([state[:, :, 0] for state in states[1:]]), atol=1e-5)


def test_pairs_and_their_taps():
    """[within | across] without a norm; the stream goes on from the second."""
    x, turns = tokens(), (turn(), rotary_turn(np.minimum(patch_positions((2, 3), 1), 1), MIXED.head_dim))
    stack = PairedLayers(MIXED, 3, (0, 2))
    params = made(stack, x, turns)
    found, states = jax.jit(stack.apply)(params, x, turns), []
    first, second = jax.jit(Block(MIXED).apply), jax.jit(Block(MIXED, across=True).apply)
    for number in range(3):
        own = jax.tree.map(lambda leaf: leaf[number], params["params"]["layers"])
        within = first({"params": own["within"]}, x, turns[0])
        x = second({"params": own["across"]}, within, turns[1])
        states.append(jnp.concatenate([within, x], -1))
    np.testing.assert_allclose(found.x, x, atol=1e-5)
    np.testing.assert_allclose(found.taps, jnp.stack([states[0], states[2]]), atol=1e-5)


@pytest.mark.parametrize(
    ("taps", "words"), [((2, 1, 4), "increasing"), ((1, 5), "increasing"), ((1, 3), "the last tap 3")]
)
def test_taps_that_make_no_sense(taps, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(Layers(PLAIN, 5, taps).init, jax.random.key(0), tokens())


def test_the_stream_stays_float32():
    """Branches are rounded in bfloat16, what they are added to is not."""
    x = tokens()
    block = Block(MIXED, jnp.bfloat16)
    params = made(block, x)
    rough, exact = jax.jit(block.apply)(params, x), jax.jit(Block(MIXED).apply)(params, x)
    assert rough.dtype == jnp.float32
    assert 1e-5 < np.abs(rough - exact).max() < 0.02 * np.abs(exact).max()
    for name in ("attention_scale", "mlp_scale"):
        params["params"][name] = jnp.zeros_like(params["params"][name])
    np.testing.assert_array_equal(jax.jit(block.apply)(params, x), x)


def test_tokens():
    """Class with its position, registers without one, patches in rows; a patch is one linear map of its pixels."""
    pixels = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 28, 42, 3)), jnp.float32)
    module = PatchTokens(14, 8, 5, "antialiased", registers=3)
    params = made(module, pixels)
    found = jax.jit(module.apply)(params, pixels)
    values = params["params"]
    assert found.shape == (1, 2, 1 + 3 + 6, 8)
    np.testing.assert_allclose(found[0, 1, 0], values["class"][0] + values["position"][0], atol=1e-6)
    np.testing.assert_allclose(found[0, 1, 1:4], values["registers"], atol=1e-6)
    table = jax.image.resize(values["position"][1:].reshape(5, 5, 8), (2, 3, 8), "cubic", antialias=True)
    patch = pixels[0, 1, 14:28, 14:28].reshape(-1)  # row 1, column 1
    wanted = patch @ values["patch"]["kernel"] + values["patch"]["bias"] + table[1, 1]
    np.testing.assert_allclose(found[0, 1, 4 + 3 + 1], wanted, atol=1e-4)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="multiples of 14"):
        jax.eval_shape(PatchTokens(14, 8, 5, "offset").init, jax.random.key(0), jnp.zeros((1, 1, 28, 40, 3)))
    with pytest.raises(ValueError, match="no multiple of heads"):
        BlockConfig(16, 3, 24)
    with pytest.raises(ValueError, match="'gelu' or 'swiglu'"):
        BlockConfig(16, 2, 24, mlp="relu")
