"""Bytes per device of a training step: what the compiler says, or a quick estimate."""

from __future__ import annotations

import dataclasses
import math
import re

import jax

from spatialsv_jax.planning.liveness import Division, peak_bytes
from spatialsv_jax.planning.scheduled import Scheduled
from spatialsv_jax.training import sharding
from spatialsv_jax.training.state import TrainState, split_params

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"(\d+(?:\.\d+)?)([KMGTB]?)"
_USED = re.compile(rf"[Uu]sed {_SIZE}i?B? of {_SIZE}i?B? hbm")
_TEMPORARIES = re.compile(rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)")


# Compiled peaks have been up to so many times the estimate, and the estimate up to so many times the peak: a TPU's
# compiler rematerialises of its own near the limit (docs/scaling.md, "The estimate").
ESTIMATES_LOW, ESTIMATES_HIGH = 2.2, 1.6


def likely_peak(estimate: float) -> float:
    """What a step of this estimated peak needs if it is like those that were compiled for TPUs: at most 1.15 times it and 1.1 GiB.

    They are in the table of docs/scaling.md; no bound, unlike `fits`.
    """
    return 1.15 * estimate + 1.1 * 2**30


# Code of a program whose kernels were not made: the largest of those that were made had 0.27 GiB, the smallest 0.09.
CODE = round(0.3 * 2**30)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per device.

    Attributes:
      parameters, optimizer, batch: of the step's inputs.
      temporaries: gradients, activations, gathered parameters.
      code: of the program.
      peak: what must fit; more than the sum of the others when the compiler says no more than that.
      source: "compiler"; "scheduled", the compiler's too but for the code (`CODE`); "compiler refused" or "estimate".
      teacher: parameters of a teacher in the step.
    """

    parameters: int
    optimizer: int
    batch: int
    temporaries: int
    code: int
    peak: int
    source: str
    teacher: int = 0


def fits(found: Memory, available: int) -> bool | None:
    """Whether a step fits into `available` bytes per device.

    None where that is not known: of a device of unknown memory (0), of an estimate that differs from it by less
    than estimates have been wrong, of a scheduled program where it is the code that decides.
    """
    if found.source == "compiler refused":
        return False
    if not available:
        return None
    if found.source == "estimate" and found.peak / ESTIMATES_HIGH <= available < found.peak * ESTIMATES_LOW:
        return None
    if found.source == "scheduled" and found.peak - found.code <= available < found.peak:
        return None
    return found.peak <= available


def inputs(shapes: TrainState, batch: dict, mesh) -> tuple[int, int, int]:
    """Bytes per device of parameters, optimizer state (and averaged model), and batch."""
    layout = sharding.batch_sharding(mesh)
    batch = {n: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=layout) for n, value in batch.items()}
    return (
        sharding.bytes_per_device(shapes.params),
        sharding.bytes_per_device((shapes.opt_state, shapes.ema)),
        sharding.bytes_per_device(batch),
    )


def compiled(known: tuple[int, int, int], stats, gaps: int | None = None) -> Memory:
    """From the compiler's `memory_analysis()`, less the gaps that it counts twice (`libtpu_log.gaps`).

    Args:
      known: as `inputs` gives it.
      stats: of `memory_analysis()`.
      gaps: bytes between the temporaries; None where that is not known, then a TPU program's peak is some tenths of a
        GiB too high.
    """
    kept = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    temporaries, code = stats.temp_size_in_bytes - (gaps or 0), stats.generated_code_size_in_bytes
    return Memory(*known, temporaries, code, kept + temporaries + code, "compiler")


def scheduled(known: tuple[int, int, int], found: Scheduled, teacher: int = 0) -> Memory:
    """From a program whose kernels were not made; `known` as `inputs` gives it."""
    return Memory(
        *known, found.temporaries, CODE, found.kept + found.temporaries + CODE, source="scheduled", teacher=teacher
    )


def refused(known: tuple[int, int, int], message: str, teacher: int = 0) -> tuple[Memory, int] | None:
    """From the compiler's message that a program does not fit: (memory, bytes that it had); None for another message."""
    match = _USED.search(message) or _TEMPORARIES.search(message)  # "temporaries" there include the inputs
    if match is None:
        return None
    peak, available = _bytes(match[1], match[2]), _bytes(match[3], match[4])
    return Memory(*known, max(peak - sum(known) - teacher, 0), 0, peak, "compiler refused", teacher), available


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])


def estimated(
    known: tuple[int, int, int], jaxpr, shapes: TrainState, frozen_groups: tuple[str, ...], mesh, teacher=()
) -> Memory:
    """Without compiling, from the traced step; see `liveness`. `teacher`: shapes of the parameters of one in the step."""
    rows = math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES)
    shares: dict[tuple[int, ...], float] = {}
    trainable, frozen = split_params(shapes.params, frozen_groups)
    for leaf in jax.tree.leaves((teacher, frozen, trainable)):
        share = math.prod(leaf.sharding.shard_shape(leaf.shape)) / math.prod(leaf.shape)
        for shape in (leaf.shape, leaf.shape[1:], leaf.shape[::-1], leaf.shape[1:][::-1]):
            if len(shape) > 1:
                shares[tuple(shape)] = share
    # The new state takes the old one's place.
    temporaries = round(peak_bytes(jaxpr, Division(shares, 1 / rows), donated=len(jax.tree.leaves(shapes))))
    own = sharding.bytes_per_device(teacher)
    return Memory(*known, temporaries, 0, sum(known) + own + temporaries, "estimate", own)
