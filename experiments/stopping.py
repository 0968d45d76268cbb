"""Stopping a command from outside: what is under way is finished, and the exit code says `start me again`.

SIGTERM (Kubernetes, Slurm, a machine that is taken back) and SIGINT (Ctrl-C) count alike. Training finishes its step,
saves and ends with code 75; anything else ends at once with it, because everything here goes on where it was
stopped. After the grace time the process ends whatever it is doing; a second signal to it ends it at once. In a job
of several processes a signal to one stops all, after the same step.

No jax here: preparing data does without it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: the same command again goes on
GRACE_S = 60.0
IDLE_S = 10.0  # for leaving what needs no saving: a compilation, a wait for another process
SIGNALS = (signal.SIGTERM, signal.SIGINT)
FAILED_S = 30.0  # for processes that mostly meet the same error: each should come to say it
COORDINATOR_S = 5.0  # the first process leaves so much later: jax aborts those whose coordinator has gone
LOST_S = 60.0  # without a sign of life from a process
HEARTBEAT_S = 150  # jax's own limit, after which it aborts all without a word: longer than LOST_S and FAILED_S
_WAKE = signal.SIGUSR2  # from the watching thread to the main one
_SAME_S = 1.0  # `timeout` and launchers send one signal twice; later ones are meant
_POLL_S = 1.0
_LAST_ACTS_S = 2.0
_LIFE_S = 5.0  # between signs of life
_ASK_S = 0.02  # between looks for another process's answer
_JOIN_S = 10.0
_LEFT = "left"


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread where nothing has to be finished."""


class Peers:
    """The other processes of the job, reached through the key-value store of `jax.distributed`; no device is asked.

    Args:
      client: its client.
      index, count: of the processes.
    """

    def __init__(self, client, index: int, count: int):
        self._client, self._index, self._count = client, index, count
        self._lives: dict[str, tuple[str, float]] = {}  # key -> what it says, since when
        # How long after a failure this process is ended.
        self.failed_s = FAILED_S if index else FAILED_S + COORDINATOR_S

    def live(self, sign: str) -> None:
        """Shows that this process lives, by a sign that differs from the one before."""
        self.tell(f"alive/{self._index}", sign)

    def lost(self) -> list[int]:
        """Those that have shown no sign for `LOST_S` and have not left; the first process asks again and again."""
        if self._index:
            return []
        now = time.monotonic()
        for key, sign in self._client.key_value_dir_get("spatialsv/alive/"):
            if self._lives.get(key, ("", 0.0))[0] != sign:
                self._lives[key] = (sign, now)
        silent = [key for key, (sign, since) in self._lives.items() if sign != _LEFT and now - since > LOST_S]
        return sorted(int(key.rpartition("/")[2]) for key in silent)

    def tell(self, key: str, value: str) -> None:
        """Sets a key that all can read; the last one stays."""
        self._client.key_value_set(f"spatialsv/{key}", value, allow_overwrite=True)

    def told(self, key: str) -> str | None:
        """What somebody told under a key."""
        try:
            return self._client.key_value_try_get(f"spatialsv/{key}")
        except RuntimeError:  # not there (or the coordinator has ended, which jax reports itself)
            return None

    def largest(self, mine: int, timeout_s: float, left: threading.Event) -> int:
        """The largest of all processes' numbers; one's own if another does not answer in time, or once `left` is set."""
        self.tell(f"calls/{self._index}", str(mine))
        end, answers = time.monotonic() + timeout_s, []
        while len(answers) < self._count:  # not the store's blocking call, which a thread could not leave
            if (answer := self.told(f"calls/{len(answers)}")) is not None:
                answers.append(int(answer))
            elif left.wait(_ASK_S) or time.monotonic() > end:
                return mine
        return max(answers)


