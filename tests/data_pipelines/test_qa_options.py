"""Options that questions list, and answers that are or are not one of them, in every form of question file."""

from __future__ import annotations

import json

import pytest

from data_pipelines.manifest import PrepareError
from data_pipelines.sources import llava, messages
from data_pipelines.sources.posed.questions import scene_questions
from data_pipelines.sources.posed.scene import Scene, View
from data_pipelines.sources.qa.options import listed_options, split_options
from data_pipelines.sources.qa.problems import RowError

LINES = "Which?\nA. red\nB. blue"
LISTS = [
    LINES, "Which? A. red B. blue", "Which? A. red, B. blue.", "Which?\n(A)red (B)blue", "Which? (A)red(B)blue", "Pick: A) red B) blue",
    "Options: A: red B: blue", "Which?\nA) red\nB) blue\nAnswer with the letter.", "Choose. A. red B. blue", "A. red\nB. blue\nWhich?",
    "Which?\nA. red B. blue\nSay the letter (A or B).",
]  # fmt: skip
RIGHT = {  # answer -> what the record holds
    "A": ("A", "letter"), "b": ("B", "letter"), "(B)": ("B", "letter"), "B.": ("B", "letter"), "B. blue": ("B", "letter"),
    "(b) Blue.": ("B", "letter"), "blue": ("blue", "word"), "The box is blue.": ("The box is blue.", "word"),
    "A and B": ("A and B", "word"), "So the answer is B.": ("So the answer is B.", "word"),
    "ANSWER: B": ("ANSWER: B", "word"), "B.\nIt stands there.": ("B.\nIt stands there.", "word"),
    "B\nIt stands there.": ("B\nIt stands there.", "word"),
}  # fmt: skip
WRONG = [
    "C", "c", "D.", "C. green", "A. blue", "purple", "It is purple.", "A and B and E", "The answer is C", "B. because", "<answer>D</answer>", "3", "C\nIt stands there.",
]  # fmt: skip


def asked(form, question, answer, **fields):
    """(answer, form, options) of a row of a form."""
    if form == "questions.json":
        return in_a_scene(question, answer, **fields)
    names = ("from", "value", "human", "gpt") if form is llava else ("role", "content", "user", "assistant")
    said = [{names[0]: role, names[1]: text} for role, text in zip(names[2:], (question, answer), strict=True)]
    row = form.SOURCE.make.__self__.form.row(
        {"conversations" if form is llava else "messages": said, **fields}, form.Settings()
    )
    return row.turns[0][1], row.form, row.options


def in_a_scene(question, answer, folder=None, **fields):
    folder.mkdir(exist_ok=True)
    (folder / "questions.json").write_text(json.dumps([{"question": question, "answer": answer, **fields}]))
    ((_, found),) = scene_questions(Scene("lab", str(folder), (View(0, "0"), View(1, "1"))))
    return found.answer, found.form, found.options


FORMS = [llava, messages, "questions.json"]
REFUSED = (RowError, PrepareError)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("question", LISTS)
def test_answers_are_options_or_mistakes(form, question, tmp_path):
    place = {"folder": tmp_path} if form == "questions.json" else {}
    for answer, (stored, kind) in RIGHT.items():
        assert asked(form, question, answer, **place) == (stored, kind, ())
    for answer in WRONG:
        with pytest.raises(REFUSED, match="is none of the options"):
            asked(form, question, answer, **place)


@pytest.mark.parametrize("question", [
    "Where?\nA. red\nA. blue", "Where? A. red, A. blue", "Where?\nA. red\nB. red", "Where?\nA. \nB. blue", "Where? A. B. blue",
    "Where?\nA. red\nC. blue", "Where? A. left. B. right. D. down", "Who? A. Mr. B. Smith B. Dr. C. Jones", "Where? A. x C. y B. z",
    "Choose: A. red A. red", "Choose: A. red C. blue",
])  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
def test_lists_that_cannot_be_read_are_mistakes(form, question, tmp_path):
    place = {"folder": tmp_path} if form == "questions.json" else {}
    with pytest.raises(REFUSED, match=r"options by the letters|lists options|empty or equal options"):
        asked(form, question, "A", **place)


