"""One job per workdir: a file that says which process on which host holds it, and that it lives.

The holder touches the file every few seconds. A second job is refused and told who holds it: at once where the holder
is seen to run, else when it has touched the file. A lock whose process is gone from this machine, or that was not
touched for a minute, is taken over. Ages are measured by the file system's own clock, as those of two hosts differ.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments import stopping

NAME = "lock.json"
HEARTBEAT_S = 10.0
STALE_S = float(os.environ.get("SPATIALSV_LOCK_STALE_S") or 60.0)
_LENGTH = 1024  # of the file, always, so that a line is replaced in one write
_LOOK_S = 1.0  # between two looks at a lock that is waited for
_SETTLE_S = 0.5  # where takers cannot be kept apart: by then another one has put back what it moved by mistake


class LockedError(ValueError):
    """Another job works in the workdir; the message names it."""


@contextlib.contextmanager
def hold(
    workdir: Path,
    say: Callable[[str], None] = print,
    heartbeat_s: float = HEARTBEAT_S,
    stale_s: float = STALE_S,
    on_loss: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Holds WORKDIR/lock.json.

    Args:
      workdir: a folder that is there.
      say: told of a lock that is waited for or taken over, and of touches that fail.
      heartbeat_s: seconds between touches.
      stale_s: age from which a lock is dead.
      on_loss: called in a thread when somebody else has taken the lock over (this process slept for long), or may do
        so, because it could not be touched for `stale_s`; by default the process asks itself to stop.

    Raises:
      LockedError: another job holds it.
    """
    path = workdir / NAME
    descriptor, facts = _take(path, stale_s, say)
    released = threading.Event()

    def beat() -> None:
        last, failing = time.monotonic(), False
        while not released.wait(heartbeat_s):
            try:
                if not _is_ours(path, descriptor):
                    why = "was taken over by another job, because this one had not shown a sign of life"
                    break
                os.pwrite(descriptor, _encode(facts | {"heartbeat": _now()}), 0)
                os.fsync(descriptor)  # a network file system keeps writes to itself for a while
                last, failing = time.monotonic(), False
            except OSError as error:
                why = f"could not be touched for {stale_s:g} s ({error}), so that another job may take it over"
                if time.monotonic() - last > stale_s:
                    break
                if not failing:
                    _try_to(say, f"WARNING: {path} cannot be touched ({error}); trying on.")
                failing = True
        else:
            return
        _try_to(say, f"{path} {why}: stopping.")
        (on_loss or (lambda: os.kill(os.getpid(), signal.SIGTERM)))()

    def release() -> None:
        released.set()
        with contextlib.suppress(OSError), _alone(workdir):
            if _is_ours(path, descriptor):
                path.unlink()

    thread = threading.Thread(target=beat, name="workdir lock", daemon=True)
    thread.start()
    try:
        with stopping.before_end(release):
            yield
    finally:
        released.set()
        thread.join()
        release()
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _take(path: Path, stale_s: float, say: Callable[[str], None]) -> tuple[int, dict]:
    """Creates the lock, where one of unknown fate is there once it has shown no life for `stale_s`.

    Returns:
      Its open file, and what it says.

    Raises:
      LockedError: another job holds it.
    """
    seen, began = None, time.monotonic()
    while True:
        with _alone(path.parent) as alone:
            blocking = _remove_stale(path, stale_s, say, time.monotonic() - began)
            if blocking is None:
                descriptor, facts = _create(path)
                break
        if seen is not None and blocking[:2] != seen[:2]:  # touched, or another job's
            raise LockedError(_refusal(path, blocking[0]))
        if seen is None:
            left = min(stale_s - blocking[2], stale_s)
            say(
                f"{path} is there, of {_holder(blocking[0])}, touched {stale_s - left:.0f} s ago. Waiting whether that "
                f"job lives, at most {left:.0f} s."
            )
            seen = blocking
        time.sleep(min(_LOOK_S, stale_s / 10))
    if not alone:
        _settle(path, descriptor)
    return descriptor, facts


def _create(path: Path) -> tuple[int, dict]:
    facts = {
        "token": uuid.uuid4().hex,
        "host": platform.node(),
        "pid": os.getpid(),
        "boot": _boot(),
        "processes": _processes(),
        "process_start": _process_start(os.getpid()),
        "started": _now(),
        "heartbeat": _now(),
        "command": " ".join(sys.orig_argv)[:400],
    }
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    except FileExistsError:  # another one was quicker, where the folder cannot be locked
        raise LockedError(_refusal(path, _read(path))) from None
    os.pwrite(descriptor, _encode(facts), 0)
    return descriptor, facts


