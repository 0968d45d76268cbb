"""LLaVA-OneVision-1.5 against numbers of its published code (tests/goldens/llava_onevision1_5_published/README.md)."""

import dataclasses
import functools
import json
from pathlib import Path

import family_runs as runs
import numpy as np
import pytest

from spatialsv_jax.interop.hub import import_parameters, open_checkpoint, parameter_shapes
from spatialsv_jax.interop.tensor_files import ConversionError
from spatialsv_jax.model import LiftingConfig, SpatialMLLM
from spatialsv_jax.processing.grid_pictures import GridPictures

PUBLISHED = Path(__file__).parents[2] / "goldens/llava_onevision1_5_published"
PICTURES = GridPictures(image_size=(56, 56), patch_size=14, merge=2, min_pixels=3136, max_pixels=1600 * 1600)
IMAGE, VIDEO = 190, 191


@functools.cache
def cases():
    with np.load(PUBLISHED / "cases.npz") as file:
        return dict(file)


@functools.cache
def model(published_slicing=False):
    checkpoint = open_checkpoint(PUBLISHED)
    vision = dataclasses.replace(checkpoint.vision, published_slicing=published_slicing)
    module = SpatialMLLM(vision, checkpoint.language, LiftingConfig(heads=()), checkpoint.family)
    batch = batch_of(cases()["single_input_ids"][0], [cases()["single_image_0"]])
    params, conversion, _ = import_parameters(checkpoint, parameter_shapes(module, batch))
    assert not conversion.new and not conversion.carried
    return runs.Imported(module, params, None, conversion, None)


def batch_of(tokens, pictures):
    """A batch of one row: everything up to the last picture's end is the prefix."""
    sizes = [PICTURES.native_size(*picture.shape[:2]) for picture in pictures]
    grids = [PICTURES.grid(size) for size in sizes]
    rows, columns = (max(grid[axis] for grid in grids) for axis in range(2))
    places = np.flatnonzero((tokens == IMAGE) | (tokens == VIDEO))
    index, valid = np.zeros((2, len(grids), rows, columns), np.int32)
    start = 0
    for view, (height, width) in enumerate(grids):
        index[view, :height, :width] = places[start : start + height * width].reshape(height, width)
        valid[view, :height, :width] = 1
        start += height * width
    assert start == len(places)
    end = int(places[-1]) + 2
    asked = len(tokens) - end
    batch = {
        "prefix_tokens": tokens[:end],
        "prefix_mask": np.ones(end, bool),
        "prefix_positions": np.arange(end, dtype=np.int32)[:, None],
        "question_start": np.int32(end),
        "question_tokens": tokens[None, end:],
        "question_mask": np.ones((1, asked), bool),
        "question_valid": np.ones(1, bool),
        "answer_mask": np.zeros((1, asked), bool),
        "answer_positions": np.zeros((1, 1), np.int32),
        "pixel_values": PICTURES.canvas(pictures, sizes).pixel_values,
        "image_token_index": index.reshape(len(grids), -1),
        "feature_valid": valid.reshape(len(grids), -1).astype(bool),
        "view_valid": np.ones(len(grids), bool),
    }
    return {name: np.asarray(value)[None] for name, value in batch.items()}


def pictures_of(case, row=0):
    found = cases()
    if case == "video":
        return list(found["video_frames"])
    shown = {"two": (0, 1), "published": (0, 1), "single": (0,)}.get(case, ((0, 1), (2,))[row])
    source = "two" if case in ("published", "batch") else case
    return [found["batch_image_2"] if number == 2 else found[f"{source}_image_{number}"] for number in shown]


def check(case, row=0, real=None, of=None):
    found, tokens = of or model(), cases()[f"{'two' if case == 'published' else case}_input_ids"][row]
    real = slice(None) if real is None else real
    batch = batch_of(tokens[real], pictures_of(case, row))
    features, states, logits = runs.every_state(found, batch)
    hidden = cases()[f"{case}_hidden_states"][:, row][:, real]
    np.testing.assert_allclose(states, hidden, atol=1e-4)
    np.testing.assert_allclose(logits, cases()[f"{case}_logits"][row][real], atol=1e-4)
    if case != "batch":
        np.testing.assert_allclose(features[batch["feature_valid"][0]], cases()[f"{case}_vision_merged"], atol=1e-4)
    return found, batch


@pytest.mark.parametrize("case", ["single", "two"])
def test_pictures_and_eight_greedy_tokens(case):
    found, batch = check(case)
    assert runs.greedy(found, batch, 8)[0].tolist() == cases()[f"{case}_greedy_ids"].tolist()


def test_a_padded_batch():
    for row in range(2):
        check("batch", row, cases()["batch_attention_mask"][row] == 1)


def test_a_video_has_a_class_token_for_every_frame():
    check("video")


def test_the_published_files_slicing_is_an_option():
    found, batch = check("published", of=model(published_slicing=True))
    assert runs.greedy(found, batch, 8)[0].tolist() == cases()["published_greedy_ids"].tolist()
    # One picture is right either way; with two the option matters.
    check("single", of=model(published_slicing=True))
    assert np.abs(cases()["published_logits"] - cases()["two_logits"]).max() > 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vision_config": {"temporal_patch_size": 2}}, "temporal_patch_size is 2, supported: 1"),
        ({"vision_config": {"text_hidden_size": 8}}, "text_hidden_size is 8, the text model's hidden_size 64"),
        ({"text_config": {"model_type": "qwen2"}}, "model_type is 'qwen2', supported"),
        ({"surprise": 1}, "unknown field 'surprise'"),
    ],
)
def test_what_is_not_built_is_named(tmp_path, change, message):
    values = json.loads((PUBLISHED / "config.json").read_text())
    for key, value in change.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConversionError, match=message):
        open_checkpoint(tmp_path)
