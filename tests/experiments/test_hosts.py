"""A job of two processes trains like one, stops as one, and goes on as one or two; the first alone writes."""

import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from host_runs import ROOT, run_job, run_together

from data_pipelines.labels.files import read_labels
from data_pipelines.storage import open_split
from experiments import label, stopping
from experiments.prepare import prepare_rooms

STEPS = 6
COUNTS = ("depth/reg/count", "tokens")
CONFIG = """
from experiments.configs import common

def get_config():
    config = common.get_config()
    config.name = "phase"
    config.vision.update(image_size=32, patch_size=8, width=32, layers=1, heads=2, trainable=True)
    config.language.update(width=32, layers=4, heads=2, kv_heads=1, head_dim=16, mlp_width=64, unroll=1)
    config.lifting.update(heads=("depth",), width=16, channels=(8, 8, 8, 8), features=8)
    config.losses.update(ray=0.0, points=0.0)  # less to compile
    config.data.sources.rooms = common.source("{data}", per_batch=8)
    config.data.update(questions=4, question_tokens=40, answer_tokens=2, views=2, label_size=(16, 16))
    config.training.update(steps={steps}, log_every=1, tensorboard=False, log_records=True)
    # Small steps, because large ones amplify the rounding of another order of summation tenfold each.
    config.optimizer.update({{group: 1e-4 for group in ("vision", "projector", "language", "lifting")}})
    config.optimizer.name = "adamw"
    config.checkpoint.update(every=100)
    return config
"""


def _losses(run: Path) -> dict[int, dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: {name: row[name] for name in ("total", "text", "depth", *COUNTS)} for row in rows}


