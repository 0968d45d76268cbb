"""metrics.jsonl and TensorBoard event files, one line or event per logged step."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from tensorboardX import SummaryWriter


class MetricWriter:
    """Writes scalars by step. Resuming at step k drops lines of steps >= k first.

    Args:
      workdir: where `metrics.jsonl` and `tensorboard/` go.
      start_step: the step that training goes on from.
      tensorboard: whether to write event files.
    """

    def __init__(self, workdir: str | Path, start_step: int, tensorboard: bool = True):
        self.path = Path(workdir) / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) < start_step]
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            os.replace(partial, self.path)
        self._file = open(self.path, "a", buffering=1)
        self._events = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=start_step) if tensorboard else None

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One line; non-finite values are written as null (JSON has no NaN)."""
        row = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        if self._events is not None:
            for name, value in scalars.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _step_of(line: str) -> int:
    """The step of a line; a line torn by a kill counts as after every step."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return 2**62
