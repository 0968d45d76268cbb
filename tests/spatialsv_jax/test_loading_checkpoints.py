"""`spatialsv_jax.load` of Hugging Face folders: answers, draws, splitting over devices."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import spatialsv_jax
from data_pipelines.packing import QuestionSet
from data_pipelines.records import Question
from experiments.evaluate import evaluate_run
from spatialsv_jax import loading
from spatialsv_jax.generation import decoding
from spatialsv_jax.training.sharding import MeshConfig

GOLDEN = Path(__file__).parents[1] / "goldens/internvl3"
PICTURES = [np.full((50, 90, 3), 90, np.uint8), np.full((30, 30, 3), 200, np.uint8)]
QUESTIONS = ["Where is the lamp?", "How far is it from <view:1>?"]


@pytest.fixture(scope="module")
def loaded():
    return spatialsv_jax.load(GOLDEN)


def test_draws_depend_on_the_seed_alone(loaded):
    one, same, other = (loaded.answer(PICTURES, QUESTIONS, 8, temperature=1.5, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


def test_a_model_without_heads_says_so(loaded):
    with pytest.raises(ValueError, match=r"trained without the heads \['depth', 'points', 'ray'\]"):
        loaded.reconstruct(PICTURES)


def test_split_over_devices_it_answers_the_same(loaded):
    split = spatialsv_jax.load(GOLDEN, MeshConfig(data=1, fsdp=4, tensor=2))
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(split.params))
    assert split.answer(PICTURES, QUESTIONS, 8) == loaded.answer(PICTURES, QUESTIONS, 8)


def test_a_folder_that_one_device_cannot_hold_goes_over_all_of_this_process(loaded, monkeypatch):
    monkeypatch.setattr(loading, "_device_memory", lambda: sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.params)))
    split = spatialsv_jax.load(GOLDEN)
    assert dict(split.mesh.shape)["fsdp"] == len(jax.local_devices())
    assert split.answer(PICTURES, QUESTIONS, 8) == loaded.answer(PICTURES, QUESTIONS, 8)


def test_views_are_named_and_stop_tokens_read(loaded):
    processor = loaded.processor
    text = processor.tokenizer.decode(processor.encode_question(QUESTIONS[1]).tokens.tolist())
    assert "image 2" in text
    assert processor.stop_ids[0] == processor.end_id


def test_evaluating_a_folder_of_others_needs_data_and_a_place_for_results():
    before = set(GOLDEN.iterdir())
    with pytest.raises(ValueError, match="give --data and --out"):
        evaluate_run(str(GOLDEN), None, "test", None)
    assert set(GOLDEN.iterdir()) == before


def test_temperatures_and_pictures_of_other_kinds(loaded):
    for temperature in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature is"):
            loaded.answer(PICTURES, QUESTIONS, 8, temperature=temperature)
    opened = [Image.fromarray(picture) for picture in PICTURES]
    assert loaded.answer(opened, QUESTIONS, 8) == loaded.answer(PICTURES, QUESTIONS, 8)


def test_a_training_batch_of_a_conversation_is_asked_its_first_question(loaded):
    """Answers, and what comes behind the first of them, are no part of the prompt."""
    asked = Question("q", "t", "spatial", "word", QUESTIONS[0], "red", turns=(("And now?", "blue"), ("Sure?", "yes")))
    fields = QuestionSet([asked], "r", 160, 24, loaded.processor.pad_id).pack(np.array([0]), 1, loaded.processor)
    plain = loaded.inputs(PICTURES, QUESTIONS[:1])
    whole = {**plain, **{name: value[None] for name, value in fields.items()}}
    first, second = (
        decoding.greedy(loaded.model, loaded.params, batch, 8, loaded.processor.stop_ids) for batch in (plain, whole)
    )
    np.testing.assert_array_equal(first, second)
