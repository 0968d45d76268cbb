"""A batch of prompts with pictures of their own: every answer is that of its row alone."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

import spatialsv_jax
from spatialsv_jax.generation import batching
from spatialsv_jax.loaded_model import LoadedModel
from spatialsv_jax.training.sharding import MeshConfig

GOLDENS = Path(__file__).parents[2] / "goldens"
DRAW = np.random.default_rng(5)
picture = lambda height, width: DRAW.integers(0, 256, (height, width, 3), np.uint8)
# Other numbers and sizes of pictures, other numbers of questions.
ROWS = [
    ([picture(40, 60), picture(90, 30)], ["Where is the lamp?"]),
    ([picture(56, 56)], ["How far is it from the door, in metres, if one walks around the table?", "Is it red?"]),
    ([picture(130, 70), picture(40, 60), picture(40, 60)], ["What is left of <view:1>?", "Why?", "Where?"]),
]


def unending(name, *mesh):
    """The model without an end token, whose answers are its tokens, so that it always says something."""
    loaded = spatialsv_jax.load(GOLDENS / name, *mesh)
    loaded.processor.stop_ids, loaded.processor.decode = (-1,), lambda ids: " ".join(map(str, ids))
    return loaded


@pytest.mark.parametrize("name", ["internvl3", "llava_next_video"])
def test_answers_in_one_batch_are_those_of_each_row_alone(name):
    loaded = unending(name)
    alone = [loaded.answer(images, questions, 8) for images, questions in ROWS]
    assert len({text for row in alone for text in row}) > 1
    assert loaded.answer_rows(ROWS, 8, size=4, most_questions=5) == alone


def test_the_longest_row_must_fit_not_the_padded_batch(monkeypatch):
    loaded = spatialsv_jax.load(GOLDENS / "internvl3")
    checked = []
    monkeypatch.setattr(type(loaded.settings.language), "check_length", lambda self, length: checked.append(length))
    rows = [([picture(56, 56)] * 3, ["Why?"]), ([picture(56, 56)], ["Where is it? " * 9])]
    loaded.answer_rows(rows, 2)
    for row in rows:
        loaded.answer(*row, 2)
    assert checked[0] == max(checked[1:])
    longest = max(loaded.inputs(*row, native=True)["question_tokens"].shape[2] for row in rows)
    prefix = max(loaded.inputs(*row, native=True)["prefix_tokens"].shape[1] for row in rows)
    assert checked[0] < prefix + longest + 2


def test_logits_on_a_common_canvas_are_those_of_each_row_alone():
    """The reference's answers are one token over and over, so the logits are compared: a canvas larger than any picture's."""
    loaded = spatialsv_jax.load(GOLDENS / "qwen2_5_vl")
    made = [loaded.inputs(images, questions, native=True) for images, questions in ROWS]
    first = jax.jit(lambda params, batch: loaded.model.apply({"params": params}, batch, 1, method="prefill")[0])
    together = first(loaded.params, batching.stack(made, loaded.processor.pad_id))
    for place, row in enumerate(made):
        alone = np.asarray(first(loaded.params, row))[0]
        np.testing.assert_allclose(together[place, : len(alone)], alone, atol=1e-4)
    assert np.abs(together[0, 0] - together[1, 0]).max() > 1e-2  # the rows differ by more


def test_rows_are_split_over_a_mesh():
    loaded = unending("internvl3", MeshConfig(data=1, fsdp=4, tensor=2))
    seen = []
    whole = batching.placed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "placed", lambda batch, mesh: seen.append(whole(batch, mesh)) or seen[-1])
        found = loaded.answer_rows(ROWS, 8)
    assert found == unending("internvl3").answer_rows(ROWS, 8)
    pixels = seen[0]["pixel_values"]
    assert pixels.shape[0] == 4 and pixels.sharding.shard_shape(pixels.shape)[0] == 1


def test_frames_of_a_video_are_read_as_one():
    loaded = unending("qwen2_5_vl")
    frames = [picture(56, 56) for _ in range(3)]
    batch = loaded.inputs(frames, ["Where?"], native=True, video_rate=2.0)
    prefix, pixels = loaded.processor.native_video(frames, 2.0)
    np.testing.assert_array_equal(batch["prefix_tokens"][0], prefix.tokens)
    np.testing.assert_array_equal(batch["pixel_values"][0], pixels.pixel_values)
    assert batch["view_valid"].shape == (1, 2)  # pairs of frames, the last one twice
    rows = [(frames, ["Where?"]), (frames[:2], ["Where?", "Who?"])]
    alone = [loaded.answer_rows([row], 8, video_rates=[2.0])[0] for row in rows]
    assert loaded.answer_rows(rows, 8, video_rates=[2.0, 2.0]) == alone


def test_a_family_without_videos_says_so():
    bare = type("Bare", (), {})()
    with pytest.raises(ValueError, match="reads no videos"):
        LoadedModel.inputs(type("Other", (), {"processor": bare})(), [picture(8, 8)], ["x"], video_rate=1.0)


def test_stacking_pads_at_the_end_and_masks():
    loaded = spatialsv_jax.load(GOLDENS / "qwen2_5_vl")
    made = [loaded.inputs(images, questions, native=True) for images, questions in ROWS]
    batch = batching.stack(made, loaded.processor.pad_id, 5, 4)
    assert {len(value) for value in batch.values()} == {5}
    for place, row in enumerate(made):
        length, (asked, tokens) = row["prefix_tokens"].shape[1], row["question_tokens"].shape[1:]
        np.testing.assert_array_equal(batch["prefix_tokens"][place, :length], row["prefix_tokens"][0])
        assert batch["prefix_mask"][place].sum() == length
        np.testing.assert_array_equal(batch["question_tokens"][place, :asked, :tokens], row["question_tokens"][0])
        assert batch["question_valid"][place].sum() == asked == len(ROWS[place][1])
        views = row["view_valid"].shape[1]
        assert batch["view_valid"][place].sum() == views and not batch["view_valid"][place, views:].any()
        # Every real token of the common canvas is the token of its own one, at the same row and column.
        unit = loaded.processor.pictures.unit
        wide, own = batch["pixel_values"].shape[-2] // unit, row["pixel_values"].shape[-2] // unit
        valid = row.get("feature_valid", np.ones(row["image_token_index"].shape, bool))[0]
        for view, cell in zip(*np.nonzero(valid), strict=True):
            there = cell // own * wide + cell % own
            assert batch["feature_valid"][place, view, there]
            assert batch["image_token_index"][place, view, there] == row["image_token_index"][0, view, cell]
        assert batch["feature_valid"][place].sum() == valid.sum()
    assert not batch["question_valid"][3:].any()
