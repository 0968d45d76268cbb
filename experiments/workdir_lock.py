"""One job per workdir: a file that says which process on which host holds it, and that it lives.

The holder touches the file every few seconds. A second job is refused and told who holds it. A lock whose process is
gone (same host) or that was not touched for a minute (any host) is taken over. Ages are measured by the file system's
own clock, because those of two hosts differ.
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

NAME = "lock.json"
HEARTBEAT_S = 10.0
STALE_S = float(os.environ.get("SPATIALSV_LOCK_STALE_S") or 60.0)
_LENGTH = 1024  # of the file, always, so that a line is replaced in one write
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
      say: told of a lock that is taken over.
      heartbeat_s: seconds between touches.
      stale_s: age from which a lock is dead.
      on_loss: called in a thread when somebody else has taken the lock over (this process slept for long); by default the
        process asks itself to stop.

    Raises:
      LockedError: another job holds it.
    """
    path = workdir / NAME
    with _alone(workdir) as alone:
        _remove_stale(path, stale_s, say)
        descriptor, facts = _create(path)
    if not alone:
        _settle(path, descriptor)
    released = threading.Event()

    def beat() -> None:
        while not released.wait(heartbeat_s):
            if not _is_ours(path, descriptor):
                say(f"{path} was taken over by another job, because this one had not shown a sign of life: stopping.")
                (on_loss or (lambda: os.kill(os.getpid(), signal.SIGTERM)))()
                return
            os.pwrite(descriptor, _encode(facts | {"heartbeat": _now()}), 0)

    thread = threading.Thread(target=beat, name="workdir lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        with _alone(workdir):
            if _is_ours(path, descriptor):
                path.unlink()
        os.close(descriptor)


def _create(path: Path) -> tuple[int, dict]:
    facts = {
        "token": uuid.uuid4().hex,
        "host": platform.node(),
        "pid": os.getpid(),
        "boot": _boot(),
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


def _remove_stale(path: Path, stale_s: float, say: Callable[[str], None]) -> None:
    """Makes place for a lock.

    Raises:
      LockedError: the one there is alive.
    """
    if not path.exists():
        return
    facts = _read(path)
    age = _age(path)
    if age is None:  # just released
        return
    gone = _is_gone(facts)
    if not gone and age <= stale_s:
        raise LockedError(_refusal(path, facts))
    moved = path.with_name(f".{NAME}.{uuid.uuid4().hex[:8]}")
    try:
        os.rename(path, moved)
    except FileNotFoundError:
        return
    found = _read(moved)
    # The fresh lock of another taker, where the folder cannot be locked. Told by what it says: inodes are used again.
    if found.get("token") != facts.get("token") or found.get("started") != facts.get("started"):
        with contextlib.suppress(FileExistsError):
            os.link(moved, path)
        moved.unlink()
        raise LockedError(_refusal(path, found))
    moved.unlink()
    why = "that process is gone" if gone else f"without a sign of life for {age:.0f} s"
    say(f"Took over the lock of {_holder(facts)}: {why}.")


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


def _age(path: Path) -> float | None:
    """Seconds since a file was touched, by the clock of its file system; None when it is gone."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.now")
    try:
        probe.touch()
        return os.stat(probe).st_mtime - os.stat(path).st_mtime
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)


def _is_gone(facts: dict) -> bool:
    """Whether the process is known not to run any more: on this machine, since this start of it."""
    if facts.get("host") != platform.node() or not facts.get("boot") or not facts.get("process_start"):
        return False
    return facts["boot"] != _boot() or facts["process_start"] != _process_start(int(facts["pid"]))


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


def _process_start(pid: int) -> str:
    """When a process began, in the machine's ticks; "" for one that is gone (numbers are used again)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


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
