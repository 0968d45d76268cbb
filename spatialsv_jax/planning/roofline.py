"""About how long a step takes on a slice where all goes well, and what of the peak it then uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from spatialsv_jax.planning.chips import Topology
from spatialsv_jax.planning.hlo import BETWEEN_SLICES, Collective
from spatialsv_jax.training.flops import Cost

ASSUMPTIONS = (
    "matrix products run at the chip's peak for bf16, float32 ones too (TPUs multiply them in one bf16 pass; in three or six where "
    "the program asks for more precision, which counts as so much time and no more work)",
    "work and activations are split evenly over all devices of the mesh; elementwise operations cost no time of their own",
    "every product reads its operands from memory and writes its result there once; each device reads the weights of a "
    "product and writes their gradients whole, or the part that the tensor axis leaves it",
    "parameters, gradients and optimizer state are read and written once by the update, each device its share",
    "each part takes the longer of its arithmetic and its memory traffic, one part after another",
    "collectives run as rings over all links of a chip at their full bandwidth, hidden behind the arithmetic: the step "
    "takes the longer of the two ('without overlap' adds them); between slices each chip has its share of the data center "
    "network, in its turn with the links",
    "a conditional counts as its dearer branch (Qwen2.5-VL's window layers as full attention), causal attention in full: "
    "the time is no bound, a step may take less",
    "MFU counts each product once: what rematerialisation repeats takes time and is no useful work",
)


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Times of one step.

    Attributes:
      seconds: communication hidden; `seconds_without_overlap`: nothing hidden.
      compute, memory, network: each alone.
      bound: which of them decides.
      mfu: share of the peak, of the products that are counted once; None where nothing is known of the chip.
    """

    seconds: float | None
    seconds_without_overlap: float | None
    compute: float | None
    memory: float | None
    network: float | None
    bound: str
    mfu: float | None


def roofline(
    costs: Mapping[str, Cost], moved: Mapping[str, Collective] | None, topology: Topology, update_bytes: float
) -> Roofline:
    """Times of a step.

    Args:
      costs: work by part, of all devices together, and the bytes of weights that each device moves (`Cost.whole`).
      moved: collectives of one device; None = not known (they are left out).
      topology: the slices.
      update_bytes: read and written by the optimizer on all devices together, beside its products.
    """
    chip, devices = topology.chip, topology.devices
    if not chip.flops:
        return Roofline(None, None, None, None, None, "not known for simulated devices", None)
    compute, memory, local = 0.0, 0.0, 0.0
    for part, cost in costs.items():
        arithmetic = (cost.matrix + cost.passes) / devices / chip.flops
        split = cost.bytes + (update_bytes if part == "optimizer" else 0.0)
        traffic = (split / devices + cost.whole) / chip.memory_bandwidth
        compute, memory, local = compute + arithmetic, memory + traffic, local + max(arithmetic, traffic)
    network = 0.0
    for kind, entry in (moved or {}).items():
        network += entry.sent / (chip.slices_bandwidth if kind.endswith(BETWEEN_SLICES) else chip.link_bandwidth)
    seconds = max(local, network)
    useful = sum(cost.matrix - cost.recomputed for cost in costs.values())
    names = {"arithmetic": compute, "memory traffic": memory, "communication": network}
    return Roofline(
        seconds=seconds,
        seconds_without_overlap=local + network,
        compute=compute,
        memory=memory,
        network=network,
        bound=max(names, key=names.get),
        mfu=useful / devices / chip.flops / seconds if seconds else None,
    )
