"""Flags that say where a model's parameters go, and in which type."""

from __future__ import annotations

import argparse

from spatialsv_jax.training.sharding import MeshConfig


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--dtype, --fsdp and --tensor."""
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="type of the parameters (default: as stored)")
    parser.add_argument(
        "--fsdp",
        type=int,
        default=0,
        help="split them over so many devices (default 0: one, or all of this host if one is too small; -1: all)",
    )
    parser.add_argument("--tensor", type=int, default=1, help="split heads and widths over so many devices (default 1)")


def mesh_of(fsdp: int, tensor: int) -> MeshConfig | None:
    """The mesh of the flags; None = what `loading.load` does without one."""
    return None if fsdp == 0 and tensor == 1 else MeshConfig(data=1, fsdp=fsdp or 1, tensor=tensor)
