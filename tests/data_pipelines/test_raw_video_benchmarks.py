"""Benchmarks about several videos, and about ScanNet scans: CVBench (cross-video), SQA3D, ScanQA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import raw_video_benchmarks as made
from raw_tables import packed, parquet, picture, video

from data_pipelines.benchmarks import items, scan_questions, showing, table
from data_pipelines.benchmarks.raw_files import Raw, media_hash

SENS = Path(__file__).parents[1] / "layouts/scannet/scans/scene9000_00/scene9000_00.sens"
BALANCED = "sqa_task/balanced/v1_balanced_{}_test_scannetv2.json"


def of(name, tmp_path, part=None, **more):
    return table.read(name, made.FOLDERS[name](tmp_path / "raw"), part, **more).items


def test_sqa3d_joins_question_situation_and_answer(tmp_path):
    found = of("sqa3d", tmp_path)
    assert [item.id for item in found] == ["990000000000", "990000000001", "990000000002"]
    assert [item.ground_truth for item in found] == ["lamp", "two", "right"]
    assert [item.question_type for item in found] == ["what", "how", "others"]
    assert found[0].prompt == (
        "I sit at table 0. What is on my left? Answer the question using a single word or phrase."
    )
    assert found[0].scene == "scene9000_00" and found[0].options is None
    assert found[0].row["situation"] == "I sit at table 0." and found[0].row["position"] == {"x": 0, "y": 0, "z": 0}
    assert [item.id for item in of("sqa3d", tmp_path, "val")] == ["990000000000"]
    other = of("sqa3d", tmp_path, templates={"words": "{question} ({situation})"})
    assert other[0].prompt == "What is on my left? (I sit at table 0.)"


def test_types_of_questions_as_their_authors_tell_them():
    for question, kind in (
        ("What is it?", "what"), (" whatever", "what"), ("IS it?", "is"), ("Isn't it?", "is"), ("How far?", "how"),
        ("Can I go?", "can"), ("Which one?", "which"), ("Are there?", "others"), ("So what?", "others"),
    ):  # fmt: skip
        assert scan_questions.sqa3d_type(question) == kind, question
    for question, kind in (
        ("Where is the box?", "Place"), ("How many are there?", "Number"), ("What is the color of it?", "Color"),
        ("What color is it?", "Color"), ("What shape is it?", "Object nature"), ("What type of box?", "Object nature"),
        ("What kind is it?", "Object nature"), ("What is left?", "Object"), ("what is left?", "Other"), ("Is it?", "Other"),
        ("In the corner, How many and Where?", "Place"),
    ):  # fmt: skip
        assert scan_questions.scanqa_type(question) == kind, question


def test_scanqa_keeps_all_answers(tmp_path):
    found = of("scanqa", tmp_path)
    assert found[0].id == "val-scene9000-0" and found[0].ground_truth == ("on the desk", "desk")
    assert found[0].prompt == "Where is the box? Answer the question simply."
    assert [item.question_type for item in found] == ["Place", "Color", "Other"]
    seen = showing.show(found[0].media, showing.Showing())
    assert found[0].media[0].name == "scans/scene9000_00/color" and seen.views == (0, 1, 2, 3)
    # By number, not by letters: 10.jpg is the last.
    np.testing.assert_allclose([image[0, 0, 1] for image in seen.images], [0, 1, 2, 10], atol=3)


def test_depth_beside_the_colour_is_not_shown(tmp_path):
    """EmbodiedScan's posed_images hold 00010.jpg, 00010.png (depth) and 00010.txt of each frame."""
    media = of("sqa3d", tmp_path)[0].media
    seen = showing.show(media, showing.Showing(3))
    assert media[0].name == "scannet/posed_images/scene9000_00" and seen.views == (0, 1, 3)  # int(linspace(0, 3, 3))
    np.testing.assert_allclose([image[0, 0, 1] for image in seen.images], [0, 10, 100], atol=3)


