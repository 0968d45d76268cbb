"""The paper's models at full size, by shapes alone: published parameter counts, taps, rates, what is trained."""

import importlib
import json

import jax
import numpy as np
import pytest
from flax import traverse_util

from experiments.configs.pretrained import PRESETS
from experiments.evaluate import evaluate_run
from experiments.train import train_and_evaluate
from spatialsv_jax import assembly, load
from spatialsv_jax.model import SpatialMLLM
from spatialsv_jax.processing import PROCESSORS
from spatialsv_jax.spec import BATCH, OPTIONAL

# docs/method.md, 3.
TAPS = {
    "qwen2_5_vl_3b": (4, 12, 20, 28), "qwen2_5_vl_7b": (3, 10, 17, 24),
    "internvl3_1b": (3, 9, 15, 21), "internvl3_2b": (3, 9, 15, 21), "internvl3_8b": (3, 9, 15, 21),
    "llava_next_video_7b": (4, 11, 18, 25),
    "llava_onevision1_5_4b": (4, 12, 20, 28), "llava_onevision1_5_8b": (4, 12, 20, 28),
}  # fmt: skip
RATES = {"qwen2_5_vl": 2e-7, "internvl3": 1e-5, "llava_next_video": 1e-5, "llava_onevision1_5": 2e-7}


def phase_of(name):
    return importlib.import_module(f"experiments.configs.{name}").get_config()


def shapes_of(name, folder, heads=True):
    """(settings, shapes of the parameters, shapes of the predictions) of the config's model at full size."""
    phase = phase_of(name)
    settings = assembly.read_settings(phase)
    lifting = settings.lifting if heads else type(settings.lifting)(heads=())
    model = SpatialMLLM(settings.vision, settings.language, lifting, settings.family)
    processor = PROCESSORS[settings.family].from_scratch(folder, settings.vision)
    views, (height, width) = phase.data.views, phase.data.label_size
    prefix = processor.encode_prefix(views)
    pixels = processor.pixels([np.zeros((8, 8, 3), np.uint8)] * views, (height, width)).pixel_values
    sizes = dict(
        B=1, V=views, H=height, W=width, P=prefix.image_token_index.shape[1], S=len(prefix.tokens), Q=2, T=8, A=2,
        K=prefix.positions.shape[1],
    )  # fmt: skip
    batch = {
        field: jax.ShapeDtypeStruct(
            tuple(int(a) if a.isdigit() else sizes[a] for a in what.shape if a != "*"), what.dtype
        )
        for field, what in BATCH.items()
        if field not in (*OPTIONAL, "pixel_values")
    }
    batch["pixel_values"] = jax.ShapeDtypeStruct((1, *pixels.shape), np.float32)
    for field in ("feature_slots", "feature_valid"):
        if (value := getattr(prefix, field)) is not None:
            batch[field] = jax.ShapeDtypeStruct((1, *value.shape), value.dtype)
    size = (height, width)
    params = jax.eval_shape(lambda b: model.init_params(jax.random.key(0), b, label_hw=size), batch)
    out = jax.eval_shape(lambda p, b: model.apply({"params": p}, b, label_hw=size), params, batch)
    return settings, params, out


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_count_is_the_published_one(name, tmp_path):
    _, params, _ = shapes_of(name, tmp_path, heads=False)
    found = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found + PRESETS[name].get("unused", 0) == PRESETS[name]["parameters"]


@pytest.mark.parametrize("name", PRESETS)
def test_recipe_and_maps(name, tmp_path):
    settings, _, out = shapes_of(name, tmp_path)
    assert settings.lifting.taps == TAPS[name]
    rates = settings.optimizer
    assert (rates.language, rates.projector, rates.lifting) == (RATES[settings.family], 1e-5, 1e-5)
    assert rates.name == "adamw" and settings.frozen_groups == ("vision",) and rates.weight_decay == 0
    assert out["ray"].shape == (1, 4, 224, 224, 6)
    assert sum(source.per_batch for source in phase_of(name).data.sources.values()) == 16


def test_an_unknown_argument_is_refused():
    with pytest.raises(ValueError, match="'huge' is unknown"):
        importlib.import_module("experiments.configs.qwen2_5_vl_3b").get_config("huge")


@pytest.mark.parametrize("name", PRESETS)
def test_only_the_encoder_is_frozen(name, tmp_path):
    """The merger or projector is trained, the encoder is not."""
    _, params, _ = shapes_of(name, tmp_path, heads=False)
    groups = {path[:2] for path in traverse_util.flatten_dict(params)}
    assert groups == {("backbone", "vision"), ("backbone", "projector"), ("backbone", "language")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl_3b", "internvl3_1b", "llava_next_video_7b", "llava_onevision1_5_4b"])
def test_the_tiny_variant_trains_on_rooms(name, tiny_run, tmp_path):
    """From nothing, a few steps, one head; `test_hf_flow` trains all heads from checkpoints."""
    config = importlib.import_module(f"experiments.configs.{name}").get_config("tiny").phases.finetune
    config.data.sources.train.path = str(tiny_run / "data" / "rooms")
    config.lifting.heads = ("depth",)
    config.losses.update(ray=0.0, points=0.0)
    config.training.update(steps=8, log_every=1)
    train_and_evaluate(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    text = [row["text"] for row in rows if "text" in row]
    assert len(text) == 8 and text[-1] < text[0] - 0.1
    assert load(tmp_path / "run").processor.family == PRESETS[name]["family"]


@pytest.mark.slow
def test_any_resolution_pictures_train(tiny_run, tmp_path):
    """LLaVA-NeXT-Video with pictures in tiles instead of frames; samples of fewer views are padded by whole tiles."""
    config = importlib.import_module("experiments.configs.llava_next_video_7b").get_config("tiny").phases.finetune
    config.data.sources.train.update(path=str(tiny_run / "data" / "rooms"), views=0)
    config.data.update(views=4, question_tokens=200)
    config.vision.image_size = (56, 112)
    config.lifting.heads = ("depth",)
    config.losses.update(ray=0.0, points=0.0)
    config.training.update(steps=2, log_every=1)
    train_and_evaluate(config, tmp_path / "run")
    loaded = load(tmp_path / "run")
    assert loaded.processor.image_size == (56, 112)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["total"]) for row in rows) and rows[-1]["gradient_norm/all"] > 0
    evaluation = evaluate_run(str(tmp_path / "run"), out=str(tmp_path / "evaluation"), max_scenes=1, report=False)
    assert (
        evaluation["questions"]["n"] > 0 and evaluation["depth"]["model"]["none"]["n"] == 1
    )  # black pictures have tiles too
