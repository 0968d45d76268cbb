"""metrics.jsonl, TensorBoard event files and Weights & Biases: one line or event per logged step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from spatialsv_jax.training.wandb_writer import WandbWriter


class MetricWriter:
    """Writes scalars by step. Resuming at step k drops lines of steps >= k first.

    In a job of several processes a line also says which of how many wrote it.

    Args:
      workdir: where `metrics.jsonl` and `tensorboard/` go.
      start_step: the step that training goes on from.
      tensorboard: whether to write event files.
      wandb: project in Weights & Biases, "" = none; it never stops a run.
      config: the phase's settings, for Weights & Biases.
      say: where its failures are reported.
    """

    def __init__(
        self,
        workdir: str | Path,
        start_step: int,
        tensorboard: bool = True,
        wandb: str = "",
        config: Mapping | None = None,
        say: Callable[[str], None] = print,
    ):
        self.path = Path(workdir) / "metrics.jsonl"
        self._file = _open_from(self.path, start_step)
        self._events = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=start_step) if tensorboard else None
        self._say = say
        self._wandb = WandbWriter(wandb, Path(workdir), config or {}, say) if wandb else None
        count = jax.process_count()
        self._process = {"process": jax.process_index(), "processes": count} if count > 1 else {}

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One line; non-finite values are written as null (JSON has no NaN).

        Raises:
          OSError: the disk refuses; names the file.
        """
        row = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        _write(self._file, self.path, {"step": step, **self._process, **row})
        if self._events is not None and self._events_written():
            self._events.file_writer.add_event(_event(scalars), step)
        if self._wandb is not None:
            self._wandb.write(step, scalars)

    def write_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures uint8[H,W,3] by name, for TensorBoard alone."""
        if self._events is not None and self._events_written():
            for name, picture in pictures.items():
                self._events.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        if self._events is not None and self._events_written():
            try:
                self._events.close()
            except OSError as error:
                self._say(f"The event files for TensorBoard are not complete: {error}. metrics.jsonl has everything.")
        if self._wandb is not None:
            self._wandb.close()

    def _events_written(self) -> bool:
        """Whether TensorBoard's own thread lives; on a full disk it dies in silence, and its queue would block for ever."""
        worker = getattr(self._events.file_writer.event_writer, "_worker", None)
        if worker is None or worker.is_alive():
            return True
        self._events = None
        self._say("The event files for TensorBoard could not be written (disk full?); metrics.jsonl has everything.")
        return False


class RecordLog:
    """records-pN.jsonl: the indices of the records that process N loaded for each step, in row order.

    Args:
      workdir: where it goes.
      start_step: the step that training goes on from; later lines are dropped.
    """

    def __init__(self, workdir: str | Path, start_step: int):
        self.path = Path(workdir) / f"records-p{jax.process_index()}.jsonl"
        self._file = _open_from(self.path, start_step)
        if jax.process_index() == 0:  # of processes that an earlier start had and this one has not
            for path in Path(workdir).glob("records-p*.jsonl"):
                if int(path.stem.removeprefix("records-p")) >= jax.process_count():
                    _open_from(path, start_step).close()

    def write(self, step: int, indices: np.ndarray) -> None:
        """One line.

        Raises:
          OSError: the disk refuses; names the file.
        """
        _write(self._file, self.path, {"step": step, "records": [int(index) for index in indices]})

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_records(workdir: str | Path, step: int) -> list[int] | None:
    """What RecordLog noted of a step: indices of its records, of all processes, in row order; None where nothing was."""
    found = []
    for path in sorted(
        Path(workdir).glob("records-p*.jsonl"), key=lambda path: int(path.stem.removeprefix("records-p"))
    ):
        lines = [line for line in path.read_text().splitlines() if _step_of(line) == step]
        found += json.loads(lines[0])["records"] if lines else []
    return found or None


def _event(scalars: Mapping[str, float]) -> Event:
    """All scalars of a step in one message.

    A message for each of them, as `SummaryWriter.add_scalar` makes it, frees so much that protobuf empties glibc's heap
    (malloc_trim at every 10,000th block it frees) every 300 steps of the quickstart: its next steps' memory is then
    page faults again.
    """
    event = Event()
    for name, value in scalars.items():
        event.summary.value.add(tag=name, simple_value=value)
    return event


def _open_from(path: Path, start_step: int):
    """The file opened to append, without its lines of `start_step` and later."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if _step_of(line) < start_step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept))
        os.replace(partial, path)
    return open(path, "a", buffering=1)


def _write(file, path: Path, row: dict) -> None:
    try:
        file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}. Make room, then the same command goes on", str(path)) from error


def _step_of(line: str) -> int:
    """The step of a line; a line torn by a kill counts as after every step."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return 2**62
