"""Picture sizes that a model was trained with, and which of them suits a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

SIZES_FILE = "buckets.json"  # written by training beside config.json


class PictureSize(NamedTuple):
    """Size of pictures as their processor states it, and (H, W) of their label maps."""

    image_size: Any
    label_hw: tuple[int, int]


def trained_sizes(workdir: Path, own: PictureSize) -> tuple[PictureSize, ...]:
    """The sizes of the buckets of the run in `workdir`; `own`, the config's, where it has no record of them."""
    path = workdir / SIZES_FILE
    if not path.is_file():
        return (own,)
    found = {}  # several buckets may share a size
    for bucket in json.loads(path.read_text(encoding="utf-8")):
        size = bucket["image_size"]
        found[PictureSize(tuple(size) if isinstance(size, list) else size, tuple(bucket["label_size"]))] = None
    return tuple(found)


def nearest(sizes: Sequence[PictureSize], shapes: Sequence[tuple[int, int]]) -> PictureSize:
    """The size whose proportions are closest to those of pictures of (height, width) `shapes` on average."""
    wanted = sum(math.log(width / height) for height, width in shapes) / len(shapes)

    def distance(size: PictureSize) -> float:
        sides = size.image_size
        height, width = (sides, sides) if isinstance(sides, int) else (sides or (1, 1))
        return abs(math.log(width / height) - wanted)

    return min(sizes, key=distance)
