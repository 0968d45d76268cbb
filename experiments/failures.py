"""What went wrong in a few words: numbers that are not finite, too little memory, an accelerator without its plug-in."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.loader import Loader
from data_pipelines.manifest import PrepareError
from spatialsv_jax.losses.objective import active_terms
from spatialsv_jax.training import optimizer, sharding, step
from spatialsv_jax.training.state import TrainState

OUT_OF_MEMORY = (
    "RESOURCE_EXHAUSTED",
    "Out of memory",
    "out of memory",
    "OOM",
    "CompileTimeHbmOom",
    "Ran out of memory",
)
# What shows an accelerator in /dev, its name, and the extra with its plug-in.
DEVICES = {
    "NVIDIA GPU": (("nvidia[0-9]*",), "cuda12"),
    "TPU": (("accel[0-9]*", "vfio/[0-9]*"), "tpu"),
}
PLATFORMS = {"cuda": "cuda12", "gpu": "cuda12", "tpu": "tpu"}


class OutOfMemoryError(RuntimeError):
    """The devices have not enough memory; the message names the largest parts and what to change."""


class AcceleratorError(RuntimeError):
    """An accelerator was asked for that jax cannot use; the message says what to install."""


# What a command reports in one message instead of a traceback. FloatingPointError: a loss (loop.NonFiniteError) or a
# model's map (evaluation.predictions) that is not finite.
REPORTED = (ValueError, OSError, PrepareError, FloatingPointError, OutOfMemoryError, AcceleratorError)


@contextlib.contextmanager
def named_memory(parts: Callable[[], Mapping[str, int]]) -> Iterator[None]:
    """Turns an out-of-memory error of XLA or of Python into one that names the parts.

    Args:
      parts: what lies on a device -> bytes, see `memory_parts`; asked only then.

    Raises:
      OutOfMemoryError: instead of the long one.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(describe(error, parts())) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a compilation or a program means that memory was short."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def describe(error: BaseException, parts: Mapping[str, int]) -> str:
    """A short message: how much was asked for, the largest parts, what to change."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    rows = sorted(parts.items(), key=lambda item: -item[1])
    largest = ", ".join(f"{name} {_size(size)}" for name, size in rows[:6] if size)
    return (
        f"Out of memory on the device: {first[:300]}\n"
        f"Largest known parts per device: {largest or 'none known'}; the rest are activations and temporaries of the step.\n"
        "To change: lower data.sources.*.per_batch or data.questions (or split the batch: training.microbatches where the "
        "config has it); language.remat=full; mesh.fsdp up to the number of devices, which splits parameters and optimizer; "
        "freeze parts or language.lora_rank."
    )


def memory_parts(
    shapes: TrainState, batches: Sequence[Mapping[str, np.ndarray]], frozen: tuple[str, ...], teacher=()
) -> dict:
    """Bytes per device of parameters by group, optimizer and batch, as the start-up table has them.

    Args:
      shapes: the state's, with shardings.
      batches: this process's rows of one batch of each bucket.
      frozen: groups without optimizer state.
      teacher: shapes of the parameters of a teacher in the step.
    """
    groups: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes.params):
        group = optimizer.group_of(tuple(key.key for key in path))
        groups[group] = groups.get(group, 0) + sharding.bytes_per_device(leaf)
    named = {
        f"{group} parameters{' (frozen)' if group in frozen else ' and as much for gradients'}": size
        for group, size in groups.items()
    }
    batch = max((sum(value.nbytes for value in one.values()) for one in batches), default=0)
    if jax.tree.leaves(teacher):
        named["the teacher in the step"] = sharding.bytes_per_device(teacher)
    return {
        **named,
        "optimizer": sharding.bytes_per_device((shapes.opt_state, shapes.ema)),
        "batch": math.ceil(batch / max(1, jax.local_device_count())),
    }


def explain_nonfinite(parts: step.StepParts, train_state, bad: int, loader: Loader, mesh, teacher=None) -> str:
    """Names the terms that are not finite on the batch of step `bad`, and its records; `teacher`: parameters of one in the step."""
    batch = sharding.put_batch(loader.batch(bad), mesh)
    with jax.set_mesh(mesh):
        losses = lambda s, b, t: step.report_losses(parts, dataclasses.replace(s, step=jnp.int32(bad)), b, t)
        report = jax.jit(losses)(train_state, batch, teacher)
    values = {name: float(report[name]) for name in active_terms(parts.objective)}
    wrong = [name for name, value in values.items() if not abs(value) < float("inf")]
    what = (
        f"Terms that are not finite: {wrong}." if wrong else "Every term is finite; the gradient is not, or it spiked."
    )
    return f"{what} Values: {values}. Records of the batch: {loader.record_ids(bad)}."


def check_accelerator(devices: Path = Path("/dev")) -> str:
    """A line about an accelerator that this machine has and jax does not use; "" when all is well.

    Raises:
      AcceleratorError: JAX_PLATFORMS asks for one whose plug-in is missing or finds no device.
    """
    asked = os.environ.get("JAX_PLATFORMS", "").split(",")[0].strip().lower()
    try:
        backend = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # without a plug-in jax 0.10 fails in an assertion
        extra = PLATFORMS.get(asked)
        if extra is None:
            raise
        raise AcceleratorError(
            f"JAX_PLATFORMS={asked}, but jax cannot use it ({' '.join(str(error).split())[:200] or 'no such backend'}). Is its plug-in there? "
            f'pip install -e ".[{extra}]". To run without it: JAX_PLATFORMS=cpu.'
        ) from error
    if asked or backend != "cpu":
        return ""
    for name, (patterns, extra) in DEVICES.items():
        if any(any(devices.glob(pattern)) for pattern in patterns):
            return (
                f"WARNING: this machine has a {name}, but jax runs on the CPU: its plug-in is missing or does not find the "
                f'driver. pip install -e ".[{extra}]". (JAX_PLATFORMS=cpu says that the CPU is meant.)'
            )
    return ""


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
