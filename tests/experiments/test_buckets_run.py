"""A run whose records differ in proportions, views and length of questions: one program per bucket, loading, evaluation."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import data_pipelines.rooms
from data_pipelines.records import Question
from experiments.evaluate import evaluate_run
from experiments.prepare import prepare_rooms
from experiments.train import train_and_evaluate
from spatialsv_jax import load
from spatialsv_jax.training import step

sys.path.append(str(Path(__file__).parents[1] / "data_pipelines"))
import loader_fakes as fakes

pytestmark = pytest.mark.slow  # tests/data_pipelines/test_buckets.py has the batches

LONG = "what is to the left of the large table that stands between the window and the door of this room"


def record_of(config, split, index):
    """Squares of one view with short questions, and wide pictures of two with long ones."""
    square = index % 2 == 0
    made = fakes.record(index, views=1 if square else 2, size=(32, 32) if square else (24, 64), questions=0)
    question = Question("q", "name_at", "grounding", "word", "what is it" if square else LONG, "red")
    names = dict(id=f"{split}-{index}", scene=f"{split}-room-{index}")
    return type(made)(**{**vars(made), **names, "questions": (question,)}), {}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, data, how often the step was traced)."""
    root = tmp_path_factory.mktemp("buckets")
    with pytest.MonkeyPatch.context() as patch:
        generate = types.ModuleType("data_pipelines.rooms.generate")
        generate.make_record, generate.GENERATOR_VERSION = record_of, "fake"
        patch.setitem(sys.modules, generate.__name__, generate)
        patch.setattr(data_pipelines.rooms, "generate", generate, raising=False)
        prepare_rooms(
            root / "data", scenes=8, views=2, size=16, validation=1, test=4, ood=0, workers=None, progress=False
        )
        real, count = step.train_step, []
        patch.setattr(step, "train_step", lambda *arguments: count.append(1) or real(*arguments))
        config = importlib.import_module("experiments.configs.qwen2_5_vl_3b").get_config("tiny").phases.finetune
        config.data.sources.train.path = str(root / "data")
        config.data.update(buckets=2, questions=1, question_tokens=200)
        config.training.update(steps=12, log_every=1)
        train_and_evaluate(config, root / "run")
    return root / "run", root / "data", len(count)


def test_the_step_is_traced_once_for_each_bucket(trained):
    run, _, traces = trained
    assert traces == 2
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(12))
    rates = {round(row["tokens_per_s"] * row["step_time_s"]) for row in rows}
    assert len(rates) == 2  # real tokens of a step: both buckets had their turns
    assert all(np.isfinite(row["total"]) for row in rows)


def test_a_trained_model_reconstructs_at_the_size_that_suits_its_pictures(trained):
    loaded = load(trained[0])
    base = loaded.processor.image_size
    assert len(loaded.sizes) == 2 and base in [size.image_size for size in loaded.sizes]
    square = loaded.reconstruct([np.zeros((50, 50, 3), np.uint8)])
    wide = loaded.reconstruct([np.zeros((40, 100, 3), np.uint8), np.zeros((41, 107, 3), np.uint8)])
    height, width = wide.depth.shape[1:]
    assert square.depth.shape[1:] == loaded.label_hw and width > 1.5 * height
    assert wide.images.shape[1:3] == loaded.fitted([(40, 100)]).processor.image_size


def test_evaluation_shows_each_record_at_its_size(trained, tmp_path):
    run, data, _ = trained
    evaluation = evaluate_run(str(run), str(data), out=str(tmp_path), batch_size=2)
    sizes = evaluation["data"]["picture_sizes"]
    assert [size["records"] for size in sizes] == [2, 2]
    assert evaluation["depth"]["model"]["none"]["n"] == evaluation["depth"]["constant"]["none"]["n"] == 4
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines} == {f"test-{index}/q" for index in range(4)}
    assert (tmp_path / "report" / "index.html").is_file()
