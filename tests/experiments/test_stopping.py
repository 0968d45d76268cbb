"""Signals: steps are finished, all else is interrupted; the grace time and a second signal end the process."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments import stopping

ROOT = Path(__file__).parents[2]


def _wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_where_nothing_is_to_be_finished_a_signal_interrupts(number):
    if number == signal.SIGINT:  # a shell that starts the suite in the background has it ignored
        signal.signal(number, signal.default_int_handler)
    before = signal.getsignal(number)
    with pytest.raises(stopping.Interrupted, match=number.name), stopping.Stopping():
        os.kill(os.getpid(), number)
        time.sleep(20)
    assert signal.getsignal(number) is before


def test_a_step_is_finished_and_the_next_one_does_not_begin(capfd):
    taken = []
    with pytest.raises(stopping.Interrupted), stopping.Stopping(), stopping.stepping() as stop:
        for step in range(10):
            if stop(step):
                break
            taken.append(step)
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                _wait_until(lambda: stopping._active._stop_at is not None)
    assert taken == [0, 1, 2, 3]
    assert "SIGTERM: finishing the step and saving, at most 60 s" in capfd.readouterr().err


def test_a_signal_during_the_last_step_interrupts_what_comes_next():
    with pytest.raises(stopping.Interrupted), stopping.Stopping():
        with stopping.stepping() as stop:
            assert not stop(0)
            os.kill(os.getpid(), signal.SIGTERM)
            _wait_until(lambda: stopping._active._stop_at is not None)
        pytest.fail("the next phase began")


def test_without_a_command_nothing_ever_stops():
    with stopping.stepping() as stop:
        assert not any(stop(step) for step in range(3))


PROGRAM = """
import sys, threading, time
from experiments import stopping
with stopping.Stopping(grace_s=float(sys.argv[1])):
    with stopping.stepping():
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize(("grace", "again", "code"), [("0.3", False, stopping.RESUMABLE), ("50", True, 128 + 15)])
def test_grace_time_and_second_signal_end_the_process(grace, again, code):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, grace], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    if again:
        process.send_signal(signal.SIGTERM)  # the same one, as `timeout` sends it
        time.sleep(stopping._SAME_S + 0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert ("SIGTERM again" in errors) == again and ("not done after 0.3 s" in errors) != again


class _Store:
    """What the coordinator keeps."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite):
        self.values[key] = value

    def key_value_try_get(self, key):
        if key not in self.values:
            raise RuntimeError("NOT_FOUND")
        return self.values[key]

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.values.items() if key.startswith(folder)]


def test_processes_stop_after_the_same_step_whoever_was_signalled():
    """One is two steps ahead of the other (it has handed them to its devices)."""
    store = _Store()
    ahead, behind = (stopping.Stopping(50, f"[p{index}/2] ", stopping.Peers(store, index, 2)) for index in range(2))
    for one, steps in ((ahead, 7), (behind, 5)):
        one._stepping, one._steps = True, steps
    threads = [threading.Thread(target=one._ask, args=("SIGTERM", one is behind)) for one in (ahead, behind)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.values["spatialsv/signal"] == "[p1/2] SIGTERM"
    assert ahead._stop_before(7)
    assert [behind._stop_before(step) for step in (5, 6, 7)] == [False, False, True]
    for one in (ahead, behind):
        for timer in one._timers:
            timer.cancel()


@pytest.fixture
def ends(monkeypatch):
    """What would have ended the process; signals more than 0.1 s apart are two."""
    ended = []
    monkeypatch.setattr(stopping, "_end", lambda *given: ended.append(given))
    monkeypatch.setattr(stopping, "_SAME_S", 0.1)
    monkeypatch.setattr(stopping, "_POLL_S", 0.02)
    return ended


def test_the_first_own_signal_after_another_processs_is_not_the_second(ends, capfd):
    """A scheduler signals all hosts, one seconds after the other; only its repetition here ends at once."""
    store = _Store()
    store.values |= {"spatialsv/calls/0": "0", "spatialsv/signal": "[p0/2] SIGTERM"}
    with pytest.raises(stopping.Interrupted), stopping.Stopping(50, "[p1/2] ", stopping.Peers(store, 1, 2)):
        with stopping.stepping():
            _wait_until(lambda: stopping._active._stop_at is not None)
            for signals in range(2):
                time.sleep(2 * stopping._SAME_S)
                os.kill(os.getpid(), signal.SIGTERM)
                _wait_until(lambda: stopping._active._signalled_at if not signals else ends)
                assert len(ends) == signals
            for timer in stopping._active._timers:
                timer.cancel()
    assert ends == [(128 + 15, "[p1/2] SIGTERM again: ending at once, nothing more is saved.")]
    assert "[p1/2] [p0/2] SIGTERM: finishing the step" in capfd.readouterr().err


def test_one_signal_sent_twice_is_one_while_the_others_are_asked(ends):
    store = _Store()  # the other process answers later than two signals are taken for one
    with pytest.raises(stopping.Interrupted), stopping.Stopping(50, "[p1/2] ", stopping.Peers(store, 1, 2)):
        os.kill(os.getpid(), signal.SIGTERM)
        _wait_until(lambda: "spatialsv/calls/1" in store.values)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        store.values["spatialsv/calls/0"] = "0"
        time.sleep(20)
    assert ends == []


def test_a_process_without_a_sign_of_life_ends_the_job_but_one_that_has_left_does_not(ends, monkeypatch):
    for name, seconds in {"LOST_S": 0.3, "_LIFE_S": 0.05, "FAILED_S": 0.1, "COORDINATOR_S": 0.1}.items():
        monkeypatch.setattr(stopping, name, seconds)
    store = _Store()
    store.values |= {"spatialsv/alive/1": "left", "spatialsv/alive/2": "12.5"}
    with stopping.Stopping(50, "[p0/3] ", stopping.Peers(store, 0, 3)):
        _wait_until(lambda: ends)
    because = "[p0/3] ended because another process failed: no sign of life from process 2 for 0.3 s."
    assert ends == [(1, because)]
    assert store.values["spatialsv/alive/0"] == "left"


@pytest.mark.parametrize("asks", [False, True])
def test_no_thread_is_left_that_uses_the_store(ends, asks):
    """One that is in jax's store while the interpreter ends aborts the process, which had done all its work."""
    store, before = _Store(), set(threading.enumerate())
    with (
        contextlib.suppress(stopping.Interrupted),
        stopping.Stopping(50, "[p0/2] ", stopping.Peers(store, 0, 2)) as one,
    ):
        if asks:  # the other process never answers
            os.kill(os.getpid(), signal.SIGTERM)
            _wait_until(lambda: "spatialsv/calls/0" in store.values)
        assert {"signals", "peers", "life"} <= {thread.name for thread in threading.enumerate()}
        began = time.monotonic()
    assert time.monotonic() - began < 5
    for timer in one._timers:
        timer.cancel()
        timer.join()
    assert set(threading.enumerate()) <= before and ends == []


def test_a_signal_to_a_process_that_leaves_does_not_keep_it_from_saying_so(ends):
    """Else the others believe it lost, a minute later."""
    store, told = _Store(), _Store.key_value_set
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
    try:
        with stopping.Stopping(50, "[p1/2] ", stopping.Peers(store, 1, 2)):
            _wait_until(lambda: "spatialsv/alive/1" in store.values)

            def slow(key, value, allow_overwrite):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
                told(store, key, value, allow_overwrite)

            store.key_value_set = slow
    finally:
        signal.signal(signal.SIGINT, before)
    assert store.values["spatialsv/alive/1"] == "left" and ends == []


def test_a_failing_process_is_ended_before_the_first_one_is(ends, monkeypatch, capfd):
    """jax aborts the processes whose coordinator, the first one, has gone; and jax's own limit must come last."""
    store, longest = _Store(), stopping.FAILED_S + stopping.COORDINATOR_S
    assert stopping.LOST_S + 2 * stopping._LIFE_S + longest < stopping.HEARTBEAT_S
    with pytest.raises(ArithmeticError), stopping.Stopping(50, "[p1/2] ", stopping.Peers(store, 1, 2)) as one:
        raise ArithmeticError("no such luck")
    assert store.values["spatialsv/failed"] == "[p1/2] no such luck"
    with pytest.raises(ValueError), stopping.Stopping(50, "[p0/2] ", stopping.Peers(store, 0, 2)) as first:
        raise ValueError("the connection broke")
    assert "[p0/2] ended because another process failed: [p1/2] no such luck" in capfd.readouterr().err
    (own,), (last,) = one._timers, first._timers
    assert (own.interval, last.interval) == (stopping.FAILED_S, longest)
    own.cancel(), last.cancel()


def test_preparing_data_ends_cleanly_and_goes_on(tmp_path):
    command = [sys.executable, "-m", "experiments.prepare", "--source", "rooms", "--out", str(tmp_path / "rooms")]
    command += ["--scenes", "2000", "--views", "1", "--size", "16", "--workers", "1", "--quiet"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    begun = tmp_path / "rooms" / ".preparing"
    arguments = begun / "arguments.json"  # written first, by way of a temporary file as well
    _wait_until(lambda: (arguments.exists() and any(begun.glob("*.tmp"))) or process.poll() is not None, 120)
    os.killpg(process.pid, signal.SIGTERM)  # as Slurm and Kubernetes do: the workers get it as well
    _, errors = process.communicate(timeout=60)
    assert process.returncode == stopping.RESUMABLE, errors
    assert "SIGTERM: ending" in errors and "The same command goes on" in errors and "Traceback" not in errors
    assert arguments.exists() and not list(begun.glob("*.tmp"))
