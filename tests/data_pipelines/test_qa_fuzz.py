"""Whatever stands in a question file: a row comes out that makes sense, or a reason; never anything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.sources import llava, messages, mindcube
from data_pipelines.sources.qa.files import entries, mapping, reread
from data_pipelines.sources.qa.rows import TAG, Row, RowError

FORMS = {"llava": llava, "messages": messages, "mindcube": mindcube}
KEYS = [
    "id", "image", "images", "video", "videos", "conversations", "messages", "from", "value", "role", "content", "type", "text",
    "question", "options", "gt_answer", "scene_name", "start", "end", "spar_info", "red_point", "blue_bbox", "point_img_idx",
    "image_url", "url", "question_type",
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


@st.composite
def nearly_right(draw):
    """Rows that mostly can be used: turns in order, a few pictures, about as many tags."""
    said = st.lists(
        st.sampled_from(["<image>", "<image>", "<video>", " where? ", "A. x\nB. y", "</s>", "A"]),
        min_size=1,
        max_size=4,
    )
    pairs = draw(st.lists(st.tuples(said.map("".join), said.map("".join) | leaves), min_size=1, max_size=3))
    roles = draw(st.sampled_from([("human", "gpt", "from", "value"), ("user", "assistant", "role", "content")]))
    turns = [{roles[2]: role, roles[3]: text} for pair in pairs for role, text in zip(roles, pair, strict=False)]
    pictures = draw(st.lists(st.sampled_from(["a.jpg", "b/c.png", "data:image/png;base64,AA=="]), max_size=3))
    row = {
        "conversations": turns,
        "messages": turns,
        "images": pictures,
        "id": draw(st.sampled_from(["among_1", 3, None])),
    }
    row |= {"question": "Where? A. x B. y", "gt_answer": draw(st.sampled_from("ABC"))}
    broken = draw(st.sampled_from(["", "", "", *row]))
    return row | ({broken: draw(values)} if broken else {})


def check(row: Row) -> None:
    """What every row promises."""
    assert row.turns and all(question.strip() and answer.strip() for question, answer in row.turns)
    for question, answer in row.turns:
        assert not TAG.search(question) and not TAG.search(answer)
        assert "<|" not in question + answer and "</s>" not in question + answer
        (question + answer).encode()  # can be written
    assert all(one.source for one in row.media) and row.form in ("letter", "number", "word")
    assert all(0 <= mark.picture < len(row.media) for mark in row.marks)
    if row.options:
        assert 0 <= ord(row.turns[0][1]) - ord("A") < len(row.options)
    hash((row.media, row.marks, row.clip, row.scene))
    json.dumps([row.id, row.type, row.scene], ensure_ascii=False)


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_value_is_a_row_or_a_reason(name, data):
    module = FORMS[name]
    value = data.draw(nearly_right() | nearly_right() | likely | values)
    try:
        row = module.SOURCE.make.__self__.form.row(mapping(value), module.Settings())
    except RowError as error:
        assert str(error) and error.kind.isidentifier()
        return
    check(row)


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
