"""Which cameras cannot be those of a picture: wrong conventions, units or sizes show so. The limits are wide."""

from __future__ import annotations

import numpy as np

from spatialsv_jax.geometry.arrays import contract, floats

ROTATION_TOLERANCE = 1e-2  # largest |R^T R - 1| of a pose that is a rotation written with few digits
LARGEST_ENTRY = 2.0  # of a rotation; asked first, before products that overflow
LAST_ROW_TOLERANCE = 1e-6  # of a pose's last row (0, 0, 0, 1)
MIDDLE = (
    0.25  # share of a side by which a principal point may lie off its middle; beyond, the camera is for another size
)
FOCAL = (0.05, 100.0)  # focal length over the picture's side: fields of view of 169 to 0.6 degrees
ASPECT, SKEW = 4.0, 0.1  # most fx / fy or fy / fx, and skew / fx
FARTHEST = 1e9  # of a camera from the world's origin, in the poses' unit


def possible_cameras(intrinsics, camera_to_world, height: int, width: int):
    """bool[...]: intrinsics can be those of an H x W picture, and poses are rigid motions.

    `data_pipelines.labels.cameras.impossible_camera` says of one camera why it is not.

    Args:
      intrinsics: [...,3,3] in pixels of the picture.
      camera_to_world: [...,4,4].
      height, width: H and W.
    """
    xp, (intrinsics, camera_to_world) = floats(intrinsics, camera_to_world)
    dtype = intrinsics.dtype
    everything = lambda condition: condition.all((-2, -1))
    finite = everything(xp.isfinite(intrinsics)) & everything(xp.isfinite(camera_to_world))
    chosen = finite[..., None, None]
    eye = lambda side: xp.eye(side, dtype=dtype).reshape((1,) * finite.ndim + (side, side))
    matrix, pose = xp.where(chosen, intrinsics, eye(3)), xp.where(chosen, camera_to_world, eye(4))
    last = lambda array, row: (array[..., -1, :] - xp.asarray(row, dtype).reshape((1,) * finite.ndim + (-1,))).astype(
        dtype
    )
    good = finite & (matrix[..., 1, 0] == 0) & (last(matrix, [0, 0, 1]) == 0).all(-1)
    for axis, side in ((0, width), (1, height)):
        focal, place = matrix[..., axis, axis] / side, matrix[..., axis, 2] / side
        good = good & (focal >= FOCAL[0]) & (focal <= FOCAL[1]) & (abs(place - 0.5) <= MIDDLE)
    fx, fy, skew = matrix[..., 0, 0], matrix[..., 1, 1], matrix[..., 0, 1]
    good = good & (fx * ASPECT >= fy) & (fx <= ASPECT * fy) & (abs(skew) <= SKEW * fx)
    rotation = pose[..., :3, :3]
    good = good & everything(abs(rotation) <= LARGEST_ENTRY)
    squares = contract(xp, "...ji,...jk->...ik", rotation, rotation)
    good = good & everything(abs(squares - eye(3)) <= ROTATION_TOLERANCE)
    turned = (xp.cross(rotation[..., 0], rotation[..., 1]) * rotation[..., 2]).sum(-1)  # the determinant
    good = good & (turned >= 0) & (abs(last(pose, [0, 0, 0, 1])) <= LAST_ROW_TOLERANCE).all(-1)
    return good & (abs(pose[..., :3, 3]) <= np.asarray(FARTHEST, dtype)).all(-1)