@pytest.mark.parametrize(
    "place",
    ["scene9009_00/color", "scene9009_00", "scannet/scans/scene9009_00/color", "frames_square/scene9009_00/color",
     "posed_images/scene9009_00", "scannet/scene9009_00.mp4", "videos/scene9009_00.mp4", "Video/scene9009_00.mp4",
     "scans/scene9009_00/scene9009_00.sens"],
)  # fmt: skip
def test_scans_are_found_where_their_users_keep_them(place, tmp_path):
    path = tmp_path / place
    if path.suffix == ".sens":
        path.parent.mkdir(parents=True)
        shutil.copy(SENS, path)
    elif path.suffix:
        video(path, 3)
    else:
        made.frames(path, (5,), "frame-{}.color.jpg")
    found = Raw(tmp_path).scan("scene9009_00")
    assert found.name == place and not found.missing and showing.show((found,), showing.Showing(2)).images
    assert Raw(tmp_path).scan("scene9009_01").missing and Raw(tmp_path).scan("..").missing


def test_scans_are_found_without_a_walk_through_all_folders(tmp_path, monkeypatch):
    folder = made.sqa3d(tmp_path)
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("walked"))
    assert len(table.read("sqa3d", folder).items) == 3


def test_a_film_of_a_scan_may_be_in_an_archive(tmp_path):
    folder = made.sqa3d(tmp_path)
    film = folder / "video/scene9001_00.mp4"
    packed(folder / "video.zip", {"scene9001_00.mp4": film.read_bytes()})
    film.unlink()
    media = table.read("sqa3d", folder).items[1].media
    assert media[0].member == "scene9001_00.mp4" and showing.show(media, showing.Showing(2)).views == (0, 4)


def test_a_folder_without_pictures_is_no_scan(tmp_path):
    (tmp_path / "scans/scene9009_00").mkdir(parents=True)
    (tmp_path / "scans/scene9009_00/scene9009_00.txt").write_text("")
    found = Raw(tmp_path).scan("scene9009_00")
    assert found.missing and found.name == "scene9009_00/color"


def test_frames_of_a_sens_file_are_its_colour(tmp_path):
    from data_pipelines.sources import scannet

    layout, settings = scannet.Sens(), scannet.Settings(raw=str(SENS.parent))
    scan = layout.open(SENS.parent, settings)
    path = tmp_path / "scene9000_00/scene9000_00.sens"
    path.parent.mkdir()
    shutil.copy(SENS, path)
    seen = showing.show((Raw(tmp_path).scan("scene9000_00"),), showing.Showing(1000))
    assert seen.views == tuple(range(len(scan.views))) and seen.rate == 0
    expected = showing._picture(layout.read(scan, scan.views[2], settings).colour, "x")
    np.testing.assert_array_equal(seen.images[2], np.asarray(expected))
    path.write_bytes(SENS.read_bytes()[:-50])
    with pytest.raises(items.RawError, match="scene9000_00.sens is truncated"):
        showing.show((Raw(tmp_path).scan("scene9000_00"),), showing.Showing())


def test_crossvideo_asks_as_its_authors(tmp_path):
    found = of("crossvideo_cvbench", tmp_path)
    first, second, third = found
    assert [item.id for item in found] == ["0", "1", "2"] and [item.scene for item in found] == ["0", "0", "7"]
    assert first.prompt.endswith(
        'of a video\'s content. For example, frames with the words "The video X" represent the beginning of the video called '
        'video X, and frames with the words "Video X End" represent the end of the video called video X.\nSelect the best '
        "answer to the following multiple-choice based on the listed all videos. Respond with only the letter (A, B, C, or D) "
        "of the correct option.\nWhich of thing 0?\nA. Video 1.\nB. Video 2.\nAnswer with the option's letter (A, B, C, or D) "
        "from the given choices directly."
    )
    assert "yes-no question" in second.prompt and second.prompt.endswith(
        "word (YES or NO) from the given choices directly."
    )
    assert second.ground_truth == "No" and second.options == ("Yes. ", "No. ")
    assert [one.name for one in third.media] == ["7/x_seg1.mp4", "7/x_seg2.mp4", "7/x_seg4.mp4"]


def test_options_in_one_text_are_told_apart(tmp_path):
    """As in question 996 of the published rows; the prompt shows them as they stand."""
    folder = made.crossvideo(tmp_path)
    text = "A. Use red paper, B. Fold, then cut, C. Widen it, D. Wait"
    row = {"id": 996, "task_type": "Cross-video Procedural Transfer", "question": "What to do?", "options": [text]}
    parquet(folder / CROSS, [{**row, "answer": "D", "video_1": "0/aB-1.mp4", "video_2": "0/c_D2.mp4"}])
    (item,) = table.read("crossvideo_cvbench", folder).items
    assert item.options == ("A. Use red paper", "B. Fold, then cut", "C. Widen it", "D. Wait")
    assert f"What to do?\n{text}\nAnswer with" in item.prompt
    parquet(
        folder / CROSS, [{**row, "answer": "D", "options": ["red or blue"], "video_1": "0/aB-1.mp4", "video_2": None}]
    )
    assert table.read("crossvideo_cvbench", folder).items[0].options is None


