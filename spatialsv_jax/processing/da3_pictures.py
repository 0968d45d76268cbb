"""Where Depth Anything 3's published preprocessing puts pictures: needed to run it, and to read what it exported.

Sizes are (width, height) of the pictures. Python's round decides half-way cases: half to even. No jax here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from spatialsv_jax.processing.vggt_pictures import PATCH, Scaled

SIDE = 504  # of pictures by default
METHODS = ("upper_bound_resize", "upper_bound_crop", "lower_bound_resize", "lower_bound_crop")


def places(sizes: Sequence[tuple[int, int]], method: str, side: int) -> tuple[tuple[int, int], list[Scaled]]:
    """((H, W), places): one side to `side`, both to whole patches, then the middle that the smallest pictures have."""
    scaled, shown = [], []
    for width, height in sizes:
        bound = max if method.startswith("upper") else min
        scale = side / bound(width, height)
        sides = [max(1, round(one * scale)) for one in (width, height)]
        if method.endswith("resize"):
            whole = [max(PATCH, PATCH * math.floor(one / PATCH + 0.5)) for one in sides]
            scaled.append(whole)
        else:
            whole = [PATCH * (one // PATCH) for one in sides]
            scaled.append(sides)
        shown.append(whole)
    least = [min(one[axis] for one in shown) for axis in (0, 1)]
    places = [
        Scaled(*one, *(-((full - kept) // 2) - (kept - end) // 2 for full, kept, end in zip(one, whole, least, strict=True)))
        for one, whole in zip(scaled, shown, strict=True)
    ]  # fmt: skip
    return (least[1], least[0]), places
