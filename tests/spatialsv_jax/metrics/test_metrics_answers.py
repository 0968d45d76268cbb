"""Answer scores at the values where VSI-Bench's own code decides bits."""

from __future__ import annotations

import math

import pytest

from spatialsv_jax import metrics


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (2.0, 2.0, 1.0),
        (1.5, 1.0, 0.1),  # an error of exactly 1 - 0.5 still passes
        (1.51, 1.0, 0.0),
        (0.5, 1.0, 0.1),
        (1.05, 1.0, 1.0),  # 0.05000000000000004 against 1 - 0.95 in float64
        (1.1, 1.0, 0.9),
        (1.3, 1.0, 0.5),
        (None, 3.0, 0.0),
        (math.nan, 3.0, 0.0),
        (0.0, 0.0, 1.0),
        (1.0, 0.0, 0.0),
    ],
)
def test_mean_relative_accuracy(prediction, truth, expected):
    assert metrics.mean_relative_accuracy(prediction, truth) == pytest.approx(expected, abs=1e-12)


def test_letters_follow_the_original_rule():
    for text in ("B", "b", "B.", "B because", "B.. "):
        assert metrics.score_answer("letter", text, "B") == 1, text
    for text in ("(B)", "B)", "B,", "Answer: B", "B\nbecause", "", "A"):
        assert metrics.score_answer("letter", text, "B") == 0, text


def test_numbers_follow_the_original_dialect():
    for text, number in (("2.4", 2.4), ("3.", 3.0), ("1e1 m", 10.0), (".5 metres", 0.5), ("two", None), ("", None)):
        assert metrics.parse_number(text) == number, text
    assert metrics.parse_number("about 3") is None and metrics.parse_number("1,250") is None
    assert metrics.score_answer("number", "1.5", "1.0") == pytest.approx(0.1)
    assert metrics.score_answer("number", "none", "1.0") == 0


def test_words_match_exactly():
    for text in ("chair", "Chair", " chair. "):
        assert metrics.score_answer("word", text, "chair") == 1
    for text in ("chairs", "red chair", ""):
        assert metrics.score_answer("word", text, "chair") == 0


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="Unknown answer form 'essay'"):
        metrics.score_answer("essay", "a", "a")
    with pytest.raises(ValueError, match="'two' of a number question"):
        metrics.score_answer("number", "2", "two")
    with pytest.raises(ValueError, match="-1"):
        metrics.mean_relative_accuracy(1.0, -1.0)
