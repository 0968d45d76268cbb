"""What a parameter is: logical names of its axes (for sharding rules) and its initial distribution.

Both stand beside the parameters, in the modules' initialisers, and are carried by `Declared` boxes
only while a model is initialised. Everywhere else parameters are plain nested dicts of arrays.

`create` draws all parameters from one stream: compiling a generator per parameter takes most of a
minute for a model of a million parameters on two CPU cores.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    "readout": "width of the shared 3D feature space",
    "output": "output channels of a head, or teacher feature width",
}

BATCH_AXES = ("data", "fsdp")  # mesh axes that split the rows of a batch

# Activations: logical axis -> mesh axes. Constraints stand in the program only where the mesh has a context axis of
# more than 1; elsewhere XLA carries the split of the batch and the parameters on by itself.
ACTIVATION_AXES: dict[str, tuple[str, ...]] = {
    "rows": BATCH_AXES,  # rows of a batch
    "tokens": ("context",),  # the language model's rows: prefix and questions
    "pictures": (*BATCH_AXES, "context"),  # pictures or views of all rows in one axis
    "heads": ("tensor",),
}

ONE_STREAM = 2**26  # numbers that are still drawn together


@dataclasses.dataclass(frozen=True)
class Normal:
    """Normal distribution around 0; std None = 1/sqrt(fan-in), the product of all axes but the last."""

    std: float | None = None

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        """A draw, for `Module.init` without `create`."""
        return jax.random.normal(key, shape, dtype) * self.spread(shape)

    def spread(self, shape: tuple[int, ...]) -> float:
        """Standard deviation for a parameter of `shape`."""
        return 1 / math.sqrt(math.prod(shape[:-1])) if self.std is None else self.std


@dataclasses.dataclass(frozen=True)
class Constant:
    """Fixed values: one for all entries, or one for each entry of the last axis."""

    values: tuple[float, ...]

    def __call__(self, key: jax.Array | None, shape: tuple[int, ...], dtype: Any = jnp.float32) -> np.ndarray:
        """The values in `shape`; the key is not used."""
        values = np.asarray(self.values, dtype)
        return np.broadcast_to(values.reshape((1,) * (len(shape) - 1) + (-1,)), shape)


lecun, zeros, ones = Normal(), Constant((0.0,)), Constant((1.0,))


class Declared(struct.PyTreeNode, meta.AxisMetadata):
    """A parameter with the logical name of each of its axes and its distribution.

    `flax.linen.Partitioned` would carry names, but applies them as mesh axes when a mesh is set.
    """

    value: Any
    names: tuple[str, ...] = struct.field(pytree_node=False)
    initial: Normal | Constant = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        """The bare array."""
        return self.value

    def replace_boxed(self, val: Any) -> Declared:
        """The same declaration around another array."""
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> Declared:
        """Called by `nn.scan` and `nn.vmap` when they stack a parameter."""
        names = list(self.names)
        names.insert(index if index >= 0 else len(names) + index + 1, params[meta.PARTITION_NAME])
        return self.replace(names=tuple(names))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> Declared:
        """Inverse of `add_axis`."""
        names = list(self.names)
        if names[index] != params[meta.PARTITION_NAME]:
            raise ValueError(f"Axis {index} is '{names[index]}', expected '{params[meta.PARTITION_NAME]}'.")
        del names[index]
        return self.replace(names=tuple(names))


def declare(initial: Normal | Constant, *names: str) -> Callable:
    """An initialiser for `Module.param`, `nn.Dense` and the like.

    Raises:
      ValueError: a name that `LOGICAL_AXES` does not list, or (when called) a wrong rank.
    """
    unknown = sorted(set(names) - set(LOGICAL_AXES))
    if unknown:
        raise ValueError(f"Unknown logical axes {unknown}. Known: {', '.join(LOGICAL_AXES)}.")

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Declared:
        if len(shape) != len(names):
            raise ValueError(f"Parameter of shape {tuple(shape)} has {len(names)} axis names {names}.")
        resolved = Normal(initial.spread(shape)) if isinstance(initial, Normal) else initial
        return Declared(initial(key, shape, dtype), names, resolved)

    return initialize


def context_size() -> int:
    """Devices that share a row's tokens, pictures and views, on the mesh that is set (`jax.set_mesh`); else 1."""
    return jax.sharding.get_abstract_mesh().shape.get("context", 1)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Splits an activation over the mesh as `ACTIVATION_AXES` says; `x` itself without a context axis.

    An axis whose size its mesh axes do not divide keeps those of them that split the batch, or stays whole: then each
    device of the context axis computes all of it (docs/sharding.md).

    Args:
      x: the activation.
      names: a name of `ACTIVATION_AXES` for each axis, None = not split.
    """
    if context_size() == 1:
        return x
    sizes = jax.sharding.get_abstract_mesh().shape
    entries = []
    for name, size in zip(names, x.shape, strict=True):
        axes = ACTIVATION_AXES[name] if name else ()
        while axes and size % math.prod(sizes.get(axis, 1) for axis in axes):
            axes = axes[:-1]
        entries.append(axes or None)
    return jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec(*entries))


def vocabulary_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """float32[B,...,N] = x[B,...,D] @ kernel[N,D]^T for a kernel of many more rows than a device has tokens.

    Where the mesh splits D over fsdp, XLA would gather the whole kernel on every device and sum a gradient of the
    whole over all of them: for 152,000 x 2,048 these are 0.6 and 1.2 GiB. Here every device takes a run of the
    vocabulary for all tokens of its fsdp group instead, and the logits (small: a few answer tokens) go back to
    the device that holds the row. The same sums, those of the gradient to `x` in another order.
    """
    product = lambda x, kernel: jnp.matmul(x, kernel.T, preferred_element_type=jnp.float32)
    sizes = jax.sharding.get_abstract_mesh().shape
    runs = sizes.get("fsdp", 1)
    rows = math.prod(sizes.get(axis, 1) for axis in BATCH_AXES)
    if runs == 1 or len(x) % rows or len(kernel) % (runs * sizes.get("tensor", 1)):
        return product(x, kernel)
    place = lambda array, *entries: jax.lax.with_sharding_constraint(array, jax.sharding.PartitionSpec(*entries))
    between = [None] * (x.ndim - 2)
    logits = product(place(x, "data"), place(kernel, ("tensor", "fsdp"), None))
    logits = place(logits, "data", *between, ("tensor", "fsdp"))
    return place(logits, BATCH_AXES, *between, "tensor")


def names_of(boxed: Any) -> Any:
    """Tree of tuples of axis names from a tree of boxed parameters.

    Raises:
      ValueError: a parameter without a declaration, given by its path.
    """
    return _map(lambda box, _: box.names, boxed)


def create(key: jax.Array, boxed: Any) -> Any:
    """Draws all parameters, float32.

    Args:
      key: random key.
      boxed: tree of `Declared` boxes (of arrays or, better, of shapes: `jax.eval_shape` of `init`).

    Returns:
      The tree of bare arrays. Below 2^26 numbers they are consecutive pieces of one stream, cut on
      the host (NumPy arrays) unless called inside a jit; a larger model draws each parameter by
      itself, so that each device makes its shard only.
    """
    total, offsets = 0, {}

    def count(box, path):
        nonlocal total
        if isinstance(box.initial, Normal):
            offsets[path] = total
            total += math.prod(box.value.shape)
        return ()

    _map(count, boxed)
    stream = jax.random.normal(key, (total,)) if total < ONE_STREAM else None
    if stream is not None and not isinstance(stream, jax.core.Tracer):
        stream = np.asarray(stream)  # XLA compiles a program for every piece, about 25 ms each

    def draw(box, path):
        shape = box.value.shape
        if isinstance(box.initial, Constant):
            return box.initial(None, shape)
        if stream is None:
            return box.initial(jax.random.fold_in(key, list(offsets).index(path)), shape)
        piece = stream[offsets[path] : offsets[path] + math.prod(shape)]
        return piece.reshape(shape) * np.float32(box.initial.std)

    return _map(draw, boxed)


def _map(function: Callable, boxed: Any) -> Any:
    def check(path, leaf):
        if not isinstance(leaf, Declared):
            raise ValueError(f"Parameter {jax.tree_util.keystr(path)} has no declared axes.")
        return function(leaf, jax.tree_util.keystr(path))

    return jax.tree_util.tree_map_with_path(check, boxed, is_leaf=lambda node: isinstance(node, Declared))
