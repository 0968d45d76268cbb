"""The compare command on made-up runs: their folders, seeds, a base, what is wrong with them, and a safe page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import compare, score
from spatialsv_jax.evaluation.benchmarks import scoring


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
        (lambda line: {**line, "correct": 5.0}, "predictions.jsonl, line 1: field 'correct' is 5.0, expected 0 to 1"),
        (lambda line: {**line, "correct": float("nan")}, "line 1: field 'correct' is nan"),
        (lambda line: {**line, "depth_rmse": "far"}, "line 1: field 'depth_rmse' is 'far'"),
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
        (["--runs", f"a={one},{one}/", f"b={other}"], "one is given twice: a run is no second seed of itself"),
        (["--runs", one, other], "on different data"),
    ]:
        assert _start([*arguments, *out]) == 2
        assert message in capsys.readouterr().err


def test_broken_files_beside_the_answers_are_named(tmp_path, capsys):
    runs = [_run(tmp_path / name, 0.5, number) for number, name in enumerate("ab")]
    for text, message in [
        ("[]", "evaluation.json holds a JSON list, expected an object"),
        ('{"data": null}', "evaluation.json: field 'data' is None"),
        ("{", "evaluation.json is not JSON"),
    ]:
        (tmp_path / "b" / "evaluation.json").write_text(text)
        assert _start(["--runs", *runs, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "b" / "evaluation.json").unlink()
    (tmp_path / "b" / "run.json").write_text('{"phases": 3}')
    assert _start(["--runs", *runs, "--out", str(tmp_path / "out")]) == 2
    assert "run.json: field 'phases' is 3" in capsys.readouterr().err
    (tmp_path / "b" / "predictions.jsonl").write_bytes(b"\xff\xfe")
    assert _start(["--runs", *runs, "--out", str(tmp_path / "out")]) == 2
    assert "predictions.jsonl is not UTF-8" in capsys.readouterr().err


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


def _benchmark(folder, right, seed=0, name="vsibench", change=lambda line: line):
    """Answers to two tasks of VSI-Bench: letters, right with this probability, and counts."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(seed), []
    for number in range(240):
        count = number % 3 == 0
        said = ("4" if rng.random() < right else "9") if count else ("B" if rng.random() < right else "A")
        rows.append(
            {"id": str(number), "question_type": "object_counting" if count else "route_planning", "prediction": said,
             "ground_truth": "4" if count else "B", "options": None if count else ["A. left", "B. right"],
             "scene": f"s{number // 8}", "dataset": "scannet"}
        )  # fmt: skip
    (folder / "predictions.jsonl").write_text("".join(json.dumps(change(row)) + "\n" for row in rows))
    (folder / "benchmark.json").write_text(json.dumps({"asked": {"data": {"sha256": name}}}))
    return str(folder)


def test_runs_on_a_published_benchmark(tmp_path, capsys):
    good = [_benchmark(tmp_path / f"good{seed}", 0.8, seed) for seed in range(2)]
    bad, base = _benchmark(tmp_path / "bad", 0.3, 5), _benchmark(tmp_path / "base", 0.5, 6)
    out = tmp_path / "out"
    arguments = ["--runs", "good=" + ",".join(good), bad, "--base", base, "--benchmark", "vsibench", "--out", str(out)]
    assert _start(arguments) == 0
    found = json.loads((out / "comparison.json").read_text("utf-8"))
    alone = [scoring.score("vsibench", f"{folder}/predictions.jsonl", resamples=20) for folder in (*good, bad)]
    assert found["variants"]["good"]["seeds"] == pytest.approx([result["overall"] for result in alone[:2]])
    assert found["variants"]["bad"]["value"] == pytest.approx(alone[2]["overall"])
    (pair,) = found["pairs"]
    assert pair["value"] == pytest.approx(alone[2]["overall"] - np.mean([result["overall"] for result in alone[:2]]))
    assert pair["verdict"] == "worse" and found["by_type"]["bad"].keys() == {"object_counting", "route_planning"}
    assert found["forgetting"]["bad"]["route_planning"]["verdict"] == "worse" and not found["depth_rmse"]
    said = capsys.readouterr().out
    assert "vsibench, dialect original" in said and "CAUTION" not in said
    views = {"data": {"sha256": "vsibench"}, "benchmark": "vsibench_mc", "views": {"max_size": 56}}
    for folder, size in ((bad, 56), (base, 24)):
        asked = views | {"views": {"max_size": size}}
        (Path(folder) / "benchmark.json").write_text(json.dumps({"asked": asked}))
    assert _start(arguments) == 0
    assert "CAUTION: the runs were asked differently in views" in capsys.readouterr().out
    found = json.loads((out / "comparison.json").read_text("utf-8"))
    assert found["asked_differently"] == {"views": {bad: {"max_size": 56}, base: {"max_size": 24}}}
    assert "{&quot;max_size&quot;: 24}" in (out / "index.html").read_text("utf-8")


def test_benchmark_runs_that_do_not_fit(tmp_path, capsys):
    one = _benchmark(tmp_path / "one", 0.5)
    moved = _benchmark(tmp_path / "moved", 0.5, name="other")
    truth = _benchmark(tmp_path / "truth", 0.5, change=lambda row: row | {"scene": "elsewhere"})
    out = ["--benchmark", "vsibench", "--out", str(tmp_path / "out")]
    for runs, more, message in [
        ([one, moved], [], "asked of different data"),
        ([one, truth], [], "Question '0': scene is 's0'"),
        ([one, str(tmp_path)], [], "has no predictions.jsonl. Make it with"),
        ([one, truth], ["--dialect", "none"], "none"),
    ]:
        assert _start(["--runs", *(f"{place}={run}" for place, run in enumerate(runs)), *out, *more]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _start(["--runs", one, moved, "--out", str(tmp_path / "out"), "--dialect", "original"])
    assert "belong to --benchmark" in capsys.readouterr().err
    (tmp_path / "truth" / "benchmark.json").write_text(json.dumps({"asked": {"benchmark": "cvbench"}}))
    assert _start(["--runs", one, truth, *out]) == 2
    assert "holds answers to cvbench (benchmark.json), not to vsibench" in capsys.readouterr().err
    assert score.main(["--benchmark", "vsibench", "--predictions", f"{truth}/predictions.jsonl"]) == 2
    assert "holds answers to cvbench" in capsys.readouterr().err
    # Ego3D as published leaves unreadable distances out: which ones depends on the answers.
    rows = [
        {
            "id": "1",
            "question_type": "Ego_Centric_Absolute_Distance",
            "ground_truth": "4",
            "options": None,
            "scene": "s",
        }
    ]
    rows.append({**rows[0], "id": "2", "prediction": "3"})
    for name, said in (("a", "3"), ("b", "far")):
        (tmp_path / name).mkdir()
        text = "".join(json.dumps({"prediction": said, **row}) + "\n" for row in rows)
        (tmp_path / name / "predictions.jsonl").write_text(text)
    out[1] = "ego3d"
    assert _start(["--runs", str(tmp_path / "a"), str(tmp_path / "b"), *out]) == 2
    assert (
        "leaves questions out by what was answered" in (said := capsys.readouterr().err) and "--variant fixed" in said
    )
