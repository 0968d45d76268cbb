"""A run end to end: resumes bit for bit after kill -9 and on another mesh, stops on NaN, explains mistakes."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.loader import Loader
from experiments import phases, train
from experiments.configs import common
from experiments.prepare import prepare_rooms
from spatialsv_jax import loading
from spatialsv_jax.training.loop import NonFiniteError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "rooms"
    prepare_rooms(folder, scenes=10, validation=0, test=2, ood=0, views=2, size=32, workers=None, progress=False)
    return folder


def _config(rooms: Path, steps: int = 10, **losses):
    config = common.get_config()
    config.name = "phase"
    config.vision.update(image_size=32, patch_size=8, width=32, layers=1, heads=2, trainable=True)
    config.language.update(width=32, layers=4, heads=2, kv_heads=1, head_dim=16, mlp_width=64, unroll=1)
    config.lifting.update(width=16, channels=(8, 8, 8, 8), features=8)
    config.losses.update(losses)
    config.data.sources.rooms = common.source(str(rooms), per_batch=8)
    config.data.update(questions=4, question_tokens=40, answer_tokens=2, views=2, label_size=(16, 16))
    config.training.update(steps=steps, log_every=1, tensorboard=False)
    # Small steps, because large ones amplify the rounding of another order of summation tenfold each.
    config.optimizer.update({group: 1e-4 for group in ("vision", "projector", "language", "lifting")})
    config.optimizer.newton_schulz_steps = 1  # less to compile
    config.checkpoint.update(every=5, keep=3)
    config.evaluation.scenes = -1
    return config


@pytest.fixture(scope="module")
def straight(rooms, tmp_path_factory):
    """Ten steps without interruption."""
    workdir = tmp_path_factory.mktemp("straight")
    train.train_and_evaluate(_config(rooms), workdir)
    return workdir


def _state_leaves(workdir: Path) -> list[np.ndarray]:
    from spatialsv_jax.training.checkpoints import Checkpoints

    params, _, step = Checkpoints(workdir / "checkpoints", create=False).restore_params()
    assert step == 10
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def _totals(workdir: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["total"] for row in rows}


def test_metrics_hold_every_term_value_weight_and_count(straight):
    rows = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    row = rows[-1]
    for name in ("text", "depth", "ray", "points"):
        assert {name, f"{name}/weight"} <= set(row)
    assert {"depth/grad_s3/count", "points/normal_s2", "ray/conf", "text/ce/count"} <= set(row)
    assert {"learning_rate/language", "gradient_norm/all", "step_time_s", "data_wait_s", "tokens_per_s"} <= set(row)
    assert sum(row["checkpoint_stall_s"] for row in rows) > 0
    assert sorted(_totals(straight)) == list(range(10))


def test_examples_seen_are_counted_exactly(straight, rooms):
    seen = json.loads((straight / "finished.json").read_text())["seen"]
    assert seen == {"labelled": 80, "unlabelled": 0, "with_geometry": 80, "with_features": 0, "questions": 320}
    rows = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [row["seen/labelled"] for row in rows] == list(range(8, 88, 8))


@pytest.mark.slow
def test_scenes_without_text_in_fixed_numbers_beside_an_averaged_model(rooms, tmp_path):
    """Half of the scenes without text, and their geometry left out: the averaged model teaches there."""
    config = _config(rooms, steps=3, ema=0.5, text=1.0)
    config.data.sources = common.divided(str(rooms), 0.5, labelled=6, unlabelled=2, seed=1)
    config.data.sources.unlabelled.geometry = False
    config.ema.update(decay=0.99, noise=0.05)
    train.train_and_evaluate(config, tmp_path)
    finished = json.loads((tmp_path / "finished.json").read_text())["seen"]
    assert finished == {"labelled": 18, "unlabelled": 6, "with_geometry": 18, "with_features": 0, "questions": 72}
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["ema/depth/count"] for row in rows] == [2 * 2 * 16 * 16] * 3
    assert [row["depth/reg/count"] > 6 * 100 for row in rows] == [True] * 3


def test_a_missing_folder_of_labels_is_found_before_any_work(rooms, tmp_path):
    config = _config(rooms)
    config.data.sources.rooms.labels = str(tmp_path / "labels")
    with pytest.raises(ValueError, match=r"config.data.sources.rooms.labels is '.*labels', which is no folder. Make"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


SCRIPT = """
import sys, json
from ml_collections import ConfigDict
from experiments.train import train_and_evaluate
values = json.loads(open(sys.argv[1]).read())
train_and_evaluate(ConfigDict(values), sys.argv[2])
"""


@pytest.mark.slow
def test_kill_9_and_resume_equals_an_unbroken_run_bit_for_bit(rooms, straight, tmp_path):
    config = _config(rooms)
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    (tmp_path / "run.py").write_text(SCRIPT)
    workdir = tmp_path / "killed"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "log.txt", "w") as log:
        child = subprocess.Popen(
            [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "config.json"), str(workdir)],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        deadline = time.time() + 240
        while not (workdir / "checkpoints" / "5").exists() and child.poll() is None and time.time() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert (workdir / "checkpoints" / "5").exists(), (tmp_path / "log.txt").read_text()[-2000:]
    assert not (workdir / "checkpoints" / "10").exists(), "the run ended before it was killed"
    train.train_and_evaluate(config, workdir)
    for one, other in zip(_state_leaves(straight), _state_leaves(workdir), strict=True):
        np.testing.assert_array_equal(one, other)
    assert _totals(workdir) == _totals(straight)


@pytest.mark.slow
def test_resume_on_another_mesh_reads_the_same_records(rooms, straight, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    shutil.rmtree(workdir / "checkpoints" / "10")
    (workdir / "finished.json").unlink()
    drawn = {}
    iterate = Loader.iterate

    def recorded(self, start_step):
        drawn.update({step: self.record_ids(step) for step in range(start_step, 10)})
        return iterate(self, start_step)

    monkeypatch.setattr(Loader, "iterate", recorded)
    config = _config(rooms)
    config.mesh.update(data=2, fsdp=2, tensor=2)
    train.train_and_evaluate(config, workdir)
    plain = train.make_loader(phases.data_settings(config), loading.load_processor(straight))
    assert drawn == {step: plain.record_ids(step) for step in range(5, 10)}
    for step, total in _totals(straight).items():
        np.testing.assert_allclose(_totals(workdir)[step], total, rtol=1e-4, atol=1e-4)


def test_nan_aborts_names_term_and_records_and_keeps_the_checkpoint(rooms, tmp_path, monkeypatch):
    row = Loader.row

    def poisoned(self, plan, *memory):
        values = row(self, plan, *memory)
        if plan.step == 7:
            values["pixel_values"] = np.full_like(values["pixel_values"], np.nan)
        return values

    monkeypatch.setattr(Loader, "row", poisoned)
    with pytest.raises(NonFiniteError, match=r"(?s)Step 7 was not finite.*'depth'.*Records of the batch: \['"):
        train.train_and_evaluate(_config(rooms), tmp_path)
    assert (tmp_path / "checkpoints" / "5").exists() and not (tmp_path / "checkpoints" / "10").exists()


def test_mistakes_get_one_clear_message(rooms, straight, tmp_path):
    config = _config(rooms)
    config.language.width = 64
    with pytest.raises(ValueError, match=r"holds a run with other settings of \['language'\]"):
        train.train_and_evaluate(config, straight)
    with pytest.raises(ValueError, match=r"holds a run with other settings of \['losses'\]"):
        train.train_and_evaluate(_config(rooms, depth=0.0), straight)
    config = _config(rooms)
    config.data.cache_mb = 1  # how it is read may change: nothing is left to do
    train.train_and_evaluate(config, straight)
    config = _config(rooms)
    config.init_from = str(straight)
    config.vision.patch_size = 4
    with pytest.raises(ValueError, match=r"reads pictures with .* = \(32, 8, 2\), this config says \(32, 4, 2\)"):
        train.train_and_evaluate(config, tmp_path / "a")
    config = _config(rooms)
    config.init_from = str(straight)
    config.language.mlp_width = 32
    with pytest.raises(ValueError, match="of another architecture"):
        train.train_and_evaluate(config, tmp_path / "b")
    config = _config(rooms)
    config.init_from = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="No model at"):
        train.train_and_evaluate(config, tmp_path / "c")


def test_command_line_mistakes_exit_with_a_message(tmp_path):
    command = [sys.executable, "-m", "experiments.train", "--config", "experiments/configs/quickstart.py:tiny"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0 and "--workdir" in run.stderr + run.stdout
    command += ["--workdir", str(tmp_path), "--config.phases.base.losses.depht=1"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0 and "depht" in run.stderr + run.stdout


def test_loaded_model_answers_and_reconstructs(straight):
    loaded = loading.load(straight)
    images = [np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 200, np.uint8)]
    answers = loaded.answer(images, ["in <view:0> is there a chair ?", "in <view:1> is there a table ?"])
    assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers)
    found = loaded.reconstruct(images)
    assert found.depth.shape == (2, 16, 16) and np.isfinite(found.points).all()
    assert found.camera_to_world.shape == (2, 4, 4) and dataclasses.is_dataclass(found)
    with pytest.raises(FileNotFoundError, match="No model at"):
        loading.load(straight / "processor")
