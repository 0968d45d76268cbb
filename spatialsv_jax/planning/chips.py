"""What devices can do, and the slices that they come in."""

from __future__ import annotations

import dataclasses
import math

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      name: as in `--topology NAME:SHAPE`.
      platform: "tpu", "gpu" or "cpu".
      memory_bytes: that a program may use.
      flops: per second, bf16 matrix products; 0 = not known.
      memory_bandwidth: bytes per second.
      link_bandwidth: bytes per second that a device can send to others of its slice, all links together; what it
        receives comes on top.
      slices_bandwidth: bytes per second that a device can send to other slices over the data center network; 0 = not known.
      per_host: devices of one host of a slice; 0 = one host has them all.
      slices: shapes that can be had, smallest first.
    """

    name: str
    platform: str
    memory_bytes: int
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    slices_bandwidth: float = 0.0
    per_host: int = 0
    slices: tuple[str, ...] = ()


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")

# Memory of TPUs: "available HBM" in libtpu 0.0.42's own message when a program is too large (2026-11-26). FLOP/s and
# bandwidths: the tables of cloud.google.com/tpu/docs/v5e, /v5p, /v6e as read on that day, which state the links as
# bits per second (1600, 4800 and 3200 Gbps) or as bytes of both directions (400, 1200 and 800 GBps), and the data center
# network as 6.4 and 25.6 Tbps for the 256 chips of a v5e or v6e pod and as 50 Gbps for a chip of v5p (2026-11-27).
CHIPS: dict[str, Chip] = {
    "v5e": Chip("v5e", "tpu", int(15.75 * GIB), 197e12, 819e9, 200e9, 3.125e9, 4, _FLAT),
    "v5p": Chip(
        "v5p", "tpu", int(95.74 * GIB), 459e12, 2765e9, 600e9, 6.25e9, 4,
        ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    ),
    "v6e": Chip("v6e", "tpu", int(31.25 * GIB), 918e12, 1600e9, 400e9, 12.5e9, 4, _FLAT),
    # H100 SXM data sheet: 989 TFLOP/s dense bf16, 80 GB at 3.35 TB/s, NVLink 900 GB/s in both directions. The share
    # of the memory that JAX takes by default (0.75) is not the limit here: XLA_PYTHON_CLIENT_MEM_FRACTION raises it.
    "h100": Chip("h100", "gpu", 80 * 10**9, 989e12, 3.35e12, 450e9, 0.0, 8, ("1", "2", "4", "8")),
    # Simulated devices share the host: nothing is predicted of them but bytes.
    "cpu": Chip("cpu", "cpu", 0, 0.0, 0.0, 0.0, 0.0, 0, ("1", "2", "4", "8")),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
    """Equal slices: their chip, the shape of one and how many there are."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def devices(self) -> int:
        """Of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def hosts(self) -> int:
        """Of all slices."""
        return math.ceil(math.prod(self.shape) / self.chip.per_host) * self.slices if self.chip.per_host else 1

    @property
    def name(self) -> str:
        """Of one slice, as in `--topology`."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    def __str__(self) -> str:
        return self.name if self.slices == 1 else f"{self.slices} slices of {self.name}"


def parse_topology(text: str) -> Topology:
    """A `Topology` from "v5e:8x8", "v5p:4x4x4", "h100:8" or "cpu:8".

    Raises:
      ValueError: another form, an unknown chip, or a shape with another number of axes.
    """
    name, _, shape = text.partition(":")
    if name not in CHIPS or not shape:
        raise ValueError(f"--topology is '{text}', expected CHIP:SHAPE with a chip of {', '.join(CHIPS)}, as v5e:8x8.")
    chip = CHIPS[name]
    parts = shape.split("x")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"--topology {text}: '{shape}' is no shape; examples: {', '.join(chip.slices)}.")
    axes = len(chip.slices[0].split("x"))
    if len(parts) != axes:
        raise ValueError(f"--topology {text}: slices of {name} have {axes} axes; examples: {', '.join(chip.slices)}.")
    return Topology(chip, tuple(int(part) for part in parts))
