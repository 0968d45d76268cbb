"""Cameras as files state them, made those of records: OpenCV axes, camera-to-world, pixel centres at +0.5, no distortion."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from spatialsv_jax.geometry.plausible import (
    ASPECT,
    FARTHEST,
    FOCAL,
    LARGEST_ENTRY,
    LAST_ROW_TOLERANCE,
    MIDDLE,
    ROTATION_TOLERANCE,
    SKEW,
)

MODELS = ("opencv", "fisheye")
MOST_ZOOM = 8.0  # focal length of an undistorted picture over the distorted one's
FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL camera axes (y up, z back) <-> OpenCV's


class Pose(NamedTuple):
    """camera_to_world float64[4,4], or None and why."""

    matrix: np.ndarray | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Distortion:
    """A lens: "opencv" with (k1, k2, p1, p2, k3, k4, k5, k6), or "fisheye" with (k1, k2, k3, k4)."""

    model: str
    values: tuple[float, ...]

    def __post_init__(self):
        if self.model not in MODELS or len(self.values) != {"opencv": 8, "fisheye": 4}[self.model]:
            raise ValueError(f"A lens is one of {MODELS} with 8 or 4 numbers, not {self}.")

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Distorts points float64[...,2] of the plane z = 1. Source: OpenCV's two camera models."""
        x, y = points[..., 0], points[..., 1]
        squared = x * x + y * y
        if self.model == "fisheye":
            radius = np.sqrt(squared)
            angle = np.arctan(radius)
            k1, k2, k3, k4 = self.values
            even = angle * angle
            bent = angle * (1 + even * (k1 + even * (k2 + even * (k3 + even * k4))))
            return points * np.where(radius > 1e-12, bent / np.maximum(radius, 1e-12), 1.0)[..., None]
        k1, k2, p1, p2, k3, k4, k5, k6 = self.values
        radial = 1 + squared * (k1 + squared * (k2 + squared * k3))
        radial = radial / (1 + squared * (k4 + squared * (k5 + squared * k6)))
        return np.stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (squared + 2 * x * x),
                y * radial + p1 * (squared + 2 * y * y) + 2 * p2 * x * y,
            ],
            -1,
        )


