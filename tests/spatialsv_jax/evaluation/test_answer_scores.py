"""Scores per type, chance, habit, blind run and gains on answers whose result is known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spatialsv_jax.evaluation import answer_scores


def _row(scene, truth, prediction, blind=None, form="word", kind="colour_at", group="grounding", options=()):
    score = answer_scores.score(form, prediction, truth)
    hidden = None if blind is None else float(answer_scores.score(form, blind, truth))
    return {
        "scene": scene, "question_type": kind, "group": group, "form": form, "options": options,
        "ground_truth": truth, "prediction": prediction, "correct": score, "blind": hidden,
    }  # fmt: skip


def test_word_letter_and_number_are_scored_by_their_own_rule():
    assert answer_scores.score("word", "Red ", "red") is True
    assert answer_scores.score("word", "reddish", "red") is False
    assert answer_scores.score("letter", "b.", "B") is True
    assert answer_scores.score("letter", "(B)", "B") is False  # as the reference scores it
    assert answer_scores.score("number", "3.0", "2.0") == pytest.approx(0.1)  # 1 - 0.5 <= 0.5 passes one threshold
    assert answer_scores.score("number", "2.0", "2.0") == 1.0
    assert answer_scores.score("number", "many", "2.0") == 0.0
    with pytest.raises(ValueError, match="form 'essay'"):
        answer_scores.score("essay", "a", "b")


def test_entry_holds_accuracy_beside_chance_habit_and_blind_run():
    rows = [
        _row("a", "red", "red", "red"),
        _row("a", "blue", "red", "red"),
        _row("b", "red", "red", "green"),
        _row("b", "green", "green", "green"),
    ]
    summary = answer_scores.summarise(rows)
    entry = summary["types"]["colour_at"]
    assert entry["accuracy"] == 0.75 and entry["n"] == 4 and entry["scenes"] == 2
    assert entry["chance"] == pytest.approx(1 / 3)
    assert entry["most_frequent"] == {"answer": "red", "accuracy": 0.5}
    assert entry["blind"]["value"] == 0.5
    assert entry["gain_over_blind"]["value"] == 0.25 and entry["gain_over_most_frequent"]["value"] == 0.25
    low, high = entry["interval_95"]
    assert 0 <= low < 0.75 < high <= 1
    assert summary["micro"]["value"] == 0.75 and summary["groups"]["grounding"]["n"] == 4


def test_numbers_are_kept_out_of_the_accuracies():
    rows = [
        _row("a", "red", "red"),
        _row("a", "2.0", "2.0", form="number", kind="distance", group="spatial"),
        _row("b", "4.0", "2.2", form="number", kind="distance", group="spatial"),
    ]
    summary = answer_scores.summarise(rows)
    assert summary["micro"] == {"value": 1.0, "interval_95": None, "standard_error": None, "n": 1, "scenes": 1}
    assert summary["number_questions"] == 2 and summary["macro"] == {"value": 1.0, "types": 1}
    entry = summary["types"]["distance"]
    assert entry["metric"] == "mra" and entry["chance"] is None and "accuracy" not in entry
    assert entry["mra"] == pytest.approx((1.0 + 0.2) / 2)  # |2.2 - 4| / 4 = 0.45 passes 0.5 and 0.45
    assert entry["most_frequent"]["answer"] == "2.0"
    assert summary["types"]["colour_at"]["blind"]["n"] == 0


def test_a_type_asked_in_two_forms_stands_twice():
    rows = [
        _row("a", "red", "red"),
        _row("a", "B", "A", form="letter", options=("x", "y", "z", "w")),
        _row("b", "B", "B", form="letter", options=("x", "y")),
    ]
    types = answer_scores.summarise(rows)["types"]
    assert sorted(types) == ["colour_at (letter)", "colour_at (word)"]
    assert types["colour_at (letter)"]["chance"] == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_nothing_asked_is_defined():
    summary = answer_scores.summarise([])
    assert summary["n"] == 0 and summary["micro"]["value"] is None and summary["types"] == {}
    assert summary["macro"] == {"value": None, "types": 0}


def test_micro_and_macro_differ_as_they_should():
    rows = [_row("a", "red", "red")] * 9 + [_row("b", "left", "right", kind="side")]
    summary = answer_scores.summarise(rows)
    assert summary["micro"]["value"] == pytest.approx(0.9) and summary["macro"]["value"] == pytest.approx(0.5)
    assert np.isfinite(summary["micro"]["interval_95"]).all()
