"""Question files of every form on miniatures: what the records say, what is left out and why."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.manifest import PrepareError
from data_pipelines.sources import SOURCES
from data_pipelines.sources.qa.options import split_options
from data_pipelines.sources.qa.video import choose_frames, read_frames
from data_pipelines.storage import open_split
from experiments import prepare as command
from experiments.prepare import prepare
from spatialsv_jax.processing.internvl3 import InternVL3Processor

LAYOUTS = Path(__file__).parents[1] / "layouts"


def converted(source, raw, out, **settings):
    manifest = prepare(source, SOURCES[source].settings(raw=str(raw), **settings), out, workers=None, progress=False)
    records = [open_split(out, "train")[index] for index in range(manifest["splits"]["train"]["records"])]
    skipped = [json.loads(line) for line in (Path(out) / "skipped.jsonl").read_text().splitlines()]
    return records, manifest["splits"]["train"]["counts"], skipped


def one_file(tmp_path, rows, name="rows.jsonl"):
    raw = tmp_path / "raw"
    shutil.copytree(LAYOUTS / "conversations/images", raw / "images", dirs_exist_ok=True)
    (raw / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return raw


def test_mindcube_keeps_order_options_and_setting(tmp_path):
    records, counts, skipped = converted("mindcube", LAYOUTS / "mindcube/data", tmp_path / "out")
    assert counts["rows_used"] == 5 and not skipped
    questions = [record.questions[0] for record in records]
    assert [question.type for question in questions] == ["among", "around", "around", "rotation", "among"]
    assert [question.answer for question in questions] == ["C", "A", "B", "A", "D"]
    assert questions[0].options == (
        "Straight left", "Forward and to the right", "Forward and to the left", "Straight right",
    )  # fmt: skip
    assert questions[0].text.endswith("Which way did the camera travel between them?")
    assert records[4].metadata["frames"] == ["front_039", "left_123", "back_200", "right_300"]
    picture = LAYOUTS / "mindcube/data/other_all_image/among/mug_901/front_039.jpg"
    assert records[0].images[0] == picture.read_bytes()  # untouched files keep their bytes
    assert records[0].scene == records[4].scene != records[1].scene


def test_questions_about_the_same_pictures_share_a_record_and_conversations_keep_their_turns(tmp_path):
    records, counts, _ = converted(
        "llava", LAYOUTS / "conversations", tmp_path / "out", files=("llava.json", "edge_cases.jsonl"), frames=4
    )
    assert [len(record.questions) for record in records[:3]] == [3, 1, 2]
    conversation = records[1].questions[0]
    assert (conversation.text, conversation.answer) == ("Did I move left?", "No.")
    assert conversation.turns == (("And up?", "Yes."),)
    assert records[2].view_ids == ("0:0", "1:9", "2:19", "3:29")  # int(linspace(0, 29, 4))
    assert counts["rows_changed/media_without_tags"] == counts["rows_changed/numbers_as_text"] == 1


def test_every_odd_row_is_used_or_named(tmp_path):
    records, counts, skipped = converted(
        "llava", LAYOUTS / "conversations", tmp_path / "out", files=("edge_cases.jsonl",)
    )
    cases = [json.loads(line)["case"] for line in (LAYOUTS / "conversations/edge_cases.jsonl").read_text().splitlines()]
    reasons = {cases[int(row["id"].rsplit(" ", 1)[1]) - 1]: row["reason"] for row in skipped}
    assert reasons == {
        "too_many_placeholders": "'conversations': 2 tags of media for 1 pictures or videos",
        "placeholder_in_answer": "'conversations[1].value': '<image>' holds the tag of a picture or video, which no answer can",
        "starts_with_gpt": "'conversations[0].value': role 'assistant' out of turn: expected user and assistant by turns",
        "null_answer": "'conversations[1].value': is None, expected a text",
        "truncated": reasons["truncated"],
        "missing_file": "'image[0]': 'images/none.jpg' is not there",
        "options_on_one_line_with_capital_dot": "'conversations[0].value': lists options by the letters ['A', 'B', 'B', 'C'], "
        "expected A, B, ... once each",
    }
    assert "'images/truncated.jpg' cannot be decoded: " in reasons["truncated"]
    used = {cases[int(row.rsplit(" ", 1)[1]) - 1]: record for record in records for row in record.metadata["rows"]}
    assert set(used) | set(reasons) == set(cases) and not set(used) & set(reasons)
    assert sum(number for name, number in counts.items() if name.startswith("rows_left_out/")) == len(reasons)
    picture = lambda case: Image.open(io.BytesIO(used[case].images[0]))
    assert not used.pop("empty_image_list").images  # a question without pictures
    assert all(picture(case).mode == "RGB" for case in used)
    turned, original = picture("exif_rotation"), Image.open(LAYOUTS / "conversations/images/exif6.jpg")
    assert turned.size == original.size[::-1] and turned.getexif().get(274, 1) == 1
    clear = np.asarray(Image.open(LAYOUTS / "conversations/images/rgba.png").convert("RGBA"))
    share = clear[..., 3:].astype(float) / 255
    np.testing.assert_allclose(np.asarray(picture("rgba")), clear[..., :3] * share + 255 * (1 - share), atol=1)


def test_messages_of_three_dialects(tmp_path):
    files = ("messages_swift.jsonl", "messages_openai.jsonl", "messages_qwen.jsonl")
    records, counts, _ = converted("messages", LAYOUTS / "conversations", tmp_path / "out", files=files, frames=3)
    texts = {record.id: record.questions[0].text for record in records}
    assert texts == {
        "messages_swift-1": "Be short.\nDid I move left?", "messages_swift-2": "How many boxes?", "messages_swift-3": "Order?",
        "messages_openai-1": "Compare\n<view:0>\n<view:1>", "messages_qwen-1": "Where is the box?",
    }  # fmt: skip
    assert [len(record.images) for record in records] == [2, 3, 2, 2, 4]
    row = json.loads((LAYOUTS / "conversations/messages_openai.jsonl").read_text().splitlines()[0])
    url = row["messages"][0]["content"][1]["image_url"]["url"]
    assert records[3].images[0] == base64.b64decode(url.partition(",")[2])
    assert counts["rows_changed/system_messages_moved"] == 1


def test_questions_and_geometry_meet_by_scene_and_frame(tmp_path):
    """VLM-3R names a video that nobody ships; the scan's frames take its place. Pictures are found by their number."""
    scans = f"posed_rgbd={LAYOUTS / 'scannet/exported'}"
    (record,), counts, _ = converted("llava", LAYOUTS / "vlm3r", tmp_path / "video", geometry=scans, frames=3)
    wanted = np.load(LAYOUTS / "expected/scannet.npz")
    assert (
        record.scene == "scene9000_00"
        and record.view_ids == ("0:0", "1:1", "2:3")
        and counts["pictures/with_geometry"] == 3
    )
    np.testing.assert_allclose(record.camera_to_world, wanted["camera_to_world"][[0, 1, 3]], atol=2e-6)
    np.testing.assert_allclose(record.intrinsics, wanted["intrinsics_color"][[0, 1, 3]], atol=1e-9)
    row = {"image": ["scannet/scene9000_00/color/3.jpg", "scannet/scene9000_00/color/2.jpg"]}
    row["conversations"] = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Left."}]
    raw = one_file(tmp_path, [row])
    shutil.copytree(LAYOUTS / "scannet/exported", raw / "scannet")
    (record,), _, _ = converted("llava", raw, tmp_path / "pictures", geometry=f"posed_rgbd={raw / 'scannet'}")
    assert record.pose_valid.tolist() == [True, False] and record.depth_unit_m == 0.001
    depth = np.asarray(Image.open(io.BytesIO(record.depths[0])))[::2, ::2] * 0.001
    np.testing.assert_allclose(depth, wanted["depth"][3], atol=6e-4)
    with pytest.raises(PrepareError, match="--geometry 'nowhere=x': expected LAYOUT=FOLDER"):
        converted("llava", raw, tmp_path / "wrong", geometry="nowhere=x")


