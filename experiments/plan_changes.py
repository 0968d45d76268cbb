"""Changes of a config that need less memory, and meshes over which its batch divides."""

from __future__ import annotations

import dataclasses
import math

from ml_collections import ConfigDict

from spatialsv_jax.planning.chips import Topology
from spatialsv_jax.training import sharding

MOST_TENSOR = 8  # parts of heads and MLPs; more leaves too little work for each device


@dataclasses.dataclass(frozen=True)
class Change:
    """Values for some keys of a phase.

    Attributes:
      values: dotted key -> value.
      same_result: whether training computes the same as before.
    """

    values: tuple[tuple[str, object], ...]
    same_result: bool = True

    def apply(self, config: ConfigDict) -> ConfigDict:
        """The changed phase."""
        config = config.copy_and_resolve_references()
        for key, value in self.values:
            *path, last = key.split(".")
            section = config
            for name in path:
                section = section[name]
            section[last] = value
        return config

    def __str__(self) -> str:
        meshes = ",".join(f"{key[5:]}={value}" for key, value in self.values if key.startswith("mesh.") and value != 1)
        rest = [f"--config.{key}={value}" for key, value in self.values if not key.startswith("mesh.")]
        return " ".join([f"--mesh {meshes}"] * bool(meshes) + rest) + (
            "" if self.same_result else " (training computes something else)"
        )

    def __add__(self, other: Change) -> Change:
        return Change((*self.values, *other.values), self.same_result and other.same_result)


