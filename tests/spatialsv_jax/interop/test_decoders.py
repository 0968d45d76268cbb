"""Qwen2, Qwen3 and Llama language models against transformers (tests/goldens/make_decoders.py)."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from spatialsv_jax.backbones.decoder import Decoder, Rows
from spatialsv_jax.backbones.layers import rotary_table
from spatialsv_jax.interop.arrays import read_parameters, write_checkpoint
from spatialsv_jax.interop.conversion import match
from spatialsv_jax.interop.decoders import decoder_rules, language_config, read_config
from spatialsv_jax.interop.tensor_files import ConversionError, TensorFolder
from spatialsv_jax.partitioning import create

GOLDENS = Path(__file__).parents[2] / "goldens/decoders"
NAMES = ("qwen2", "qwen3", "llama")


def run(module, tokens, mask, taps):
    """(states [t,B,S,D], logits [B,S,N]) of a decoder bound to its parameters."""
    config, (number, length) = module.config, tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), (number, length))[..., None]
    cos, sin = rotary_table(positions, config.head_dim, config.rope_theta)
    rows = Rows(cos[:, :, None], sin[:, :, None], mask, None, None, None, length, 0)
    everywhere = positions[..., 0]
    hidden, states, _ = module(module.embed(tokens), rows, None, everywhere, taps)
    return states, module.logits(hidden)


@functools.cache
def imported(name, dtype="float32"):
    folder = TensorFolder(GOLDENS / name)
    values = read_config(GOLDENS / name / "config.json")
    config = language_config(values)
    module = Decoder(type(config)(**{**vars(config), "dtype": dtype}))
    tokens, mask = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    boxed = jax.eval_shape(
        lambda key: module.init(key, tokens, mask, (), method=run), jax.random.key(0)
    )["params"]  # fmt: skip
    shapes = traverse_util.flatten_dict(jax.eval_shape(lambda: create(jax.random.key(0), boxed)), sep="/")
    conversion = match(decoder_rules(config), folder.tensors, {path: leaf.shape for path, leaf in shapes.items()})
    found = read_parameters(conversion, folder, shapes)
    assert not conversion.new and not conversion.carried
    return module, traverse_util.unflatten_dict(found, sep="/"), folder, conversion


def apply(name, tokens, mask, taps=(), dtype="float32"):
    module, params, *_ = imported(name, dtype)
    return jax.jit(lambda p, t, m: module.apply({"params": p}, t, m, taps, method=run))(params, tokens, mask)


@pytest.mark.parametrize("name", NAMES)
def test_every_hidden_state_and_logit(name):
    reference = np.load(GOLDENS / name / "reference.npz")
    real = reference["mask"]
    states, logits = apply(name, reference["tokens"], real, tuple(range(5)))
    assert states.shape == reference["hidden"].shape
    for state in range(5):
        np.testing.assert_allclose(states[state][real], reference["hidden"][state][real], atol=1e-4, err_msg=str(state))
    np.testing.assert_allclose(logits[real], reference["logits"][real], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_logits_in_bfloat16(name):
    """Within 2e-2 of the largest absolute reference value."""
    reference = np.load(GOLDENS / name / "reference.npz")
    real = reference["mask"]
    _, logits = apply(name, reference["tokens"], real, dtype="bfloat16")
    wanted = reference["logits_bfloat16"][real]
    assert np.abs(np.asarray(logits, np.float32)[real] - wanted).max() < 2e-2 * np.abs(wanted).max()


@pytest.mark.parametrize("name", NAMES)
def test_thirty_two_greedy_tokens(name):
    reference = np.load(GOLDENS / name / "reference.npz")
    tokens = np.zeros((1, 13 + 32), np.int32)
    tokens[0, :13] = reference["tokens"][0]
    module, params, *_ = imported(name)
    step = jax.jit(lambda p, t: module.apply({"params": p}, t, jnp.ones(t.shape, bool), (), method=run)[1])
    for place in range(13, 45):
        tokens[0, place] = np.argmax(step(params, tokens)[0, place - 1])
    assert tokens[0, 13:].tolist() == reference["greedy"].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_export_gives_the_same_bytes(name, tmp_path):
    _, params, folder, conversion = imported(name)
    write_checkpoint(conversion, folder, traverse_util.flatten_dict(params, sep="/"), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder.directory / "model.safetensors").read_bytes()


def test_the_published_way_to_write_rotary_settings():
    values = read_config(GOLDENS / "qwen2/config.json")
    del values["rope_parameters"]
    old = {**values, "rope_theta": 1e6, "rope_scaling": None, "torch_dtype": "bfloat16"}
    assert language_config(old) == language_config(read_config(GOLDENS / "qwen2/config.json"))
    assert language_config({**old, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}}).rope_theta == 1e6


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "gemma"}, "model_type is 'gemma'; language models read here: qwen2"),
        ({"new_field": 1}, "unknown field 'new_field'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', supported: 'silu'"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["sliding_attention"]}, "layer_types has"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rotary positions of type 'yarn'"),
        ({"rope_parameters": {"rope_type": "default", "partial": 1}}, r"unknown fields \['partial'\] of the rotary"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
    ],
)
def test_what_is_not_built_is_named(change, message):
    values = {**read_config(GOLDENS / "qwen2/config.json"), **change}
    with pytest.raises(ConversionError, match=message):
        language_config(values, "x/config.json")


def test_a_broken_config_is_explained(tmp_path):
    with pytest.raises(ConversionError, match="cannot be read as JSON"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ConversionError, match="must hold a JSON object"):
        read_config(tmp_path / "config.json")
