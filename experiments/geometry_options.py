"""Flags that say in which conventions geometry is scored (docs/geometry_metrics.md)."""

from __future__ import annotations

import argparse

from spatialsv_jax.metrics.camera import AUC_THRESHOLDS_DEG
from spatialsv_jax.metrics.depth import ALIGNMENTS, parse_alignment


def add_flags(parser: argparse.ArgumentParser, depth_alignments: tuple[str, ...] = ()) -> None:
    """--depth_alignment and --pose_auc.

    Args:
      parser: gets the flags.
      depth_alignments: what is scored when the flag is not given.
    """
    parser.add_argument(
        "--depth_alignment", nargs="+", type=_alignment, default=list(depth_alignments), metavar="NAME",
        help=f"depth alignments: {', '.join(ALIGNMENTS)}; with _per_image at the end one per view",
    )  # fmt: skip
    parser.add_argument(
        "--pose_auc", nargs="+", type=_degrees, default=list(AUC_THRESHOLDS_DEG), metavar="T",
        help=f"thresholds of the pose AUC in whole degrees (default {' '.join(map(str, AUC_THRESHOLDS_DEG))})",
    )  # fmt: skip


def _alignment(text: str) -> str:
    try:
        parse_alignment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _degrees(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 180:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of degrees from 1 to 180")
    return int(text)
