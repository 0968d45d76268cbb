"""A plan: all figures of one step on one slice, as a table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from spatialsv_jax.planning import memory
from spatialsv_jax.planning.chips import GIB, Topology
from spatialsv_jax.planning.hlo import Collective
from spatialsv_jax.planning.memory import ESTIMATES_LOW, Memory
from spatialsv_jax.planning.roofline import ASSUMPTIONS, Roofline
from spatialsv_jax.training.flops import Cost

LIFTING = ("lifting", "losses/")  # parts that text alone does not have; losses/text is taken out
NOT_VERIFIED = (
    "The description of this GPU is not verified on hardware; its memory is an estimate, nothing was compiled, and a fused "
    "attention kernel of TPUs stands in for cuDNN's."
)
CODE_NOTE = (
    f"Kernels were not made: their code is taken to be {memory.CODE / GIB:.2f} GiB (known programs: 0.09 to 0.27 GiB); --whole makes "
    "them."
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step needs.

    Attributes:
      name, objective: of the phase.
      topology, mesh: where it runs.
      rows, tokens, parameters: of the global batch, and of the model.
      settings: what of the config decides memory: remat, microbatches and the like.
      memory, available: bytes per device; available 0 = not known.
      estimate: peak bytes per device as guessed without the compiler.
      costs, text_only: work by part of this step and of the same with text alone.
      collectives: of one device; None where nothing was compiled.
      times: the roofline.
      replicated: parameter -> why it is on every device.
      compile_seconds: None where nothing was compiled.
      notes: what the reader must know of this plan.
    """

    name: str
    objective: str
    topology: Topology
    mesh: Mapping[str, int]
    rows: int
    tokens: int
    parameters: int
    settings: Mapping[str, object]
    memory: Memory
    estimate: int
    available: int
    costs: Mapping[str, Cost]
    text_only: Mapping[str, Cost]
    collectives: Mapping[str, Collective] | None
    times: Roofline
    replicated: Mapping[str, str]
    compile_seconds: float | None
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool | None:
        """Whether the step fits; None where that is not known (`memory.fits`)."""
        return memory.fits(self.memory, self.available)

    @property
    def lifting_flops(self) -> float:
        """FLOPs of lifting and of the losses on it, elementwise ones too."""
        return sum(cost.matrix + cost.vector for part, cost in self.costs.items() if is_lifting(part))

    @property
    def lifting_flops_share(self) -> float:
        """`lifting_flops` to all FLOPs of the step with text alone, elementwise ones too."""
        whole = sum(cost.matrix + cost.vector for cost in self.text_only.values())
        return self.lifting_flops / whole if whole else 0.0

    def to_json(self) -> dict:
        """Plain values."""
        plain = lambda table: {name: dataclasses.asdict(value) for name, value in sorted(table.items())}
        return {
            "name": self.name,
            "objective": self.objective,
            "topology": str(self.topology),
            "devices": self.topology.devices,
            "mesh": dict(self.mesh),
            "rows": self.rows,
            "tokens": self.tokens,
            "parameters": self.parameters,
            "settings": dict(self.settings),
            "fits": self.fits,
            "bytes_free_per_device": self.available - self.memory.peak if self.available else None,
            "bytes_available_per_device": self.available or None,
            "peak_bytes_per_device": self.memory.peak,
            "bytes_by_kind": {
                "parameters": self.memory.parameters,
                "optimizer": self.memory.optimizer,
                "batch": self.memory.batch,
                "teacher": self.memory.teacher,
                "gradients_and_temporaries": self.memory.temporaries,
                "generated_code": self.memory.code,
            },
            "memory_source": self.memory.source,
            "estimated_peak_bytes_per_device": self.estimate,
            "costs": plain(self.costs),
            "flops": sum(cost.matrix for cost in self.costs.values()),
            "text_only_flops": sum(cost.matrix for cost in self.text_only.values()),
            "lifting_flops_share": self.lifting_flops_share,
            "collectives": None if self.collectives is None else plain(self.collectives),
            "roofline": dataclasses.asdict(self.times),
            "replicated": dict(self.replicated),
            "compile_seconds": self.compile_seconds,
            "assumptions": list(ASSUMPTIONS),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The plan as a readable table."""
        known, times = self.memory, self.times
        mesh = " ".join(f"{name}={size}" for name, size in self.mesh.items())
        rows = [
            ("plan", f"{self.name}: objective '{self.objective}', {si(self.parameters)} parameters"),
            ("slice", f"{self.topology}, {self.topology.devices} devices ({mesh})"),
            ("batch", f"{self.rows} rows, {self.tokens} language tokens"),
            ("settings", ", ".join(f"{name} {value}" for name, value in self.settings.items())),
            ("fits", self._verdict()),
            (
                "bytes per device",
                f"parameters {gib(known.parameters)}, optimizer {gib(known.optimizer)}, "
                + f"teacher {gib(known.teacher)}, " * (known.teacher > 0)
                + f"batch {gib(known.batch)}, "
                f"gradients and temporaries {gib(known.temporaries)}, code {gib(known.code)} ({known.source}; estimated "
                f"peak {gib(self.estimate)})",
            ),
            *self._work(),
            *self._moved(),
        ]
        if times.seconds:
            rows += [
                (
                    "time per step",
                    f"about {times.seconds * 1e3:.0f} ms ({times.bound}): arithmetic {times.compute * 1e3:.0f}, memory "
                    f"traffic {times.memory * 1e3:.0f}, communication {times.network * 1e3:.0f}; without overlap "
                    f"{times.seconds_without_overlap * 1e3:.0f} ms",
                ),
                ("predicted MFU", f"about {times.mfu:.0%}, {self.tokens / times.seconds:,.0f} tokens/s"),
                *(("assumed", line) for line in ASSUMPTIONS),
            ]
        rows += [("replicated", f"{name}: {why}") for name, why in self.replicated.items()]
        rows += [("note", note) for note in self.notes]
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"  {key:<{width}}  {value}" for key, value in rows)

    def _verdict(self) -> str:
        if not self.available:
            return f"{gib(self.memory.peak)} per device; what a device has is not known"
        if self.fits is None and self.memory.source == "scheduled":
            return (
                f"not known: {gib(self.memory.peak)} of {gib(self.available)} per device, of which the code may be less than "
                f"{gib(self.memory.code)}; --whole tells"
            )
        if self.fits is None:
            return (
                f"not known: estimated {gib(self.memory.peak)} of {gib(self.available)} per device, and steps have needed up "
                f"to {ESTIMATES_LOW} times their estimate"
            )
        free = self.available - self.memory.peak
        word = f"yes, {gib(free)} free" if self.fits else f"NO, {gib(-free)} too much"
        return f"{word}: {gib(self.memory.peak)} of {gib(self.available)} per device"

    def _work(self) -> list[tuple[str, str]]:
        total = sum(cost.matrix for cost in self.costs.values())
        rows = []
        for part, cost in sorted(self.costs.items(), key=lambda item: -item[1].matrix):
            again = f", {si(cost.recomputed)} of them rematerialised" if cost.recomputed else ""
            rows.append(
                (
                    f"  {part}",
                    f"{si(cost.matrix):>8}FLOP ({cost.matrix / total if total else 0:6.1%}{again}), {si(cost.vector)} "
                    f"elementwise, {si(cost.bytes)}B moved in all, {si(cost.whole)}B of weights by each device",
                )
            )
        share = f"{self.lifting_flops_share:.1%} of the step with text alone"
        return [
            ("work per step", f"{si(total)}FLOP in products and convolutions"),
            *rows,
            ("lifting and 3D losses", share),
        ]

    def _moved(self) -> list[tuple[str, str]]:
        if self.collectives is None:
            why = "the compiler refused" if self.memory.source == "compiler refused" else "nothing was compiled"
            return [("collectives", f"not known: {why}")]
        return [
            (
                kind,
                f"{entry.count:.0f}, results {si(entry.bytes)}B, sent {si(entry.sent)}B per device, largest {gib(entry.largest)}",
            )
            for kind, entry in sorted(self.collectives.items())
        ] or [("collectives", "none")]


def is_lifting(part: str) -> bool:
    """Whether a step with text alone lacks this part."""
    return part.startswith(LIFTING) and part != "losses/text"


def si(value: float) -> str:
    """1234567 -> '1.23 M', for a unit behind it."""
    for limit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.2f} {prefix}"
    return f"{value:.0f} "


def gib(value: float) -> str:
    """Bytes as GiB, small ones as MiB."""
    return f"{value / GIB:.2f} GiB" if abs(value) >= GIB / 10 else f"{value / 2**20:.2f} MiB"
