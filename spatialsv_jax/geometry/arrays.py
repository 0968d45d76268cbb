"""One source for NumPy and jax: picks the array namespace of the arguments, jax not imported here.

A jax array can only exist once jax is imported, so looking it up in `sys.modules` is enough.
"""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np


def namespace(*arrays) -> ModuleType:
    """`jax.numpy` if any argument is a jax array or tracer, else `numpy`."""
    jax = sys.modules.get("jax")
    if jax is not None and any(isinstance(array, jax.Array) for array in arrays):
        return sys.modules["jax.numpy"]
    return np


def floats(*arrays) -> tuple[ModuleType, tuple]:
    """The namespace, and all arguments as arrays of one floating dtype of at least 32 bits.

    Integers become float64 in NumPy and the default float in jax; None stays None.
    """
    xp = namespace(*arrays)
    given = [None if array is None else xp.asarray(array) for array in arrays]
    dtype = xp.result_type(*[array for array in given if array is not None], xp.float32)
    return xp, tuple(None if array is None else array.astype(dtype) for array in given)


def contract(xp: ModuleType, subscripts: str, *arrays):
    """`einsum` in full float32: accelerators otherwise multiply float32 in fewer bits."""
    if xp is np:
        return np.einsum(subscripts, *arrays, optimize=True)
    return xp.einsum(subscripts, *arrays, precision="highest")


def require_shape(name: str, array, suffix: tuple[int | None, ...]) -> None:
    """Raises ValueError naming `name` unless its last axes are `suffix` (None = any size)."""
    shape = tuple(array.shape)
    tail = shape[len(shape) - len(suffix) :] if len(shape) >= len(suffix) else ()
    fits = len(tail) == len(suffix) and all(want in (None, size) for want, size in zip(suffix, tail, strict=True))
    if not fits:
        expected = ", ".join("*" if want is None else str(want) for want in suffix)
        raise ValueError(f"'{name}' has shape {shape}, expected [..., {expected}].")