def test_all_parts_of_a_table_are_read(tmp_path):
    """A data set in parts is scored whole."""
    row = {
        "task_type": "Cross-video Procedural Transfer",
        "question": "What?",
        "options": ["A. x", "B. y"],
        "answer": "B",
    }
    for part in range(2):
        parquet(
            tmp_path / f"data/test-0000{part}-of-00002.parquet",
            [{**row, "id": part, "video_1": "0/a.mp4", "video_2": None}],
        )
    assert [item.id for item in table.read("crossvideo_cvbench", tmp_path).items] == ["0", "1"]


def test_several_videos_stand_between_their_titles(tmp_path):
    item = of("crossvideo_cvbench", tmp_path)[0]
    seen = showing.show(item.media, showing.Showing(3))
    assert seen.views == (
        "The video 1", "0/aB-1.mp4#0", "0/aB-1.mp4#2", "0/aB-1.mp4#5", "Video 1 End",
        "The video 2", "0/c_D2.mp4#0", "0/c_D2.mp4#3", "0/c_D2.mp4#6", "Video 2 End",
    )  # fmt: skip
    assert [image.shape[:2] for image in seen.images] == [(32, 48)] * 5 + [(48, 48)] * 5 and seen.rate is None
    np.testing.assert_allclose([image.mean() for image in seen.images[1:4]], [0, 16, 40], atol=4)
    titles = [seen.images[place] for place in (0, 4, 5, 9)]
    for title in titles:  # white words on black, in the middle, within its half
        rows, columns = np.nonzero(title[..., 0] > 64)
        height, width = title.shape[:2]
        assert title.max() > 128 and title[0].max() == title[:, 0].max() == 0
        assert abs(rows.mean() / height - 0.5) < 0.15 and np.ptp(columns) <= width / 2 + 1
    assert not np.array_equal(titles[0], titles[1])
    small = showing.show(item.media, showing.Showing(2, max_size=24))
    assert all(max(image.shape) == 24 for image in small.images) and small.sizes[0] == (32, 48)


def test_crossvideo_is_read_from_its_json_too(tmp_path):
    folder = made.crossvideo(tmp_path)
    rows = [
        {"id": n, "task_type": kind, **{f"video_{k + 1}": name for k, name in enumerate(names)}, "question": f"Which of thing {n}?",
         "options": options, "answer": truth}
        for n, (kind, names, options, truth) in enumerate(made.CROSSVIDEO_ROWS)
    ]  # fmt: skip
    before = table.read("crossvideo_cvbench", folder)
    (folder / "data" / "test-00000-of-00001.parquet").unlink()
    made.written(folder / "CVBench.json", rows)
    assert table.read("crossvideo_cvbench", folder).sha256 == before.sha256


def test_missing_films_and_frames_are_told(tmp_path):
    folder = made.crossvideo(tmp_path / "a")
    (folder / "CVBench/7/x_seg2.mp4").unlink()
    found = table.read("crossvideo_cvbench", folder).items
    assert [[one.name for one in item.media if one.missing] for item in found] == [[], [], ["7/x_seg2.mp4"]]
    folder = made.sqa3d(tmp_path / "b")
    (folder / "video/scene9001_00.mp4").unlink()
    found = table.read("sqa3d", folder).items
    assert [item.media[0].missing for item in found] == [False, True, False]
    assert found[1].media[0].name == "scene9001_00/color"
    assert media_hash(one for item in found for one in item.media)