def _records(run: Path) -> dict[int, list[list[int]]]:
    """Step -> the indices of the records of each process that made it."""
    found: dict[int, list[list[int]]] = {}
    for file in sorted(run.glob("records-p*.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            found.setdefault(row["step"], []).append(row["records"])
    return found


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Text of the config of all runs, over rooms that are made here."""
    rooms = tmp_path_factory.mktemp("data") / "rooms"
    prepare_rooms(rooms, scenes=10, validation=0, test=2, ood=0, views=2, size=32, workers=None, progress=False)
    return CONFIG.format(steps=STEPS, data=rooms)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """A run of one process with eight devices, undisturbed, and its evaluation."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "config.py").write_text(config)
    codes, logs = run_job(folder, 1)
    assert codes == [0], logs[0][-3000:]
    return folder / "run"


@pytest.fixture(scope="module")
def moved(whole, config, tmp_path_factory):
    """The same run on two processes, then one, then two: stopped by signals.

    The first process of the first job gets its signal later than the second, while it saves. In the last job the second
    process comes late to read what the jobs before it wrote.
    """
    folder = tmp_path_factory.mktemp("moved")
    (folder / "config.py").write_text(config)
    first = run_job(folder, 2, disturbed=1, others={"LATE": "1"}, AT="1", WHAT="SIGTERM")
    at_first = _records(folder / "run")
    second = run_job(folder, 1, AT="4", WHAT="SIGTERM")
    third = run_job(folder, 2, disturbed=1, READS_LATE="1")
    return folder / "run", first, at_first, second, third


@pytest.mark.hosts
def test_a_signal_to_one_process_stops_all_after_the_same_step(moved):
    _, (codes, logs), records, _, (last_codes, last_logs) = moved
    assert codes == [stopping.RESUMABLE] * 2, logs[0][-2000:] + logs[1][-2000:]
    stops = [
        re.search(rf"\[p{index}/2\] Stopped before step (\d+); its state is saved", logs[index]) for index in (0, 1)
    ]
    assert stops[0][1] == stops[1][1] and 2 <= int(stops[0][1]) < STEPS
    assert sorted(records) == list(range(int(stops[0][1]))) and all(len(own) == 2 for own in records.values())
    assert "[p1/2] SIGTERM: finishing the step and saving" in logs[1]
    assert "[p0/2] [p1/2] SIGTERM: finishing the step and saving" in logs[0]  # who got it
    assert last_codes == [0, 0], last_logs[0][-3000:] + last_logs[1][-3000:]
    assert "[p0/2] Going on from step" in last_logs[0]
    assert "[p0/2] == phase ==" in last_logs[0] and "== phase ==" not in last_logs[1]


@pytest.mark.hosts
def test_two_one_and_two_processes_train_like_one(whole, moved):
    run, _, at_first, (codes, logs), _ = moved
    assert codes == [stopping.RESUMABLE] and "SIGTERM: finishing the step" in logs[0], logs[0][-2000:]
    expected, found = _losses(whole), _losses(run)
    assert sorted(found) == sorted(expected) == list(range(STEPS))
    for step, row in expected.items():
        assert found[step] == pytest.approx(row, rel=1e-4, abs=1e-4)
        assert [found[step][name] for name in COUNTS] == [row[name] for name in COUNTS]  # global counts, exactly


@pytest.mark.hosts
def test_shards_are_disjoint_and_complete_and_hold_the_same_records(whole, moved):
    run, _, at_first, _, _ = moved
    expected = {step: own[0] for step, own in _records(whole).items()}
    assert sorted(expected) == list(range(STEPS)) and all(len(own) == 8 for own in expected.values())
    for step, (first, second) in at_first.items():  # made by two processes
        assert len(first) == len(second) == 4 and first + second == expected[step]
    both = [own for own in _records(run).values() if len(own) == 2]
    assert both and all(len(first) == len(second) == 4 for first, second in both)


@pytest.mark.hosts
def test_the_evaluation_is_that_of_one_process(whole, moved):
    one, two = (json.loads((run / "evaluation.json").read_text()) for run in (whole, moved[0]))
    assert two["questions"]["micro"]["n"] == one["questions"]["micro"]["n"] > 0
    assert two["questions"]["micro"]["value"] == pytest.approx(one["questions"]["micro"]["value"], abs=0.02)
    own = [result["depth"]["model"]["none"]["abs_rel"] for result in (one, two)]
    assert own[1] == pytest.approx(own[0], rel=1e-3)
    assert (moved[0] / "report" / "index.html").exists()


@pytest.mark.hosts
def test_three_processes_share_the_records_of_an_evaluation(whole, tmp_path):
    """Two records: the third process has none. The same model, so the same answers and scores."""
    command = [sys.executable, "-m", "experiments.evaluate", "--model", str(whole), "--out", str(tmp_path / "out")]
    codes, logs = run_together(command, 3)
    assert codes == [0, 0, 0], "".join(logs)[-3000:]
    assert "wrote" in logs[0] and "wrote" not in logs[1] + logs[2]
    one, three = (json.loads((run / "evaluation.json").read_text()) for run in (whole, tmp_path / "out"))
    lines = [(run / "predictions.jsonl").read_text().splitlines() for run in (whole, tmp_path / "out")]
    assert len(lines[0]) == len(lines[1]) > 0
    for own, other in zip(*([json.loads(line) for line in part] for part in lines), strict=True):
        assert other.pop("depth_rmse") == pytest.approx(own.pop("depth_rmse"), rel=1e-5)
        assert other == own
    for part in ("questions", "depth", "camera", "points", "confidence", "breakdown"):
        _close(one[part], three[part])
    assert one["time"]["generated_tokens"] == three["time"]["generated_tokens"] > 0
    assert not list((tmp_path / "out").glob(".scores*")) and (tmp_path / "out/report/index.html").exists()


def _close(one, other) -> None:
    """Equal JSON, numbers to 1e-4."""
    if isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            _close(one[name], other[name])
    elif isinstance(one, list):
        for left, right in zip(one, other, strict=True):
            _close(left, right)
    else:
        assert other == (pytest.approx(one, rel=1e-4, abs=1e-6) if isinstance(one, float) else one)


@pytest.mark.hosts
def test_a_loss_that_is_not_finite_on_one_process_stops_all(config, tmp_path):
    (tmp_path / "config.py").write_text(config)
    codes, logs = run_job(tmp_path, 2, disturbed=1, AT="2", WHAT="nan")
    assert codes == [1, 1], logs[0][-2000:] + logs[1][-2000:]
    for index, log in enumerate(logs):
        assert f"[p{index}/2] error: Step 2 was not finite" in log, log[-3000:]
    assert not (tmp_path / "run" / "lock.json").exists()


@pytest.mark.hosts
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_ends_the_others_which_say_so(config, tmp_path, failing):
    (tmp_path / "config.py").write_text(config)
    codes, logs = run_job(tmp_path, 2, disturbed=failing, AT="2", WHAT="raise")
    assert codes == [1, 1], logs[0][-3000:] + logs[1][-3000:]
    assert "RuntimeError: no such luck" in logs[failing]
    because = f"[p{1 - failing}/2] ended because another process failed: [p{failing}/2] no such luck"
    assert because in logs[1 - failing]
    assert not any("Fatal Python error" in log for log in logs), logs
    assert not (tmp_path / "run" / "lock.json").exists()


@pytest.mark.hosts
def test_a_process_that_is_killed_ends_the_others_which_say_so(config, tmp_path):
    (tmp_path / "config.py").write_text(config)
    codes, logs = run_job(tmp_path, 2, disturbed=1, AT="2", WHAT="SIGKILL")
    assert codes == [1, -signal.SIGKILL], logs[0][-3000:]
    assert "[p0/2] ended because another process failed: no sign of life from process 1 for 20 s." in logs[0]
    assert "Fatal Python error" not in logs[0]
    assert not (tmp_path / "run" / "lock.json").exists()


@pytest.mark.hosts
def test_jax_aborts_the_others_when_the_first_process_is_killed(config, tmp_path):
    (tmp_path / "config.py").write_text(config)
    codes, logs = run_job(tmp_path, 2, disturbed=0, AT="2", WHAT="SIGKILL")
    assert codes == [-signal.SIGKILL, -signal.SIGABRT], logs[1][-3000:]
    assert "JAX distributed service detected fatal errors" in logs[1]


@pytest.mark.hosts
@pytest.mark.parametrize("teacher", ["da3", "vggt"])
def test_two_processes_label_as_one_does(tmp_path, teacher):
    """Each on a mesh of its own two devices: the records disjoint and complete, the files those of one process."""
    prepare_rooms(
        tmp_path / "rooms", scenes=5, validation=0, test=0, ood=0, views=2, size=32, workers=None, progress=False
    )
    command = [sys.executable, "-m", "experiments.label", "--teacher", teacher]
    command += [
        "--checkpoint",
        str(ROOT / "tests/goldens" / teacher),
        "--licence",
        "none",
        "--data",
        str(tmp_path / "rooms"),
    ]
    command += ["--process_res", "28", "--dtype", "float32", "--rows", "2", "--config.mesh.data", "2", "--out"]
    codes, logs = run_together([*command, str(tmp_path / "two")], 2)
    assert codes == [0, 0], "".join(logs)[-3000:]
    assert [f"{number} scenes in " in log for number, log in zip((3, 2), logs, strict=True)] == [True, False]
    assert "written 5, kept 0" in logs[0] and "labels in" not in logs[1]
    label.main([*command[3:], str(tmp_path / "one")])
    manifests = [json.loads((tmp_path / name / "labels.json").read_text()) for name in ("one", "two")]
    assert manifests[0]["written"] == manifests[1]["written"] == 5
    for record in open_split(tmp_path / "rooms", "train"):
        one, two = (read_labels(tmp_path / name, record.id, images=record.images) for name in ("one", "two"))
        assert one.key == two.key and len(one.view_ids) == 2
        np.testing.assert_allclose(two.depth, one.depth, rtol=1e-5)
        np.testing.assert_allclose(two.camera_to_world, one.camera_to_world, atol=1e-5)
    lines = (tmp_path / "two" / "agreement.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines)
