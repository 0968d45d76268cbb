"""Beam pipelines make what one machine makes, also when a worker is killed.

They are skipped without the extra `beam`, which is no part of `test`: it holds Pillow below 13, whose resizing
rounds otherwise than the committed references of other tests. `.ci/run` runs this file in an environment with it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from scale_data import LAYOUTS, ROOMS, exported_scene, files_of, local_rooms

from data_pipelines import manifest
from data_pipelines.labels.files import LabelError, LabelFile, images_hash, label_path
from data_pipelines.manifest import PrepareError, StorageError
from data_pipelines.shards import SourceError
from data_pipelines.sources import SOURCES
from data_pipelines.storage import open_split
from experiments import label
from experiments.prepare import main, prepare

IN_PROCESS = ("--runner=DirectRunner",)
UNFINISHED = "*-of-00???.[0-9]*.tmp"  # shards that a worker is writing; its process id stands in the name
TWO_WORKERS = ("--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return local_rooms(tmp_path_factory.mktemp("local") / "rooms")


def kill_a_worker(folder: Path, killed: list[int]) -> None:
    """Kills the first worker that is seen in the middle of a shard."""
    deadline = time.time() + 120
    while not killed and time.time() < deadline:
        for file in (folder / ".preparing").glob(UNFINISHED):
            worker = int(file.name.split(".")[-3])
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)
            break
        time.sleep(0.005)


def test_a_killed_workers_shards_are_made_again_and_everything_is_as_made_locally(local, tmp_path, capsys):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    out, killed = tmp_path / "rooms", []
    killer = threading.Thread(target=kill_a_worker, args=(out, killed), daemon=True)
    killer.start()
    settings = SOURCES["rooms"].settings(**ROOMS)
    prepare("rooms", settings, out, progress=False, beam=TWO_WORKERS)
    killer.join()
    assert killed and killed[0] != os.getpid()
    assert "again: a worker died (Worker subprocess exited with return code 137)" in capsys.readouterr().out
    assert files_of(out) == files_of(local)  # nothing more, nothing less, the same bytes


class Wrong:
    """A step whose tasks are wrong, or that does nothing at all."""

    def __init__(self, tried: Path, message: str):
        self.tried, self.message = tried, message

    def do(self, task: tuple) -> None:
        with open(self.tried, "a") as file:
            file.write(f"{task[0]}\n")
        if self.message:
            raise PrepareError(self.message)


def test_what_a_step_finds_wrong_is_not_tried_again_and_what_stays_undone_is_named(tmp_path, monkeypatch, capsys):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    from data_pipelines.beam import pipeline

    tried = tmp_path / "tried"
    with pytest.raises(PrepareError, match="frame 7 is damaged"):
        pipeline.do_all(lambda: [("a", 1)], Wrong(tried, "frame 7 is damaged"), tmp_path, IN_PROCESS, "shards")
    assert tried.read_text() == "a\n" and "again" not in capsys.readouterr().out
    monkeypatch.setattr(pipeline, "ATTEMPTS", 2)
    monkeypatch.setattr(pipeline, "PAUSE", 0.01)
    with pytest.raises(
        PrepareError, match=r"1 shards are still missing after 2 attempts that made none, e.g. \[\('b', 1"
    ):
        pipeline.do_all(lambda: [("b", 1)], Wrong(tried, ""), tmp_path, IN_PROCESS, "shards")
    assert tried.read_text() == "a\nb\nb\n"


class Passing:
    """A step that a store and a device fail at first."""

    def __init__(self, folder: Path):
        self.folder = folder

    def do(self, task: tuple) -> None:
        (name,) = task
        if not (self.folder / f"tried-{name}").exists():
            (self.folder / f"tried-{name}").touch()
            raise StorageError("503") if name == "store" else RuntimeError("INTERNAL: no device")
        (self.folder / name).touch()


def test_what_a_store_or_a_device_refuses_is_tried_again(tmp_path, monkeypatch, capsys):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    from data_pipelines.beam import pipeline

    monkeypatch.setattr(pipeline, "PAUSE", 0.01)
    missing = lambda: [(name,) for name in ("store", "device") if not (tmp_path / name).exists()]
    pipeline.do_all(missing, Passing(tmp_path), tmp_path, IN_PROCESS, "shards")
    assert not missing() and not list(tmp_path.glob("*.txt"))
    assert re.search("again: (503|RuntimeError: INTERNAL: no device)", capsys.readouterr().out)


def test_only_a_fault_of_the_input_is_final():
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    from data_pipelines.beam.pipeline import may_pass

    def because(error: Exception, cause: Exception) -> Exception:
        error.__cause__ = cause
        return error

    final = [PrepareError("x"), LabelError("x"), because(SourceError("x"), KeyError("x")), because(PrepareError("x"), FileNotFoundError())]  # fmt: skip
    passing = [StorageError("x"), OSError("x"), RuntimeError("device"), because(LabelError("x"), OSError("503")), because(SourceError("x"), TimeoutError())]  # fmt: skip
    assert not any(map(may_pass, final)) and all(map(may_pass, passing))


def test_attempts_are_counted_from_the_last_that_made_something(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    from data_pipelines.beam import pipeline

    left, starts = list(range(5)), []

    def run(tasks, *_):
        starts.append(len(tasks))
        if starts.count(len(tasks)) == 2:  # every second attempt makes one thing
            left.pop()
        raise pipeline.PipelineError("died")

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(pipeline, "ATTEMPTS", 2)
    monkeypatch.setattr(pipeline, "PAUSE", 0.001)
    pipeline.do_all(lambda: [(task,) for task in left], None, tmp_path, IN_PROCESS, "shards")
    assert starts == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1]


def test_the_driver_reads_every_shard_once(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    from data_pipelines import shards
    from data_pipelines.beam import pipeline

    read, doing = [], []

    def run(tasks, step, *_):
        doing.append(step)
        for task in tasks:
            step.do(task)
        doing.clear()

    def sha256_of(path):
        if not doing:  # in the driver
            read.append(path.name)
        return manifest.sha256_of(path)

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(shards, "sha256_of", sha256_of)
    prepare("rooms", SOURCES["rooms"].settings(**ROOMS), tmp_path / "rooms", progress=False, beam=())
    assert sorted(read) == sorted(path.name for path in (tmp_path / "rooms").glob("*array_record*"))


def test_a_worker_with_another_copy_of_the_package_refuses(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    from data_pipelines.beam import shards

    plan = SOURCES["rooms"].plan(SOURCES["rooms"].settings(**ROOMS))
    step = shards._WriteShard(plan, tmp_path)
    monkeypatch.setattr(shards, "_own_code", lambda: "older")
    with pytest.raises(PrepareError, match="another copy of this package"):
        step.do(("train", 0))


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_a_pipeline_ends_with_its_driver(tmp_path, by):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    out = tmp_path / "rooms"
    rooms = [f"--{name}={value}" for name, value in {**ROOMS, "scenes": 4000, "size": 64}.items()]
    command = [sys.executable, "-m", "experiments.prepare", "--source", "rooms", *rooms, "--out", str(out), "--quiet"]
    with open(tmp_path / "log", "w") as log:
        driver = subprocess.Popen([*command, f"--beam={' '.join(TWO_WORKERS)}"], stdout=log, stderr=log, cwd=LAYOUTS.parents[1])  # fmt: skip
    deadline = time.time() + 120
    while not (begun := list((out / ".preparing").glob(UNFINISHED))):
        assert time.time() < deadline and driver.poll() is None, (tmp_path / "log").read_text()[-2000:]
        time.sleep(0.02)
    worker = int(begun[0].name.split(".")[-3])
    group = os.getpgid(worker)
    assert group not in (os.getpgid(0), driver.pid)
    driver.send_signal(by)
    driver.wait(20)
    while time.time() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        os.killpg(group, signal.SIGKILL)
        pytest.fail("the pipeline goes on without its driver")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return exported_scene(tmp_path_factory.mktemp("scene"))


def test_labels_of_a_pipeline_are_those_of_one_process(scene, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    data, exports = scene
    maker = label.Exports("vggt", str(exports), "weights")
    here = label.label_data(maker, data, tmp_path / "here", ["train"])
    there = label.label_data(maker, data, tmp_path / "there", ["train"], beam=IN_PROCESS)
    assert here == there and here["written"] == 1
    assert set(files_of(tmp_path / "here")) == set(files_of(tmp_path / "there"))
    for name in files_of(tmp_path / "here"):
        if name.endswith(".npz"):
            one, other = (dict(np.load(tmp_path / place / name)) for place in ("here", "there"))
            assert one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)
    again = label.label_data(maker, data, tmp_path / "there", ["train"], beam=IN_PROCESS)
    assert (again["written"], again["kept"]) == (0, 1)
    broken = tmp_path / "broken"
    shutil.copytree(exports, broken)
    next(broken.rglob("*.npz")).write_bytes(b"torn")
    with pytest.raises(PrepareError, match="predictions.npz cannot be read"):
        label.label_data(label.Exports("vggt", str(broken), "w"), data, tmp_path / "none", ["train"], beam=IN_PROCESS)


@dataclasses.dataclass(frozen=True)
class Dying:
    """A maker of labels whose worker dies once, in the middle of the `at`-th file."""

    died: Path
    at: int
    teacher, checkpoint, rows, counts, facts = "some", "weights", 1, (), {}

    def settings_of(self, record) -> str:
        return ""

    def group_of(self, record) -> None:
        return None

    def __call__(self, records):
        for record in records:
            if self.at == int(record.id[-6:]) and not self.died.exists():
                (self.died.parent / "there" / f"+{os.getpid()}+torn.tmp").write_bytes(b"torn")
                self.died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            views = len(record.view_ids)
            steps = dict(depth=np.full((views, 4, 4), 2.0), confidence=np.ones((views, 4, 4)), valid=np.ones((views, 4, 4), bool))  # fmt: skip
            cameras = dict(
                intrinsics=np.diag([1 / 6, 1 / 6, 1]) @ record.intrinsics, camera_to_world=record.camera_to_world
            )
            affine = np.broadcast_to([[6.0, 0, 0], [0, 6, 0]], (views, 2, 3))
            texts = dict(view_ids=record.view_ids, teacher=self.teacher, checkpoint=self.checkpoint, images_hash=images_hash(record.images))  # fmt: skip
            yield record, LabelFile(**steps, **cameras, label_affine=affine, **texts), {}


def test_a_killed_labelling_workers_files_are_counted_once_and_nothing_is_left_of_it(local, tmp_path, capfd):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    (tmp_path / "never").touch()
    here = label.label_data(Dying(tmp_path / "never", 5), local, tmp_path / "here", ["train"])
    (tmp_path / "there").mkdir()
    kept = label_path(tmp_path / "here", open_split(local, "train").ids[1])  # from a run before
    shutil.copy(kept, tmp_path / "there")
    there = label.label_data(Dying(tmp_path / "died", 5), local, tmp_path / "there", ["train"], beam=IN_PROCESS)
    assert (tmp_path / "died").exists() and "steps to make, again: " in capfd.readouterr().out
    assert (here["written"], here["kept"]) == (24, 0) and (there["written"], there["kept"]) == (23, 1)
    same = [name for name in here if name not in ("written", "kept")]
    assert [there[name] for name in same] == [here[name] for name in same] and here["views"] == 48
    found, expected = files_of(tmp_path / "there"), files_of(tmp_path / "here")
    for files in (found, expected):
        files.pop("labels.json")
    assert found == expected


def test_a_missing_extra_is_named(monkeypatch, tmp_path, capsys):
    for name in [name for name in sys.modules if name.startswith(("apache_beam", "data_pipelines.beam"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert main(["--source", "rooms", "--scenes", "1", "--out", str(tmp_path / "out"), "--beam", "--quiet"]) == 1
    assert "pip install 'spatialsv-jax[beam]'" in capsys.readouterr().err