CROSS = "data/test-00000-of-00001.parquet"
BROKEN = [
    ("crossvideo_cvbench", None, {"answer": "E"}, r"test-00000-of-00001.parquet, row 1, field 'answer': expected one of the letters A, B"),
    ("crossvideo_cvbench", None, {"options": ["Yes.", "No."]}, r"row 1, field 'answer': expected Yes or No, found 'B'"),
    ("crossvideo_cvbench", None, {"options": []}, r"row 1, field 'options': expected a list of texts"),
    ("crossvideo_cvbench", None, {"task_type": ""}, r"row 1, field 'task_type': expected text, found ''"),
    ("crossvideo_cvbench", None, {"video_1": None, "video_2": None}, r"row 1, field 'video_1': expected the path of a video, found none"),
    ("crossvideo_cvbench", None, {"video_2": "0/notes.txt"}, r"row 1, field 'video_2': expected a video \(.mp4, .*found '0/notes.txt'"),
    ("scanqa", "ScanQA_v1.0_val.json", {"answers": []}, r"ScanQA_v1.0_val.json, entry 1, field 'answers': expected a list of texts"),
    ("scanqa", "ScanQA_v1.0_val.json", {"answers": ["", "a"]}, r"entry 1, field 'answers': expected texts, one of them is empty"),
    ("scanqa", "ScanQA_v1.0_val.json", {"scene_id": None}, r"entry 1, field 'scene_id': expected text, found None"),
    ("sqa3d", "questions", {"situation": ""}, r"questions_test_scannetv2.json, entry 1 of 'questions', field 'situation': expected text"),
    ("sqa3d", "questions", {"question_id": 5}, r"entry 1 of 'questions', field 'question_id': 5 has no annotation in v1_balanced_sqa_ann"),
    ("sqa3d", "questions", {"question_id": 990000000002}, r"entry 3 of 'questions': the id '990000000002' stands at .*entry 1 of 'questions' already"),
    ("sqa3d", "annotations", {"answers": []}, r"annotations_test_scannetv2.json, entry 1 of 'annotations', field 'answers': expected a list of one"),
    ("sqa3d", "annotations", {"answers": [{"answer": 1.5}]}, r"entry 1 of 'annotations', field 'answers', field 'answer': expected text, found 1.5"),
    ("sqa3d", "annotations", {"scene_id": "scene9001_00"}, r"entry 1 of 'annotations', field 'scene_id': the question, .* is about scene9000_00"),
    ("sqa3d", "annotations", {"question_id": 990000000001}, r"entry 2 of 'annotations', field 'question_id': 990000000001 stands at .*entry 1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "change", "message"), BROKEN)
def test_a_wrong_row_is_named(name, file, change, message, tmp_path):
    folder = made.FOLDERS[name](tmp_path)
    if file is None:
        kind, names, options, truth = made.CROSSVIDEO_ROWS[0]
        row = {"id": 0, "task_type": kind, "question": "q", "options": options, "answer": truth}
        parquet(folder / CROSS, [{**row, "video_1": names[0], "video_2": names[1], **change}])
    else:
        inside = {"questions": "questions", "annotations": "sqa_annotations"}.get(file)
        path = folder / (BALANCED.format(inside) if inside else file)
        whole = json.loads(path.read_text())
        rows = whole[file] if inside else whole
        rows[0].update(change)
        made.written(path, whole)
    with pytest.raises(items.RawError, match=message):
        table.read(name, folder)


def test_annotations_without_a_question_and_wrong_files_are_named(tmp_path):
    folder = made.sqa3d(tmp_path)
    path = folder / BALANCED.format("questions")
    whole = json.loads(path.read_text())
    made.written(path, {**whole, "questions": whole["questions"][:2]})
    with pytest.raises(
        items.RawError, match=r"entry 1 of 'annotations', field 'question_id': 990000000002 has no question in v1_bal"
    ):
        table.read("sqa3d", folder)
    made.written(path, whole["questions"])
    with pytest.raises(items.RawError, match="must hold an object with a list of rows in 'questions', found none"):
        table.read("sqa3d", folder)
    path.write_text("{")
    with pytest.raises(items.RawError, match="questions_test_scannetv2.json cannot be read as JSON"):
        table.read("sqa3d", folder)
    with pytest.raises(items.RawError, match="scanqa has no part 'test_w_obj'; it has val"):
        table.read("scanqa", folder, "test_w_obj")
    (folder / "scannet/posed_images/scene9000_00/00000.jpg").write_bytes(picture(3)[:30])
    made.written(path, whole)
    with pytest.raises(items.RawError, match="The picture .*00000.jpg"):
        showing.show(table.read("sqa3d", folder).items[0].media, showing.Showing())
