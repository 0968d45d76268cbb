"""The compare command on made-up runs: their folders, seeds, a base, what is wrong with them, and a safe page."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments import compare


def _run(folder, right, seed=0, scenes=30, types=("name", "count", "distance"), change=lambda line: line, data="d"):
    """A run that has the share `right` of the questions right; its luck depends on the seed, the questions do not."""
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(seed), []
    for number in range(scenes * 12):
        kind = types[number % len(types)]
        scene = f"scene{number // 12}"
        correct = float(rng.random()) if kind == "distance" else bool(rng.random() < right)
        lines.append(
            {"id": f"{scene}/{number}", "scene": scene, "question_type": kind, "ground_truth": "x", "correct": correct,
             "depth_rmse": 1 - right + 0.01 * rng.standard_normal()}
        )  # fmt: skip
    text = "".join(json.dumps(change(line)) + "\n" for line in lines)
    (folder / "predictions.jsonl").write_text(text)
    (folder / "evaluation.json").write_text(json.dumps({"data": {"data_sha256": data}}))
    metrics = [{"step": step, "gradient_norm/text": 3.0, "gradient_norm/depth": 1.0} for step in range(4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    return str(folder)


def _start(arguments):
    return compare.main([*arguments, "--resamples", "200"])


def test_variants_seeds_base_and_gradients(tmp_path, capsys):
    good = [_run(tmp_path / f"good{seed}", 0.8, seed) for seed in range(2)]
    same = [_run(tmp_path / f"same{seed}", 0.8, seed + 2) for seed in range(2)]
    bad = _run(tmp_path / "bad", 0.3, 9)
    base = _run(tmp_path / "base", 0.6, 7)
    out = tmp_path / "out"
    runs = ["good=" + ",".join(good), "same=" + ",".join(same), bad]
    assert _start(["--runs", *runs, "--base", base, "--out", str(out)]) == 0
    found = json.loads((out / "comparison.json").read_text("utf-8"), parse_constant=pytest.fail)
    pairs = {(pair["first"], pair["second"]): pair for pair in found["pairs"]}
    assert pairs["good", "same"]["verdict"] == "within noise" and pairs["good", "same"]["noise"] == "scenes and seeds"
    assert pairs["good", "bad"]["verdict"] == "worse" and "seeds of the first" in pairs["good", "bad"]["noise"]
    lines = [json.loads(line) for line in (tmp_path / "bad" / "predictions.jsonl").read_text().splitlines()]
    exact = [line["correct"] for line in lines if line["question_type"] != "distance"]
    assert found["variants"]["bad"]["value"] == pytest.approx(np.mean(exact))
    assert len(found["variants"]["good"]["seeds"]) == 2 and found["number_questions"] == 120
    assert found["by_type"]["bad"].keys() == {"name", "count", "distance"}
    assert found["depth_rmse"][1]["verdict"] == "worse"
    assert found["forgetting"]["bad"]["name"]["verdict"] == "worse"
    entry = found["forgetting"]["good"]["count"]
    assert entry["gained"] - entry["lost"] == pytest.approx(entry["value"]) and "of the second" in entry["noise"]
    assert found["gradient_shares"]["good"]["mean"] == pytest.approx({"text": 0.75, "depth": 0.25})
    text = capsys.readouterr().out
    assert "same - good" in text and "within noise" in text and "bad, forgotten of the base: count, name" in text
    assert (out / "pairs.png").exists() and (out / "forgetting_3.png").exists()


def test_questions_that_a_run_lacks_are_counted(tmp_path):
    full = _run(tmp_path / "full", 0.5)
    part = _run(tmp_path / "part", 0.5, 1, scenes=20)
    assert _start(["--runs", full, part, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    assert found["questions"] == 240 and found["left_out"] == {full: 120, part: 0}
    assert "left out" in (tmp_path / "out" / "index.html").read_text("utf-8")


def test_variants_without_depth_do_not_take_it_from_others(tmp_path, capsys):
    lacks = lambda line: {k: v for k, v in line.items() if k != "depth_rmse"}
    some = lambda line: line | {"depth_rmse": None} if line["scene"] == "scene3" else line
    good = _run(tmp_path / "good", 0.8, scenes=60)
    part = _run(tmp_path / "part", 0.5, 1, scenes=60, change=some)
    text = _run(tmp_path / "text", 0.8, 2, scenes=60, change=lacks)
    base = _run(tmp_path / "base", 0.6, 3, scenes=60, change=lacks)
    out = tmp_path / "out"
    assert _start(["--runs", text, good, part, "--base", base, "--out", str(out)]) == 0
    found = json.loads((out / "comparison.json").read_text("utf-8"))
    (pair,) = found["depth_rmse"]
    assert (pair["first"], pair["second"], pair["verdict"]) == ("good", "part", "worse")
    lines = [json.loads(line) for line in (tmp_path / "part" / "predictions.jsonl").read_text().splitlines()]
    firsts = {line["id"].rsplit("/", 1)[0]: line["depth_rmse"] for line in reversed(lines)}
    assert pair["left_out"] == 1 and pair["n"] == 59
    assert pair["second_rmse"] == pytest.approx(np.mean([value for value in firsts.values() if value is not None]))
    assert found["without_depth"] == ["text"] and "without lifted depth: text" in capsys.readouterr().out
    assert "every seed: text" in (out / "index.html").read_text("utf-8")


def test_the_page_escapes_everything(tmp_path):
    evil = "<script>alert(1)</script>"
    runs = [_run(tmp_path / str(seed), 0.5, seed, types=(evil,)) for seed in range(2)]
    assert _start(["--runs", f"<b>$a={runs[0]}", f"<i>={runs[1]}", "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "<script" not in page and "<b>$a" not in page and "&lt;b&gt;$a" in page


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda line: {**line, "ground_truth": "y"}, "ground_truth is 'x'"),
        (lambda line: {**line, "id": "a/1"}, "line 2: id 'a/1' stands there twice"),
        (lambda line: {k: v for k, v in line.items() if k != "scene"}, "line 1: field 'scene' is missing"),
        (lambda line: {k: v for k, v in line.items() if k != "correct"}, "scored by experiments.score"),
        (lambda line: {**line, "id": "other" + line["id"]}, "No question of"),
    ],
)
def test_answers_that_do_not_fit(tmp_path, capsys, change, message):
    runs = [_run(tmp_path / "a", 0.5), _run(tmp_path / "b", 0.5, change=change)]
    assert _start(["--runs", *runs, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_other_mistakes(tmp_path, capsys):
    one = _run(tmp_path / "one", 0.5)
    other = _run(tmp_path / "other", 0.5, data="e")
    out = ["--out", str(tmp_path / "out")]
    for arguments, message in [
        (["--runs", one], "names one folder"),
        (["--runs", one, str(tmp_path / "none")], "has no predictions.jsonl. Make it with"),
        (["--runs", f"a={one}", f"a={one}"], "names 'a' twice"),
        (["--runs", f"a={one},"], "expected NAME=DIR,DIR"),
        (["--runs", one, other], "on different data"),
    ]:
        assert _start([*arguments, *out]) == 2
        assert message in capsys.readouterr().err


def test_metrics_of_a_run_are_those_of_its_last_phase(tmp_path):
    from experiments.run_files import Answers

    run = tmp_path / "run"
    _run(run / "spatial", 0.5)
    (run / "run.json").write_text(json.dumps({"phases": {"base": "base", "spatial": "spatial"}}))
    (run / "predictions.jsonl").write_text((run / "spatial" / "predictions.jsonl").read_text())
    assert len(Answers.read(run).metrics()) == 4
    inner = run / "spatial" / "evaluation" / "ood-3"
    inner.mkdir(parents=True)
    (inner / "predictions.jsonl").write_text((run / "spatial" / "predictions.jsonl").read_text())
    assert len(Answers.read(inner).metrics()) == 4
    # Another model, evaluated into this run's folder, is not given this run's gradients.
    other = tmp_path / "published"
    other.mkdir()
    for model, rows in (
        (other, 0),
        (run / "spatial", 4),
        (run / "spatial" / "checkpoints" / "40", 4),
        (tmp_path / "gone", 0),
    ):
        (inner / "evaluation.json").write_text(json.dumps({"trained": {"model": str(model)}}))
        if model.name == "40":
            model.mkdir(parents=True)
        assert len(Answers.read(inner).metrics()) == rows
