"""Rotations: distance, projection of a 3x3 matrix to the nearest rotation, rigid inverse."""

from __future__ import annotations

import numpy as np

from spatialsv_jax.geometry.arrays import contract, floats, require_shape


def rotation_angle_deg(first, second=None):
    """Angle of the rotation that turns `first` into `second`.

    Computed as atan2(|axial part|, (trace - 1) / 2), which is as exact at 0 and 180 degrees as
    elsewhere (the arccos of the trace loses half of the digits there).

    Args:
      first: [..., 3, 3] rotation matrices.
      second: [..., 3, 3], or None for the identity.

    Returns:
      [...] degrees in [0, 180].
    """
    xp, (first, second) = floats(first, second)
    require_shape("first", first, (3, 3))
    relative = first
    if second is not None:
        require_shape("second", second, (3, 3))
        relative = contract(xp, "...ji,...jk->...ik", first, second)
    axial = xp.stack(
        [
            relative[..., 2, 1] - relative[..., 1, 2],
            relative[..., 0, 2] - relative[..., 2, 0],
            relative[..., 1, 0] - relative[..., 0, 1],
        ],
        axis=-1,
    )
    squared = (axial * axial).sum(-1)
    sine = xp.where(squared > 0, xp.sqrt(xp.where(squared > 0, squared, 1.0)), 0.0) / 2
    cosine = (relative[..., 0, 0] + relative[..., 1, 1] + relative[..., 2, 2] - 1) / 2
    return xp.arctan2(sine, cosine) * (180 / np.pi)


def nearest_rotation(matrix):
    """The rotation R (det +1) that maximises trace(R^T matrix), by SVD (Kabsch, Umeyama 1991).

    Args:
      matrix: [..., 3, 3], any matrix: a mean of rotations, a cross-covariance.

    Returns:
      (rotation [..., 3, 3], value [...]): value = trace(R^T matrix), the singular values' sum with
      the last one negated if `matrix` mirrors. A zero matrix gives some rotation and value 0.
    """
    xp, (matrix,) = floats(matrix)
    require_shape("matrix", matrix, (3, 3))
    left, singular, right = xp.linalg.svd(matrix)
    mirrored = xp.linalg.det(left) * xp.linalg.det(right) < 0
    last = xp.where(mirrored, -1.0, 1.0).astype(matrix.dtype)
    signs = xp.stack([xp.ones_like(last), xp.ones_like(last), last], axis=-1)
    rotation = contract(xp, "...ij,...jk->...ik", left * signs[..., None, :], right)
    return rotation, (singular * signs).sum(-1)


def invert_pose(pose):
    """Inverse of rigid transforms [..., 4, 4] = [R | t]: [R^T | -R^T t]."""
    xp, (pose,) = floats(pose)
    require_shape("pose", pose, (4, 4))
    transposed = xp.swapaxes(pose[..., :3, :3], -1, -2)
    moved = -contract(xp, "...ij,...j->...i", transposed, pose[..., :3, 3])
    return pose_matrix(transposed, moved)


def pose_matrix(rotation, translation):
    """Puts [..., 3, 3] and [..., 3] together to [..., 4, 4] = [R | t] over [0 0 0 1]."""
    xp, (rotation, translation) = floats(rotation, translation)
    require_shape("rotation", rotation, (3, 3))
    require_shape("translation", translation, (3,))
    top = xp.concatenate([rotation, translation[..., None]], axis=-1)
    bottom = xp.broadcast_to(
        xp.asarray([0.0, 0.0, 0.0, 1.0], dtype=top.dtype).reshape((1,) * (top.ndim - 2) + (1, 4)),
        (*top.shape[:-2], 1, 4),
    )
    return xp.concatenate([top, bottom], axis=-2)


def quaternion_of(rotation):
    """Unit quaternions [..., 4] in the order x, y, z, w with w >= 0, of rotation matrices [..., 3, 3].

    Each component in turn is taken as the divisor, and the largest is used (Shepperd 1978): exact at half turns too.
    """
    xp, (rotation,) = floats(rotation)
    require_shape("rotation", rotation, (3, 3))
    m = lambda row, column: rotation[..., row, column]
    trace = m(0, 0) + m(1, 1) + m(2, 2)
    squares = [1 - trace + 2 * m(axis, axis) for axis in range(3)] + [1 + trace]  # 4 x^2, 4 y^2, 4 z^2, 4 w^2
    sums = [m(0, 1) + m(1, 0), m(0, 2) + m(2, 0), m(1, 2) + m(2, 1)]  # 4 xy, 4 xz, 4 yz
    axial = [m(2, 1) - m(1, 2), m(0, 2) - m(2, 0), m(1, 0) - m(0, 1)]  # 4 wx, 4 wy, 4 wz
    rows = [
        [squares[0], sums[0], sums[1], axial[0]],
        [sums[0], squares[1], sums[2], axial[1]],
        [sums[1], sums[2], squares[2], axial[2]],
        [*axial, squares[3]],
    ]
    products = xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)  # 4 q q^T
    best = xp.stack(squares, axis=-1).argmax(-1)
    chosen = xp.take_along_axis(products, best[..., None, None], axis=-2)[..., 0, :]
    unit = chosen / xp.sqrt((chosen * chosen).sum(-1, keepdims=True))
    return xp.where(unit[..., 3:] < 0, -unit, unit)
