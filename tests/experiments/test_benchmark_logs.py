"""Answers in the forms of lmms-eval and VLMEvalKit, told field by field."""

from __future__ import annotations

import csv
import hashlib
import json

import raw_benchmarks

from data_pipelines.benchmarks import table
from experiments import benchmark_logs

STAMP = "20261126_201500"


def written(name, tmp_path, part=None, keep=lambda item: True):
    found = table.read(name, raw_benchmarks.FOLDERS[name](tmp_path / "raw"), part)
    lines = [{"id": item.id, "prediction": f'said {item.id}\n\t"x"'} for item in found.items if keep(item)]
    files = benchmark_logs.write(tmp_path, name, found.part, found.items, lines, "my model", STAMP)
    assert all(file.is_file() for file in files)
    return found, {str(file.relative_to(tmp_path)): file for file in files}


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_benchmark_that_the_harnesses_have_is_written(tmp_path):
    for name in raw_benchmarks.FOLDERS:
        _, files = written(name, tmp_path / name)
        kinds = {path.split("/")[0] for path in files}
        assert ("lmms_eval" in kinds) == (name in benchmark_logs.LMMS_TASKS)
        assert ("vlmevalkit" in kinds) == (name in benchmark_logs.KIT_SETS)


def test_sample_logs_of_lmms_eval(tmp_path):
    found, files = written("vsibench", tmp_path)
    folder = "lmms_eval/my__model"
    samples = [
        json.loads(line) for line in files[f"{folder}/{STAMP}_samples_vsibench.jsonl"].read_text("utf-8").splitlines()
    ]
    assert [sample["doc_id"] for sample in samples] == list(range(7))
    fourth = samples[3]
    assert (
        fourth["filtered_resps"] == 'said 3\n\t"x"'
        and fourth["target"] == "A"
        and fourth["input"] == found.items[3].prompt
    )
    document = json.loads((tmp_path / "raw/test.jsonl").read_text().splitlines()[3])
    assert fourth["doc_hash"] == hashlib.sha256(json.dumps(document, indent=2, ensure_ascii=False).encode()).hexdigest()
    log = json.loads(files[f"{folder}/from_log_vsibench.json"].read_text("utf-8"))
    assert log["model_configs"] == {"task": "vsibench"} and log["args"]["limit"] is None and log["time"] == "1126_2015"
    assert log["logs"][3] == {"doc_id": 3, "resps": [['said 3\n\t"x"']]}


def test_a_log_to_be_scored_again_holds_all_answers_or_is_not_there(tmp_path):
    _, files = written("vsibench", tmp_path, keep=lambda item: item.id != "2")
    assert not any("from_log" in path for path in files)
    samples = [json.loads(line) for line in (tmp_path / f"lmms_eval/my__model/{STAMP}_samples_vsibench.jsonl").open()]
    assert [sample["doc_id"] for sample in samples] == [0, 1, 3, 4, 5, 6]
    # The repackaged sets may have another order.
    assert not any("from_log" in path for path in written("mindcube", tmp_path / "b")[1])
    assert any("from_log" in path for path in written("cvbench", tmp_path / "c")[1])


def test_sub_tasks_have_files_of_their_own(tmp_path):
    _, files = written("blink", tmp_path)
    assert f"lmms_eval/my__model/{STAMP}_samples_blink_multi_view_reasoning.jsonl" in files
    assert list(written("cvbench", tmp_path / "b")[1])[-2:] == [
        "vlmevalkit/my__model/my__model_CV-Bench-2D.tsv",
        "vlmevalkit/my__model/my__model_CV-Bench-3D.tsv",
    ]


def test_tables_of_vlmevalkit(tmp_path):
    _, files = written("vsibench", tmp_path / "a")
    rows = rows_of(files["vlmevalkit/my__model/my__model_VSI-Bench.tsv"])
    assert rows[3]["prediction"] == 'said 3\n\t"x"' and rows[3]["answer"] == "A" and rows[3]["index"] == "3"
    assert rows[3]["candidates"] == "['A. left', 'B. right', 'C. back']" and rows[3]["B"] == "right"
    assert rows[0]["answer"] == "4" and rows[0]["candidates"] == "" and rows[0]["question_type"] == "object_counting"
    (row, _) = rows_of(written("viewspatial", tmp_path / "b")[1]["vlmevalkit/my__model/my__model_ViewSpatialBench.tsv"])
    assert row["answer"] == "A" and row["A"] == "right"
    rows = rows_of(written("mmbench", tmp_path / "c")[1]["vlmevalkit/my__model/my__model_MMBench_DEV_EN.tsv"])
    assert [row["index"] for row in rows] == ["7", "1000007", "2000007"] and rows[0]["l2-category"] == "x"
    # Other editions have other questions under the same numbers, and lmms-eval has no task for them.
    rows = rows_of(written("sparbench", tmp_path / "d")[1]["vlmevalkit/my__model/my__model_SparBench.tsv"])
    assert rows[3]["answer"] == "move_right:0.3,rotate_left:12" and rows[1]["task"] == "position_matching"


def test_editions_that_a_harness_lacks_are_not_given_another_ones_name(tmp_path):
    # Editions of MMBench have other questions under the same numbers, and lmms-eval's task is of the first.
    raw = raw_benchmarks.mmbench(tmp_path / "mmbench")
    (raw / "MMBench_DEV_EN.tsv").rename(raw / "MMBench_DEV_CN_V11.tsv")
    found = table.read("mmbench", raw)
    lines = [{"id": item.id, "prediction": "A"} for item in found.items]
    files = benchmark_logs.write(tmp_path, "mmbench", "all", found.items, lines, "m", STAMP)
    assert [str(file.relative_to(tmp_path)) for file in files] == ["vlmevalkit/m/m_MMBench_DEV_CN_V11.tsv"]
    # The kit's 3DSRBench is the circular table, which the flip pairs alone do not fill.
    _, files = written("3dsrbench", tmp_path / "flip", "flip")
    assert list(files) == [f"lmms_eval/my__model/{STAMP}_samples_3dsrbench.jsonl"]


def test_older_logs_of_the_model_are_replaced_and_nothing_else(tmp_path):
    found, files = written("vsibench", tmp_path)
    others = [
        tmp_path / "lmms_eval/README",
        tmp_path / "vlmevalkit/run.py",
        tmp_path / "lmms_eval/my__model/results.json",
    ]
    for path in others:
        path.write_text("someone's")
    lines = [{"id": item.id, "prediction": "B"} for item in found.items]
    again = benchmark_logs.write(tmp_path, "vsibench", "all", found.items, lines, "my/model", "20261127_000000")
    left = sorted(path for path in (tmp_path / "lmms_eval").rglob("*") if path.is_file())
    assert left == sorted([*again[:2], others[0], others[2]]) and others[1].exists()
    assert not any(path.exists() for path in files.values() if path not in again)
    benchmark_logs.write(
        tmp_path, "ego3d", "all", found.items, lines, "my/model", "20261127_000000"
    )  # has no such forms
    assert all(path.exists() for path in others)
