"""One job per workdir: the second is refused by name, the lock of a dead one is taken over, by one taker."""

import errno
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import pytest

from experiments import stopping, train, workdir_lock
from experiments.configs import common
from experiments.workdir_lock import LockedError, hold

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from experiments.workdir_lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_a_second_job_is_refused_by_name_and_a_killed_ones_lock_taken_over(tmp_path, capsys):
    process = _holder(tmp_path)
    try:
        facts = json.loads((tmp_path / "lock.json").read_text())
        assert (facts["host"], facts["pid"]) == (platform.node(), process.pid)
        named = f"process {process.pid} on {re.escape(platform.node())}, since {re.escape(facts['started'])}"
        with pytest.raises(ValueError, match=f"Another job works in .*{named}"):
            train.train_and_evaluate(common.get_config(), tmp_path)
    finally:
        process.kill()
        process.wait()
    with hold(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert re.search(f"Took over the lock of {named}: that process is gone", capsys.readouterr().out)
    assert not list(tmp_path.iterdir())


def test_released_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), hold(tmp_path):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def _foreign(folder: Path, age_s: float) -> None:
    """The lock of a process on another host, touched some time ago."""
    lock = folder / "lock.json"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "boot": "x", "process_start": "1", "started": "then"}))
    os.utime(lock, (time.time() - age_s,) * 2)


def test_another_hosts_lock_is_judged_by_its_age(tmp_path):
    _foreign(tmp_path, 90)
    said = []
    with hold(tmp_path, said.append):
        pass
    assert re.fullmatch(
        r"Took over the lock of process 1 on elsewhere, since then: without a sign of life for 9\d s\.", said[0]
    )


@pytest.mark.parametrize("age", [0.0, -3600.0])
def test_another_hosts_fresh_lock_is_waited_for_and_taken_over_when_it_shows_no_life(tmp_path, age):
    """As after a power cut, when a scheduler starts the job again elsewhere at once; also where clocks differ."""
    _foreign(tmp_path, age)
    said, began = [], time.monotonic()
    with hold(tmp_path, said.append, stale_s=1.0):
        assert time.monotonic() - began > 0.9
    assert len(said) == 2 and "of process 1 on elsewhere, since then, touched" in said[0]
    assert "Waiting whether that job lives, at most 1 s" in said[0] and "Took over the lock of process 1" in said[1]


def test_another_hosts_lock_that_shows_life_is_refused_by_name_at_its_next_touch(tmp_path):
    _foreign(tmp_path, 3)
    timer = threading.Timer(0.3, os.utime, (tmp_path / "lock.json",))
    timer.start()
    began = time.monotonic()
    with pytest.raises(LockedError, match="process 1 on elsewhere, since then"), hold(tmp_path, lambda text: None):
        pass
    assert time.monotonic() - began < 10
    assert json.loads((tmp_path / "lock.json").read_text())["host"] == "elsewhere"


@pytest.mark.parametrize(("key", "other"), [("processes", "1"), ("boot", "x"), ("host", "elsewhere")])
def test_numbers_of_processes_count_only_where_they_are_given(tmp_path, key, other):
    """A container may have this machine's name; its process 1 is another one than that here."""
    with hold(tmp_path):
        here = json.loads((tmp_path / "lock.json").read_text())
        assert workdir_lock._runs(here) is True
        assert workdir_lock._runs(here | {"process_start": "1"}) is False
        assert workdir_lock._runs(here | {"process_start": "1", key: other}) is None


def test_touches_may_fail_for_a_while_and_the_loss_of_life_is_told(tmp_path, monkeypatch):
    failing, lost, said = threading.Event(), threading.Event(), []
    pwrite = os.pwrite

    def quota(*given):
        if failing.is_set():
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return pwrite(*given)

    monkeypatch.setattr(workdir_lock.os, "pwrite", quota)

    def say(text):
        said.append(text)
        raise OSError(errno.ENOSPC, "the log lies on the same disk")

    with hold(tmp_path, say, heartbeat_s=0.05, stale_s=2.0, on_loss=lost.set):
        failing.set()
        time.sleep(0.3)
        failing.clear()
        before, deadline = os.stat(tmp_path / "lock.json").st_mtime_ns, time.monotonic() + 20
        while os.stat(tmp_path / "lock.json").st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert os.stat(tmp_path / "lock.json").st_mtime_ns > before and not lost.is_set()
        assert len(said) == 1 and "cannot be touched" in said[0] and "Disk quota exceeded" in said[0]
        failing.set()
        assert lost.wait(20)
    assert "could not be touched for 2 s" in said[-1] and "stopping" in said[-1] and len(said) == 3
    assert not list(tmp_path.iterdir())


ENDED = """
import sys, time
from pathlib import Path
from experiments import stopping, workdir_lock
with stopping.Stopping(grace_s=0.1), workdir_lock.hold(Path(sys.argv[1])), stopping.stepping():
    print("held", flush=True)
    time.sleep(60)
"""


def test_released_when_the_grace_time_ends_the_process(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ENDED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert (tmp_path / "lock.json").exists()
    process.terminate()
    assert process.wait(timeout=30) == stopping.RESUMABLE
    assert not list(tmp_path.iterdir())


def test_a_heartbeat_keeps_it_and_its_loss_is_noticed(tmp_path):
    lost = threading.Event()
    with hold(tmp_path, lambda text: None, heartbeat_s=0.05, on_loss=lost.set):
        before = os.stat(tmp_path / "lock.json").st_mtime_ns
        deadline = time.monotonic() + 20
        while os.stat(tmp_path / "lock.json").st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert os.stat(tmp_path / "lock.json").st_mtime_ns > before
        json.loads((tmp_path / "lock.json").read_text())
        (tmp_path / "lock.json").rename(tmp_path / "moved")  # what a taker does
        _foreign(tmp_path, 0)
        assert lost.wait(20)
    assert json.loads((tmp_path / "lock.json").read_text())["host"] == "elsewhere"  # not this one's to remove


def _refuse(*_) -> None:
    raise OSError("Function not implemented")


def _take(folder: Path, start, unlocked: bool) -> bool:
    if unlocked:  # a file system that cannot lock folders
        workdir_lock.fcntl.flock = _refuse
    start.wait()
    try:
        with hold(folder, lambda text: None):
            start.wait()  # until all have tried
            return True
    except LockedError:
        start.wait()
        return False


@pytest.mark.parametrize("unlocked", [False, True])
def test_of_many_takers_at_once_one_wins(tmp_path, unlocked):
    takers = 4
    with (
        multiprocessing.Manager() as manager,
        futures.ProcessPoolExecutor(takers, multiprocessing.get_context("fork")) as pool,
    ):
        for number in range(10):
            folder = tmp_path / str(number)
            folder.mkdir()
            _foreign(folder, 90)
            start = manager.Barrier(takers)
            won = list(pool.map(_take, [folder] * takers, [start] * takers, [unlocked] * takers))
            assert won.count(True) == 1, number