def test_spars_points_are_drawn_on_their_pictures(tmp_path):
    native = "spar/scannet/qa_jsonl/train/depth_prediction_oo_mv/fill/fill_1.jsonl"
    for name, settings in (
        ("text", dict(files=("vgllm_style/spar_7m.jsonl",))),
        ("fields", dict(files=(native,), media=str(LAYOUTS / "spar7m/spar/scannet/images"))),
    ):
        (record,), counts, _ = converted("llava", LAYOUTS / "spar7m", tmp_path / name, **settings)
        assert counts["pictures/marks_drawn"] == 3
        question = record.questions[0]
        assert (question.type, question.form, question.answer) == ("depth_prediction_oo_mv", "number", "1.5")
        pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in record.images]
        # red (390, 90) on picture 0, blue (500, 610) on 2, green (870, 730) on 1, in thousandths of 64 x 48.
        for picture, (x, y), colour in ((0, (25, 4), 0), (2, (32, 29), 2), (1, (55, 35), 1)):
            found = pixels[picture][y, x].astype(int)
            assert found[colour] > 200 and found[(colour + 1) % 3] < 60 and found[(colour + 2) % 3] < 60


def row_of(text="Where?", answer="Left.", **fields):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    return {"image": "images/a.jpg", "conversations": turns, **fields}


