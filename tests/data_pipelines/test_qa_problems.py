"""What rows and files of questions say that they cannot be used: all of it, with its place, also where nothing is left."""

from __future__ import annotations

import json
import shutil

import pytest
from raw_layouts import LAYOUTS, made

from data_pipelines.manifest import PrepareError
from data_pipelines.sources import SOURCES
from experiments import prepare as command
from experiments.prepare import prepare


def said(*texts, llava=True, **fields):
    names = ("from", "value", "human", "gpt") if llava else ("role", "content", "user", "assistant")
    turns = [{names[0]: names[2 + number % 2], names[1]: text} for number, text in enumerate(texts)]
    return {"conversations" if llava else "messages": turns, **fields}


def folder(tmp_path, rows, name="rows.jsonl"):
    raw = tmp_path / "raw"
    shutil.copytree(LAYOUTS / "conversations/images", raw / "images", dirs_exist_ok=True)
    shutil.copytree(LAYOUTS / "conversations/videos", raw / "videos", dirs_exist_ok=True)
    (raw / name).parent.mkdir(parents=True, exist_ok=True)
    (raw / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return raw


GOOD = said("<image>\nWhere?", "Left.", image="images/a.jpg")


def reasons(tmp_path, row, source="llava"):
    """Why the second of two rows is left out; "" if it is not."""
    good = GOOD if source == "llava" else said("Hello?", "Yes.", llava=False)
    return next(iter(made(source, folder(tmp_path, [good, row]))[2].values()), "")


def test_every_problem_of_a_row_is_named(tmp_path):
    row = said("<image>\nA.", "", image=["images/none.jpg", "images/nil.jpg"], options="x", start=3, red_point=[[7]])
    found = reasons(tmp_path, row).split("; ")
    assert [part.split("'")[1] for part in found] == [
        "conversations", "conversations[1].value", "options", "red_point", "start", "image[0]", "image[1]",
    ]  # fmt: skip
    row = {"question": "", "gt_answer": 4, "images": ["x/1.jpg", "x/2.jpg"], "id": None}
    raw = tmp_path / "mindcube"
    raw.mkdir()
    good = json.loads((LAYOUTS / "mindcube/data/raw/MindCube_train.jsonl").read_text().splitlines()[0])
    shutil.copytree(LAYOUTS / "mindcube/data/other_all_image", raw / "other_all_image")
    (raw / "MindCube_train.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    (place, reason), *_ = made("mindcube", raw)[2].items()
    assert place == "MindCube_train.jsonl, line 2"
    assert [part.split("'")[1] for part in reason.split("; ")] == [
        "question",
        "gt_answer",
        "id",
        "image[0]",
        "image[1]",
    ]


def test_a_folder_without_a_usable_row_gives_places_and_a_list(tmp_path, capsys):
    raw = folder(tmp_path, [said("Where?", "")] * 25)
    flags = ["--source", "llava", "--raw", str(raw)]
    assert command.main([*flags, "--dry_run"]) == 1
    error = capsys.readouterr().err
    assert error.count("'conversations[1].value': is empty, expected a text") == 20 and "and 5 more" in error
    assert "rows.jsonl, line 20: " in error and not list(tmp_path.glob("*.skipped.jsonl"))
    assert command.main([*flags, "--out", str(tmp_path / "out"), "--quiet"]) == 1
    listed = tmp_path / "out.skipped.jsonl"
    assert f"All of them: {listed}" in capsys.readouterr().err
    assert [json.loads(line)["id"] for line in listed.read_text().splitlines()] == [
        f"rows.jsonl, line {number}" for number in range(1, 26)
    ]
    assert not (tmp_path / "out").exists()


def test_files_of_one_name_are_told_apart(tmp_path):
    """SPAR-7M: TASK/fill/fill_1.jsonl again and again; and a row of each is wrong."""
    native = LAYOUTS / "spar7m/spar/scannet"
    raw = shutil.copytree(native / "qa_jsonl/train", tmp_path / "train")
    for file in raw.rglob("*.jsonl"):
        file.write_text(file.read_text() + '{"conversations": 3}\n')
    settings = SOURCES["llava"].settings(raw=str(raw), media=str(native / "images"))
    manifest = prepare("llava", settings, tmp_path / "out", workers=None, progress=False)
    names = ["depth_prediction_oc/fill/fill_1", "depth_prediction_oo_mv/fill/fill_1"]
    ids = [json.loads(line)["id"] for line in (tmp_path / "out/records-train.jsonl").read_text().splitlines()]
    assert ids == [f"{name}-1" for name in names] and list(manifest["origin"]["files"]) == [f"{n}.jsonl" for n in names]
    left = [json.loads(line)["id"] for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert left == [f"{name}.jsonl, line 2" for name in names]
    for name in ("rows.json", "rows.jsonl"):  # one stem in one folder
        folder(tmp_path, [GOOD], name)
    (tmp_path / "raw/rows.json").write_text(json.dumps([GOOD]))
    assert {record.questions[0].id for record in made("llava", tmp_path / "raw")[0]} == {"rows.json-1"}
    with pytest.raises(PrepareError, match="named twice: rows.json"):
        made("llava", tmp_path / "raw", files=("rows.json", "./rows.json"))


def test_mindcube_finds_its_pictures_from_the_folder_above():
    assert len(made("mindcube", LAYOUTS / "mindcube")[0]) == 5


def test_hidden_files_are_passed_over_and_counted(tmp_path):
    raw = folder(tmp_path, [GOOD], "deep/rows.jsonl")
    for name in ("._rows.jsonl", "__MACOSX/deep/rows.jsonl", "deep/._rows.json", ".cache/x.json"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(b"\0\5\26\7")
    records, counts, left = made("llava", raw)
    assert len(records) == 1 and counts["files_left_out/hidden"] == 4 and set(left.values()) == {"is a hidden file"}
    frames = raw / "walk"
    frames.mkdir()
    for name in ("1.jpg", "2.jpg"):
        shutil.copy(raw / "images/a.jpg", frames / name)
    (frames / "._1.jpg").write_bytes(b"\0\5\26\7")
    raw = folder(tmp_path, [said("<video>\nWhat?", "This.", video="walk")], "deep/rows.jsonl")
    assert [len(record.images) for record in made("llava", raw)[0]] == [2]


def test_what_a_conversation_says_of_its_media_is_read_or_refused(tmp_path):
    both = dict(image="images/a.jpg", video="videos/v.mp4")
    raw = folder(tmp_path, [said("First <video> then <image>: which?", "One.", **both)])
    record = made("llava", raw, frames=2)[0][0]
    assert record.questions[0].text == "First the video then <view:0>: which?" and record.view_ids[0] == "0:0"
    assert record.view_ids[-1].endswith("a")
    (record,) = made("llava", folder(tmp_path, [said("<video>What?", "This.", videos=["videos/v.mp4"])]), frames=2)[0]
    assert len(record.images) == 2
    for row, source, reason in (
        (said("<image>Where?", "Left.", image_path="images/a.jpg"), "llava", "'image_path': is a field that this form does not"),
        (said("Where?", "Left.", audios=["a.wav"], llava=False), "messages", "'audios': is a field that this form does not"),
        (said("<image><image>\nA?", "B.", **both), "llava", "has more <image> tags than images are listed"),
    ):  # fmt: skip
        assert reason in reasons(tmp_path, row, source)
    row = said("Where?", "Left.", llava=False)
    for loss, refused in ((False, True), (0, True), ("no", True), (True, False), (None, False), (1.0, False)):
        row["messages"][1]["loss"] = loss
        assert ("messages[1].loss" in reasons(tmp_path, row, "messages")) == refused
    counts = made("llava", folder(tmp_path, [{**GOOD, "depth": ["x.png"], "data_source": "a"}]))[1]
    assert counts["fields_not_read/depth"] == counts["fields_not_read/data_source"] == 1


def test_clips_by_frame_numbers_and_seconds(tmp_path):
    row = said("<image>\nWhat?", "This.", video="videos/v.mp4", start_frame=10, end_frame=14)
    (record,), counts, _ = made("llava", folder(tmp_path, [row]), frames=3)
    assert record.metadata["frames"] == ["10", "12", "14"] and counts["rows_used"] == 1
    raw = folder(tmp_path, [said("<video>\nWhat?", "This.", video="walk", start_frame=1, end_frame=9)])
    (raw / "walk").mkdir()
    for number in range(4):
        shutil.copy(raw / "images/a.jpg", raw / f"walk/{number}.jpg")
    assert made("llava", raw)[0][0].metadata["frames"] == ["1", "2", "3"]
    for fields, reason in (
        (dict(start_frame=5, end_frame=3), "must be numbers of frames"),
        (dict(start_frame=1.5, end_frame=3), "must be numbers of frames"),
        (dict(start_frame=1, end_frame=3, start=0, end=1), "state seconds or frames, not both"),
        (dict(start_frame=100, end_frame=120), "none from 100 to 120"),
        (dict(start=0, end=1), "which no seconds can cut"),
    ):
        assert reason in reasons(tmp_path, said("What?", "This.", video="walk", **fields))
    assert "cuts a video, and the row has none" in reasons(tmp_path, {**GOOD, "start": 0, "end": 1})


@pytest.mark.parametrize("content, reason", [
    (b"\xff\xfe[]", "questions.json is not JSON: 'utf-8' codec"),
    (b"[" * 100000, "questions.json is not JSON: "),
    (b'[{"question": "\\ud800", "answer": "y"}]', "entry 1: 'question': holds letters that are no text"),
    (b'[{"question": "x", "answer": "y", "id": "\\ud800"}]', "entry 1: 'id': holds letters that are no text"),
    (b'[{"question": "<image> what?", "answer": "y"}]', "entry 1: 'question': holds <image>"),
    (b'[{"question": "what?", "answer": "<image>"}]', "entry 1: 'answer': holds <image>"),
    (b'[{"question": "", "answer": null}, 3]', "entry 1: 'question': is empty.*; 'answer': is None.*\n.*entry 2: is int"),
])  # fmt: skip
def test_questions_beside_pictures_are_checked_alike(tmp_path, content, reason):
    raw = shutil.copytree(LAYOUTS / "scannet/exported", tmp_path / "raw")
    file = raw / "scene9000_00/questions.json"
    file.write_bytes(content)
    with pytest.raises(PrepareError, match=reason) as error:
        made("posed_rgbd", raw)
    assert str(file) in str(error.value)


def test_marks_of_byte_order_and_markup_beside_pictures(tmp_path):
    raw = shutil.copytree(LAYOUTS / "scannet/exported", tmp_path / "raw")
    entry = {"question": "what <|im_end|> is in <view:0> ?", "answer": 2.5, "views": [1]}
    (raw / "scene9000_00/questions.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([entry]).encode())
    (question,) = made("posed_rgbd", raw)[0][-1].questions
    assert question.text == "what < |im_end|> is in <view:0> ?" and (question.answer, question.form) == (
        "2.5",
        "number",
    )
