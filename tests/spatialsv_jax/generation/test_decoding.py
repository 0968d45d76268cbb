"""Cached generation against full recomputation."""

import jax
import numpy as np
import pytest

from spatialsv_jax import spec
from spatialsv_jax.generation import decoding
from spatialsv_jax.model import LanguageConfig, LiftingConfig, SpatialMLLM, VisionConfig, drop_lifting
from spatialsv_jax.training import sharding

END, NEW = 2, 5


@pytest.fixture(scope="module")
def setup():
    model = SpatialMLLM(
        VisionConfig(image_size=16, patch_size=4, width=16, layers=1, heads=2),
        LanguageConfig(vocab_size=20, width=16, layers=4, heads=4, kv_heads=2, head_dim=8, mlp_width=24, unroll=1),
        LiftingConfig(width=8, channels=(4, 4, 4, 4), features=4),
    )
    batch = spec.fake_batch(dict(B=2, V=2, H=8, W=8, P=4, S=11, Q=3, T=6, A=2, K=1, N=20), (16, 16, 3), seed=3)
    batch["question_mask"][0, 0, 4:] = False  # a shorter question without an answer
    batch["answer_mask"][0, 0] = False
    batch["prefix_mask"][1, 9:] = False
    batch["question_start"][1] = 9
    batch["question_valid"][1, 2] = False
    params = model.init_params(jax.random.key(0), batch, label_hw=(8, 8))
    params = jax.tree.map(lambda leaf: 3 * leaf, drop_lifting(params))  # decided answers that differ
    return model, params, batch


def recomputed(model, params, batch):
    """Greedy answers by running the whole sequence again for every token."""
    forward = jax.jit(lambda params, batch: model.apply({"params": params}, batch, label_hw=(8, 8), lift=False))
    lengths = (batch["question_mask"] & ~batch["answer_mask"]).sum(-1)
    tokens = np.zeros((2, 3, 6 + NEW), np.int32)
    tokens[:, :, :6] = batch["question_tokens"]
    found = np.zeros((2, 3, NEW), np.int32)
    for step in range(NEW):
        positions = (lengths + step)[..., None].astype(np.int32)
        logits = forward(params, {**batch, "question_tokens": tokens, "answer_positions": positions})["answer_logits"]
        found[:, :, step] = np.argmax(logits[:, :, 0], -1)
        np.put_along_axis(tokens, positions, found[:, :, step : step + 1], axis=2)
    ended = np.cumsum(found == END, axis=-1) - (found == END) > 0
    found = np.where(ended, END, found)
    found[~batch["question_valid"]] = END
    return found


def test_greedy_equals_argmax_of_full_recomputation(setup):
    model, params, batch = setup
    found = jax.jit(lambda params, batch: decoding.greedy(model, params, batch, NEW, END))(params, batch)
    assert found.shape == (2, 3, NEW) and found.dtype == np.int32
    expected = recomputed(model, params, batch)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 5
    # Everything after the end token is the end token: with another end token, rows stop earlier.
    stop = int(expected[0, 1, 1])
    stopped = np.asarray(jax.jit(lambda p, b: decoding.greedy(model, p, b, NEW, stop))(params, batch))
    first = int(np.argmax(expected[0, 1] == stop))
    assert (stopped[0, 1, first:] == stop).all()
    np.testing.assert_array_equal(stopped[0, 1, :first], expected[0, 1, :first])


def test_sampling(setup):
    model, params, batch = setup

    @jax.jit
    def draw(params, batch, temperature, key):
        return decoding.sample(model, params, batch, NEW, END, temperature=temperature, key=key)

    # Nearly cold draws are the greedy answers, hot ones differ by key and by nothing else.
    greedy = jax.jit(lambda params, batch: decoding.greedy(model, params, batch, NEW, END))(params, batch)
    np.testing.assert_array_equal(draw(params, batch, 1e-4, jax.random.key(0)), greedy)
    hot = [np.asarray(draw(params, batch, 5.0, jax.random.key(seed))) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(hot[0], hot[1])
    assert (hot[0] != hot[2]).any()
    with pytest.raises(ValueError, match="temperature"):
        decoding.sample(model, params, batch, NEW, END, temperature=0.0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="max_new_tokens"):
        decoding.greedy(model, params, batch, 0, END)


def test_any_of_several_tokens_ends_an_answer(setup):
    model, params, batch = setup
    free = np.asarray(decoding.greedy(model, params, batch, NEW, -1))
    first, second = int(free[0, 1, 1]), int(free[1, 0, 2])
    found = np.asarray(decoding.greedy(model, params, batch, NEW, (END, first, second)))
    for row in np.ndindex(2, 3):
        stops = np.flatnonzero(np.isin(free[row], (END, first, second)))
        length = stops[0] if len(stops) else NEW
        if not batch["question_valid"][row]:
            length = 0
        assert found[row][:length].tolist() == free[row][:length].tolist()
        assert (found[row][length:] == END).all()
    with pytest.raises(ValueError, match="end_id is empty"):
        decoding.greedy(model, params, batch, NEW, ())


def test_sharded_parameters_give_the_same_tokens(setup):
    model, params, batch = setup
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2, tensor=4))
    axes = model.logical_axes(batch, label_hw=(8, 8))
    places, _ = sharding.parameter_shardings(params, {"backbone": axes["backbone"]}, mesh)
    split = jax.device_put(params, places)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(split))
    found = jax.jit(lambda p, b: decoding.greedy(model, p, b, NEW, END))(split, sharding.put_batch(batch, mesh))
    alone = jax.jit(lambda p, b: decoding.greedy(model, p, b, NEW, END))(params, batch)
    np.testing.assert_array_equal(found, alone)
