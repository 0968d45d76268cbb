"""One job per workdir: the second is refused by name, the lock of a dead one is taken over, by one taker."""

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

from experiments import train, workdir_lock
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
    _foreign(tmp_path, 30)
    with pytest.raises(LockedError, match="process 1 on elsewhere, since then"), hold(tmp_path):
        pass
    _foreign(tmp_path, 90)
    said = []
    with hold(tmp_path, said.append):
        pass
    assert re.fullmatch(
        r"Took over the lock of process 1 on elsewhere, since then: without a sign of life for 9\d s\.", said[0]
    )


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
