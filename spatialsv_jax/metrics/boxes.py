"""Overlap of oriented 3D boxes: the exact volume of the intersection of their half-spaces. float64, no jax."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Points closer to a face's plane than this share of the boxes' size lie on it.
_ON_PLANE = 1e-12
# Faces of a box as corner numbers (bit k of a number says which end of axis k), each in order around the face.
_FACES = ((0, 2, 6, 4), (1, 3, 7, 5), (0, 1, 5, 4), (2, 3, 7, 6), (0, 1, 3, 2), (4, 5, 7, 6))


class Boxes(NamedTuple):
    """N oriented boxes; the axes of box i are the columns of rotation[i], along which it measures size[i]."""

    centre: np.ndarray  # [N, 3]
    size: np.ndarray  # [N, 3], whole lengths, not half ones
    rotation: np.ndarray  # [N, 3, 3], box axes to world


def box_iou(first: Boxes, second: Boxes) -> np.ndarray:
    """Intersection over union of every box of `first` with every box of `second`, exact for any orientation.

    The first box is cut by the six half-spaces of the second; what is left is a convex body, whose volume is summed
    over tetrahedra from its middle. Boxes that only touch have 0, and so has every pair with a box of no
    volume (flat, or a point), two equal ones of them too.

    Args:
      first: N boxes.
      second: M boxes.

    Returns:
      float64[N, M] in 0..1.

    Raises:
      ValueError: wrong shapes, non-finite numbers, negative sizes, or axes that are not orthonormal within 1e-3.
    """
    first, second = _checked("first", first), _checked("second", second)
    volumes = [np.prod(boxes.size, axis=-1) for boxes in (first, second)]
    radii = [np.linalg.norm(boxes.size, axis=-1) / 2 for boxes in (first, second)]
    result = np.zeros((len(first.size), len(second.size)))
    for i, corners in enumerate(_corners(first)):
        distance = np.linalg.norm(second.centre - first.centre[i], axis=-1)
        near = (distance < radii[0][i] + radii[1]) & (volumes[0][i] > 0) & (volumes[1] > 0)
        for j in np.flatnonzero(near):
            shared = _intersection(corners, second.centre[j], second.size[j], second.rotation[j])
            result[i, j] = shared / (volumes[0][i] + volumes[1][j] - shared)
    return np.clip(result, 0.0, 1.0)


def _checked(name: str, boxes: Boxes) -> Boxes:
    centre, size, rotation = (np.asarray(array, np.float64) for array in boxes)
    number = len(centre)
    for field, array, shape in (
        ("centre", centre, (number, 3)),
        ("size", size, (number, 3)),
        ("rotation", rotation, (number, 3, 3)),
    ):
        if array.shape != shape:
            raise ValueError(f"'{name}.{field}' has shape {array.shape}, expected {shape}.")
        wrong = np.flatnonzero(~np.isfinite(array).reshape(number, array.size // max(number, 1)).all(-1))
        if len(wrong):
            raise ValueError(f"'{name}.{field}' is not finite for box {wrong[0]} of {number}.")
    wrong = np.flatnonzero((size < 0).any(-1))
    if len(wrong):
        raise ValueError(f"'{name}.size' of box {wrong[0]} is {size[wrong[0]].tolist()}; lengths are not negative.")
    error = np.abs(np.swapaxes(rotation, -1, -2) @ rotation - np.eye(3)).max((-1, -2), initial=0.0)
    wrong = np.flatnonzero(error > 1e-3)
    if len(wrong):
        raise ValueError(f"'{name}.rotation' of box {wrong[0]} has columns that are not orthonormal.")
    return Boxes(centre, size, rotation)


def _corners(boxes: Boxes) -> np.ndarray:
    """[N, 8, 3]; corner k lies at the upper end of those axes whose bit is set in k."""
    ends = (np.arange(8)[:, None] >> np.arange(3) & 1) - 0.5
    return boxes.centre[:, None] + np.einsum("nij,nkj->nki", boxes.rotation, ends * boxes.size[:, None])


def _intersection(corners: np.ndarray, centre: np.ndarray, size: np.ndarray, rotation: np.ndarray) -> float:
    """Volume of the convex hull of 8 box corners inside another box."""
    # In the other box's own frame, so that far from the origin nothing is lost.
    local = (corners - centre) @ rotation
    tolerance = _ON_PLANE * float(np.abs(local).max() + size.max())
    faces = [local[list(face)] for face in _FACES]
    for axis in range(3):
        for sign in (1.0, -1.0):
            faces = _cut(faces, axis, sign, size[axis] / 2, tolerance)
            if not faces:
                return 0.0
    middle = np.concatenate(faces).mean(0)
    volume = 0.0
    for face in faces:
        fan = face - middle
        volume += sum(abs(np.linalg.det(fan[[0, k, k + 1]])) for k in range(1, len(face) - 1))
    return volume / 6


def _cut(faces: list[np.ndarray], axis: int, sign: float, limit: float, tolerance: float) -> list[np.ndarray]:
    """The faces of a convex body inside the half-space sign * x[axis] <= limit, with the new face that closes it."""
    heights = [sign * face[:, axis] - limit for face in faces]
    if max(height.max() for height in heights) <= tolerance:
        return faces
    kept, rim = [], []
    for face, height in zip(faces, heights, strict=True):
        points = []
        for k in range(len(face)):
            (a, b), (high_a, high_b) = face[[k - 1, k]], height[[k - 1, k]]
            if (high_a > tolerance) != (high_b > tolerance) and min(high_a, high_b) < -tolerance:
                points.append(a + (b - a) * (high_a / (high_a - high_b)))
                rim.append(points[-1])
            if high_b <= tolerance:
                points.append(b)
                if high_b >= -tolerance:
                    rim.append(b)
        if len(points) >= 3:
            kept.append(np.array(points))
    if len(rim) >= 3:
        kept.append(_around(np.array(rim), axis))
    return kept


def _around(points: np.ndarray, axis: int) -> np.ndarray:
    """Points of a plane across `axis`, in order around their middle."""
    flat = np.delete(points - points.mean(0), axis, 1)
    return points[np.argsort(np.arctan2(flat[:, 1], flat[:, 0]), kind="stable")]
