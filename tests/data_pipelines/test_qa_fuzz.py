"""Whatever stands in a question file: a row comes out that makes sense, or a reason; never anything else."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.sources import llava, messages, mindcube
from data_pipelines.sources.posed.questions import question_of
from data_pipelines.sources.posed.scene import Scene, View
from data_pipelines.sources.qa.files import entries, mapping, reread
from data_pipelines.sources.qa.problems import RowError
from data_pipelines.sources.qa.rows import TAG, Row

FORMS = {"llava": llava, "messages": messages, "mindcube": mindcube}
KEYS = [
    "id", "image", "images", "video", "videos", "conversations", "messages", "from", "value", "role", "content", "type", "text",
    "question", "options", "gt_answer", "scene_name", "start", "end", "spar_info", "red_point", "blue_bbox", "point_img_idx",
    "image_url", "url", "question_type", "answer", "views", "loss", "start_frame", "end_frame",
]  # fmt: skip
words = st.sampled_from([
    "<image>", "<video>", "human", "gpt", "user", "assistant", "system", "a.jpg", "../x", "", " ", "A", "B", "Where? A. x B. y",
    "<|im_end|>", "text", "\0", "\ud800", "9", "{}", "data:,", "<view:0>", "<image>\nWhich?\nA. one\nB. two", "around_1",
])  # fmt: skip
texts = words | st.lists(words, max_size=4).map("".join) | st.text(max_size=12)
leaves = st.none() | st.booleans() | st.integers(-5, 2000) | st.floats() | texts
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | texts, inner, max_size=6),
    max_leaves=25,
)
turn = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "system", "robot"]), "value": texts | leaves},
) | st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": texts | values},
)  # fmt: skip
likely = st.fixed_dictionaries(
    {"conversations": st.lists(turn, max_size=5), "messages": st.lists(turn, max_size=5)},
    optional={
        "image": texts | st.lists(texts, max_size=3), "images": st.lists(texts, max_size=3) | values, "video": texts, "videos": values,
        "id": leaves, "question": texts, "gt_answer": texts, "spar_info": texts | values, "red_point": values, "start": leaves,
        "end": leaves,
    },
)  # fmt: skip


option_texts = st.sampled_from(
    ["red", "blue", "a red box", "Mr. B. Smith", "left of <image>", "", "3", "B", "up, then left"]
)


@st.composite
def choices(draw):
    """(question, answer) of a list of options in some style, right or wrong."""
    own = draw(st.lists(option_texts, min_size=1, max_size=4))
    letters = draw(st.sampled_from(["ABCD", "ABCD", "ABCD", "abcd", "AABC", "ACBD", "ABDE"]))
    style = draw(st.sampled_from(["{}. {}", "({}) {}", "({}){}", "{}) {}", "{}: {}"]))
    between = draw(st.sampled_from(["\n", " ", ", "]))
    listed = between.join(style.format(letter, text) for letter, text in zip(letters, own, strict=False))
    said = draw(
        st.sampled_from(
            ["{0}", "{0}.", "({0})", "{0}. {1}", "{1}", "It is {1}.", "{0} and {2}", "The answer is {0}", "purple"]
        )
    )
    letter, text, other = draw(st.sampled_from("ABCDEab")), draw(option_texts), draw(st.sampled_from("ABCDE"))
    return draw(st.sampled_from(["Which?", "Choose:", "Options:"])) + draw(
        st.sampled_from(["\n", " "])
    ) + listed, said.format(letter, text, other)


@st.composite
def nearly_right(draw):
    """Rows that mostly can be used: turns in order, a few pictures, about as many tags."""
    said = st.lists(
        st.sampled_from(["<image>", "<image>", "<video>", " where? ", "A. x\nB. y", "</s>", "A"]),
        min_size=1,
        max_size=4,
    )
    free = st.tuples(said.map("".join), said.map("".join) | leaves)
    pairs = draw(st.lists(free | choices(), min_size=1, max_size=3))
    roles = draw(st.sampled_from([("human", "gpt", "from", "value"), ("user", "assistant", "role", "content")]))
    turns = [{roles[2]: role, roles[3]: text} for pair in pairs for role, text in zip(roles, pair, strict=False)]
    pictures = draw(st.lists(st.sampled_from(["a.jpg", "b/c.png", "data:image/png;base64,AA=="]), max_size=3))
    row = {
        "conversations": turns,
        "messages": turns,
        "images": pictures,
        "id": draw(st.sampled_from(["among_1", 3, None])),
    }
    row |= {"question": pairs[0][0], "answer": pairs[0][1], "views": draw(st.sampled_from([[], [0], [1, 0]]))}
    if draw(st.booleans()):
        row["options"] = draw(st.lists(option_texts, max_size=3))
    row["gt_answer"] = draw(st.sampled_from("ABC"))
    if draw(st.booleans()):
        row["question"] = "Where? A. x B. y"
    broken = draw(st.sampled_from(["", "", "", *row]))
    return row | ({broken: draw(values)} if broken else {})


def plainly(text):
    return re.sub(r"\W+", " ", text).strip().casefold()


def listed(question):
    """[(letter, text)] where options plainly stand: a line each, or behind "?" or ":" with a letter, stop and blank each."""
    lines = re.findall(r"^ *\(?([A-Za-z])[.):](.*)$", question, re.MULTILINE)
    plain = [line for line in lines if not re.search(r"[( ]?\b[A-Za-z][.):]", line[1])]
    if len(lines) > 1 and len(plain) < len(lines):
        return []  # "B. Mr. B. Smith": which letter begins an option is not plain
    lines = plain
    if len(lines) > 1 and lines[0][0] in "Aa":
        return lines
    one = re.search(r"[?:] ([Aa])\. (.+)$", question)
    if one is None or "\n" in question:
        return []
    parts = re.split(r",? ([A-Za-z])\. ", " " + question[one.start(1) :])[1:]
    return list(zip(parts[::2], parts[1::2], strict=True)) if len(parts) > 2 else []


def check_choice(question, answer, form, options):
    """An answer to listed options is one of them: independent of how the validator reads them."""
    found = [(chr(ord("A") + place), text) for place, text in enumerate(options)] or listed(question)
    if not found:
        assert form != "letter" or re.search(r"[A-Za-z][.):]", question)
        return
    letters, texts = [letter.upper() for letter, _ in found], [plainly(text) for _, text in found]
    assert letters == [chr(ord("A") + place) for place in range(len(letters))], (question, answer)
    plain = {text.strip().rstrip(" .") for _, text in found}
    assert "" not in plain and len(plain) == len(found)
    if form == "letter":
        assert answer.upper() in letters
        return
    assert not options, "options beside the text are answered by their letter"
    alone = re.fullmatch(r"\W*([A-Za-z])\W*", answer)
    said = re.findall(r"\b[A-Z]\b", answer)
    assert not alone or plainly(answer) in texts, (question, answer)
    named = any(f" {text} " in f" {plainly(answer)} " or not text for text in texts)
    assert named or (said and set(said) <= set(letters)), (question, answer)


def check(row: Row) -> None:
    """What every row promises."""
    assert row.turns and all(question.strip() and answer.strip() for question, answer in row.turns)
    for question, answer in row.turns:
        assert not TAG.search(question) and not TAG.search(answer)
        assert "<|" not in question + answer and "</s>" not in question + answer
        (question + answer + "".join(row.options) + row.id + row.type + row.scene).encode()  # can be written
    assert all(one.source for one in row.media) and row.form in ("letter", "number", "word")
    assert all(0 <= mark.picture < len(row.media) for mark in row.marks)
    if row.options:
        assert 0 <= ord(row.turns[0][1]) - ord("A") < len(row.options) and row.form == "letter"
    for number, (question, answer) in enumerate(row.turns):
        form = row.form if not number else "letter" if re.fullmatch("[A-Za-z]", answer) else "word"
        check_choice(question, answer, form, () if number else row.options)
    hash((row.media, row.marks, row.clip, row.frames, row.scene))


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_any_value_is_a_row_or_a_reason(name, data):
    module = FORMS[name]
    value = data.draw(nearly_right() | nearly_right() | likely | values)
    try:
        row = module.SOURCE.make.__self__.form.row(mapping(value), module.Settings())
    except RowError as error:
        assert str(error) and all(one.kind.isidentifier() for one in error.problems)
        str(error).encode()
        return
    check(row)


SCENE = Scene("lab", "lab", (View(0, "0"), View(1, "1")))


@settings(max_examples=250, deadline=None)
@given(value=nearly_right() | nearly_right() | values)
def test_any_entry_beside_pictures_is_a_question_or_a_reason(value):
    keys = ("question", "answer", "options", "views", "type", "group")
    value = {key: value[key] for key in keys if key in value} if isinstance(value, dict) else value
    try:
        views, question = question_of(mapping(value), SCENE, 0)
    except RowError as error:
        assert str(error)
        str(error).encode()
        return
    assert set(views) <= {0, 1} and not TAG.search(question.text + question.answer)
    assert all(int(view) < len(views) for view in re.findall(r"<view:(\d+)>", question.text + question.answer))
    (question.text + question.answer + question.id + question.type + "".join(question.options)).encode()
    check_choice(question.text, question.answer, question.form, question.options)


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=60)
    | texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | values.map(lambda v: json.dumps(v).encode())
)
def test_any_bytes_are_entries_or_reasons(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    file.write_bytes(content)
    for entry in entries(file):
        assert (entry.error is None) or entry.error.kind == "not_json"
        if entry.error is None:
            assert json.dumps(reread(file, entry.at)) == json.dumps(entry.value)
