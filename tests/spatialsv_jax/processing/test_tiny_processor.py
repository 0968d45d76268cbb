"""Processor of the tiny family."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from spatialsv_jax.processing import TinyProcessor, build_tokenizer, load_processor

WORDS = ["what", "colour", "is", "the", "chair", "?", "in", "red", "front-left", "how", "far", "metres"]


@pytest.fixture(scope="module")
def processor():
    return TinyProcessor(build_tokenizer(WORDS), image_size=16, patch_size=4, merge=2)


def test_prefix_layout(processor):
    prefix = processor.encode_prefix(2)
    view, one, two, colon = (processor.tokenizer.token_to_id(word) for word in ("view", "1", "2", ":"))
    image = [processor.image_id] * 4
    assert prefix.tokens.tolist() == [processor.bos_id, view, one, colon, *image, view, two, colon, *image]
    assert prefix.image_token_index.tolist() == [list(range(4, 8)), list(range(11, 15))]
    assert prefix.positions.tolist() == [[i] for i in range(15)]
    assert prefix.question_start == 15
    assert {array.dtype for array in prefix[:3]} == {np.dtype("int32")}
    # Fewer views are the beginning of more views: a prefix can be cut at a view.
    assert processor.encode_prefix(1).tokens.tolist() == prefix.tokens[:8].tolist()


def test_question_answer_and_round_trip(processor):
    encoded = processor.encode_question("What colour is the chair in <view:0>?", "red")
    assert processor.decode(encoded.tokens) == "what colour is the chair in view 1 ? red"
    assert encoded.answer_mask.tolist() == [False] * 9 + [True, True]
    assert encoded.tokens[-1] == processor.end_id
    assert processor.encode_question("the chair").tokens.size == 2
    assert processor.encode_question("the", "front-left").answer_mask.sum() == 2


@pytest.mark.parametrize("number", ["2.4", "12", "10.05", "7"])
def test_numbers_are_digits_and_come_back(processor, number):
    encoded = processor.encode_question("how far ?", number)
    assert encoded.answer_mask.sum() == len(number) + 1
    assert processor.decode(encoded.tokens[encoded.answer_mask]) == number


@pytest.mark.parametrize("text, word", [("what is the chiar ?", "chiar"), ("the <image>", "<image>")])
def test_unknown_and_special_words_are_named(processor, text, word):
    with pytest.raises(ValueError, match=f"'{word}'"):
        processor.encode_question(text)


def test_knows_words_by_their_pieces(processor):
    assert processor.knows("Chair") and processor.knows("3.5") and processor.knows("metres")
    assert not processor.knows("sofa") and not processor.knows("<image>")


def test_sizes_must_divide(processor):
    with pytest.raises(ValueError, match="multiple"):
        TinyProcessor(processor.tokenizer, image_size=20, patch_size=8, merge=2)


def test_decode_stops_at_end_and_refuses_foreign_ids(processor):
    red = processor.tokenizer.token_to_id("red")
    assert processor.decode([processor.bos_id, red, processor.pad_id, processor.end_id, red]) == "red"
    with pytest.raises(ValueError, match="999"):
        processor.decode([999])


def test_ids_do_not_depend_on_the_order_of_words():
    assert build_tokenizer(WORDS).get_vocab() == build_tokenizer(WORDS[::-1] + WORDS).get_vocab()


def test_pixels_range_affine_and_antialias(processor):
    left_white = np.zeros((24, 48, 3), np.uint8)
    left_white[:, :24] = 255
    checker = np.indices((64, 64)).sum(0) % 2 * 255
    fine = np.repeat(checker[..., None], 3, 2).astype(np.uint8)
    values, affine, covered = processor.pixels([left_white, fine], label_size=(6, 8))
    assert values.shape == (2, 16, 16, 3) and values.dtype == np.float32
    assert covered.shape == (2, 6, 8) and covered.all()
    np.testing.assert_allclose(values[0, :, 0], 1.0, atol=1e-6)
    np.testing.assert_allclose(values[0, :, -1], -1.0, atol=1e-6)
    # A pattern finer than the input becomes grey, not stripes.
    assert np.abs(values[1, 2:-2, 2:-2]).max() < 0.1
    # The corners of the label map are the corners of the picture.
    corner = affine[0] @ np.array([8, 6, 1.0])
    np.testing.assert_allclose(corner, [48, 24])
    np.testing.assert_allclose(affine[0] @ np.array([0, 0, 1.0]), 0)


def test_pixels_refuse_other_arrays(processor):
    with pytest.raises(ValueError, match="Picture 0"):
        processor.pixels([np.zeros((4, 4), np.uint8)])
    with pytest.raises(ValueError, match="No picture"):
        processor.pixels([])


def test_call_composes(processor):
    images = [np.zeros((16, 16, 3), np.uint8)] * 2
    messages = [
        {"role": "user", "content": "what is red ?"},
        {"role": "assistant", "content": "the chair"},
        {"role": "user", "content": "how far is the chair ?"},
    ]
    inputs = processor(images, messages, label_size=(4, 4))
    assert [int(question.answer_mask.sum()) for question in inputs.questions] == [3, 0]
    assert inputs.tokens.tolist() == processor.encode_prefix(2).tokens.tolist()
    assert inputs.grid_hw == (2, 2) and inputs.covered.shape == (2, 4, 4)
    with pytest.raises(ValueError, match="Message 0"):
        processor(images, messages[1:])


def test_save_and_load(processor, tmp_path):
    processor.save(tmp_path)
    other = load_processor(tmp_path)
    question = "what is the chair ?"
    assert (
        other.encode_question(question, "red").tokens.tolist()
        == processor.encode_question(question, "red").tokens.tolist()
    )
    assert (other.image_size, other.grid_hw, other.vocab_size) == (16, (2, 2), processor.vocab_size)
    # tokenizer.json stands on its own with the library.
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert plain.encode(question).ids == processor.encode_question(question).tokens.tolist()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        load_processor(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "processor.json"])
@pytest.mark.parametrize("kept", [0, 40])
def test_a_damaged_file_is_named(processor, tmp_path, name, kept):
    processor.save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{tmp_path / name} is"):
        load_processor(tmp_path)
