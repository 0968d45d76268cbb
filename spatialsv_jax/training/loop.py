"""The training loop, to be read from top to bottom. It takes iterators and callables."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from spatialsv_jax.training.checkpoints import CheckpointConfig, Checkpoints
from spatialsv_jax.training.metric_writer import MetricWriter, RecordLog
from spatialsv_jax.training.sharding import put_batch
from spatialsv_jax.training.state import TrainState


class NonFiniteError(FloatingPointError):
    """The total or a gradient became NaN or infinite; the message names terms and records."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop; its state is saved.

    Attributes:
      step: the step that it goes on from.
    """

    def __init__(self, step: int):
        super().__init__(f"Stopped before step {step}; its state is saved.")
        self.step = step


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Steps and intervals of one phase.

    Attributes:
      steps: optimizer steps of the phase.
      log_every: steps between metric lines (the only steps with a host transfer).
      gradient_norm_every: steps between probes of each term's gradient norm; 0 = never.
      cards_every: steps between pictures of what the model sees, for TensorBoard; 0 = never.
      tensorboard: whether to write event files.
      profile: directory for a trace of steps 10 to 15; "" = none.
      microbatches: passes that every global batch is cut into; the update and all reported values are those of one pass.
      skip_budget: bad steps (total or gradient not finite, or a spike) that are left out, over the whole phase; one
        more ends it. 0 = the first one does.
      skip_spike: a step is bad too when its gradient norm exceeds this many times the median of the last 32 applied
        steps'; 0 = never.
      wandb: project in Weights & Biases that metrics go to as well; "" = none.
      log_records: whether every process writes which records it loaded, step by step, to records-pN.jsonl.
    """

    steps: int = 1000
    log_every: int = 20
    gradient_norm_every: int = 0
    cards_every: int = 0
    tensorboard: bool = True
    profile: str = ""
    microbatches: int = 1
    skip_budget: int = 0
    skip_spike: float = 0.0
    wandb: str = ""
    log_records: bool = False

    def __post_init__(self):
        least = {
            "steps": 1,
            "log_every": 1,
            "gradient_norm_every": 0,
            "cards_every": 0,
            "microbatches": 1,
            "skip_budget": 0,
        }
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"config.training.{name} is {getattr(self, name)}, expected {value} or more.")
        if self.cards_every and not self.tensorboard:
            raise ValueError(
                f"config.training.cards_every is {self.cards_every}, but tensorboard is False. Set one of them."
            )
        if self.skip_spike and (not self.skip_spike > 1 or not self.skip_budget):
            raise ValueError(
                f"config.training.skip_spike is {self.skip_spike}, expected 0 (off) or more than 1 with a "
                f"skip_budget (it is {self.skip_budget})."
            )


