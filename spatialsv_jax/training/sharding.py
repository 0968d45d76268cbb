"""From logical axis names beside the parameters to shardings on a device mesh.

Changing the mesh is a config change only. A logical axis that the table does not know is an
error; an axis whose size the mesh does not divide is replicated and listed in the report.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from spatialsv_jax.partitioning import BATCH_AXES

# Logical axis -> mesh axis. None: never split.
RULES: dict[str, str | None] = {
    "layers": None,
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "vocab": "tensor",
    "patch": "fsdp",
    "position": None,
    "norm": None,
    "window": None,
    # One axis only: with both channel axes and the batch split, XLA's partitioner (jax 0.10.2) gave
    # kernel gradients of convolutions that were wrong by up to 100 %; tests/.../test_step.py watches.
    "conv_in": None,
    "conv_out": "fsdp",
    "lifting": "tensor",
    "readout": "fsdp",
    "output": None,
}

AXES = ("data", "fsdp", "context", "tensor")  # of the mesh, the slowest links first


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of the first four may be -1 = whatever devices are left (see `make_mesh`).

    Attributes:
      data: splits the rows of a batch; parameters are on every device.
      fsdp: splits rows and parameters.
      tensor: splits heads, MLP widths and the vocabulary.
      context: splits the tokens, pictures and views of a row (`partitioning.ACTIVATION_AXES`).
      slices: groups of devices with slow links between them (TPU slices, hosts); the data axis goes over them.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    slices: int = 1


def make_mesh(config: MeshConfig, devices: list | None = None, rows: int = 0) -> Mesh:
    """A mesh with the axes data, fsdp, context, tensor over `devices` (all by default).

    On one host the axes follow the links between its devices. On several, each host (process) holds the rows
    (data x fsdp) that it feeds and no others, in the order of the hosts, and context and tensor stay within it.

    Args:
      config: the sizes.
      devices: what to build it of.
      rows: of a microbatch; 0 = unknown. On one host an axis of -1 that splits the batch then takes
        no more devices than divide the rows, and the others stay idle.

    Raises:
      ValueError: the sizes do not multiply to the number of devices, or do not fit slices, hosts or links.
    """
    devices = jax.devices() if devices is None else devices
    hosts = len({device.process_index for device in devices})
    sizes = {name: getattr(config, name) for name in AXES}
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()) or config.slices < 1:
        raise ValueError(f"config.mesh {dataclasses.asdict(config)}: sizes are positive, and at most one is -1.")
    known = math.prod(size for size in sizes.values() if size != -1)
    if free:
        sizes[free[0]] = len(devices) // known if known <= len(devices) else 0
        if rows and free[0] in BATCH_AXES and hosts == 1:
            other = math.prod(size for name, size in sizes.items() if name in BATCH_AXES and name != free[0])
            fits = (size for size in range(sizes[free[0]], 0, -1) if rows % (size * other) == 0)
            sizes[free[0]] = next(fits, sizes[free[0]])
            devices = devices[: math.prod(sizes.values())]
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(f"config.mesh {dataclasses.asdict(config)} does not cover {len(devices)} devices.")
    _check_slices(sizes["data"], config.slices, devices)
    types = (AxisType.Auto,) * len(sizes)
    if hosts > 1 or config.slices > 1:
        return Mesh(_by_host(sizes, devices), tuple(sizes), axis_types=types)
    try:
        return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices)
    except NotImplementedError as error:
        raise ValueError(
            f"config.mesh {sizes} cannot be laid along the links of {len(devices)} devices; take sizes that are products of "
            f"the sides of the slice. ({error})"
        ) from error


def _by_host(sizes: dict[str, int], devices: list) -> np.ndarray:
    """Devices in the mesh's shape, host after host, so that the hosts of a slice stand together along the data axis.

    `jax.make_mesh` lays axes along the links of the whole slice instead, where a row's context or tensor devices may
    belong to several hosts, of which each would then feed another half of it.

    Raises:
      ValueError: hosts that would share rows, or that have unequal numbers of devices.
    """
    by_host = collections.Counter(device.process_index for device in devices)
    within = sizes["context"] * sizes["tensor"]
    if len(set(by_host.values())) > 1 or next(iter(by_host.values())) % within:
        raise ValueError(
            f"config.mesh {sizes}: {len(by_host)} hosts of {sorted(set(by_host.values()))} devices each feed rows of their "
            f"own, so context x tensor (here {within}) must divide the devices of a host: data x fsdp is then a multiple "
            f"of {len(by_host)}. Raise config.mesh.data or config.mesh.fsdp, and the batch with it, or take fewer hosts."
        )
    found = np.empty(len(devices), object)
    found[:] = sorted(devices, key=lambda device: (device.process_index, device.id))
    found = found.reshape(tuple(sizes.values()))
    _check_hosts(found)
    return found


def _check_hosts(array: np.ndarray) -> None:
    """Checks that each (data, fsdp) coordinate lies within one host, and that hosts follow one another along them."""
    groups = array.reshape(array.shape[0] * array.shape[1], -1)
    owners = [{device.process_index for device in group} for group in groups]
    hosts = [min(owner) for owner in owners]
    if any(len(owner) > 1 for owner in owners) or hosts != sorted(hosts):
        raise ValueError(
            f"The mesh {array.shape} gives rows to several hosts, or a host rows that are apart: {owners}."
        )


def _check_slices(data: int, slices: int, devices: list) -> None:
    """Checks that the outer part of a data axis can go over the slow links between slices.

    Raises:
      ValueError: the data axis is no multiple of the slices, or the devices do not form so many equal ones, or their
        hosts are not numbered slice after slice.
    """
    by_slice = {getattr(device, "slice_index", None) for device in devices}
    by_host = {device.process_index for device in devices}
    if slices == 1:
        # Machines with GPUs count as slices too; over their network fsdp is usual.
        if len(by_slice) > 1 and devices[0].platform == "tpu":
            raise ValueError(
                f"The devices belong to {len(by_slice)} TPU slices, and config.mesh.slices is 1: set config.mesh.slices="
                f"{len(by_slice)} and config.mesh.data to a multiple of it (config.mesh.fsdp then spans one slice)."
            )
        return
    if data % slices:
        raise ValueError(
            f"config.mesh.slices is {slices}, but the data axis of {data} is no multiple of it: data goes over "
            "the slow links between slices. Raise config.mesh.data."
        )
    attribute = "slice_index" if None not in by_slice and len(by_slice) == slices else "process_index"
    if attribute == "process_index" and len(by_host) != slices:
        raise ValueError(
            f"config.mesh.slices is {slices}, but the devices form {len(by_host)} hosts and say of no {slices} slices "
            "that they belong to. Set it to the number of TPU slices or of hosts, or to 1."
        )
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    groups = [len(list(group)) for _, group in itertools.groupby(ordered, key=lambda one: getattr(one, attribute))]
    if groups != [len(devices) // slices] * slices:
        raise ValueError(
            f"config.mesh.slices is {slices}, but host after host the devices form groups of {groups} of one "
            f"{attribute}: slices must be equal, and their hosts numbered (--process_id) slice after slice."
        )


LARGE = 64 * 2**20  # bytes of a tensor above which the report says why it is on every device


@dataclasses.dataclass(frozen=True)
class ShardingReport:
    """What is split how, what is replicated although a rule would split it, and what is large and on every device."""

    split: dict[str, tuple]  # path -> partition spec entries
    replicated: dict[str, str]  # path -> reason
    large: dict[str, str] = dataclasses.field(default_factory=dict)  # path of a whole tensor above `LARGE` -> reason


def path_text(path) -> str:
    """A key path of jax.tree_util as 'a/b/c'."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def parameter_shardings(shapes, logical_axes, mesh: Mesh) -> tuple[dict, ShardingReport]:
    """Resolves logical axes to NamedShardings.

    Args:
      shapes: parameter tree of arrays or ShapeDtypeStructs.
      logical_axes: the same tree with a tuple of axis names (or None) per parameter.
      mesh: the device mesh.

    Returns:
      A tree of NamedSharding and the report.

    Raises:
      ValueError: an unknown logical axis, or a tuple of the wrong length, with the parameter's path.
    """
    split: dict[str, tuple] = {}
    replicated: dict[str, str] = {}
    large: dict[str, str] = {}

    def resolve(path, leaf, axes):
        name = path_text(path)
        axes = (None,) * len(leaf.shape) if axes is None else tuple(axes)
        if len(axes) != len(leaf.shape):
            raise ValueError(f"Parameter '{name}' of shape {leaf.shape} has logical axes {axes}.")
        entries, used, missed = [], set(), {}
        for axis, size in zip(axes, leaf.shape, strict=True):
            if axis is not None and axis not in RULES:
                raise ValueError(f"Parameter '{name}': unknown logical axis '{axis}'. Known: {', '.join(RULES)}.")
            target = RULES[axis] if axis is not None else None
            if target is None or target in used or mesh.shape[target] == 1:
                entries.append(None)
            elif size % mesh.shape[target]:
                missed.setdefault(target, f"{axis}={size} is not divisible by {target}={mesh.shape[target]}")
                entries.append(None)
            else:
                entries.append(target)
                used.add(target)
        if unsplit := [reason for target, reason in missed.items() if target not in used]:
            replicated[name] = "; ".join(unsplit)
        if not any(entries) and math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize > LARGE:
            entries = _split_large(axes, leaf.shape, mesh)
            if not any(entries):
                sizes = {axis: mesh.shape[axis] for axis in ("fsdp", "tensor")}
                large[name] = (
                    "the mesh has neither fsdp nor tensor devices"
                    if set(sizes.values()) == {1}
                    else f"no axis of {leaf.shape} is divisible by {sizes}"
                )
        if any(entries):
            split[name] = tuple(entries)
        return NamedSharding(mesh, PartitionSpec(*entries))

    is_axes = lambda node: node is None or isinstance(node, tuple)
    flat_axes = dict((path_text(p), a) for p, a in jax.tree_util.tree_leaves_with_path(logical_axes, is_leaf=is_axes))
    tree = jax.tree_util.tree_map_with_path(lambda p, leaf: resolve(p, leaf, flat_axes[path_text(p)]), shapes)
    return tree, ShardingReport(split, replicated, large)


