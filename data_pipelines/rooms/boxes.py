"""Upright boxes turned about z: the exact overlap test behind a layout without collisions."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Boxes:
    """N upright boxes in the world, metres and radians."""

    centre: np.ndarray  # float64[N,2] floor plan
    half: np.ndarray  # float64[N,2] half width, half depth
    yaw: np.ndarray  # float64[N]
    low: np.ndarray  # float64[N] height of the underside
    high: np.ndarray  # float64[N] height of the upper side

    def __len__(self) -> int:
        return len(self.yaw)

    def take(self, index) -> Boxes:
        """The chosen boxes."""
        return Boxes(self.centre[index], self.half[index], self.yaw[index], self.low[index], self.high[index])


def empty() -> Boxes:
    """No boxes."""
    return Boxes(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros(0))


def join(first: Boxes, second: Boxes) -> Boxes:
    """All boxes of both."""
    fields = [field.name for field in dataclasses.fields(Boxes)]
    return Boxes(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in fields))


def _axes(yaw: np.ndarray) -> np.ndarray:
    """float64[N,2,2]: own x and own y axis in the floor plan."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], -2)


def overlap(a: Boxes, b: Boxes, margin: float = 0.0) -> np.ndarray:
    """bool[A,B]: do the boxes come closer than `margin`?

    Separating axes: two upright boxes are apart if their height intervals or their shadows on one of
    the four side directions are. Exact for margin 0; a positive margin widens every interval by it.
    """
    gap = b.centre[None, :] - a.centre[:, None]
    ax, ay = np.cos(a.yaw)[:, None], np.sin(a.yaw)[:, None]
    bx, by = np.cos(b.yaw)[None], np.sin(b.yaw)[None]
    cosine, sine = np.abs(ax * bx + ay * by), np.abs(ax * by - ay * bx)  # of the angle between the boxes
    (aw, ad), (bw, bd) = a.half.T[:, :, None], b.half.T[:, None]
    x, y = gap[..., 0], gap[..., 1]
    apart = np.abs(x * ax + y * ay) >= aw + bw * cosine + bd * sine + margin
    apart |= np.abs(y * ax - x * ay) >= ad + bw * sine + bd * cosine + margin
    apart |= np.abs(x * bx + y * by) >= bw + aw * cosine + ad * sine + margin
    apart |= np.abs(y * bx - x * by) >= bd + aw * sine + ad * cosine + margin
    level = (a.low[:, None] >= b.high[None] + margin) | (b.low[None] >= a.high[:, None] + margin)
    return ~(apart | level)


def extent(boxes: Boxes) -> np.ndarray:
    """float64[N,2]: half size of the axis-aligned box in the floor plan around each box."""
    return np.einsum("nij,ni->nj", np.abs(_axes(boxes.yaw)), boxes.half)


def inside_room(boxes: Boxes, size: np.ndarray, margin: float) -> np.ndarray:
    """bool[N]: is the box at least `margin` away from all four walls?"""
    reach = extent(boxes) + margin
    return ((boxes.centre >= reach) & (boxes.centre + reach <= np.asarray(size)[:2])).all(-1)


def distance(points: np.ndarray, boxes: Boxes) -> np.ndarray:
    """float64[P,N]: metres from points float64[P,3] to boxes, 0 inside.

    Never more than the distance to the meshes inside the boxes.
    """
    offset = points[:, None, :2] - boxes.centre[None]
    own = np.abs(np.einsum("pnj,nij->pni", offset, _axes(boxes.yaw)))
    flat = np.maximum(own - boxes.half[None], 0.0)
    height = points[:, None, 2]
    up = np.maximum(np.maximum(boxes.low[None] - height, height - boxes.high[None]), 0.0)
    return np.sqrt((flat**2).sum(-1) + up**2)
