"""Logical axis names: what each axis of each parameter means, for sharding rules.

The names stand beside the parameters (in the modules' initialisers) and are carried by `AxisNames`
boxes only while a model is initialised; `names_of` reads them, `unbox` drops them. Everywhere
else parameters are plain nested dicts of arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import struct
from flax.core import meta

LOGICAL_AXES: dict[str, str] = {
    "layers": "stacked layers of a scan",
    "embed": "width of a residual stream (language, vision, teacher)",
    "mlp": "hidden width of an MLP",
    "heads": "query heads times head width",
    "kv_heads": "key or value heads times head width",
    "vocab": "vocabulary",
    "patch": "pixels of a patch, or channels of merged patches",
    "position": "rows of a position table",
    "norm": "scale and offset of a norm",
    "window": "height or width of a convolution kernel",
    "conv_in": "input channels of a convolution",
    "conv_out": "output channels of a convolution",
    "lifting": "hidden width of a 3D projector",
    "output": "output channels of a head, or teacher feature width",
}


class AxisNames(struct.PyTreeNode, meta.AxisMetadata):
    """A parameter with the logical name of each of its axes.

    `flax.linen.Partitioned` would do, but it applies the names as mesh axes when a mesh is set.
    """

    value: Any
    names: tuple[str, ...] = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        """The bare array."""
        return self.value

    def replace_boxed(self, val: Any) -> AxisNames:
        """The same names around another array."""
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> AxisNames:
        """Called by `nn.scan` and `nn.vmap` when they stack a parameter."""
        names = list(self.names)
        names.insert(index if index >= 0 else len(names) + index + 1, params[meta.PARTITION_NAME])
        return self.replace(names=tuple(names))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> AxisNames:
        """Inverse of `add_axis`."""
        names = list(self.names)
        if names[index] != params[meta.PARTITION_NAME]:
            raise ValueError(f"Axis {index} is '{names[index]}', expected '{params[meta.PARTITION_NAME]}'.")
        del names[index]
        return self.replace(names=tuple(names))


def named(initializer: Callable, *names: str) -> Callable:
    """`initializer`, its result boxed with one logical axis name per axis.

    Raises:
      ValueError: a name that `LOGICAL_AXES` does not list, or (when called) a wrong rank.
    """
    unknown = sorted(set(names) - set(LOGICAL_AXES))
    if unknown:
        raise ValueError(f"Unknown logical axes {unknown}. Known: {', '.join(LOGICAL_AXES)}.")

    def initialize(key: jax.Array, shape: tuple[int, ...], *args: Any) -> AxisNames:
        if len(shape) != len(names):
            raise ValueError(f"Parameter of shape {tuple(shape)} has {len(names)} axis names {names}.")
        return AxisNames(initializer(key, shape, *args), names)

    return initialize


def names_of(boxed: Any) -> Any:
    """Tree of tuples of axis names from a tree of boxed parameters.

    Raises:
      ValueError: a parameter without names, given by its path.
    """

    def read(path: tuple, leaf: Any) -> tuple[str, ...]:
        if not isinstance(leaf, AxisNames):
            raise ValueError(f"Parameter {jax.tree_util.keystr(path)} has no logical axis names.")
        return leaf.names

    return jax.tree_util.tree_map_with_path(read, boxed, is_leaf=lambda node: isinstance(node, AxisNames))


def unbox(boxed: Any) -> Any:
    """The bare arrays of a tree of boxed parameters."""
    return meta.unbox(boxed)
