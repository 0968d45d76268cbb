"""From logical axis names beside the parameters to shardings on a device mesh.

Changing the mesh is a config change only. A logical axis that the table does not know is an
error; an axis whose size the mesh does not divide is replicated and listed in the report.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Logical axis -> mesh axis. None: never split.
RULES: dict[str, str | None] = {
    "layers": None,
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "vocab": "tensor",
    "patch": None,
    "position": None,
    "norm": None,
    "window": None,
    # One axis only: with both channel axes and the batch split, XLA's partitioner (jax 0.10.2) gave
    # kernel gradients of convolutions that were wrong by up to 100 %; tests/.../test_step.py watches.
    "conv_in": None,
    "conv_out": "fsdp",
    "lifting": "tensor",
    "output": None,
}

BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1 = whatever devices are left (see `make_mesh`)."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, devices: list | None = None, rows: int = 0) -> Mesh:
    """A mesh with the axes data, fsdp, tensor over `devices` (all by default).

    Args:
      config: the sizes.
      devices: what to build it of.
      rows: of the global batch; 0 = unknown. On one host an axis of -1 that splits the batch then takes
        no more devices than divide the rows, and the others stay idle.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dataclasses.asdict(config)
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"config.mesh {sizes}: sizes are positive, and at most one is -1.")
    known = math.prod(size for size in sizes.values() if size != -1)
    if free:
        sizes[free[0]] = len(devices) // known if known <= len(devices) else 0
        if rows and free[0] in BATCH_AXES and jax.process_count() == 1:
            other = math.prod(size for name, size in sizes.items() if name in BATCH_AXES and name != free[0])
            fits = (size for size in range(sizes[free[0]], 0, -1) if rows % (size * other) == 0)
            sizes[free[0]] = next(fits, sizes[free[0]])
            devices = devices[: math.prod(sizes.values())]
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(f"config.mesh {dataclasses.asdict(config)} does not cover {len(devices)} devices.")
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


@dataclasses.dataclass(frozen=True)
class ShardingReport:
    """What is split how, and what is replicated although a rule would split it."""

    split: dict[str, tuple]  # path -> partition spec entries
    replicated: dict[str, str]  # path -> reason


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

    def resolve(path, leaf, axes):
        name = path_text(path)
        axes = (None,) * len(leaf.shape) if axes is None else tuple(axes)
        if len(axes) != len(leaf.shape):
            raise ValueError(f"Parameter '{name}' of shape {leaf.shape} has logical axes {axes}.")
        entries, used = [], set()
        for axis, size in zip(axes, leaf.shape, strict=True):
            if axis is not None and axis not in RULES:
                raise ValueError(f"Parameter '{name}': unknown logical axis '{axis}'. Known: {', '.join(RULES)}.")
            target = RULES[axis] if axis is not None else None
            if target is None or target in used or mesh.shape[target] == 1:
                entries.append(None)
            elif size % mesh.shape[target]:
                replicated[name] = f"{axis}={size} is not divisible by {target}={mesh.shape[target]}"
                entries.append(None)
            else:
                entries.append(target)
                used.add(target)
        if any(entries):
            split[name] = tuple(entries)
        return NamedSharding(mesh, PartitionSpec(*entries))

    is_axes = lambda node: node is None or isinstance(node, tuple)
    flat_axes = dict((path_text(p), a) for p, a in jax.tree_util.tree_leaves_with_path(logical_axes, is_leaf=is_axes))
    tree = jax.tree_util.tree_map_with_path(lambda p, leaf: resolve(p, leaf, flat_axes[path_text(p)]), shapes)
    return tree, ShardingReport(split, replicated)


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


def check_rows(rows: int, mesh: Mesh) -> None:
    """Checks that a global batch can be split.

    Raises:
      ValueError: the rows do not divide over the devices of the data and fsdp axes.
    """
    devices = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % devices:
        raise ValueError(
            f"A global batch of {rows} rows does not divide over the {devices} devices of mesh axes {BATCH_AXES}; "
            "change config.data.sources.*.per_batch or config.mesh."
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of the batch as global arrays.

    Raises:
      ValueError: the rows do not divide over the devices of the data and fsdp axes.
    """
    sharding = batch_sharding(mesh)
    check_rows(len(next(iter(batch.values()))) * jax.process_count(), mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def bytes_per_device(shapes) -> int:
    """Largest number of bytes that one device holds of a tree with shardings."""
    total = 0
    for leaf in jax.tree.leaves(shapes):
        shape = leaf.sharding.shard_shape(leaf.shape) if getattr(leaf, "sharding", None) is not None else leaf.shape
        total += math.prod(shape) * np.dtype(leaf.dtype).itemsize
    return total
