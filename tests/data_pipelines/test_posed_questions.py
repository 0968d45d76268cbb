"""questions.json beside the pictures of a posed_rgbd scene."""

import json

import pytest
from posed_scenes import convert, write_scene

from data_pipelines.manifest import PrepareError


@pytest.fixture
def scene(tmp_path):
    return write_scene(tmp_path / "raw" / "lab")


def test_questions_beside_the_pictures(scene, tmp_path):
    (scene / "questions.json").write_text(
        json.dumps(
            [
                {"question": "what is this ?", "answer": "floor"},
                {"question": "how far is it in <view:1> ?", "answer": "2.1", "views": [6, 2], "type": "distance"},
                {"question": "where ?", "answer": "left", "options": ["right", "left"], "views": [6, 2], "id": "w"},
            ]
        )
    )
    manifest, splits = convert(scene, tmp_path / "out", views=4)
    records = {record.id: record for record in splits["train"]}
    assert list(records) == ["lab.0-1-2-3", "lab.4-5-6-7", "lab.q-6-2"]
    assert [question.text for question in records["lab.4-5-6-7"].questions] == ["what is this ?"]
    assert records["lab.q-6-2"].view_ids == ("6", "2")
    distance, where = records["lab.q-6-2"].questions
    assert (distance.form, distance.type, distance.answer) == ("number", "distance", "2.1")
    assert (where.form, where.answer, where.id) == ("letter", "B", "w")
    assert {(bucket["views"], bucket["records"]) for bucket in manifest["splits"]["train"]["buckets"]} == {
        (4, 2),
        (2, 1),
    }


@pytest.mark.parametrize(
    "entry, message",
    [
        (["x"], "entry 1: is list, expected an object"),
        ({"question": "x"}, "entry 1: 'answer': is None, expected a text"),
        ({"question": "x", "answer": [2.5]}, r"entry 1: 'answer': is \[2.5\], expected a text"),
        ({"question": "x", "answer": "y", "options": "ab"}, "entry 1: 'options': is 'ab', expected a list"),
        ({"question": "x", "answer": "a", "options": ["a", "a"]}, "entry 1: 'options': is .* different texts"),
        ({"question": "x", "answer": "y", "views": [1, True]}, "entry 1: 'views': is .* frame numbers"),
        ({"question": "x", "answer": "y", "group": "own"}, "entry 1: 'group': is 'own', expected one of grounding"),
        ({"question": "x", "answer": "y", "opitons": ["y"]}, r"entry 1: unknown fields \['opitons'\]"),
        ({"question": "x", "answer": "C", "options": ["a", "b"]}, "entry 1: 'answer': 'C' is none of"),
        ({"question": "x", "answer": "y", "views": [99]}, r"entry 1: 'views': there is no frame \[99\]"),
        ({"question": "<view:0>", "answer": "y"}, "entry 1: 'question': <view:0> but 'views' lists 0 frames"),
    ],
)
def test_mistakes_in_questions_are_named(scene, tmp_path, entry, message):
    (scene / "questions.json").write_text(json.dumps([entry]))
    with pytest.raises(PrepareError, match=rf"questions.json, {message}"):
        convert(scene, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_questions_need_two_ids(scene, tmp_path):
    entry = {"question": "x", "answer": "y", "id": "one"}
    (scene / "questions.json").write_text(json.dumps([entry, {**entry, "id": "two"}, entry]))
    with pytest.raises(PrepareError, match="questions.json, entry 3: 'id': 'one' is that of entry 1 too"):
        convert(scene, tmp_path / "out")


def test_the_words_stand_in_the_manifest(scene, tmp_path):
    entries = [
        {"question": "Is the Kettle in <view:1> left of the jar?", "answer": "Yes", "views": [1, 2]},
        {"question": "which ?", "answer": "red urn", "options": ["blue urn", "red urn"]},
    ]
    (scene / "questions.json").write_text(json.dumps(entries))
    words = "B blue in is jar? kettle left of red the urn which ? yes".split()
    assert convert(scene, tmp_path / "out")[0]["vocabulary"] == sorted(words)
