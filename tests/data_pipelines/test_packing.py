"""Question slots, masks and limits."""

from __future__ import annotations

from pathlib import Path

import loader_fakes as fakes
import numpy as np
import pytest

from data_pipelines.packing import QuestionSet, choose_questions, pack_prefix, question_prompt
from data_pipelines.records import Question
from spatialsv_jax.backbones.llava_next_video.model import VisionConfig
from spatialsv_jax.processing.internvl3 import InternVL3Processor
from spatialsv_jax.processing.llava_next_video import LlavaNextVideoProcessor

PROCESSOR = fakes.processor()
GOLDENS = Path(__file__).parents[1] / "goldens/internvl3"


def question(name: str, text: str, answer: str, **changes) -> Question:
    return Question(**{**dict(id=name, type="t", group="spatial", form="word", text=text, answer=answer), **changes})


def test_masks_and_positions_of_packed_questions():
    asked = [
        question("a", "what is red", "chair"),
        question("b", "is table near 2.4", "1.5"),
        question("c", "what", "no"),
    ]
    packed = QuestionSet(asked, "r", 12, 5, PROCESSOR.pad_id).pack(np.array([2, 1]), 4, PROCESSOR)
    for slot, text, answer in ((0, "what", "no"), (1, "is table near 2.4", "1.5")):
        tokens, length = packed["question_tokens"][slot], packed["question_mask"][slot].sum()
        assert packed["question_mask"][slot, :length].all() and packed["question_valid"][slot]
        asked_tokens = tokens[:length][~packed["answer_mask"][slot, :length]]
        answered = tokens[packed["answer_mask"][slot]]
        assert PROCESSOR.decode(asked_tokens) == text
        assert answered[-1] == PROCESSOR.end_id and PROCESSOR.decode(answered[:-1]) == answer
        positions = packed["answer_positions"][slot][packed["answer_valid"][slot]]
        np.testing.assert_array_equal(positions, np.flatnonzero(packed["answer_mask"][slot]))
        np.testing.assert_array_equal(tokens[positions], answered)
        assert (tokens[length:] == PROCESSOR.pad_id).all() and positions.min() >= 1
    for name in ("question_mask", "answer_mask", "question_valid", "answer_valid", "answer_positions"):
        assert not packed[name][2:].any(), name
    assert (packed["question_tokens"][2:] == PROCESSOR.pad_id).all()
    assert not packed["answer_positions"][~packed["answer_valid"]].any()


def test_options_are_part_of_what_the_model_reads():
    lettered = question("a", "what is it ?", "B", form="letter", options=("red chair", "table"))
    assert question_prompt(lettered) == "what is it ? A . red chair B . table"


def test_tokenising_is_done_once():
    calls = []

    class Counting:
        option_form = PROCESSOR.option_form

        pad_id = PROCESSOR.pad_id

        def encode_question(self, text, answer):
            calls.append(text)
            return PROCESSOR.encode_question(text, answer)

    questions = QuestionSet([question("a", "red", "no"), question("b", "blue", "no")], "r", 6, 3, 0)
    first = questions.pack(np.array([1]), 2, Counting())
    again = questions.pack(np.array([1]), 2, Counting())
    assert calls == ["blue"]
    np.testing.assert_array_equal(first["question_tokens"], again["question_tokens"])


def test_limits_name_record_question_setting_and_need():
    asked = [question("a", "what is red and blue", "no"), question("b", "what", "1.25"), question("c", "what", "zebra")]
    questions = QuestionSet(asked, "room7", 6, 3, PROCESSOR.pad_id)
    with pytest.raises(ValueError, match=r"'room7', question 'a' needs 7 tokens.*question_tokens is 6"):
        questions.pack(np.array([0]), 2, PROCESSOR)
    with pytest.raises(ValueError, match=r"'room7', question 'b': its answer '1.25' needs 5.*answer_tokens is 3"):
        questions.pack(np.array([1]), 2, PROCESSOR)
    with pytest.raises(ValueError, match=r"'room7', question 'c': The word 'zebra'"):
        questions.pack(np.array([2]), 2, PROCESSOR)