def _split_large(axes: tuple, shape: tuple[int, ...], mesh: Mesh) -> list[str | None]:
    """Entries for a large parameter that its rules leave whole: its longest axis that divides, but never layers."""
    entries: list[str | None] = [None] * len(shape)
    for target in ("fsdp", "tensor"):
        fits = [
            place for place, size in enumerate(shape)
            if mesh.shape[target] > 1 and size % mesh.shape[target] == 0 and axes[place] != "layers" and not entries[place]
        ]  # fmt: skip
        if fits:
            entries[max(fits, key=lambda place: shape[place])] = target
            break
    return entries


def like_parameters(shapes, parameter_tree, mesh: Mesh):
    """Shardings of a state tree that holds copies of parameters (Adam moments and the like).

    A leaf whose path ends in a parameter's path and has its shape takes that parameter's
    sharding; every other leaf (step counters) is replicated.

    Args:
      shapes: the state tree (ShapeDtypeStructs).
      parameter_tree: the parameters (ShapeDtypeStructs with shardings).
      mesh: the mesh.
    """
    known = {path_text(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(parameter_tree)}
    everywhere = NamedSharding(mesh, PartitionSpec())

    def resolve(path, leaf):
        parts = path_text(path).split("/")
        for start in range(len(parts)):
            entry = known.get("/".join(parts[start:]))
            if entry is not None and entry.shape == leaf.shape:
                return entry.sharding
        return everywhere

    return jax.tree_util.tree_map_with_path(resolve, shapes)


def with_shardings(shapes, shardings):
    """ShapeDtypeStructs that carry their shardings."""
    return jax.tree.map(lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split over data and fsdp along their first axis."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_rows(rows: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Checks that a global batch can be split.

    Raises:
      ValueError: the rows do not divide over the devices of the data and fsdp axes, times the microbatches.
    """
    devices = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % (devices * microbatches):
        times = f" times {microbatches} microbatches" if microbatches > 1 else ""
        raise ValueError(
            f"A global batch of {rows} rows does not divide over the {devices} devices of mesh axes {BATCH_AXES}{times}; "
            "change config.data.sources.*.per_batch, config.mesh"
            + (" or config.training.microbatches." if times else ".")
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of the batch as global arrays.

    Raises:
      ValueError: the rows do not divide over the devices of the data and fsdp axes.
    """
    sharding = batch_sharding(mesh)
    rows = len(next(iter(batch.values()))) * jax.process_count()
    check_rows(rows, mesh)
    # The global shape is said: left to be guessed, hosts that share rows would each fill them with rows of their own.
    return {
        name: jax.make_array_from_process_local_data(sharding, value, (rows, *value.shape[1:]))
        for name, value in batch.items()
    }


def bytes_per_device(shapes) -> int:
    """Largest number of bytes that one device holds of a tree with shardings."""
    total = 0
    for leaf in jax.tree.leaves(shapes):
        shape = leaf.sharding.shard_shape(leaf.shape) if getattr(leaf, "sharding", None) is not None else leaf.shape
        total += math.prod(shape) * np.dtype(leaf.dtype).itemsize
    return total