def run(
    state: TrainState,
    step_fn: Callable,
    batches: Iterator[tuple[int, dict[str, np.ndarray]]],
    *,
    mesh: Mesh,
    config: LoopConfig,
    checkpoint_config: CheckpointConfig,
    checkpoints: Checkpoints,
    writer: MetricWriter | None,
    meta: dict,
    flops: Callable[[int], float],
    explain: Callable[[TrainState, int], str],
    probe: Callable | None = None,
    cards: Callable | None = None,
    title: str = "train",
    stop: Callable[[int], bool] = lambda step: False,
    records: RecordLog | None = None,
) -> TrainState:
    """Trains from `state.step` to `config.steps` and saves the last state.

    Args:
      state: the state to go on from.
      step_fn: (state, batch) -> (state, metrics), with "tokens" of the global batch among them; donates the state.
      batches: yields (step, this process's rows) from `state.step` on.
      mesh: where batches go.
      config, checkpoint_config: intervals.
      checkpoints, writer: where states and metrics go; the writer is None on hosts that write none.
      meta: written beside every checkpoint: hashes of data and labels, the objective's name.
      flops: step -> FLOPs of its global batch without recomputation, for the rates.
      explain: (state, step) -> text naming the non-finite terms and the record ids of that step.
      probe: (state, batch) -> gradient norms per term, or None.
      cards: state -> pictures uint8[H,W,3] by name, or None; all processes must call it.
      title: what the progress bar says.
      stop: step -> whether to save and stop before it; all processes must answer alike.
      records: where the records of each step are noted, None = nowhere.

    Raises:
      NonFiniteError: after the last good checkpoint was kept.
      Stopped: `stop` asked for it, and the state is saved.
    """
    start = int(state.step)
    bar = tqdm(
        total=config.steps, initial=start, desc=title, file=sys.stdout, mininterval=2.0, dynamic_ncols=True,
        disable=jax.process_index() != 0,
    )  # fmt: skip
    trace = _Trace(config.profile, start)
    window = _Window()
    try:
        for step in range(start, config.steps):
            if stop(step):
                _check_finite(state, None, explain)
                checkpoints.save(state, meta)
                checkpoints.wait()
                raise Stopped(step)
            drawn = time.perf_counter()
            batch_step, batch = next(batches)
            if batch_step != step:
                raise RuntimeError(f"The loader gave the batch of step {batch_step} at step {step}.")
            window.wait_s += time.perf_counter() - drawn
            if records is not None:
                records.write(step, batch["record_index"])
            device_batch = put_batch(batch, mesh)
            trace.at(step)
            norms = {}
            if probe is not None and config.gradient_norm_every and step % config.gradient_norm_every == 0:
                norms = {name: float(value) for name, value in probe(state, device_batch).items()}
                # The probe is no part of the step: its time is kept out of the rates.
                window = _Window(window.stall_s)
            state, metrics = step_fn(state, device_batch)
            window.add(metrics["tokens"], flops(step))
            last = step + 1 == config.steps
            if step % config.log_every == 0 or last or norms:
                scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
                _check_finite(state, scalars, explain)
                scalars |= norms | window.rates()
                if writer is not None:
                    writer.write(step, scalars)
                milliseconds = scalars["step_time_s"] * 1e3
                bar.set_postfix_str(f"total {scalars['total']:.3f} {milliseconds:.0f} ms/step", refresh=False)
                window = _Window()
            if cards is not None and config.cards_every and (step + 1) % config.cards_every == 0:
                began = time.perf_counter()
                pictures = cards(state)
                if writer is not None:
                    writer.write_pictures(step, pictures)
                window.leave_out(time.perf_counter() - began)
            bar.update(1)
            if (step + 1) % checkpoint_config.every == 0 or last:
                # Saved before the next batch is drawn: the data position is the step alone.
                _check_finite(state, None, explain)
                began = time.perf_counter()
                checkpoints.save(state, meta)
                window.stall_s += time.perf_counter() - began
    finally:
        bar.close()
        trace.stop()
    checkpoints.wait()
    return state


def _check_finite(state: TrainState, scalars: dict | None, explain: Callable) -> None:
    bad = int(scalars["first_nonfinite"]) if scalars is not None else int(state.first_nonfinite)
    if bad >= 0:
        skipped = int(state.skipped)
        what = f"Step {bad} was not finite"
        if skipped > 1:
            what = f"Step {bad} was bad step number {skipped}, more than config.training.skip_budget = {skipped - 1} allows"
        raise NonFiniteError(
            f"{what}; nothing was updated from then on and the last checkpoint is kept.\n" + explain(state, bad)
        )


class _Window:
    """What was done since the last metric line."""

    def __init__(self, stall_s: float = 0.0):
        self._start, self._steps, self._flops = time.perf_counter(), 0, 0.0
        self._tokens: list[jax.Array] = []  # on the devices until the rates are asked for
        self.wait_s, self.stall_s = 0.0, stall_s

    def add(self, tokens: jax.Array, flops: float) -> None:
        self._steps, self._flops = self._steps + 1, self._flops + flops
        self._tokens.append(tokens)

    def leave_out(self, seconds: float) -> None:
        """Time that belongs to no step."""
        self._start += seconds

    def rates(self) -> dict[str, float]:
        tokens = sum(int(number) for number in jax.device_get(self._tokens))
        seconds = time.perf_counter() - self._start
        return {
            "step_time_s": seconds / self._steps,
            "data_wait_s": self.wait_s / self._steps,
            "checkpoint_stall_s": self.stall_s,
            "tokens_per_s": tokens / seconds,
            "tflops_per_s": self._flops / seconds / 1e12,
        }


class _Trace:
    """A profiler trace of five steps, from the eleventh on, when a directory is given."""

    def __init__(self, directory: str, start: int):
        self._directory, self._first, self._running = directory, start + 10, False

    def at(self, step: int) -> None:
        if self._directory and step == self._first:
            jax.profiler.start_trace(self._directory)
            self._running = True
        elif step == self._first + 5:
            self.stop()

    def stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
