"""The start-up table: what will run, how large it is, how it is split, and whether it fits."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from data_pipelines.loader import Loader
from experiments.online import Online
from spatialsv_jax.assembly import Settings
from spatialsv_jax.losses.objective import active_terms
from spatialsv_jax.training import flops as flops_lib
from spatialsv_jax.training import optimizer, sharding, step
from spatialsv_jax.training.state import TrainState, count_tokens, split_params


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """The compiled training step and what it costs.

    Attributes:
      step: (state, batch) -> (state, metrics); with a teacher in it (state, batch, its parameters).
      seconds: compile time.
      temporary_bytes: scratch memory per device; None where the backend does not say.
      flops: FLOPs of one global step by part, counted from the program.
      recomputed: those of them that rematerialisation does a second time.
    """

    step: Callable
    seconds: float
    temporary_bytes: int | None
    flops: dict[str, float]
    recomputed: float = 0.0


def trace_step(
    parts: step.StepParts, shapes: TrainState, batch: dict[str, np.ndarray], mesh, online: Online | None = None
):
    """The step traced for the shapes of a batch (this process's rows of it); `lower().compile()` compiles it.

    With a teacher in the step its parameters are the third argument.
    """
    layout = sharding.batch_sharding(mesh)
    processes = jax.process_count()
    abstract = {
        name: jax.ShapeDtypeStruct((value.shape[0] * processes, *value.shape[1:]), value.dtype, sharding=layout)
        for name, value in batch.items()
    }
    with jax.set_mesh(mesh):  # kernels that XLA cannot split ask for it
        return step.jit_step(parts, shapes).trace(shapes, abstract, *([online.shapes] if online else []))


def compile_step(
    parts: step.StepParts, shapes: TrainState, batch: dict[str, np.ndarray], mesh, online: Online | None = None
) -> CompiledStep:
    """Compiles the step for the shapes of a batch before any memory is taken."""
    began = time.perf_counter()
    traced = trace_step(parts, shapes, batch, mesh, online)
    costs = flops_lib.costs(traced.jaxpr)
    recomputed = sum(cost.recomputed for cost in costs.values())
    with jax.set_mesh(mesh):
        compiled = traced.lower().compile()
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    temporary = getattr(memory, "temp_size_in_bytes", None)
    return CompiledStep(compiled, seconds, temporary, dict(flops_lib.by_part(costs)), recomputed)


class CompiledSteps:
    """The training step of every bucket, (state, batch) -> (state, metrics), chosen by the batch's shapes.

    Args:
      parts, shapes, mesh: as for `compile_step`.
      batches: one batch of each bucket.
      online: the teacher in the step, if there is one.

    Attributes:
      steps: the compiled steps, one for each bucket.
    """

    def __init__(
        self,
        parts: step.StepParts,
        shapes: TrainState,
        batches: Sequence[dict[str, np.ndarray]],
        mesh,
        online: Online | None = None,
    ):
        self.steps = [compile_step(parts, shapes, batch, mesh, online) for batch in batches]
        self._online = online
        self._of_shapes = {
            _shapes(batch, jax.process_count()): one for batch, one in zip(batches, self.steps, strict=True)
        }

    def __call__(self, state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict]:
        """One step.

        Raises:
          ValueError: a batch whose shapes are those of no bucket.
        """
        if (found := self._of_shapes.get(_shapes(batch))) is None:
            raise ValueError(f"No step was compiled for a batch of shapes {dict(_shapes(batch))}.")
        return found.step(state, batch, *([self._online.params] if self._online else []))


def _shapes(batch: dict, processes: int = 1) -> tuple:
    """Names and global shapes of a batch's fields."""
    return tuple((name, (value.shape[0] * processes, *value.shape[1:])) for name, value in sorted(batch.items()))


class Table:
    """Gathers the rows of the start-up table.

    Args:
      name: of the phase.
      settings, shapes, report, loader, mesh: what will run.
      steps: the compiled step of each bucket.
      batches: one batch of each bucket.
      online: the teacher in the step, if there is one.

    Attributes:
      flops: FLOPs of a global step of each bucket, without recomputation.
      tokens: language tokens of a global batch of each bucket, as many as in its example on every process.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        shapes: TrainState,
        report,
        loader: Loader,
        steps: Sequence[CompiledStep],
        mesh,
        batches: Sequence[dict[str, np.ndarray]],
        online: Online | None = None,
    ):
        self.online = online
        self.name, self.settings, self.shapes, self.report = name, settings, shapes, report
        self.loader, self.steps, self.mesh, self.batches = loader, steps, mesh, batches
        self.facts = loader.describe()
        self.shares = [bucket["share"] for bucket in self.facts["buckets"]]
        self.flops = [sum(one.flops.values()) - one.recomputed for one in steps]
        self.tokens = [int(count_tokens(batch)) * jax.process_count() for batch in batches]

    def text(self) -> str:
        """The table as plain text, one fact a line."""
        rows = [
            ("phase", f"{self.name}: {self.settings.model}, objective '{self.settings.objective_name}'"),
            ("terms", self._terms()),
            ("devices", self._devices()),
            *self._parameters(),
            *self._teacher(),
            *self._memory(),
            ("FLOPs per step", self._flops()),
            *self._data(),
            *self._split(),
        ]
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"  {key:<{width}}  {value}" for key, value in rows)

    def _terms(self) -> str:
        losses = self.settings.losses
        return ", ".join(f"{name} x {getattr(losses, name)}" for name in active_terms(losses))

    def _devices(self) -> str:
        device = self.mesh.devices.flat[0]
        axes = " ".join(f"{name}={size}" for name, size in self.mesh.shape.items())
        idle = jax.device_count() - self.mesh.size
        rest = f", {idle} idle: the rows of a batch do not divide over more" if idle else ""
        return f"{self.mesh.size} x {device.device_kind} ({axes}){rest}, jax {jax.__version__}, {platform.node() or 'host'}"

    def _parameters(self) -> list[tuple[str, str]]:
        trainable, frozen = split_params(self.shapes.params, self.settings.frozen_groups)
        count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        groups: dict[str, int] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.shapes.params):
            group = optimizer.group_of(tuple(key.key for key in path))
            groups[group] = groups.get(group, 0) + math.prod(leaf.shape)
        parts = ", ".join(f"{group} {number(size)}" for group, size in groups.items())
        return [("parameters", f"{number(count(trainable))} trained, {number(count(frozen))} frozen ({parts})")]

    def _teacher(self) -> list[tuple[str, str]]:
        if self.online is None:
            return []
        mean = self._mean_flops()
        pictures = max((batch["teacher_pixels"].shape for batch in self.batches), key=math.prod)
        return [("teacher", self.online.text(mean["teacher"] / sum(mean.values()), pictures))]

    def _mean_flops(self) -> dict[str, float]:
        """FLOPs of a step by part, the mean over the buckets."""
        mean: dict[str, float] = {}
        for share, one in zip(self.shares, self.steps, strict=True):
            for part, flops in one.flops.items():
                mean[part] = mean.get(part, 0.0) + share * flops
        return mean

    def _memory(self) -> list[tuple[str, str]]:
        params = sharding.bytes_per_device(self.shapes.params)
        opt = sharding.bytes_per_device((self.shapes.opt_state, self.shapes.ema))
        devices = math.prod(self.mesh.shape[axis] for axis in sharding.BATCH_AXES)
        batch = max(sum(value.nbytes for value in one.values()) for one in self.batches)
        batch = batch * jax.process_count() // devices
        known = [one.temporary_bytes for one in self.steps if one.temporary_bytes is not None]
        temporary = max(known, default=None)
        teacher = sharding.bytes_per_device(self.online.shapes) if self.online else 0
        total = params + opt + teacher + batch + (temporary or 0)
        available = device_memory_bytes(self.mesh)
        sizes = f"parameters {size(params)}, optimizer {size(opt)}, " + f"teacher {size(teacher)}, " * (teacher > 0)
        sizes += f"batch {size(batch)}, "
        sizes += f"compiled temporaries {size(temporary) if temporary is not None else 'not reported'}"
        if available is None:
            verdict = f"{size(total)} needed; the device does not say how much it has"
        elif total <= available:
            verdict = f"fits: {size(total)} of {size(available)} per device"
        else:
            verdict = (
                f"DOES NOT FIT: {size(total)} needed, {size(available)} per device. Lower per_batch, set "
                "language.remat=full, or raise mesh.fsdp."
            )
        return [("bytes per device", sizes), ("memory", verdict)]

    def _flops(self) -> str:
        mean = self._mean_flops()
        total, seconds = sum(mean.values()), sum(one.seconds for one in self.steps)
        parts = ", ".join(f"{part} {flops / total:.0%}" for part, flops in mean.items() if flops)
        again = sum(share * one.recomputed for share, one in zip(self.shares, self.steps, strict=True))
        parts += f"; {again / total:.0%} of them recomputed" if again else ""
        programs = f" ({len(self.steps)} programs, FLOPs are their mean)" if len(self.steps) > 1 else ""
        return f"{number(total)} ({parts}), compiled in {seconds:.1f} s{programs}"

    def _data(self) -> list[tuple[str, str]]:
        facts, rows = self.facts, []
        for source in facts["sources"]:
            rows.append(
                (
                    "source",
                    f"{source['path']} ({source['split']}): {source['records_in_use']} of {source['records']} records, "
                    f"{source['scenes_with_text']} of {source['scenes']} scenes with text, "
                    f"{source['per_batch']} rows a batch, {source['steps_per_pass']:.1f} steps a pass; {source['shows']}"
                    + f"; {source['records_without_labels']} records have no label file"
                    * (source["records_without_labels"] > 0),
                )
            )
        sampled = facts["sampled"]
        for bucket, batch, tokens in zip(facts["buckets"], self.batches, self.tokens, strict=True):
            shapes = ", ".join(
                f"{name} {list(batch[name].shape)}" for name in ("prefix_tokens", "question_tokens", "depth")
            )
            rows.append(("batch" if len(self.batches) == 1 else "bucket", shapes + self._bucket(bucket, tokens)))
        if facts["wasted_share"] is not None:
            rows.append(
                (
                    "buckets",
                    f"{len(self.batches)} of at most {self.loader.config.buckets}: {facts['wasted_share']:.0%} of the tokens carry "
                    f"nothing (padding, empty question slots, stretched pictures), "
                    f"{facts['wasted_share_in_one_bucket']:.0%} if all records shared one; records of one bucket are shown at "
                    f"most {max(facts['skew']):.2f} times as often as their source's mean",
                )
            )
        mean = sum(share * tokens for share, tokens in zip(self.shares, self.tokens, strict=True))
        rows.append(
            (
                "tokens",
                f"{mean:.0f} a batch; padding: prefix {sampled['prefix_padding_share']:.0%}, "
                f"questions {sampled['question_padding_share']:.0%}, views {sampled['view_padding_share']:.0%}",
            )
        )
        lacking = {what: sampled[f"rows_without_{what}"] for what in ("text", "geometry", "features")}
        rows.append(
            (
                "labels",
                f"of {sampled['rows']} sampled rows lack "
                + ", ".join(f"{k}: {v}" for k, v in lacking.items())
                + f"; depth covers {sampled['labelled_pixel_share']:.0%} of the pixels"
                + f"; {sampled.get('rows_labelled_in_the_step')} are labelled in the step and not counted here"
                * bool(sampled.get("rows_labelled_in_the_step")),
            )
        )
        return rows

    def _bucket(self, bucket: dict, tokens: int) -> str:
        """What a row adds to the shapes of one of several buckets."""
        if len(self.batches) == 1:
            return ""
        rows, columns = bucket["grid_hw"]
        sampled = bucket["sampled"]
        padding = ""
        if sampled["rows"]:
            padding = f"; padding: prefix {sampled['prefix_padding_share']:.0%}, questions {sampled['question_padding_share']:.0%}"
        return (
            f"; {bucket['views']} views of {rows} x {columns}, {bucket['records']} records, {bucket['share']:.0%} of the "
            f"steps, {tokens} tokens{padding}"
        )

    def _split(self) -> list[tuple[str, str]]:
        if self.mesh.size == 1:
            return [("sharding", "one device")]
        patterns: dict[tuple, list[str]] = {}
        for name, axes in self.report.split.items():
            patterns.setdefault(axes, []).append(name)
        rows = [("sharding", f"{axes}: {len(names)} parameters, e.g. {names[0]}") for axes, names in patterns.items()]
        rows += [("replicated", f"{name}: {why}") for name, why in self.report.replicated.items()]
        rows += [("on every device", f"{name} (above 64 MiB): {why}") for name, why in self.report.large.items()]
        return rows or [("sharding", "parameters are on every device; batches are split")]


def device_memory_bytes(mesh) -> int | None:
    """Memory of one device: the accelerator's limit, or the host's memory shared by its CPU devices."""
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total // len(mesh.local_devices)
    stats = device.memory_stats()
    return stats.get("bytes_limit") if stats else None


def number(value: float) -> str:
    """1234567 -> '1.23 M'."""
    for limit, suffix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.2f} {suffix}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes in binary units."""
    for limit, suffix in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= limit:
            return f"{value / limit:.2f} {suffix}"
    return f"{value:.0f} B"
