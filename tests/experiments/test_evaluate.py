"""The evaluate and reconstruct commands on a real, very small run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import storage
from experiments import evaluate, evaluation_groups, reconstruct
from spatialsv_jax import loading

ROOT = Path(__file__).parents[2]


def _reject(constant):
    raise AssertionError(f"{constant} in JSON")


def _read(path):
    return json.loads(path.read_text("utf-8"), parse_constant=_reject)


def test_training_ends_with_an_evaluation_of_unseen_rooms(tiny_run):
    evaluation = _read(tiny_run / "evaluation.json")
    records = storage.open_split(tiny_run / "data" / "rooms", "test")
    assert evaluation["trained"]["objective"] == "tasks" and evaluation["trained"]["step"] == 3
    assert evaluation["data"]["records"] == len(records) == evaluation["depth"]["model"]["none"]["n"] == 3
    assert evaluation["data"]["constant_predictor"]["records"] == 4
    lines = [json.loads(line) for line in (tiny_run / "predictions.jsonl").read_text("utf-8").splitlines()]
    made = [question for index in range(len(records)) for question in records[index].questions]
    asked = [question for question in made if question.group != "scan"]
    assert len(asked) < len(made)  # scans are there, but are not scored and cost no room
    assert evaluation_groups.shapes_for(loading.load(tiny_run), records, range(3)).answer_tokens == 2
    assert [line["ground_truth"] for line in lines] == [question.answer for question in asked]
    assert evaluation["questions"]["n"] == len(asked)
    assert evaluation["questions"]["micro"]["value"] == pytest.approx(np.mean([line["correct"] for line in lines]))
    for entry in evaluation["questions"]["types"].values():
        assert entry["n"] > 0 and entry["chance"] is not None and entry["blind"]["n"] == entry["n"]
    page = (tiny_run / "report" / "index.html").read_text("utf-8")
    assert "objective <b>tasks</b>" in page and 'class="curves"' in page
    scenes = page.count('<section class="scene">')
    assert len(list((tiny_run / "report").glob("*.glb"))) == 3 * scenes
    assert len(list((tiny_run / "report" / "scenes").glob("*.js"))) == scenes


def test_the_command_repeats_the_numbers_and_takes_a_choice_of_records(tiny_run, tmp_path):
    command = ["--model", str(tiny_run / "spatial"), "--no_report", "--out"]
    assert evaluate.main([*command, str(tmp_path / "all")]) == 0
    first, again = _read(tiny_run / "evaluation.json"), _read(tmp_path / "all" / "evaluation.json")
    for part in ("questions", "depth", "camera", "points", "heads_agreement", "confidence", "breakdown", "data"):
        assert first[part] == again[part], part
    assert not (tmp_path / "all" / "report").exists()
    assert evaluate.main([*command, str(tmp_path / "some"), "--max_scenes", "1", "--split", "ood", "--no_blind"]) == 0
    some = _read(tmp_path / "some" / "evaluation.json")
    assert some["data"]["records"] == 1 and some["data"]["split"] == "ood"
    assert some["questions"]["blind_micro"] == {
        "value": None, "interval_95": None, "standard_error": None, "n": 0, "scenes": 0,
    }  # fmt: skip


def test_data_without_a_training_split_have_no_constant_predictor(tiny_run, tmp_path, capsys):
    data = tmp_path / "rooms"
    shutil.copytree(tiny_run / "data" / "rooms", data)
    manifest = json.loads((data / "manifest.json").read_text("utf-8"))
    del manifest["splits"]["train"]
    (data / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert (
        evaluate.main(["--model", str(tiny_run), "--data", str(data), "--no_blind", "--out", str(tmp_path / "out")])
        == 0
    )
    assert "has no split 'train'" in capsys.readouterr().out
    found, before = _read(tmp_path / "out" / "evaluation.json"), _read(tiny_run / "evaluation.json")
    assert found["data"]["constant_predictor"] is None and found["depth"]["constant"]["none"]["n"] == 0
    assert found["depth"]["model"] == before["depth"]["model"] and found["depth"]["abs_rel_over_constant"] is None
    assert "best constant map" in (tmp_path / "out" / "report" / "index.html").read_text("utf-8")


def test_mistakes_end_with_2_and_one_message(tiny_run, tmp_path, capsys):
    cases = [
        (["--model", str(tmp_path)], "No model at"),
        (["--model", str(tiny_run), "--split", "holdout"], "has no split 'holdout'"),
        (["--model", str(tiny_run), "--data", str(tmp_path / "none")], "is not a folder"),
    ]
    for arguments, message in cases:
        assert evaluate.main([*arguments, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_info:
        evaluate.main(["--model", str(tiny_run), "--max_scenes", "0"])
    assert exit_info.value.code == 2


def test_report_like_a_report_of_other_data_is_refused(tiny_run, tmp_path, capsys):
    own = _read(tiny_run / "report" / "viewer.json")
    assert own["runs"][0]["data_sha256"] == _read(tiny_run / "evaluation.json")["data"]["data_sha256"]
    other = {"format": 1, "runs": [{"name": "x", "data_sha256": "2" * 64, "scenes": []}], "colours": {}}
    (tmp_path / "viewer.json").write_text(json.dumps(other))
    command = ["--model", str(tiny_run), "--report_like", str(tmp_path), "--out", str(tmp_path / "out")]
    assert evaluate.main(command) == 2
    assert f"{tmp_path} is of other data than" in capsys.readouterr().err


def test_reconstruct_any_pictures(tiny_run, tmp_path, capsys):
    paths = []
    for view in range(2):
        picture = np.random.default_rng(view).integers(0, 256, (40, 50, 3)).astype(np.uint8)
        paths.append(str(tmp_path / f"{view}.png"))
        Image.fromarray(picture).save(paths[-1])
    command = ["--model", str(tiny_run), "--out", str(tmp_path / "out"), "--images"]
    assert reconstruct.main([*command, *paths, "--questions", "in view 1 what colour is the chair ?"]) == 0
    with np.load(tmp_path / "out" / "reconstruction.npz") as arrays:
        assert arrays["depth"].shape == (2, 16, 16) and (arrays["depth"] > 0).all()
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "what colour is the chair" in page
    assert page.count("aspect-ratio: 50 / 40") == 4  # depth and confidence of two views, square maps of oblong pictures
    assert reconstruct.main([*command, *paths * 3]) == 2
    assert "6 pictures were given, but the model was trained with at most 4" in capsys.readouterr().err


def test_help_needs_no_model():
    for name in ("evaluate", "reconstruct"):
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0 and "--model" in done.stdout
