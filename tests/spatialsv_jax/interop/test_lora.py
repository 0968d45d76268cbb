"""LoRA: adapters that start at nothing, train alone, and come out merged or in PEFT's layout."""

import dataclasses
import json
from pathlib import Path

import family_runs as runs
import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file

from spatialsv_jax.interop import lora
from spatialsv_jax.interop.hub import import_parameters, open_checkpoint, parameter_shapes
from spatialsv_jax.model import LiftingConfig, SpatialMLLM
from spatialsv_jax.training.optimizer import group_of

GOLDEN = Path(__file__).parents[2] / "goldens/internvl3"
TARGETS = ("q", "v", "o", "gate", "down")


@pytest.fixture(scope="module")
def adapted():
    """(the golden with adapters of rank 3, batch, flat parameters with random adapters)."""
    base = runs.imported(GOLDEN)
    language = dataclasses.replace(base.model.language, lora_rank=3, lora_alpha=6.0, lora_targets=TARGETS)
    model = SpatialMLLM(base.model.vision, language, LiftingConfig(heads=()), "internvl3")
    batch = runs.sample(base.processor, [np.full((30, 30, 3), 80, np.uint8)], "Where is it?")
    shapes = parameter_shapes(model, batch)
    found, conversion, _ = import_parameters(open_checkpoint(GOLDEN), shapes, new=(".*_lora/[ab]",))
    flat = traverse_util.flatten_dict(found, sep="/")
    assert sorted(conversion.new) == sorted(
        f"backbone/language/layers/{part}/{name}_lora/{matrix}"
        for part, names in (("attention", "qvo"), ("mlp", ("gate", "down")))
        for name in names
        for matrix in "ab"
    )
    rng = np.random.default_rng(0)
    for path in conversion.new:
        shape = traverse_util.flatten_dict(shapes, sep="/")[path].shape
        flat[path] = 0.1 * rng.standard_normal(shape).astype(np.float32)
    return dataclasses.replace(base, model=model), batch, flat


def logits(found, batch, flat):
    params = traverse_util.unflatten_dict(flat, sep="/")
    return np.asarray(runs.every_state(dataclasses.replace(found, params=params), batch)[2])


def test_adapters_without_b_change_nothing(adapted):
    found, batch, flat = adapted
    nothing = {path: 0 * value if path.endswith("_lora/b") else value for path, value in flat.items()}
    base = runs.imported(GOLDEN)
    np.testing.assert_array_equal(logits(found, batch, nothing), np.asarray(runs.every_state(base, batch)[2]))


def test_merged_they_give_the_same_logits(adapted):
    found, batch, flat = adapted
    merged = {path: np.asarray(value) for path, value in lora.merge(flat, found.model.language.lora).items()}
    base = runs.imported(GOLDEN)
    assert set(merged) == set(traverse_util.flatten_dict(base.params, sep="/"))
    with_adapters = logits(found, batch, flat)
    np.testing.assert_allclose(logits(base, batch, merged), with_adapters, atol=1e-4)
    assert np.abs(with_adapters - np.asarray(runs.every_state(base, batch)[2])).max() > 0.1


def test_they_are_a_group_of_their_own(adapted):
    groups = {path: group_of(tuple(path.split("/"))) for path in adapted[2]}
    assert groups["backbone/language/layers/mlp/down_lora/a"] == "adapters"
    assert groups["backbone/language/layers/mlp/down/kernel"] == "language"


def test_files_for_peft(adapted, tmp_path):
    found, _, flat = adapted
    checkpoint = open_checkpoint(GOLDEN)
    rules = checkpoint.layout.rules(checkpoint.vision, checkpoint.language)
    lora.write_peft(flat, found.model.language.lora, rules, checkpoint.layout.modules, "base", tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    key = "base_model.model.model.language_model.layers.2.self_attn.q_proj"
    ours = "backbone/language/layers/attention/q_lora"
    np.testing.assert_array_equal(tensors[f"{key}.lora_A.weight"], flat[f"{ours}/a"][2].T)
    np.testing.assert_array_equal(tensors[f"{key}.lora_B.weight"], flat[f"{ours}/b"][2].T)
    assert len(tensors) == 4 * len(TARGETS) * 2
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (3, 6.0, "LORA")
    plain = {path: value for path, value in flat.items() if "_lora" not in path}
    with pytest.raises(ValueError, match="has no adapters"):
        lora.write_peft(plain, found.model.language.lora, rules, checkpoint.layout.modules, "base", tmp_path)


def test_gradients_reach_the_adapters(adapted):
    found, batch, flat = adapted

    def loss(params):
        batch_ = {**batch, "answer_positions": np.full((1, 1, 1), 3, np.int32)}
        return found.model.apply({"params": params}, batch_, label_hw=(8, 8), lift=False)["answer_logits"].sum()

    gradients = traverse_util.flatten_dict(jax.grad(loss)(traverse_util.unflatten_dict(flat, sep="/")), sep="/")
    assert all(np.abs(value).max() > 0 for path, value in gradients.items() if "_lora" in path)
