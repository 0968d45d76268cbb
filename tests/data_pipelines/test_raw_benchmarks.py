"""Raw files of published benchmarks: every layout's questions, prompts and pictures; what is wrong is named by file, row and field."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import raw_benchmarks
from raw_tables import parquet

from data_pipelines.benchmarks import items, raw_files, raw_rows, showing, single_tables, table
from spatialsv_jax.evaluation.benchmarks import table as scorers


def questions(name, tmp_path, part=None, **more):
    return table.read(name, raw_benchmarks.FOLDERS[name](tmp_path / "raw"), part, **more)


def by_id(found):
    return {item.id: item for item in found.items}


@pytest.mark.parametrize("name", raw_benchmarks.FOLDERS)
def test_every_layout_is_read_and_its_pictures_are_there(name, tmp_path):
    found = questions(name, tmp_path)
    assert found.items and not any(one.missing for item in found.items for one in item.media)
    for item in found.items:
        seen = showing.show(item.media, showing.Showing(frames=4))
        assert len(seen.images) == len(seen.views) == len(seen.sizes)
        assert all(image.dtype == np.uint8 and image.ndim == 3 for image in seen.images)
        assert (
            item.prompt.strip() and "{" not in item.prompt.replace("{'Reasoning'", "") and "<image>" not in item.prompt
        )
        json.dumps(item.row)
    assert len(found.data["sha256"]) == 64 and found.data["files"]


def test_every_scorer_has_a_reader():
    assert set(table.BENCHMARKS) == set(scorers.BENCHMARKS) == set(raw_benchmarks.FOLDERS)


def test_the_page_names_every_benchmark_with_its_longest_answer_and_parts():
    page = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.*) \|(.*)\|(.*)\|(.*)\|(.*)\|$", page[page.index("| `--benchmark` |") :], re.MULTILINE)
    found = {name: row for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    for name, benchmark in table.BENCHMARKS.items():
        assert int(found[name][3]) == benchmark.max_new_tokens, name
        assert found[name][4].strip() == ("" if len(benchmark.parts) == 1 else ", ".join(benchmark.parts)), name


def test_vsibench_asks_as_its_own_code(tmp_path):
    found = by_id(questions("vsibench", tmp_path))
    assert found["0"].prompt == (
        "These are frames of a video.\nWhat of things number 0?\nPlease answer the question using a single word or phrase."
    )
    assert found["3"].prompt == (
        "These are frames of a video.\nWhat of things number 3?\nOptions:\nA. left\nB. right\nC. back\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert found["3"].ground_truth == "A" and found["1"].ground_truth == "2.5"
    assert found["1"].scene == "scene9000_00" and found["1"].dataset == "scannet"
    assert [one.name for one in found["0"].media] == ["arkitscenes/41999999.mp4"]


def test_parts_of_vsibench(tmp_path):
    folder = raw_benchmarks.vsibench(tmp_path)
    assert list(by_id(table.read("vsibench_mc", folder))) == ["2", "3", "4", "5"]
    assert list(by_id(table.read("vsibench_debiased", folder))) == ["0", "2", "3", "5", "6"]
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    raw_benchmarks.lines(folder / "test.jsonl", [{k: v for k, v in row.items() if k != "pruned"} for row in rows])
    with pytest.raises(items.RawError, match="test.jsonl, line 1, field 'pruned'"):
        table.read("vsibench_debiased", folder)


@pytest.mark.parametrize("name", ["vsibench", "vsibench_debiased"])
def test_a_table_in_parts_is_read_whole(name, tmp_path):
    folder = raw_benchmarks.vsibench(tmp_path)
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    read = lambda: [(item.id, item.prompt, item.ground_truth) for item in table.read(name, folder).items]
    whole = read()
    (folder / "test.jsonl").unlink()
    parquet(folder / "test-00000-of-00002.parquet", rows[:2])
    parquet(folder / "test-00001-of-00002.parquet", rows[2:])
    assert read() == whole and len(whole) > 2


def test_the_debiased_table_goes_before_the_field(tmp_path):
    """Whatever else begins like it; rows of it need no `pruned`."""
    folder = raw_benchmarks.vsibench(tmp_path)
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if k != "pruned"} for row in rows[:3]]
    raw_benchmarks.lines(folder / "test_debiased.jsonl", kept)
    parquet(folder / "test_debiased.parquet", kept)
    (folder / "test_debiased.jsonl.sha256").write_text("0" * 64)
    assert list(by_id(table.read("vsibench_debiased", folder))) == [str(row["id"]) for row in kept]


def test_frames_are_int_of_linspace(tmp_path):
    found = by_id(questions("vsibench", tmp_path))
    seen = showing.show(found["0"].media, showing.Showing(frames=5))
    assert seen.views == (0, 2, 5, 8, 11)  # int(linspace(0, 11, 5))
    brightness = [image.mean() for image in seen.images]
    np.testing.assert_allclose(brightness, [8 * number for number in seen.views], atol=4)
    assert seen.rate == pytest.approx(10 * 5 / 12) and seen.sizes[0] == (32, 48)
    assert showing.show(found["1"].media, showing.Showing()).views == (0, 1, 2, 3, 4)  # from the zip; it has five
    assert showing.show(found["0"].media, showing.Showing(2, "first", 24)).images[0].shape == (16, 24, 3)


def test_a_folder_of_frames_is_a_video(tmp_path):
    folder = raw_benchmarks.vsibench(tmp_path)
    (folder / "arkitscenes" / "41999999.mp4").unlink()
    frames = folder / "arkitscenes" / "41999999"
    frames.mkdir()
    for number in (1, 2, 10):
        (frames / f"{number}.png").write_bytes(raw_benchmarks.picture(number))
    seen = showing.show(by_id(table.read("vsibench", folder))["0"].media, showing.Showing())
    assert seen.views == (0, 1, 2) and [image[0, 0, 1] for image in seen.images] == [1, 2, 10] and seen.rate == 0


def test_mindcube_keeps_the_order_and_mends_paths(tmp_path):
    found = by_id(questions("mindcube", tmp_path))
    among, turned = found["among_group9_q0_1"], found["rotation_group9_q0_1"]
    assert [one.name for one in among.media] == [
        "other_all_image/among/mug_9/front_039.png",
        "other_all_image/among/mug_9/left_123.png",
    ]
    assert among.options == ("Left", "Right", "Forward") and among.question_type == "among"
    assert turned.media[0].name == "other_all_image/rotation/scene9/0.png" and turned.ground_truth == "B"
    assert turned.prompt.endswith("[Question]\nWhat is left? A. bed B. desk")
    assert len(questions("mindcube", tmp_path, "full").items) == 1
    with pytest.raises(items.RawError, match="has no part 'train'; it has tiny, full"):
        questions("mindcube", tmp_path, "train")


def test_tables_with_pictures_inside(tmp_path):
    cvbench = by_id(questions("cvbench", tmp_path / "a"))
    assert list(cvbench) == ["2D-0", "2D-1", "3D-2", "3D-3"] and cvbench["3D-2"].dataset == "Omni3D"
    assert cvbench["2D-1"].prompt.startswith("Note: You only need to respond with A, B, C without")
    assert cvbench["2D-1"].prompt.endswith("\n\nHow many of 1?\n(A) 0\n(B) 1\n(C) 2")
    shown = showing.show(cvbench["3D-2"].media, showing.Showing())
    assert shown.images[0][0, 0, 1] == 100 and shown.sizes == ((36, 48),)  # the third row, in the second row group
    spar = questions("sparbench", tmp_path / "b").items
    assert [item.id for item in spar] == ["0/s", "1/s", "2/s", "3/s"] and [len(item.media) for item in spar] == [
        1,
        2,
        1,
        2,
    ]
    assert "0-1000 scale" in spar[1].prompt and "0-1000" not in spar[2].prompt and spar[3].prompt == spar[3].question
    blink = by_id(questions("blink", tmp_path / "c"))
    assert [len(item.media) for item in blink.values()] == [1, 2]
    emb = questions("embspatial", tmp_path / "d").items[0]
    assert emb.ground_truth == "C" and emb.prompt.endswith("What is left?\nA) sofa\nB) tv\nC) bed\nD) lamp")
    levels = questions("spatial457", tmp_path / "e").items
    assert [item.question_type for item in levels] == ["L1_single", "L3_2d_spatial"] and levels[
        1
    ].ground_truth == "True"
    assert "2D projected camera view" in levels[1].prompt and levels[0].prompt.endswith("'Answer': '<Your answer>'}")


def test_a_row_group_is_read_once_for_each_of_its_picture_columns(tmp_path, monkeypatch):
    parquet, table = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow").table
    columns = {f"image_{one}": [{"bytes": bytes([one, row])} for row in range(5)] for one in range(4)}
    parquet.write_table(table(columns), tmp_path / "x.parquet")
    opened, real = [], parquet.ParquetFile
    monkeypatch.setattr(parquet, "ParquetFile", lambda path: opened.append(path) or real(path))
    cells = [raw_rows._cell(tmp_path / "x.parquet", 0, row, name, 0) for row in range(5) for name in columns]
    assert cells == [bytes([one, row]) for row in range(5) for one in range(4)] and len(opened) == 4


def test_tsvs_of_vlmevalkit(tmp_path):
    circular = by_id(questions("3dsrbench", tmp_path / "a"))
    assert list(circular) == ["ABC1DE2F", "ABC1DE2F-1", "ABC1DE2F-flip", "ABC1DE2F-flip-1"]
    assert circular["ABC1DE2F-1"].options == ("no", "yes") and circular["ABC1DE2F-1"].scene == "ABC1DE2F"
    assert len(questions("3dsrbench", tmp_path / "a", "flip").items) == 2
    rotations = questions("mmbench", tmp_path / "b").items
    assert len({one.name for item in rotations for one in item.media}) == 1
    assert rotations[0].prompt.startswith(
        "It is red. Where is the box? There are several options:\nA. left\nB. right\nC. behind\n"
    )
    assert rotations[1].prompt.startswith("Where is the box?") and rotations[1].options == ("right", "behind", "left")


def test_views_of_ego3d_stand_as_the_text_names_them(tmp_path):
    found = by_id(questions("ego3d", tmp_path))
    assert [one.name for one in found["7"].media] == ["raw_images/f.jpg", "raw_images/bl.jpg", "raw_images/sl.jpg"]
    assert "Front view: <view:0>\nBack Left view: <view:1>\nLeft view: <view:2>" in found["7"].prompt
    assert "A. north\nB. south" in found["7"].prompt and found["8"].options is None


def test_an_answer_of_ego3d_may_be_the_words_of_an_option(tmp_path):
    folder = raw_benchmarks.ego3d(tmp_path)
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    raw_benchmarks.lines(folder / "test.jsonl", [{**rows[0], "answer": "South"}])
    assert table.read("ego3d", folder).items[0].ground_truth == "South"


def test_marks_of_pictures_become_names():
    assert single_tables.views_named("<image> and <image>") == "<view:0> and <view:1>"
    assert single_tables.views_named("<image 2> and <image_1>") == "<view:1> and <view:0>"


def test_prompts_can_be_given(tmp_path):
    folder = raw_benchmarks.vsibench(tmp_path)
    found = table.read("vsibench", folder, templates={"number": "Say {question} {x}"})
    assert by_id(found)["0"].prompt == "Say What of things number 0? {x}" and found.prompt_source.startswith("given")
    assert found.sha256 != table.read("vsibench", folder).sha256
    with pytest.raises(items.RawError, match="has no prompts letter; it has choice, number"):
        table.read("vsibench", folder, templates={"letter": "x"})
    for name, text, lacking in (
        ("vsibench", "Say {qestion} {options}", "{question}"),
        ("vsibench", "{question}", "{options}"),
        ("vsibench", "{prompt}", "{question} and {options}"),
        ("cvbench", "{question} {letters}", "{prompt}"),
    ):
        folder = raw_benchmarks.FOLDERS[name](tmp_path / lacking)
        with pytest.raises(items.RawError, match=f"The prompt 'choice' lacks {lacking}: all would"):
            table.read(name, folder, templates={"choice": text})


BROKEN = [
    ("vsibench", "test.jsonl", {"ground_truth": "four"}, r"test.jsonl, line 1, field 'ground_truth': expected a number, found 'four'"),
    ("vsibench", "test.jsonl", {"question_type": "colour"}, r"line 1, field 'question_type': there is no 'colour'"),
    ("vsibench", "test.jsonl", {"scene_name": None}, r"line 1, field 'scene_name': expected text, found None"),
    ("vsibench", "test.jsonl", {"id": 3}, r"line 4: the id '3' stands at test.jsonl, line 1 already"),
    ("mindcube", "data/raw/MindCube_tinybench.jsonl", {"gt_answer": "E"}, r"line 1, field 'gt_answer': expected one of the letters A, B, C"),
    ("mindcube", "data/raw/MindCube_tinybench.jsonl", {"id": "q1"}, r"line 1, field 'id': expected one of around"),
    ("mindcube", "data/raw/MindCube_tinybench.jsonl", {"images": []}, r"line 1, field 'images': expected a list of texts"),
    ("mindcube", "data/raw/MindCube_tinybench.jsonl", {"question": "Where?"}, r"line 1, field 'question': lists no options"),
    ("ego3d", "test.jsonl", {"images": {"Front": "f.jpg"}}, r"line 1, field 'question': names the Back Left view"),
    ("ego3d", "test.jsonl", {"answer": "east"}, r"line 1, field 'answer': expected one of the letters A, B"),
    ("ego3d", "test.jsonl", {"question": "<image>"}, r"line 1, field 'question': has 1 <image> marks, of which 0 name a view"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "change", "message"), BROKEN)
def test_a_wrong_row_is_named(name, file, change, message, tmp_path):
    folder = raw_benchmarks.FOLDERS[name](tmp_path)
    rows = [json.loads(line) for line in (folder / file).read_text().splitlines()]
    raw_benchmarks.lines(folder / file, [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(items.RawError, match=message):
        table.read(name, folder)


def test_wrong_files_are_named(tmp_path):
    folder = raw_benchmarks.vsibench(tmp_path)
    (folder / "test.jsonl").write_text('{"id": 1}\n{"id": ', "utf-8")
    with pytest.raises(
        items.RawError, match=r"test.jsonl, line 1, field 'question_type': expected text, found nothing"
    ):
        table.read("vsibench", folder)
    (folder / "test.jsonl").write_text("[]\n", "utf-8")
    with pytest.raises(items.RawError, match="line 1: expected an object, found list"):
        table.read("vsibench", folder)
    (folder / "test.jsonl").unlink()
    (folder / "test-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(items.RawError, match="cannot be read as parquet"):
        table.read("vsibench", folder)
    with pytest.raises(items.RawError, match="is no folder"):
        table.read("vsibench", tmp_path / "nowhere")
    with pytest.raises(items.RawError, match="holds no ViewSpatial-Bench.json"):
        table.read("viewspatial", folder)
    (folder / "scannet.zip").write_bytes(b"no zip")
    (folder / "test-00000-of-00001.parquet").unlink()
    raw_benchmarks.vsibench(tmp_path / "other")
    (tmp_path / "other" / "test.jsonl").rename(folder / "test.jsonl")
    with pytest.raises(items.RawError, match="scannet.zip is no readable zip archive"):
        table.read("vsibench", folder)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    folder = raw_benchmarks.cvbench(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(items.RawError, match=r"Parquet files need pyarrow .*\.\[benchmarks\]"):
        table.read("cvbench", folder)


def test_tsvs_that_are_wrong(tmp_path):
    folder = raw_benchmarks.mmbench(tmp_path)
    file = folder / "MMBench_DEV_EN.tsv"
    whole = file.read_text("utf-8")
    file.write_text(whole.replace("\t7\n", "\t8\n", 1), "utf-8")
    with pytest.raises(items.RawError, match="row 2, field 'image': refers to row '8'"):
        table.read("mmbench", folder)
    file.write_text(whole.replace("\tdev\t", "\tdev\tx\t", 1), "utf-8")
    with pytest.raises(items.RawError, match="row 1: has another number of cells than the header"):
        table.read("mmbench", folder)
    raw_benchmarks.tsv(
        file, [{"index": 1, "question": "q", "A": "a", "B": "b", "category": "c", "answer": "nan", "image": "x" * 99}]
    )
    with pytest.raises(items.RawError, match="row 1, field 'answer': is empty: the answers of this file are hidden"):
        table.read("mmbench", folder)


def test_broken_and_missing_pictures_are_named(tmp_path):
    folder = raw_benchmarks.mindcube(tmp_path)
    picture = folder / "data/other_all_image/among/mug_9/left_123.png"
    picture.write_bytes(picture.read_bytes()[:40])
    item = table.read("mindcube", folder).items[0]
    with pytest.raises(items.RawError, match="The picture other_all_image/among/mug_9/left_123.png"):
        showing.show(item.media, showing.Showing())
    picture.unlink()
    media = table.read("mindcube", folder).items[0].media
    assert [one.missing for one in media] == [False, True]
    with pytest.raises(items.RawError, match="left_123.png is missing"):
        showing.show(media, showing.Showing())


def test_paths_do_not_lead_out_of_the_folder(tmp_path):
    folder = raw_benchmarks.mindcube(tmp_path / "raw")
    (tmp_path / "secret.png").write_bytes(raw_benchmarks.picture(1))
    raw = raw_files.Raw(folder)
    assert raw.picture("../secret.png").missing and raw.picture(str(tmp_path / "secret.png")).missing


def test_hashes_change_with_the_files(tmp_path):
    folder = raw_benchmarks.mindcube(tmp_path)
    first = table.read("mindcube", folder)
    media = raw_files.media_hash(one for item in first.items for one in item.media)
    assert media == raw_files.media_hash(one for item in reversed(first.items) for one in item.media)
    (folder / "data/other_all_image/rotation/scene9/0.png").write_bytes(b"longer" * 99)
    again = table.read("mindcube", folder)
    assert again.data == first.data and media != raw_files.media_hash(one for item in again.items for one in item.media)
    path = folder / "data/raw/MindCube_tinybench.jsonl"
    path.write_text(path.read_text() + "\n")
    assert table.read("mindcube", folder).data["sha256"] != first.data["sha256"]
