"""Decoder: packed attention, taps, padding, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax import spec
from spatialsv_jax.backbones import default_taps
from spatialsv_jax.backbones.decoder import Decoder, DecoderAttention, LanguageConfig, Rows
from spatialsv_jax.backbones.layers import rms_norm, rotary_table
from spatialsv_jax.backbones.tiny import TinyBackbone, VisionConfig
from spatialsv_jax.partitioning import create

VISION = VisionConfig(image_size=16, patch_size=4, width=16, layers=1, heads=2)
LANGUAGE = LanguageConfig(vocab_size=40, width=16, layers=4, heads=4, kv_heads=2, head_dim=8, mlp_width=24, unroll=1)
SIZES = dict(B=2, V=2, H=4, W=4, P=4, S=11, Q=8, T=6, A=2, K=1, N=40)


@pytest.fixture(scope="module")
def batch():
    return spec.fake_batch(SIZES, (16, 16, 3))


@pytest.fixture(scope="module")
def backbone(batch):
    model = TinyBackbone(VISION, LANGUAGE)
    return model, parameters(model, batch)


def parameters(module, *args):
    boxed = jax.eval_shape(module.init, jax.random.key(0), *args)
    return jax.jit(lambda: create(jax.random.key(0), boxed))()


def positions_of(rows, questions, length):
    """Rotary positions of a prefix of `rows` and `questions` packed behind it."""
    return np.concatenate([np.arange(rows), rows + np.tile(np.arange(length), questions)]).astype(np.int32)


def test_attention_equals_dense_softmax_in_float64():
    prefix, questions, length, heads, kv_heads, dim, width = 7, 3, 4, 4, 2, 6, 10
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, prefix + questions * length, width)).astype(np.float32)
    positions = positions_of(prefix, questions, length)
    cos, sin = rotary_table(jnp.asarray(positions)[None, :, None], dim, 100.0)
    mask = np.arange(prefix) < 5  # two padded prefix tokens
    own = jnp.tril(jnp.ones((length, length), bool))[None, None]
    rows = Rows(cos[:, :, None], sin[:, :, None], jnp.asarray(mask)[None], None, own, None, prefix, questions)
    layer = DecoderAttention(heads, kv_heads, dim, "float32")
    params = parameters(layer, x, None, rows)
    found = np.asarray(layer.apply(params, x, None, rows)[0][0])

    kernel = {name: np.asarray(leaf["kernel"], np.float64) for name, leaf in params["params"].items()}
    angle = positions[:, None] * 100.0 ** (-np.arange(dim // 2) / (dim // 2))
    turn = np.exp(1j * angle)[:, None]

    def rotated(name, count):
        y = (x[0].astype(np.float64) @ kernel[name]).reshape(-1, count, dim)
        z = (y[..., : dim // 2] + 1j * y[..., dim // 2 :]) * turn
        return np.concatenate([z.real, z.imag], -1)

    query, key = rotated("q", heads), rotated("k", kv_heads)
    value = (x[0].astype(np.float64) @ kernel["v"]).reshape(-1, kv_heads, dim)
    count = len(x[0])
    visible = np.zeros((count, count), bool)
    for row in range(count):
        for column in range(row + 1):
            if row < prefix:
                visible[row, column] = True
            elif column < prefix:
                visible[row, column] = mask[column]
            else:
                visible[row, column] = (row - prefix) // length == (column - prefix) // length
    out = np.zeros((count, heads, dim))
    for head in range(heads):
        scores = query[:, head] @ key[:, head // 2].T / np.sqrt(dim)
        weights = np.exp(np.where(visible, scores, -np.inf))
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ value[:, head // 2]
    np.testing.assert_allclose(found, out.reshape(count, -1) @ kernel["o"], atol=2e-6)


def test_packed_questions_equal_unpacked_ones(backbone, batch):
    model, params = backbone

    @jax.jit
    def losses(params, batch):
        hidden = model.apply(params, batch).hidden
        logits = model.apply(params, hidden[:, :, :-1], method="logits")
        target = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["question_tokens"][:, :, 1:, None], axis=3)
        return -target[..., 0].mean(-1)

    packed = np.asarray(losses(params, batch))
    names = ("question_tokens", "question_mask", "answer_mask", "answer_positions", "question_valid")
    single = np.stack(
        [
            np.asarray(losses(params, {**batch, **{name: batch[name][:, q : q + 1] for name in names}}))[:, 0]
            for q in range(8)
        ],
        axis=1,
    )
    np.testing.assert_allclose(packed, single, rtol=1e-5)
    assert packed.std() > 0.01  # the questions differ


def test_taps_are_the_numbered_states(backbone, batch):
    model, params = backbone
    states = tuple(range(5))
    every = np.asarray(jax.jit(lambda p: model.apply(p, batch, taps=states).taps)(params))
    assert every.shape == (5, 2, 2, 4, 16)
    norm = rms_norm("norm")
    scale = {"params": params["params"]["language"]["norm"]}
    depth = 3  # a model cut after `depth` layers ends in norm(state depth): state `depth` is raw
    cut = TinyBackbone(VISION, LanguageConfig(**{**vars(LANGUAGE), "layers": depth}))
    language = params["params"]["language"]
    layers = jax.tree.map(lambda leaf: leaf[:depth], language["layers"])
    cut_params = {"params": {**params["params"], "language": {**language, "layers": layers}}}
    final = np.asarray(jax.jit(lambda p: cut.apply(p, batch, taps=(depth,)).taps[0])(cut_params))
    np.testing.assert_allclose(norm.apply(scale, every[depth]), final, atol=1e-5)
    np.testing.assert_allclose((every[4] ** 2).mean(-1), 1, atol=1e-3)  # state L is normed
    repeated = np.asarray(jax.jit(lambda p: model.apply(p, batch, taps=(4, 0, 4)).taps)(params))
    np.testing.assert_allclose(repeated, every[[4, 0, 4]], atol=1e-5)
    with pytest.raises(ValueError, match="states 0"):
        model.apply(params, batch, taps=(5,))


def test_visual_attention_flag_decides_what_view_0_sees(backbone, batch):
    model, params = backbone
    other = {**batch, "pixel_values": batch["pixel_values"].copy()}
    other["pixel_values"][:, 1] += 1.0
    both = TinyBackbone(VISION, LanguageConfig(**{**vars(LANGUAGE), "visual_attention": "bidirectional"}))
    for module, sees in ((model, False), (both, True)):
        run = jax.jit(lambda p, b: module.apply(p, b, taps=(3,)).taps[0])
        change = np.abs(np.asarray(run(params, other)) - np.asarray(run(params, batch)))
        assert change[:, 1].max() > 1e-3
        assert (change[:, 0].max() > 1e-4) == sees


def test_padding_changes_nothing_and_makes_no_nan(backbone, batch):
    model, params = backbone
    small = {**batch, "view_valid": batch["view_valid"].copy()}
    small["view_valid"][1, 1] = False
    small["image_token_index"] = batch["image_token_index"].copy()
    small["image_token_index"][1, 1] = 0  # what collation writes for a padded view
    small["prefix_mask"] = batch["prefix_mask"].copy()
    small["prefix_mask"][1, 4:] = False
    small["question_start"] = np.array([11, 4], np.int32)

    def pad(array, axis, extra):
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, extra)
        return np.pad(array, widths)

    large = {**small}
    for name, axis in (("prefix_tokens", 1), ("prefix_mask", 1), ("prefix_positions", 1), ("question_tokens", 2)):
        large[name] = pad(small[name], axis, 3)
    large["question_tokens"] = pad(large["question_tokens"], 1, 1)

    def run(params, batch):
        output = model.apply(params, batch, taps=(2,))
        hidden = output.hidden[:, :8, :6]
        return (hidden**2).sum() + (output.taps[:, 0] ** 2).sum(), (hidden, output.taps)

    step = jax.jit(jax.grad(run, has_aux=True))
    (grads, (hidden, taps)), (grads_large, (hidden_large, taps_large)) = step(params, small), step(params, large)
    np.testing.assert_allclose(hidden, hidden_large, atol=2e-5)
    np.testing.assert_allclose(taps, taps_large, atol=2e-5)
    for leaf, other in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_large), strict=True):
        assert np.isfinite(leaf).all()
        np.testing.assert_allclose(leaf, other, atol=2e-3, rtol=2e-3)


def test_frozen_vision_gets_no_gradient(batch):
    model = TinyBackbone(VisionConfig(**{**vars(VISION), "trainable": False}), LANGUAGE)
    params = parameters(model, batch)
    grads = jax.jit(jax.grad(lambda p: (model.apply(p, batch, taps=(2,)).taps ** 2).sum()))(params)["params"]
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads["vision"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads["projector"]))


def test_four_taps_at_24_layers_cost_little_memory():
    """Compiled temporaries of a gradient with rematerialisation; all states would add far more."""
    config = LanguageConfig(
        vocab_size=8, width=32, layers=24, heads=4, kv_heads=2, head_dim=8, mlp_width=96, remat="full", unroll=1
    )
    batch, prefix, questions, length, visual = 4, 72, 16, 12, 64
    decoder = Decoder(config)
    count = prefix + questions * length
    positions = jnp.asarray(positions_of(prefix, questions, length))[None, :, None]
    cos, sin = rotary_table(jnp.broadcast_to(positions, (batch, count, 1)), 8, 1e4)
    own = jnp.tril(jnp.ones((length, length), bool))[None, None]
    rows = Rows(cos[:, :, None], sin[:, :, None], jnp.ones((batch, prefix), bool), None, own, None, prefix, questions)
    x = jnp.zeros((batch, count, 32))
    index = jnp.tile(jnp.arange(visual), (batch, 1))
    params = parameters(decoder, x, rows)

    def temporaries(taps):
        def loss(params, x):
            hidden, tapped, _ = decoder.apply(params, x, rows, None, index, taps)
            return (hidden**2).mean() + (0 if tapped is None else (tapped**2).mean())

        return jax.jit(jax.grad(loss)).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert temporaries((3, 8, 13, 19)) < 1.10 * temporaries(())


@pytest.mark.parametrize(
    "layers, taps",
    [(4, (1, 2, 3, 4)), (5, (1, 2, 3, 4)), (28, (3, 9, 16, 22)), (36, (4, 12, 20, 28)), (50, (6, 16, 28, 39))],
)
def test_default_taps(layers, taps):
    assert default_taps(layers) == taps


def test_default_taps_need_four_layers():
    with pytest.raises(ValueError, match="at least 4"):
        default_taps(3)


def test_rotary_sections_pick_their_axis():
    positions = np.random.default_rng(0).integers(0, 50, (5, 3)).astype(np.int32)
    cos, _ = rotary_table(jnp.asarray(positions), 12, 10.0, sections=(1, 2, 3))
    frequency = 10.0 ** (-np.arange(6) / 6)
    expected = np.cos(positions[:, [0, 1, 1, 2, 2, 2]] * frequency)
    np.testing.assert_allclose(cos, expected, atol=1e-5)
    with pytest.raises(ValueError, match="sections"):
        rotary_table(jnp.asarray(positions), 12, 10.0)
