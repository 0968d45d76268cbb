"""Where Depth Anything 3's published preprocessing puts pictures: needed to run it, and to read what it exported.

Sizes are (width, height) of the pictures. Python's round decides half-way cases: half to even. No jax here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from spatialsv_jax.processing.vggt_pictures import PATCH, Scaled

SIDE = 504  # of pictures by default
METHODS = ("upper_bound_resize", "upper_bound_crop", "lower_bound_resize", "lower_bound_crop")


def scaled(size: tuple[int, int], method: str, side: int) -> tuple[int, int]:
    """(width, height) once the longer side ("upper_bound_...") or the shorter one is `side`, before patches count."""
    scale = side / (max if method.startswith("upper") else min)(size)
    return tuple(max(1, round(one * scale)) for one in size)


def places(sizes: Sequence[tuple[int, int]], method: str, side: int) -> tuple[tuple[int, int], list[Scaled]]:
    """((H, W), places): one side to `side`, both to whole patches, then the middle that the smallest pictures have."""
    full, shown = [], []
    for size in sizes:
        sides = scaled(size, method, side)
        if method.endswith("resize"):
            sides = whole = [max(PATCH, PATCH * math.floor(one / PATCH + 0.5)) for one in sides]
        else:
            whole = [PATCH * (one // PATCH) for one in sides]
        full.append(sides)
        shown.append(whole)
    least = [min(one[axis] for one in shown) for axis in (0, 1)]
    places = [
        Scaled(*one, *(-((side - kept) // 2) - (kept - end) // 2 for side, kept, end in zip(one, whole, least, strict=True)))
        for one, whole in zip(full, shown, strict=True)
    ]  # fmt: skip
    return (least[1], least[0]), places
