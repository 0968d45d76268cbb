"""Where VGGT's published preprocessing puts pictures: needed to run it, and to read what it exported.

Sizes are (width, height) of the pictures, `side` is the package's target size. Python's round decides half-way cases: half to
even. No jax here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PATCH = 14
SIDE = 518  # of pictures by default


class Scaled(NamedTuple):
    """A picture scaled to width x height pixels of the map, its corner at (left, top) of it."""

    width: float
    height: float
    left: float
    top: float

    def place(self, size: tuple[int, int], processed: tuple[int, int]) -> Place:
        """Where a picture of `size` (width, height) lies in a map of `processed` (H, W)."""
        across, down = size[0] / self.width, size[1] / self.height
        affine = np.array([[across, 0, -self.left * across], [0, down, -self.top * down]])
        x, y = np.arange(processed[1]) + 0.5 - self.left, np.arange(processed[0]) + 0.5 - self.top
        return Place(affine, ((y >= 0) & (y < self.height))[:, None] & ((x >= 0) & (x < self.width)))


class Place(NamedTuple):
    """Where one picture lies in the map.

    Attributes:
      affine: float64[2,3], pixel of the map -> original pixel, both from the corner with pixel centres at +0.5.
      inside: bool[H,W], where the map shows the picture.
    """

    affine: np.ndarray
    inside: np.ndarray


def crop(sizes: Sequence[tuple[int, int]], side: int) -> tuple[tuple[int, int], list[Scaled]]:
    """((H, W), places): widths to `side`, the middle `side` rows kept, shorter pictures padded to the longest."""
    heights = [max(PATCH, PATCH * round(height * (side / width) / PATCH)) for width, height in sizes]
    rows = max(min(height, side) for height in heights)
    places = [Scaled(side, height, 0, -((height - side) // 2) if height > side else 0) for height in heights]
    places = [one._replace(top=one.top + (rows - min(one.height, side)) // 2) for one in places]
    return (rows, side), places


def pad(sizes: Sequence[tuple[int, int]], side: int) -> tuple[tuple[int, int], list[Scaled]]:
    """((H, W), places): longest sides to `side`, in the middle of a square."""
    places = []
    for width, height in sizes:
        scale = side / max(width, height)
        whole = [
            side if one == max(width, height) else max(PATCH, PATCH * round(one * scale / PATCH))
            for one in (width, height)
        ]
        places.append(Scaled(*whole, *((side - one) // 2 for one in whole)))
    return (side, side), places


def square(sizes: Sequence[tuple[int, int]], side: int) -> tuple[tuple[int, int], list[Scaled]]:
    """((H, W), places): padded to squares first, in whole pixels of the picture, which are then scaled to `side`."""
    places = []
    for size in sizes:
        longest = max(size)
        margins = [(longest - one) // 2 for one in size]
        places.append(Scaled(*(one * side / longest for one in (*size, *margins))))
    return (side, side), places


MODES = {"crop": crop, "pad": pad, "square": square}
