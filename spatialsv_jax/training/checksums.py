"""Checksums of checkpoints: `DIR/checksums/STEP.json` holds the SHA-256 of every file of a step."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

_READERS = 8  # files read at once; hashing leaves the interpreter free
_POLL_S = 0.1


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another format; the message names the path."""


class Seals:
    """Records checksums in the background, so that neither training nor the other processes of a job wait for it.

    Args:
      directory: of the checkpoints.
      say: told what went wrong, and that the end waits.
      records: whether this process writes the checksums; of a job's processes one does.
      afterwards: called once a save is over and its checksums are recorded.
    """

    def __init__(
        self,
        directory: Path,
        say: Callable[[str], None],
        records: bool = True,
        afterwards: Callable[[], None] = lambda: None,
    ):
        self._directory, self._say = directory, say
        self._records, self._afterwards = records, afterwards
        self._last: threading.Thread | None = None

    def add(self, step: int, is_saving: Callable[[], bool] = lambda: False) -> None:
        """Seals a step as soon as it is whole; without doing so once `is_saving` is over and the step is not there.

        `is_saving` must be about this step's save alone.
        """
        thread = threading.Thread(
            target=self._seal, args=(step, is_saving, self._last), name=f"checksums of {step}", daemon=True
        )
        thread.start()
        self._last = thread

    def wait(self) -> None:
        """Returns when all is recorded."""
        if self._last is None:
            return
        self._last.join(1.0)
        if self._last.is_alive():
            self._say(f"The checkpoint in {self._directory} is whole; recording its checksums.")
            self._last.join()

    def _seal(self, step: int, is_saving: Callable[[], bool], before: threading.Thread | None) -> None:
        if self._records and not self._record(step, is_saving, before):
            return
        while is_saving():  # what has its name already may still be followed by the removal of older ones
            time.sleep(_POLL_S)
        self._afterwards()

    def _record(self, step: int, is_saving: Callable[[], bool], before: threading.Thread | None) -> bool:
        """Writes a step's checksums, after those of the step before; False where the save failed."""
        folder = self._directory / str(step)
        while not folder.exists():  # Orbax gives a step its name once it is whole
            if not is_saving() and not folder.exists():
                return False  # which the next save or wait reports
            time.sleep(_POLL_S)
        if before is not None:
            before.join()
        try:
            write(self._directory, step)
        except OSError as error:
            if folder.exists():  # else newer ones have taken its place
                self._say(f"WARNING: the checksums of checkpoint {folder} could not be recorded: {error}.")
        return True


def write(directory: Path, step: int) -> None:
    """Records a step's checksums, and removes those of steps that are gone."""
    folder = directory / "checksums"
    folder.mkdir(exist_ok=True)
    partial = folder / f".{step}.json.partial"
    partial.write_text(json.dumps(_digests(directory / str(step)), indent=1))
    os.replace(partial, folder / f"{step}.json")
    for file in folder.glob("*.json"):
        if not (directory / file.stem).exists():
            file.unlink(missing_ok=True)


def verify(directory: Path, step: int) -> bool:
    """Compares a step's files with their recorded checksums.

    Returns:
      False when none were recorded: the program was killed after the save and before they were, which takes as long as
      reading the files once.

    Raises:
      CheckpointError: naming the first file that is missing or differs.
    """
    file = directory / "checksums" / f"{step}.json"
    if not file.exists():
        return False
    recorded, found = json.loads(file.read_text()), _digests(directory / str(step))
    for name, digest in recorded.items():
        if found.get(name) != digest:
            state = "is missing" if name not in found else "differs from its checksum"
            raise CheckpointError(
                f"Checkpoint file {directory / str(step) / name} {state}. "
                f"Delete {directory / str(step)} to go on from the step before it."
            )
    return True


def _digests(root: Path) -> dict[str, str]:
    """Name of every file below a folder -> its SHA-256."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    with futures.ThreadPoolExecutor(_READERS) as pool:
        return dict(zip((str(file.relative_to(root)) for file in files), pool.map(_digest, files), strict=True))


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
