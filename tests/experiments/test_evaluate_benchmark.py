"""A published benchmark from its raw files to scores: what is written, going on after a stop, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import raw_benchmarks

from experiments import evaluate, evaluate_benchmark
from spatialsv_jax import loaded_model
from spatialsv_jax.evaluation.benchmarks import scoring

MODEL = Path(__file__).parents[1] / "goldens/qwen2_5_vl"
ANSWERS = {"object_counting": "4", "choice": "B"}


@pytest.fixture
def said(monkeypatch):
    """The model says "4" to questions about numbers and "B" to the others; the calls are kept."""
    calls = []

    def answer_rows(self, rows, max_new_tokens=32, size=None, most_questions=None, video_rates=None):
        calls.append((rows, max_new_tokens, size, most_questions, video_rates))
        assert len(rows) <= size and all(len(questions) <= most_questions for _, questions in rows)
        return [["4" if "single word" in text else "B" for text in questions] for _, questions in rows]

    monkeypatch.setattr(loaded_model.LoadedModel, "answer_rows", answer_rows)
    return calls


def run(folder, out, *more, name="vsibench"):
    command = ["--model", str(MODEL), "--benchmark", name, "--raw", str(folder), "--out", str(out), "--frames", "3"]
    return evaluate.main([*command, *more])


def lines(out):
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text("utf-8").splitlines()]


def test_the_result_says_what_was_asked_and_how(said, tmp_path, capsys):
    folder, out = raw_benchmarks.vsibench(tmp_path / "raw"), tmp_path / "out"
    assert run(folder, out, "--batch_size", "2", "--max_size", "24") == 0
    result = json.loads((out / "benchmark.json").read_text("utf-8"))
    assert result["scores"]["overall"] == scoring.score("vsibench", out / "predictions.jsonl")["overall"]
    # 4 of 4 is 1, 4 of 2 is 0; 4 of 2.5 is 0: relative errors 1 and 0.6.
    assert result["scores"]["per_type"]["object_counting"]["score"] == pytest.approx(0.5)
    assert result["scores"]["per_type"]["route_planning"]["score"] == 1 and result["scores"]["dialect"] == "original"
    asked = result["asked"]
    assert asked["decoding"] == {"method": "greedy", "max_new_tokens": 16} and asked["questions"]["asked"] == 7
    assert "These are frames of a video." in asked["prompts"]["templates"]["choice"]
    assert asked["views"]["frames"] == 3 and asked["views"]["max_size"] == 24 and asked["part"] == "all"
    assert all(
        len(asked[part][name]) == 64
        for part, name in (("model", "sha256"), ("data", "sha256"), ("data", "media_sha256"))
    )
    assert result["pictures"] == {"stored": {"32x48": 7}, "shown": {"16x24": 7}, "views_of_a_question": [3]}
    assert result["missing"] == {"questions": 0, "files": []}
    first = next(line for line in lines(out) if line["id"] == "0")
    assert (
        first["views"] == [0, 5, 11] and first["media"] == ["arkitscenes/41999999.mp4"] and first["prediction"] == "4"
    )
    # The seven questions are about two films: two rows, in one batch.
    (call,) = said
    assert [len(questions) for _, questions in call[0]] == [4, 3] and call[1:3] == (16, 2)
    assert "overall" in capsys.readouterr().out


def test_a_killed_run_goes_on_and_asks_nothing_twice(said, tmp_path, monkeypatch):
    folder, whole = raw_benchmarks.vsibench(tmp_path / "raw"), tmp_path / "whole"
    monkeypatch.setattr(evaluate_benchmark, "QUESTIONS_OF_A_ROW", 2)
    assert run(folder, whole, "--batch_size", "1") == 0
    assert len(said) == 4
    out = tmp_path / "out"
    inner = loaded_model.LoadedModel.answer_rows

    def killed(self, *arguments):
        if len(said) == 6:
            raise KeyboardInterrupt
        return inner(self, *arguments)

    monkeypatch.setattr(loaded_model.LoadedModel, "answer_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, "--batch_size", "1")
    assert len(lines(out)) == 4 and not (out / "benchmark.json").exists()
    content = (out / "predictions.jsonl").read_bytes()
    (out / "predictions.jsonl").write_bytes(content[:-30])  # the kill tore the last line of a row of two questions
    monkeypatch.setattr(loaded_model.LoadedModel, "answer_rows", inner)
    before = len(said)
    assert run(folder, out, "--batch_size", "1") == 0
    assert len(said) == before + 3 and [len(asked) for call in said[-3:] for _, asked in call[0]] == [1, 2, 1]
    assert (out / "predictions.jsonl").read_bytes() == (whole / "predictions.jsonl").read_bytes()
    result = json.loads((out / "benchmark.json").read_text("utf-8"))
    assert result["time"]["answered_before"] == 3 and result["time"]["answered_now"] == 4
    assert run(folder, out) == 0 and len(said) == before + 3  # finished: nothing is asked, it is scored again


def test_another_model_prompt_or_data_is_refused(said, tmp_path, capsys):
    folder, out = raw_benchmarks.vsibench(tmp_path / "raw"), tmp_path / "out"
    assert run(folder, out) == 0
    kept = (out / "predictions.jsonl").read_bytes()
    prompts = tmp_path / "prompts.json"
    prompts.write_text('{"choice": "Choose. {question} {options}"}')
    for more, field in (
        (["--frames", "4"], "views.frames was 3 and is 4"),
        (["--prompts", str(prompts)], "prompts.templates.choice was"),
        (["--max_new_tokens", "9"], "decoding.max_new_tokens was 16 and is 9"),
        (["--dtype", "bfloat16"], "model.parameters was"),
        (["--max_questions", "3"], "questions.max_questions was null and is 3"),
    ):
        assert run(folder, out, *more) == 2
        assert field in capsys.readouterr().err, field
    rows = (folder / "test.jsonl").read_text("utf-8")
    (folder / "test.jsonl").write_text(rows.replace('"4"', '"5"'), "utf-8")
    assert run(folder, out) == 2
    assert "data.files.test.jsonl was" in capsys.readouterr().err
    (folder / "test.jsonl").write_text(rows, "utf-8")
    assert run(folder, out) == 0 and (out / "predictions.jsonl").read_bytes() == kept
    (out / "asked.json").unlink()
    assert run(folder, out) == 2 and "without asked.json" in capsys.readouterr().err


def test_missing_pictures_stop_before_the_model_is_loaded(said, tmp_path, capsys, monkeypatch):
    folder, out = raw_benchmarks.vsibench(tmp_path / "raw"), tmp_path / "out"
    (folder / "scannet.zip").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("spatialsv_jax.loading.load", lambda *_: pytest.fail("loaded"))
        assert run(folder, out) == 2
    said_so = capsys.readouterr().err
    assert "1 pictures or videos of 3 of 7 questions" in said_so and "scannet/scene9000_00.mp4" in said_so
    assert not out.exists()
    assert run(folder, out, "--allow_missing") == 0
    result = json.loads((out / "benchmark.json").read_text("utf-8"))
    assert result["missing"] == {"questions": 3, "files": ["scannet/scene9000_00.mp4"]}
    assert len(lines(out)) == 4 and "left out: 3 questions" in capsys.readouterr().out


def test_mistakes_end_with_2_and_say_what_to_do(said, tmp_path, capsys):
    folder, out = raw_benchmarks.mindcube(tmp_path / "raw"), tmp_path / "out"
    base = ["--model", str(MODEL), "--benchmark", "mindcube"]
    for command, message in (
        ([*base, "--out", str(out)], "needs --raw"),
        ([*base, "--raw", str(folder)], "say with --out where the answers go"),
        ([*base, "--raw", str(folder), "--dialect", "swift"], "has no dialect 'swift'; it has original"),
        ([*base, "--raw", str(folder), "--variant", "fixed"], "has no variants"),
        ([*base, "--raw", str(folder), "--part", "huge"], "has no part 'huge'; it has tiny, full"),
        ([*base[:3], "scanqa", "--raw", str(folder)], "holds no ScanQA_v1.0_val.json"),
        ([*base[:3], "vsi", "--raw", str(folder)], "There is no benchmark 'vsi'"),
        ([*base, "--raw", str(folder), "--frames", "0"], "--frames is 0"),
    ):
        assert evaluate.main(command) == 2
        assert message in capsys.readouterr().err, message
    assert not said


def test_flags_without_effect_are_refused(said, capsys):
    model = ["--model", str(MODEL)]
    asking = [*model, "--benchmark", "mindcube", "--raw", "raw"]
    for command, message in (
        ([*model, "--raw", "raw"], "--raw: only with --benchmark NAME"),
        ([*model, "--dialect", "vlmevalkit", "--frames", "8"], "--dialect, --frames: only with --benchmark NAME"),
        ([*asking, "--data", "x"], "--data: without effect beside --benchmark mindcube"),
        ([*asking, "--split", "val", "--pose_auc", "5"], "--split, --pose_auc: without effect"),
        ([*asking, "--no_blind", "--exports"], "--exports, --no_blind: without effect"),
    ):
        with pytest.raises(SystemExit) as ended:
            evaluate.main(command)
        assert ended.value.code == 2 and message in capsys.readouterr().err, message
    assert not said
    # Every flag is of one kind, of the other, or of both.
    both = {"help", "model", "out", "benchmark", "batch_size", "seed", "dtype", "fsdp", "tensor"}
    both |= {"coordinator", "num_processes", "process_id", "grace_s"}
    of_one = (*evaluate_benchmark.OF_A_BENCHMARK, *evaluate_benchmark.OF_PREPARED_DATA)
    assert sorted([*both, *of_one]) == sorted(action.dest for action in evaluate.parser()._actions)


def test_questions_about_several_videos_and_about_scans(monkeypatch, tmp_path):
    calls = []

    def answer_rows(self, rows, *_):
        calls.extend(rows)
        return [["two" if "behind me" in text else "No" for text in questions] for _, questions in rows]

    monkeypatch.setattr(loaded_model.LoadedModel, "answer_rows", answer_rows)
    result = {}
    for name in ("crossvideo_cvbench", "sqa3d"):
        folder = raw_benchmarks.FOLDERS[name](tmp_path / name)
        assert run(folder, tmp_path / f"out_{name}", name=name) == 0
        result[name] = json.loads((tmp_path / f"out_{name}/benchmark.json").read_text("utf-8"))
    # Two questions about two videos (three frames and two titles of each), one about three.
    assert [(len(images), len(asked)) for images, asked in calls] == [(10, 2), (15, 1), (3, 2), (3, 1)]
    # The truth "No" is written otherwise than the published parser writes it: see docs/benchmarks.md.
    assert result["crossvideo_cvbench"]["scores"]["overall"] == 0
    assert result["sqa3d"]["scores"]["overall"] == pytest.approx(1 / 3)
    assert result["sqa3d"]["asked"]["part"] == "test" and result["sqa3d"]["scores"]["per_type"]["how"]["score"] == 1
    fixed = scoring.score("crossvideo_cvbench", tmp_path / "out_crossvideo_cvbench/predictions.jsonl", variant="fixed")
    assert fixed["overall"] == pytest.approx(1 / 3)
    first = lines(tmp_path / "out_crossvideo_cvbench")[0]
    assert first["views"][:2] == ["The video 1", "0/aB-1.mp4#0"] and first["media"] == ["0/aB-1.mp4", "0/c_D2.mp4"]


def test_scanqa_is_scored_against_all_answers(monkeypatch, tmp_path):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr(
        loaded_model.LoadedModel, "answer_rows", lambda self, rows, *_: [["desk"] * len(asked) for _, asked in rows]
    )
    folder = raw_benchmarks.FOLDERS["scanqa"](tmp_path / "raw")
    assert run(folder, tmp_path / "out", name="scanqa") == 0
    assert lines(tmp_path / "out")[0]["ground_truth"] == ["on the desk", "desk"]
    result = json.loads((tmp_path / "out/benchmark.json").read_text("utf-8"))["scores"]
    assert result["overall"] == pytest.approx(1 / 3) and result["per_type"]["Place"]["score"] == 1


def test_the_model_itself_answers_every_kind_of_row(tmp_path):
    """Nothing replaced: pictures of two sizes, one and two of them; twice gives the same bytes."""
    folder = raw_benchmarks.mindcube(tmp_path / "raw")
    other = folder / "data/other_all_image/rotation/scene9/0.png"
    other.write_bytes(raw_benchmarks.picture(7, (90, 60)))
    for out in ("a", "b"):
        assert run(folder, tmp_path / out, "--max_new_tokens", "4", "--batch_size", "2", name="mindcube") == 0
    assert (tmp_path / "a/predictions.jsonl").read_bytes() == (tmp_path / "b/predictions.jsonl").read_bytes()
    assert [line["id"] for line in lines(tmp_path / "a")] == [
        "rotation_group9_q0_1",
        "among_group9_q0_1",
        "among_group9_q1_1",
    ]
    assert json.loads((tmp_path / "a/benchmark.json").read_text("utf-8"))["scores"]["n"] == 3
