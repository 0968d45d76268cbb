"""Weights & Biases as one more place for metrics, which may fail in any way without the run noticing."""

from __future__ import annotations

import hashlib
import math
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

_WAITING = 1000  # lines; a service that hangs costs no more memory than these
_CLOSE_S = 30.0


class WandbWriter:
    """Sends scalars from a thread of its own: a service that fails or hangs neither stops nor slows training.

    WANDB_MODE=offline writes to WORKDIR/wandb instead, `wandb sync` sends it later. The run's id follows from the
    workdir, so a resumed run goes on in the same chart.

    Args:
      project: in Weights & Biases.
      workdir: of the phase.
      config: shown beside the run.
      say: told once what failed, and at the end how often.
      close_s: seconds that `close` waits for what is not sent yet.

    Attributes:
      failures: lines that were not handed over.
    """

    def __init__(
        self,
        project: str,
        workdir: Path,
        config: Mapping,
        say: Callable[[str], None] = print,
        close_s: float = _CLOSE_S,
    ):
        self._say, self._close_s, self.failures, self._told = say, close_s, 0, False
        self._queue: queue.Queue = queue.Queue(_WAITING)
        run_id = hashlib.sha256(str(workdir.absolute()).encode()).hexdigest()[:16]
        self._settings = dict(
            project=project, name=workdir.name, id=run_id, dir=str(workdir), resume="allow", config=dict(config)
        )
        self._thread = threading.Thread(target=self._send, name="wandb", daemon=True)
        self._thread.start()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hands one step over; never raises and never waits."""
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        try:
            self._queue.put_nowait((step, finite))
        except queue.Full:
            self._failed("it takes no more lines")

    def close(self) -> None:
        """Waits a little for what is not sent yet, and says how much was lost."""
        try:
            self._queue.put(None, timeout=self._close_s)
        except queue.Full:
            self._failed("it takes no more lines")
        self._thread.join(self._close_s)
        if self._thread.is_alive():
            self._failed(f"it did not finish within {self._close_s:g} s")
        if self.failures:
            self._say(f"Weights & Biases failed {self.failures} times; metrics.jsonl has everything.")

    def _send(self) -> None:
        run = self._guarded(self._begin)
        while (line := self._queue.get()) is not None:
            if run is None:
                self.failures += 1
            else:
                self._guarded(lambda line=line: run.log(line[1], step=line[0]))
        if run is not None:
            self._guarded(run.finish)

    def _begin(self):
        import wandb

        return wandb.init(**self._settings)

    def _guarded(self, call: Callable):
        """The one border where every error is caught: a metric service must never stop a run."""
        try:
            return call()
        except ImportError:
            self._failed('the package is missing: pip install -e ".[wandb]"')
        except (Exception, SystemExit) as error:
            self._failed(f"{type(error).__name__}: {error}")
        return None

    def _failed(self, why: str) -> None:
        self.failures += 1
        if not self._told:
            self._told = True
            self._say(f"Weights & Biases: {why[:300]}. Training goes on without it.")
