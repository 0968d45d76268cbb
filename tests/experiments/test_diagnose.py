"""The diagnose command on a real, very small run."""

from __future__ import annotations

import json

import pytest

from experiments import diagnose


def test_two_checkpoints_side_by_side(tiny_run, tmp_path, capsys):
    out = tmp_path / "diagnosis"
    models = [str(tiny_run), str(tiny_run / "spatial")]
    assert diagnose.main(["--model", *models, "--out", str(out), "--resamples", "20"]) == 0
    found = json.loads((out / "diagnosis.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert len(found["runs"]) == 2 and found["across_runs"]["runs"] == 2
    first, second = found["runs"].values()
    evaluation = json.loads((tiny_run / "evaluation.json").read_text("utf-8"))
    assert first["accuracy"]["value"] == evaluation["questions"]["micro"]["value"]
    assert first["depth"]["rmse"]["value"] == pytest.approx(evaluation["depth"]["model"]["none"]["rmse"])
    assert {**first, "trained": 0} == {**second, "trained": 0}
    deciles = first["confidence"]["disagreement"]["bins"]
    assert len(deciles) == 10 and deciles[0]["gap_mean"] > deciles[-1]["gap_mean"] > 0
    lines = [json.loads(line) for line in (out / "questions.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 2 * evaluation["questions"]["n"]
    assert all(line["object_count"] > 0 and 0 <= line["occlusion"] < 1 for line in lines)
    assert first["within_run"]["pooled"]["controlled"]["without_difficulty"] == 0
    assert (out / "index.html").exists() and "wrote" in capsys.readouterr().out


def test_mistakes_end_with_2_and_one_message(tiny_run, tmp_path, capsys):
    for arguments, message in [
        (["--model", str(tmp_path)], "No model at"),
        (["--model", str(tiny_run), "--names", "a", "b"], "--names has 2 names"),
        (["--model", str(tiny_run), "--split", "holdout"], "has no split 'holdout'"),
    ]:
        assert diagnose.main([*arguments, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        diagnose.main(["--model", str(tiny_run), "--resamples", "-1"])
