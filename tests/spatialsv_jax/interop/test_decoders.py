"""Qwen2, Qwen3 and Llama language models against transformers (tests/goldens/make_decoders.py)."""

import functools
import json
from pathlib import Path

import decoder_runs
import numpy as np
import pytest
from flax import traverse_util

from spatialsv_jax.interop.arrays import write_checkpoint
from spatialsv_jax.interop.config_fields import read_config
from spatialsv_jax.interop.decoders import decoder_rules, language_config
from spatialsv_jax.interop.tensor_files import ConversionError, TensorFolder

GOLDENS = Path(__file__).parents[2] / "goldens/decoders"
NAMES = ("qwen2", "qwen3", "llama")


@functools.cache
def imported(name, dtype="float32"):
    folder = TensorFolder(GOLDENS / name)
    config = language_config(read_config(GOLDENS / name / "config.json"))
    return *decoder_runs.load(config, decoder_rules(config), folder, dtype), folder


def apply(name, tokens, mask, taps=(), dtype="float32"):
    return decoder_runs.apply(*imported(name, dtype)[:2], tokens, mask, taps)


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
    made = decoder_runs.greedy(*imported(name)[:2], reference["tokens"][0], 32)
    assert made.tolist() == reference["greedy"].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_export_gives_the_same_bytes(name, tmp_path):
    _, params, conversion, folder = imported(name)
    write_checkpoint(conversion, folder, traverse_util.flatten_dict(params, sep="/"), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder.directory / "model.safetensors").read_bytes()


def test_the_published_way_to_write_rotary_settings():
    values = read_config(GOLDENS / "qwen2/config.json")
    del values["rope_parameters"]
    old = {**values, "rope_theta": 1e6, "rope_scaling": None, "torch_dtype": "bfloat16"}
    assert language_config(old) == language_config(read_config(GOLDENS / "qwen2/config.json"))
    three = language_config({**old, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}})
    assert (three.rope_theta, three.rope_sections) == (1e6, (1, 1, 1))


def test_dynamic_positions_are_the_plain_ones_up_to_the_length_they_were_made_for():
    values = read_config(GOLDENS / "qwen2/config.json")
    plain = language_config(values)
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": plain.rope_theta}
    assert language_config({**values, "rope_parameters": dynamic}) == plain and plain.max_length == 128
    plain.check_length(128)
    with pytest.raises(ValueError, match="129 tokens is longer than the 128"):
        plain.check_length(129)


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


def test_linear_rotary_positions_are_divided():
    from spatialsv_jax.backbones.layers import rotary_table

    plain = dict(
        model_type="llama", vocab_size=10, hidden_size=32, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=4096,
    )  # fmt: skip
    found = language_config({**plain, "rope_scaling": {"factor": 2.5, "rope_type": "linear"}})
    assert found.rope_factor == 2.5 and found.max_length == 10240
    positions = np.arange(7, dtype=np.int32)[None, :, None]
    cos, sin = rotary_table(positions, 16, 1e4, factor=found.rope_factor)
    angle = positions.astype(np.float64) / 2.5 * 1e4 ** (-np.arange(8) / 8)
    np.testing.assert_allclose(cos, np.cos(angle), atol=1e-6)
    np.testing.assert_allclose(sin, np.sin(angle), atol=1e-6)
    for factor in (None, 0.5, "2"):
        with pytest.raises(ConversionError, match="the factor of linear rotary positions is"):
            language_config({**plain, "rope_scaling": {"factor": factor, "type": "linear"}})