def mesh_sizes(config: ConfigDict, devices: int, hosts: int = 1) -> list[dict[str, int]]:
    """Meshes of `devices` over which the batch (or a microbatch) divides, the plainest first.

    As many devices as divide the rows go to fsdp; the others split tokens (context) where the config has that axis, or
    heads and MLPs (tensor). Every host feeds rows of its own: fsdp is a multiple of the hosts. Of several slices
    (`config.mesh.slices`) each holds all parameters: data goes over them, fsdp over the devices of one.

    Raises:
      ValueError: there is none, and why.
    """
    rows = sum(source.per_batch for source in config.data.sources.values())
    rows //= config.training.get("microbatches", 1)
    heads = config.language.heads if config.model == "mllm" else 1
    slices = config.mesh.get("slices", 1)
    found = []
    splits = (n for n in range(hosts, devices + 1, hosts) if devices % n == 0 and rows % n == 0)
    for split in sorted(splits, reverse=True):
        rest = devices // split
        for tensor in (t for t in range(1, min(rest, MOST_TENSOR) + 1) if rest % t == 0 and heads % t == 0):
            context = rest // tensor
            if context > 1 and "context" not in config.mesh:
                continue
            sizes = {**dict(config.mesh), "data": slices, "fsdp": split // slices, "tensor": tensor}
            if "context" in sizes:
                sizes["context"] = context
            found.append(sizes)
    if not found and rows % hosts:
        raise ValueError(
            f"A batch of {rows} rows cannot be split over {devices} devices of {hosts} hosts: each host feeds rows of its own."
        )
    if not found:
        raise ValueError(
            f"A batch of {rows} rows cannot be split over {devices} devices: {heads} heads allow at most "
            f"{math.gcd(heads, MOST_TENSOR)} parts (tensor)"
            + ("." if "context" in config.mesh else ", and the config has no context axis.")
        )
    return found


def on_slices(config: ConfigDict, text: str, topology: Topology) -> tuple[ConfigDict, Topology]:
    """The phase with the mesh of `--mesh`, and as many slices of the topology as that mesh has.

    Without `--mesh` it is the config's mesh, or one that its batch divides over.

    Raises:
      ValueError: an axis that the config does not have, or no number; a batch that divides over no mesh of the slices;
        several slices of something else than TPUs.
    """
    config = config.copy_and_resolve_references()
    if text:
        config.mesh.update(_read_mesh(text, config))
    slices = config.mesh.get("slices", 1)
    if slices > 1 and topology.chip.platform != "tpu":
        raise ValueError(f"config.mesh.slices is {slices}: several slices are planned for TPUs alone, not {topology}.")
    topology = dataclasses.replace(topology, slices=slices)
    if not text and not _divides(config, topology):
        config.mesh.update(mesh_sizes(config, topology.devices, topology.hosts)[0])
    return config, topology


def _read_mesh(text: str, config: ConfigDict) -> dict[str, int]:
    sizes = {axis: 1 for axis in config.mesh}
    for entry in text.split(","):
        axis, _, size = entry.partition("=")
        if axis not in sizes or not size.removeprefix("-").isdigit():
            raise ValueError(f"--mesh {text}: '{entry}' is no axis=size; axes: {', '.join(sizes)}.")
        sizes[axis] = int(size)
    return sizes


def _divides(config: ConfigDict, topology: Topology) -> bool:
    """Whether the config's mesh covers the devices, and a microbatch its part for the rows."""
    sizes = {axis: size for axis, size in config.mesh.items() if axis != "slices"}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if topology.devices % fixed or (-1 not in sizes.values() and fixed != topology.devices):
        return False
    sizes = {axis: topology.devices // fixed if size == -1 else size for axis, size in sizes.items()}
    batch = math.prod(sizes[axis] for axis in sharding.BATCH_AXES)
    rows = sum(source.per_batch for source in config.data.sources.values()) // config.training.get("microbatches", 1)
    return rows % batch == 0 and batch % topology.hosts == 0 and sizes["data"] % topology.slices == 0


def changes(config: ConfigDict, devices: int, hosts: int = 1, most: int = 16) -> list[Change]:
    """Changes worth a try, those alone and together; the first ones first.

    Args:
      config: the phase, with its mesh.
      devices, hosts: of the slice.
      most: so many at most.
    """
    now = dict(config.mesh.items())
    known = math.prod(size for axis, size in now.items() if axis != "slices" and size != -1)
    now = {axis: devices // known if size == -1 else size for axis, size in now.items()}
    cheap: list[tuple[str, object]] = []
    lifts = config.model == "mllm" and bool(config.lifting.heads)
    for section, key, value, wanted in (
        ("language", "remat", "full", config.model == "mllm"),
        ("lifting", "remat", True, lifts),
        ("lifting", "chunk_views", 1, lifts),
        ("losses", "remat", True, lifts),
    ):
        if wanted and key in config[section]:
            value = "full" if value is True and isinstance(config[section][key], str) else value
            if config[section][key] != value:
                cheap.append((f"{section}.{key}", value))
    base = [Change((entry,)) for entry in cheap]
    if len(cheap) > 1:
        base.append(Change(tuple(cheap)))
    everything = Change(tuple(cheap))
    found = list(base)
    if "microbatches" in config.training:
        rows = sum(source.per_batch for source in config.data.sources.values())
        split, passes = now["data"] * now["fsdp"], config.training.microbatches * 2
        while rows % (passes * max(split, 1)) == 0 and passes <= rows:
            one = Change((("training.microbatches", passes),))
            found += [one] + ([everything + one] if cheap else [])
            passes *= 2
    try:
        meshes = mesh_sizes(config, devices, hosts)[:4]
    except ValueError:  # the config's own mesh splits further than these would
        meshes = []
    for sizes in meshes:
        if sizes != now:
            mesh = Change(tuple((f"mesh.{axis}", size) for axis, size in sizes.items()))
            found += [mesh] + ([everything + mesh] if cheap else [])
    if config.optimizer.get("moments") == "float32":
        found.append(Change((*cheap, ("optimizer.moments", "bfloat16")), same_result=False))
    if config.model == "mllm":
        if config.vision.trainable:
            found.append(Change((*cheap, ("vision.trainable", False)), same_result=False))
        if not config.language.lora_rank:
            found.append(Change((*cheap, ("language.lora_rank", 16)), same_result=False))
    return found[:most]