def _remove_stale(
    path: Path, stale_s: float, say: Callable[[str], None], watched_s: float
) -> tuple[dict, float, float] | None:
    """Makes place for a lock.

    Args:
      path, stale_s, say: see `hold`.
      watched_s: for how long the one there was seen without a touch, which counts as its age does.

    Returns:
      None when there is place; else what the lock says, when it was touched and how many seconds ago.

    Raises:
      LockedError: the process of the one there is seen to run.
    """
    facts, touched = _read(path), _touched(path)
    if touched is None:  # none, or just released
        return None
    touched_at, age = touched[0], max(touched[1], watched_s)
    runs = _runs(facts)
    if runs is not False and age <= stale_s:
        if runs:
            raise LockedError(_refusal(path, facts))
        return facts, touched_at, age
    moved = path.with_name(f".{NAME}.{uuid.uuid4().hex[:8]}")
    try:
        os.rename(path, moved)
    except FileNotFoundError:
        return None
    found = _read(moved)
    # The fresh lock of another taker, where the folder cannot be locked. Told by what it says: inodes are used again.
    if found.get("token") != facts.get("token") or found.get("started") != facts.get("started"):
        with contextlib.suppress(FileExistsError):
            os.link(moved, path)
        moved.unlink()
        raise LockedError(_refusal(path, found))
    moved.unlink()
    why = "that process is gone" if runs is False else f"without a sign of life for {age:.0f} s"
    say(f"Took over the lock of {_holder(facts)}: {why}.")
    return None


def _settle(path: Path, descriptor: int) -> None:
    """Waits until no other taker can still believe in the lock that was there before.

    Raises:
      LockedError: another taker has the workdir.
    """
    for _ in range(2):  # twice: a taker puts back what it moved by mistake
        time.sleep(_SETTLE_S)
        if _is_ours(path, descriptor):
            return
    os.close(descriptor)
    raise LockedError(_refusal(path, _read(path)))


def _refusal(path: Path, facts: dict) -> str:
    return (
        f"Another job works in {path.parent}: {_holder(facts)}. Wait for it, end it, or use another --workdir. (If it is "
        f"gone, its lock {path.name} is taken over {STALE_S:.0f} s after its last sign of life, {facts.get('heartbeat', '?')}.)"
    )


def _holder(facts: dict) -> str:
    return f"process {facts.get('pid', '?')} on {facts.get('host', '?')}, since {facts.get('started', '?')}"


def _read(path: Path) -> dict:
    """What a lock says; {} when it is torn or gone."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}


def _touched(path: Path) -> tuple[float, float] | None:
    """When a file was touched, and how many seconds ago, by the clock of its file system; None when it is gone."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.now")
    try:
        with open(path, "rb") as stream:  # opened, because a network file system remembers the times of closed ones
            touched = os.fstat(stream.fileno()).st_mtime
        probe.touch()
        return touched, os.stat(probe).st_mtime - touched
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)


def _runs(facts: dict) -> bool | None:
    """Whether the holder is seen to run here (True) or to be gone (False).

    None where its number says nothing: on another machine or start of it, or in another container, which may have the
    same host name.
    """
    if facts.get("host") != platform.node() or not facts.get("process_start"):
        return None
    here = (_boot(), _processes())
    if not all(here) or (facts.get("boot"), facts.get("processes")) != here:
        return None
    return facts["process_start"] == _process_start(int(facts["pid"]))


def _is_ours(path: Path, descriptor: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _boot() -> str:
    """Identity of this start of the machine, "" where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _processes() -> str:
    """Identity of the numbering of processes here (containers have their own), "" where it is not said."""
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When a process began, in the machine's ticks; "" for one that is gone (numbers are used again)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _try_to(say: Callable[[str], None], text: str) -> None:
    """Says it where that is possible: the log may lie on the same full disk."""
    with contextlib.suppress(OSError):
        say(text)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _encode(facts: dict) -> bytes:
    return json.dumps(facts).encode()[: _LENGTH - 1].ljust(_LENGTH - 1) + b"\n"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Two takers one after the other; False where the file system cannot lock a folder, so that they are not kept apart."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)