@pytest.mark.parametrize("row, reason", [
    (row_of(image="../../secret.jpg"), "leads out of the folder"),
    (row_of(image="/etc/passwd"), "leads out of the folder"),
    (row_of(image=7), r"'image\[0\]': is 7, expected a path"),
    (row_of(image="data:image/png,abc"), "must be base64"),
    (row_of(image="data:image/png;base64,@@"), "its base64 is broken"),
    (row_of("<image>"), "turn 1 asks nothing beside its media"),
    (row_of("Which?\nA. one\nB. two", "C"), r"'C' is none of the options \['A', 'B'\]"),
    (row_of(conversations="x"), "'conversations': is str, expected a list"),
    (row_of(conversations=[]), "holds no question"),
    (row_of(conversations=[{"from": "robot", "value": "x"}]), r"conversations\[0\].from': expected one of human"),
    (row_of(answer=float("nan")), "is nan, expected a text or a finite number"),
    (row_of(start_frame=3), "start_frame 3 and end_frame None must be numbers of frames"),
    (row_of(start=5, end=2), "start before end"),
    (row_of(red_point=[[1200, 5]]), "'red_point': is .* from 0 to 1000"),
    (row_of(red_point=[[12, 5]], point_img_idx=[[4]]), "names picture 4 of 1"),
    (["not", "an", "object"], "is list, expected an object"),
])  # fmt: skip
def test_mistakes_name_file_line_field_and_form(row, reason, tmp_path):
    good = row_of()
    raw = one_file(tmp_path, [good, row])
    records, _, skipped = converted("llava", raw, tmp_path / "out")
    assert len(records) == 1 and len(skipped) == 1
    assert skipped[0]["id"] == "rows.jsonl, line 2"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(skipped[0]["reason"])


def test_text_between_pictures_names_them_where_they_stood(tmp_path):
    row = row_of("<image>\nThis is the hall. Which of <image> and <image> shows it too?", image=["images/a.jpg"] * 3)
    (record,), counts, _ = converted("llava", one_file(tmp_path, [row]), tmp_path / "out")
    text = record.questions[0].text
    assert text == "This is the hall. Which of <view:1> and <view:2> shows it too?" and len(record.images) == 3
    assert counts["rows_changed/media_inside_text"] == 2
    processor = InternVL3Processor.from_checkpoint(Path(__file__).parents[1] / "goldens/internvl3")
    asked = processor.decode(processor.encode_question(text).tokens[1:])
    assert asked.startswith("This is the hall. Which of image 2 and image 3 shows it too?")


def test_broken_lines_marks_and_blank_lines(tmp_path):
    raw = one_file(tmp_path, [])
    good = json.dumps(row_of())
    (raw / "rows.jsonl").write_bytes(
        b"\xef\xbb\xbf" + good.encode() + b"\n\n{broken\n" + good.encode()[:-2] + b"\xff}\n" + good.encode()
    )
    records, counts, skipped = converted("llava", raw, tmp_path / "out")
    assert len(records[0].questions) == 2 and counts["rows_left_out/not_json"] == 2
    assert [row["id"] for row in skipped] == ["rows.jsonl, line 3", "rows.jsonl, line 4"]
    (raw / "rows.json").write_text("{}")
    with pytest.raises(PrepareError, match="rows.json must hold a JSON list of rows, not dict"):
        converted("llava", raw, tmp_path / "other", files=("rows.json",))


def test_text_that_reads_as_markup_is_made_plain(tmp_path):
    raw = one_file(tmp_path, [row_of("<image>\nIs <|im_end|> or </s> or <view:3> here? a < b", "<|endoftext|> no")])
    (record,), counts, _ = converted("llava", raw, tmp_path / "out")
    question = record.questions[0]
    assert (
        question.text == "Is < |im_end|> or < /s> or < view:3> here? a < b" and question.answer == "< |endoftext|> no"
    )
    assert counts["rows_changed/markup_escaped"] == 2


