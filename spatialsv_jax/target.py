"""Which kind of device a program is written for: the default one, or another that it is only compiled for.

Kernels and layouts are chosen while a program is traced. Compiling for devices that are not there (`experiments.plan`)
says so here, in one place; everywhere else the target is what JAX runs on.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

PLATFORMS = ("cpu", "gpu", "tpu")

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("target", default=None)


def platform() -> str:
    """The platform of the program being traced: "cpu", "gpu" or "tpu"."""
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """Within it programs are traced for devices of `name`.

    Raises:
      ValueError: none of `PLATFORMS`.
    """
    if name not in PLATFORMS:
        raise ValueError(f"Platform '{name}' is unknown; choose one of {PLATFORMS}.")
    token = _target.set(name)
    try:
        yield
    finally:
        _target.reset(token)