@pytest.mark.parametrize("question", [
    "Compare (A) and (B). Which is larger?", "Who wrote vitamin A. B. Jones or C. Smith?", "A. Smith met B. Jones. Who came first?",
    "Was it at 5 A.M. or in 50 B.C.?", "Stand at point A: the door is behind. Point B: ahead. Which way?", "Where?\nA. is alone",
])  # fmt: skip
def test_letters_that_begin_no_option(question):
    assert listed_options(question, "q") is None
    assert asked(llava, question, "To the left of the door, I think.")[1] == "word"


@pytest.mark.parametrize("form", FORMS)
def test_options_of_a_field(form, tmp_path):
    place = {"folder": tmp_path} if form == "questions.json" else {}
    for options in (["red", "blue"], ["A. red", "B. blue"]):
        for answer in ("B", "blue", "B. blue"):
            assert asked(form, "Which?", answer, options=options, **place) == ("B", "letter", ("red", "blue"))
    assert asked(form, LINES, "blue", options=["red", "blue"], **place) == ("B", "letter", ())  # they stand in the text
    for options, reason in (
        (["red", "green"], r"is \['red', 'green'\], the question lists \['red', 'blue'\]"),
        (["red", "red"], "2 to 26 different texts"),
        (["red"], "2 to 26 different texts"),
        ({"A": "red"}, "2 to 26 different texts"),
    ):
        with pytest.raises(REFUSED, match=reason):
            asked(form, LINES, "B", options=options, **place)
    with pytest.raises(REFUSED, match="'purple' is none of the options"):
        asked(form, "Which?", "purple", options=["red", "blue"], **place)


def test_every_turn_is_checked():
    said = [("human", LINES), ("gpt", "B. blue"), ("human", "And now?\nA. up\nB. down"), ("gpt", "C")]
    row = {"conversations": [{"from": role, "value": text} for role, text in said]}
    make = llava.SOURCE.make.__self__.form.row
    with pytest.raises(RowError, match=r"'conversations\[3\].value': 'C' is none of the options \['A', 'B'\]"):
        make(row, llava.Settings())
    row["conversations"][3]["value"] = "a"
    found = make(row, llava.Settings())
    assert [answer for _, answer in found.turns] == ["B", "A"] and found.form == "letter"
    assert found.notes.count("answers_as_letters") == 2


@pytest.mark.parametrize("read, listing", [
    (lambda text: split_options(text, "q")[1], "Which? A. {}, B. {} ; C. up, then left,"),
    (lambda text: listed_options(text, "q").texts, "Which? (A) {}, (B) {} ; (C) up, then left,"),
])  # fmt: skip
def test_a_separator_on_one_line_is_no_part_of_an_option(read, listing):
    assert read(listing.format("red", "blue")) == ("red", "blue", "up, then left")
    with pytest.raises(RowError, match="equal options"):
        read(listing.format("red", "red"))


def test_options_on_lines_of_their_own_keep_what_ends_them():
    assert listed_options("Which mark?\nA. ,\nB. ;", "q").texts == (",", ";")
    assert listed_options("Which code?\nA. x = 1;\nB. x = 1", "q").texts == ("x = 1;", "x = 1")


@pytest.mark.parametrize("text", [
    "Who lives here? A. Mr. B. Smith B. Dr. C. Jones", "Which way? A. left. B. right. D. down", "Where? A. x C. y B. z", "Where? A. x A. y B. z",
])  # fmt: skip
def test_mindcubes_options_are_not_guessed(text):
    with pytest.raises(RowError, match="expected A, B, ... once each") as error:
        split_options(text, "question")
    assert error.value.kind == "ambiguous_options"