class Stopping:
    """Handles the signals of a command while it is entered, in the main thread.

    Args:
      grace_s: seconds from the signal to the end, whatever is under way.
      label: begins every line, names the process in a job of several.
      peers: the other processes, None without.
    """

    def __init__(self, grace_s: float = GRACE_S, label: str = "", peers: Peers | None = None):
        if not grace_s > 0:
            raise ValueError(f"--grace_s is {grace_s}, expected more than 0 seconds.")
        self._grace_s, self._label, self._peers = grace_s, label, peers
        self._lock, self._left, self._threads = threading.RLock(), threading.Event(), []
        self._reason, self._signalled_at = "", None  # of all processes; of this one's first own signal
        self._steps, self._stepping, self._stop_at = 0, False, None  # numbers of steps over all phases
        self._pending, self._entered = False, False
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> Stopping:
        global _active
        if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
            return self
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup and the like
        self._before = {number: signal.signal(number, lambda *_: None) for number in handled}
        self._before[_WAKE] = signal.signal(_WAKE, self._on_wake)
        # The descriptor is written to at once, also while the main thread compiles or waits in C++.
        self._old_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._entered, self._outer, _active = True, _active, self
        self._left.clear()
        self._start(self._watch, "signals")
        if self._peers is not None:
            self._start(self._listen, "peers")
            self._start(self._live, "life")
        return self

    def __exit__(self, kind, error, trace) -> None:
        global _active
        if not self._entered:
            return
        failed = error is not None and not isinstance(error, KeyboardInterrupt) and kind is not SystemExit
        self._left.set()
        with self._lock:
            self._entered, _active = False, self._outer
        signal.set_wakeup_fd(self._old_fd)
        self._write.shutdown(socket.SHUT_WR)
        self._write.close()
        # A thread that is in jax's store while the interpreter ends aborts the process.
        for thread in self._threads:  # the first reads the signals and may add one that asks
            thread.join(_JOIN_S)
        self._threads.clear()
        if self._peers is None:  # with others the end of the process itself waits for them: the time goes on
            for timer in self._timers:
                timer.cancel()
        else:
            self._take_leave(error if failed else None)
        for number, handler in self._before.items():  # last, so that no signal keeps the others from hearing of the end
            signal.signal(number, handler)

    def _take_leave(self, failure: BaseException | None) -> None:
        """Tells the other processes that this one has left, and why if it failed."""
        with contextlib.suppress(RuntimeError):  # the coordinator is gone: so are the others
            self._peers.live(_LEFT)
            if failure is not None and (earlier := self._peers.told("failed")):
                print(self._because(earlier), file=sys.stderr, flush=True)
            elif failure is not None:  # the others would wait for this process for ever
                self._peers.tell("failed", f"{self._label}{str(failure)[:2000]}")
        if failure is not None:  # at the end of the process jax waits for the others
            self._exit_after(self._peers.failed_s, 1, "")

    def _because(self, failure: str) -> str:
        return f"{self._label}ended because another process failed: {failure}"

    @contextlib.contextmanager
    def stepping(self) -> Iterator[Callable[[int], bool]]:
        """While entered, signals do not interrupt; the yielded function says whether to save and stop before a step.

        All processes of a job call it before the same steps and get the same answers.

        Raises:
          Interrupted: a stop was asked for before, or no step came after it.
        """
        with self._lock:
            self._leave_if_asked()
            self._stepping = True
        try:
            yield self._stop_before
        finally:
            with self._lock:
                self._stepping = False
        with self._lock:
            if self._stop_at is not None:
                raise Interrupted(self._reason)

    def _stop_before(self, step: int) -> bool:
        with self._lock:
            if self._stop_at is not None and self._steps + 1 >= self._stop_at:
                return True
            self._steps += 1
            return False

    def _leave_if_asked(self) -> None:
        if self._stop_at is not None and self._steps + 1 >= self._stop_at:  # no process is ahead and needs this one
            raise Interrupted(self._reason)

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _watch(self) -> None:
        """Reads the numbers of the signals that arrive."""
        while data := _receive(self._read):
            for number in data:
                if number in SIGNALS:
                    self._signalled(signal.Signals(number))
        self._read.close()

    def _signalled(self, number: signal.Signals) -> None:
        """Only this process's own second signal means `at once`: schedulers signal all, seldom in one moment."""
        now = time.monotonic()
        if self._signalled_at is None:
            self._signalled_at = now
            # Asking waits for the other processes; the next signal must be read when it arrives.
            self._start(lambda: self._ask(number.name, own=True), "asking")
        elif now - self._signalled_at > _SAME_S:
            _end(128 + number, f"{self._label}{number.name} again: ending at once, nothing more is saved.")

    def _live(self) -> None:
        """Shows that this process lives; the first one looks whether the others do."""
        while not self._left.is_set():
            with contextlib.suppress(RuntimeError):  # the coordinator has ended, which jax reports itself
                self._peers.live(str(time.monotonic()))
                if lost := self._peers.lost():
                    names = ", ".join(map(str, lost))
                    self._peers.tell("failed", f"no sign of life from process {names} for {LOST_S:g} s.")
            self._left.wait(_LIFE_S)

    def _listen(self) -> None:
        """Asks the store whether another process was signalled or failed."""
        while not self._left.wait(_POLL_S):
            if failure := self._peers.told("failed"):
                if not self._left.is_set():  # else it ends by itself
                    self._exit_after(self._peers.failed_s, 1, self._because(failure))
                return
            if not self._reason and (signalled := self._peers.told("signal")):
                self._ask(signalled, own=False)

    def _ask(self, reason: str, own: bool) -> None:
        """Decides after which step to stop, and interrupts the main thread where it makes none."""
        with self._lock:
            if self._reason:
                return
            self._reason = reason
        if own and self._peers is not None:
            self._peers.tell("signal", f"{self._label}{reason}".strip())
        self._exit_after(
            self._grace_s, RESUMABLE, f"{self._label}not done after {self._grace_s:g} s (--grace_s): ending."
        )
        with self._lock:  # no step begins here until all know the last one
            furthest = self._steps
            if self._peers is not None:
                furthest = self._peers.largest(self._steps, self._grace_s / 2, self._left)
            self._stop_at = furthest + 1
            self._pending = not self._stepping and self._steps + 1 >= self._stop_at
            idle = self._pending
            what = "ending" if idle else "finishing the step and saving"
            line = f"{self._label}{reason}: {what}, at most {self._grace_s:g} s. A second signal ends at once."
            print(line, file=sys.stderr, flush=True)
            if idle:
                self._exit_after(min(IDLE_S, self._grace_s), RESUMABLE, f"{self._label}ending.")
        if idle and not self._left.is_set():
            signal.pthread_kill(threading.main_thread().ident, _WAKE)

    def _exit_after(self, seconds: float, code: int, message: str) -> None:
        with self._lock:
            if not self._entered and self._peers is None:  # the main thread has left already
                return
            timer = threading.Timer(seconds, _end, (code, message))
            timer.daemon = True
            timer.start()
            self._timers.append(timer)

    def _on_wake(self, number: int, frame) -> None:
        if self._pending and not self._stepping and not self._left.is_set():
            self._pending = False
            raise Interrupted(self._reason)


_active: Stopping | None = None
_last_acts: list[Callable[[], None]] = []


@contextlib.contextmanager
def stepping() -> Iterator[Callable[[int], bool]]:
    """`Stopping.stepping` of the command that runs; never asks to stop where no command handles signals."""
    if _active is None:
        yield lambda step: False
        return
    with _active.stepping() as stop:
        yield stop


@contextlib.contextmanager
def before_end(act: Callable[[], None]) -> Iterator[None]:
    """While entered, `act` is done (in a thread) before the process is ended without unwinding its main thread."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


def _receive(stream: socket.socket) -> bytes:
    try:
        return stream.recv(64)
    except OSError:
        return b""


def _end(code: int, message: str) -> None:
    if message:
        # Not through sys.stderr, whose lock the main thread may hold.
        os.write(2, f"{message}\n".encode())
    acts = threading.Thread(target=lambda: [act() for act in _last_acts], daemon=True)
    acts.start()
    acts.join(_LAST_ACTS_S)  # a file system that hangs must not keep the process
    os._exit(code)