def test_scenes_are_split_whole_and_repeatably(tmp_path):
    rows = [
        row_of(scene_name=f"scene{number // 3}", id=str(number), image=f"images/{number // 3}.jpg")
        for number in range(60)
    ]
    raw = one_file(tmp_path, rows)
    for number in range(20):
        shutil.copy(raw / "images/a.jpg", raw / f"images/{number}.jpg")
    settings = dict(raw=str(raw), validation=0.2, test=0.3)
    manifest = prepare("llava", SOURCES["llava"].settings(**settings), tmp_path / "out", workers=None, progress=False)
    scenes = {}
    for split in manifest["splits"]:
        scenes[split] = {row["scene"] for row in open_split(tmp_path / "out", split).rows}
    assert set(scenes) == {"train", "validation", "test"} and sum(map(len, scenes.values())) == 20
    assert 3 <= len(scenes["test"]) <= 9
    again = prepare("llava", SOURCES["llava"].settings(**settings), tmp_path / "again", workers=2, progress=False)
    assert again["data_sha256"] == manifest["data_sha256"]
    (raw / "rows.jsonl").write_text(
        (raw / "rows.jsonl").read_text().replace("Left.", "Righ.", 1)
    )  # an edit of the same length
    with pytest.raises(PrepareError, match="content_of_raw"):
        prepare("llava", SOURCES["llava"].settings(**settings), tmp_path / "out", workers=None, progress=False)


def test_dry_run_lists_and_writes_nothing(tmp_path, capsys):
    flags = ["--source", "llava", "--raw", str(LAYOUTS / "conversations"), "--files", "edge_cases.jsonl", "--dry_run"]
    assert command.main(flags) == 0
    out = capsys.readouterr().out
    assert "10 rows can be used" in out and "6 cannot" in out and "text_only: 1" in out and "missing_media: 1" in out
    assert (
        "edge_cases.jsonl, line 14: 'image[0]': 'images/none.jpg' is not there" in out and "Nothing was written" in out
    )
    # One of the eight has a truncated picture.
    assert "groups opened" in out and "'images/truncated.jpg' cannot be decoded" in out
    assert command.main(["--source", "scannet", "--raw", str(LAYOUTS / "scannet"), "--dry_run"]) == 0
    assert (
        "scene9000_00: 4 frames; 3 with a pose (1 not_finite); files: colour 4, depth 4; of 4 looked at: 4 with depth"
        in capsys.readouterr().out
    )
    with pytest.raises(SystemExit):
        command.main(flags[:-1])


def test_frames_of_videos_by_name(tmp_path):
    video = LAYOUTS / "conversations/videos/v.mp4"
    assert choose_frames(30, 4, "uniform") == [0, 9, 19, 29] and choose_frames(3, 8, "uniform") == [0, 1, 2]
    assert choose_frames(30, 4, "first") == [0, 1, 2, 3] and choose_frames(30, 4, "stride", 9) == [0, 9, 18, 27]
    frames, numbers = read_frames(video, 4, "uniform")
    assert numbers == [0, 9, 19, 29] and len({frame.tobytes() for frame in frames}) == 4
    backwards = read_frames(video, 1, "first")[0][0]
    assert backwards.tobytes() == frames[0].tobytes()
    _, clipped = read_frames(video, 3, "first", clip=(0.5, 0.8))
    assert clipped[0] > 0 and clipped == list(range(clipped[0], clipped[0] + 3))
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(video, raw / "walk.mp4")
    (raw / "broken.mp4").write_bytes(b"no video")
    shutil.copytree(LAYOUTS / "conversations/images", raw / "room")
    records, counts, skipped = converted(
        "pictures", raw, tmp_path / "out", sampler="uniform", records_per_scene=2, views=3
    )
    assert {record.scene for record in records} == {"walk.mp4", "room"} and not any(
        record.pose_valid.any() for record in records
    )
    assert {row["id"] for row in skipped} == {"broken.mp4"}  # uniform takes the picture before the truncated one
    walk = next(record for record in records if record.scene == "walk.mp4")
    seen = np.asarray(Image.open(io.BytesIO(walk.images[1])), float)
    exact = np.asarray(read_frames(video, 30, "first")[0][walk.metadata["frames"][1]], float)
    assert np.abs(seen - exact).mean() < 3  # JPEG of quality 95
    single, _, _ = converted("pictures", raw / "room", tmp_path / "each", each=True, views=1)
    assert len(single) == len({record.scene for record in single}) == 6


@pytest.mark.parametrize("text, expected", [
    ("Where? A. left B. right", ("Where?", ("left", "right"))),
    ("Is it A? Where? A. left of D. Smith B. right", ("Is it A? Where?", ("left of D. Smith", "right"))),
    ("Which? Choose. A. one B. two", ("Which? Choose.", ("one", "two"))),
])  # fmt: skip
def test_options_on_one_line(text, expected):
    assert split_options(text, "question") == expected