def test_choice_fills_the_slots_with_different_questions():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(choose_questions(3, 5, rng), [0, 1, 2])
    seen = np.zeros(9, int)
    for _ in range(600):
        choice = choose_questions(9, 4, rng)
        assert len(set(choice.tolist())) == 4
        seen[choice] += 1
    expected = 600 * 4 / 9
    assert np.abs(seen - expected).max() < 4 * np.sqrt(expected * 5 / 9)


def test_prefix_of_fewer_views_is_padded():
    full = PROCESSOR.encode_prefix(3)
    packed = pack_prefix(PROCESSOR.encode_prefix(2), 3, len(full.tokens), 3, PROCESSOR.pad_id)
    own = len(PROCESSOR.encode_prefix(2).tokens)
    np.testing.assert_array_equal(packed["prefix_tokens"][:own], full.tokens[:own])
    assert (packed["prefix_tokens"][own:] == PROCESSOR.pad_id).all()
    np.testing.assert_array_equal(np.flatnonzero(packed["prefix_mask"]), np.arange(own))
    assert packed["question_start"] == own and packed["question_start"].dtype == np.int32
    np.testing.assert_array_equal(packed["image_token_index"][:2], full.image_token_index[:2])
    assert not packed["image_token_index"][2].any()


def test_slots_of_tiles_are_padded_too(tmp_path):
    """Any-resolution pictures: X pictures of R features fill slots, more than there are views."""
    vision = VisionConfig(image_size=(16, 32), tile_size=16, patch_size=4, pool=2)
    processor = LlavaNextVideoProcessor.from_scratch(tmp_path, vision)
    full, one = processor.encode_prefix(3), processor.encode_prefix(1)
    tiles = len(full.feature_slots)
    assert (
        tiles == 3 * len(one.feature_slots) == len(processor.pixels([np.zeros((9, 9, 3), np.uint8)] * 3).pixel_values)
    )
    packed = pack_prefix(one, 3, len(full.tokens), tiles, processor.pad_id)
    own = len(one.feature_slots)
    np.testing.assert_array_equal(packed["feature_slots"][:own], one.feature_slots)
    np.testing.assert_array_equal(packed["feature_valid"][:own], one.feature_valid)
    assert packed["feature_valid"].shape == full.feature_valid.shape and not packed["feature_valid"][own:].any()


def conversation() -> Question:
    later = (("and now ?", "blue"), ("sure ?", "yes"))
    return question("c", "what colour ?", "red", turns=later)


def test_a_conversation_is_one_question_with_several_answers():
    processor = InternVL3Processor.from_checkpoint(GOLDENS)
    packed = QuestionSet([conversation()], "r", 120, 24, processor.pad_id).pack(np.array([0]), 2, processor)
    tokens = packed["question_tokens"][0][packed["question_mask"][0]]
    turn = "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}"
    text = (
        "\nwhat colour ?<|im_end|>\n<|im_start|>assistant\nred"
        + turn.format("and now ?", "blue")
        + turn.format("sure ?", "yes")
    )
    assert tokens.tolist() == processor.encode(text + "<|im_end|>")
    # Each answer and its end token are learned, and nothing else.
    runs = np.flatnonzero(packed["answer_mask"][0])
    parts = np.split(runs, np.flatnonzero(np.diff(runs) > 1) + 1)
    said = [processor.tokenizer.decode(tokens[part].tolist(), skip_special_tokens=False) for part in parts]
    assert said == ["red<|im_end|>", "blue<|im_end|>", "yes<|im_end|>"]
    valid = packed["answer_valid"][0]
    np.testing.assert_array_equal(packed["answer_positions"][0][valid], runs)
    assert not packed["answer_positions"][0][~valid].any() and not packed["answer_mask"][1].any()
    with pytest.raises(ValueError, match="question 'c': .*answer_tokens is 3; raise it"):
        QuestionSet([conversation()], "r", 120, 3, processor.pad_id).pack(np.array([0]), 1, processor)