def check_pose(values: np.ndarray | None) -> Pose:
    """A pose of 12 or 16 numbers, row by row, if it is a rigid motion."""
    if values is None or values.size not in (12, 16):
        return Pose(None, "unreadable")
    if not np.isfinite(values).all():
        return Pose(None, "not_finite")
    pose = np.eye(4)
    pose[: values.size // 4] = values.reshape(-1, 4)
    if not values.any():
        return Pose(None, "all_zero")
    rotation = pose[:3, :3]
    if (
        np.abs(rotation).max() > LARGEST_ENTRY  # before products that overflow
        or np.abs(rotation.T @ rotation - np.eye(3)).max() > ROTATION_TOLERANCE
        or np.linalg.det(rotation) < 0
        or np.abs(pose[3] - [0, 0, 0, 1]).max() > LAST_ROW_TOLERANCE
    ):
        return Pose(None, "not_a_rigid_motion")
    if np.abs(pose[:3, 3]).max() > FARTHEST:
        return Pose(None, "too_far")
    return Pose(pose)


def without_lost(poses: Mapping[int, Pose]) -> dict[int, Pose]:
    """Poses without the identities that repeat: trackers write them when they are lost."""
    same = [n for n, pose in poses.items() if pose.matrix is not None and np.array_equal(pose.matrix, np.eye(4))]
    return {**poses, **(dict.fromkeys(same, Pose(None, "repeated_identity")) if len(same) > 1 else {})}


def from_quaternion(x: float, y: float, z: float, w: float) -> np.ndarray:
    """float64[3,3] of a quaternion of any length; NaN for the zero quaternion."""
    q = np.array([x, y, z, w], np.float64)
    with np.errstate(invalid="ignore"):
        x, y, z, w = q / np.linalg.norm(q)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def from_axis_angle(vector: np.ndarray) -> np.ndarray:
    """float64[3,3] of a rotation vector in radians (Rodrigues)."""
    angle = np.linalg.norm(vector)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def posed(rotation: np.ndarray, position: np.ndarray) -> np.ndarray:
    """float64[4,4] of rotation and translation."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, position
    return pose


def pinhole(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """float64[3,3]."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def impossible(matrix: np.ndarray, size: tuple[int, int]) -> str:
    """Why intrinsics float64[3,3] cannot be those of a picture (width, height); "" if they can."""
    if not np.isfinite(matrix).all() or matrix[1, 0] or (matrix[2] != [0, 0, 1]).any():
        return f"{matrix.tolist()} is no camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]]"
    shown = f"a picture of {size[0]} x {size[1]}"
    for axis in (0, 1):
        focal, place, side, name = matrix[axis, axis], matrix[axis, 2], size[axis], "xy"[axis]
        if not FOCAL[0] <= focal / side <= FOCAL[1]:
            return f"f{name} = {focal:g} is no focal length of {shown}"
        if not abs(place / side - 0.5) <= MIDDLE:
            return f"c{name} = {place:g} does not fit {shown}: a camera for another size?"
    fx, fy, skew = matrix[0, 0], matrix[1, 1], matrix[0, 1]
    if not 1 / ASPECT <= fx / fy <= ASPECT or abs(skew) > SKEW * fx:
        return f"fx = {fx:g}, fy = {fy:g}, skew = {skew:g} are no camera's"
    return ""


def scaled(matrix: np.ndarray, size: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Intrinsics of a picture resized from `size` to `new` (width, height): row x times the width's ratio, row y the height's."""
    return np.diag([new[0] / size[0], new[1] / size[1], 1.0]) @ matrix


def turned(matrix: np.ndarray, pose: np.ndarray, size: tuple[int, int], turns: int) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics and pose of a picture (width, height) after quarter turns clockwise.

    Clockwise, the pixel at (u, v) goes to (H - v, u): the new camera's x axis is the old one's -y, its y axis the old x.
    """
    for _ in range(turns % 4):
        (fx, skew, cx), (_, fy, cy) = matrix[:2].tolist()
        if skew:
            raise ValueError("A camera with skew cannot be turned and stay a camera matrix.")
        matrix = pinhole(fy, fx, size[1] - cy, cx)
        about_z = np.array([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        pose, size = pose @ about_z, (size[1], size[0])
    return matrix, pose


def undistorting(matrix: np.ndarray, distortion: Distortion, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """How to make a pinhole picture of the same size from a distorted one.

    The principal point comes to the middle, and the focal length grows until the pinhole picture shows nothing that
    the distorted one does not, and nothing twice.

    Args:
      matrix: intrinsics of the distorted picture.
      distortion: its lens.
      size: (width, height).

    Returns:
      (intrinsics float64[3,3] of the pinhole picture, float64[h,w,2] where each of its pixels' centres lies in the
      distorted one).

    Raises:
      ValueError: no focal length up to MOST_ZOOM times the picture's does that: the lens cannot be this picture's.
    """
    width, height = size
    factor = _zoom(tuple(map(tuple, matrix.tolist())), distortion, size)
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    new = pinhole(factor * matrix[0, 0], factor * matrix[1, 1], width / 2, height / 2)
    return new, _places(matrix, distortion, size, factor, centres)


def wrong_lens(size: tuple[int, int], matrix: np.ndarray, distortion: Distortion | None) -> str:
    """Why a lens cannot be that of pictures of a size; "" if it can, and where `impossible` rejects the camera anyway."""
    if distortion is None or impossible(matrix, size):
        return ""
    try:
        _zoom(tuple(map(tuple, matrix.tolist())), distortion, size)
    except ValueError as error:
        return str(error)
    return ""


def _places(matrix: np.ndarray, distortion: Distortion, size, factor: float, pixels: np.ndarray) -> np.ndarray:
    """Where pixels float64[...,2] of the pinhole picture lie in the distorted one."""
    plane = (pixels - np.divide(size, 2)) / (factor * matrix[[0, 1], [0, 1]])
    return distortion.apply(plane) @ matrix[:2, :2].T + matrix[:2, 2]


@functools.lru_cache(maxsize=64)
def _zoom(rows: tuple[tuple[float, ...], ...], distortion: Distortion, size: tuple[int, int]) -> float:
    """The least focal length of the pinhole picture, over the distorted one's; see `undistorting`."""
    matrix, (width, height) = np.array(rows), size
    across, down = (np.linspace(0.5, side - 0.5, min(side, 4096)) for side in size)  # pixels' centres
    border = np.concatenate([
        np.stack(np.broadcast_arrays(x, y), -1).reshape(-1, 2)
        for x, y in ((across, 0.5), (across, height - 0.5), (0.5, down), (width - 0.5, down))
    ])  # fmt: skip
    coarse = np.stack(np.meshgrid(np.linspace(0, width, 33), np.linspace(0, height, 33)), -1)
    small = 1e-3  # of a pixel

    def fits(factor: float) -> bool:
        found = _places(matrix, distortion, size, factor, border)
        if not ((found >= 0) & (found <= [width, height])).all():
            return False
        # A picture that shows something twice is folded: there the map turns over.
        along = [
            _places(matrix, distortion, size, factor, coarse + step)
            - _places(matrix, distortion, size, factor, coarse - step)
            for step in ([small, 0], [0, small])
        ]
        return bool((along[0][..., 0] * along[1][..., 1] - along[0][..., 1] * along[1][..., 0] > 0).all())

    factor, step = 1.0, 1.02
    with np.errstate(all="ignore"):  # numbers that are too large fit nowhere
        while not fits(factor):
            factor *= step
            if factor > MOST_ZOOM:
                raise ValueError(
                    f"the lens {distortion.model} {distortion.values} with fx = {rows[0][0]:g}, fy = {rows[1][1]:g}, "
                    f"cx = {rows[0][2]:g}, cy = {rows[1][2]:g} cannot be that of a picture of {width} x {height}: what it "
                    "shows would lie outside of the picture, or in it twice"
                )
    return factor


def interpolated(
    stamps: np.ndarray, poses: np.ndarray, stamp: float, same: float, most_gap: float
) -> np.ndarray | None:
    """The pose at a time: the nearest within `same` seconds, else one between its two neighbours, None without them.

    The position is interpolated linearly, the rotation about the fixed axis that turns one neighbour into the other.

    Args:
      stamps: ascending seconds [n].
      poses: float64[n,4,4].
      stamp: the time.
      same, most_gap: seconds; neighbours that lie further apart than `most_gap` give nothing.
    """
    place = int(np.abs(stamps - stamp).argmin())
    if abs(stamps[place] - stamp) <= same:
        return poses[place]
    after = int(np.searchsorted(stamps, stamp))
    if not 0 < after < len(stamps) or stamps[after] - stamps[after - 1] > most_gap:
        return None
    first, second = poses[after - 1], poses[after]
    share = (stamp - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
    vector = axis_angle(first[:3, :3].T @ second[:3, :3])
    return posed(first[:3, :3] @ from_axis_angle(share * vector), (1 - share) * first[:3, 3] + share * second[:3, 3])


def axis_angle(rotation: np.ndarray) -> np.ndarray:
    """Rotation vector in radians of float64[3,3]; angles below 180 degrees."""
    angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    skew = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    return skew / 2 if angle < 1e-6 else skew * angle / (2 * np.sin(angle))
