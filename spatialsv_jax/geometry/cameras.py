"""Rays, points and cameras. The only functions of the project that turn one into another.

OpenCV axes (x right, y down, z forward), pixel centres at (u + 0.5, v + 0.5), z-depth.
`intrinsics` [..., 3, 3] is upper triangular in pixels of the H x W map, `camera_to_world`
[..., 4, 4] = [R | t] with t the camera centre. NumPy in, NumPy out (float64 kept); jax in, jax
out, differentiable.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spatialsv_jax.geometry.arrays import contract, floats, require_shape
from spatialsv_jax.geometry.rotations import pose_matrix


def rays_from_camera(intrinsics, camera_to_world, height: int, width: int):
    """Ray map of a pinhole camera: [t, d] with d = R K^-1 [u + 0.5, v + 0.5, 1]^T (docs/method.md, 1).

    The direction is not normalised: its z component in the camera frame is 1, so that
    point = t + z_depth * d.

    Args:
      intrinsics: [..., 3, 3], upper triangular (skew allowed), pixels.
      camera_to_world: [..., 4, 4]; leading axes broadcast with those of `intrinsics`.
      height: H in pixels.
      width: W in pixels.

    Returns:
      [..., H, W, 6].

    Raises:
      ValueError: wrong shapes, or NumPy intrinsics with entries below the diagonal.
    """
    xp, (intrinsics, camera_to_world) = floats(intrinsics, camera_to_world)
    require_shape("intrinsics", intrinsics, (3, 3))
    require_shape("camera_to_world", camera_to_world, (4, 4))
    if xp is np and np.any(intrinsics[..., (1, 2, 2), (0, 0, 1)]):
        raise ValueError("'intrinsics' must be upper triangular (rows [fx, skew, cx], [0, fy, cy], [0, 0, 1]).")
    lead = np.broadcast_shapes(intrinsics.shape[:-2], camera_to_world.shape[:-2])
    intrinsics = xp.broadcast_to(intrinsics, (*lead, 3, 3))
    camera_to_world = xp.broadcast_to(camera_to_world, (*lead, 4, 4))
    ones = (1,) * len(lead)
    u = (xp.arange(width, dtype=intrinsics.dtype) + 0.5).reshape((*ones, 1, width))
    v = (xp.arange(height, dtype=intrinsics.dtype) + 0.5).reshape((*ones, height, 1))

    def entry(row: int, column: int):
        return intrinsics[..., row, column][..., None, None]

    z = 1 / entry(2, 2)
    y = (v - entry(1, 2) * z) / entry(1, 1)
    x = (u - entry(0, 1) * y - entry(0, 2) * z) / entry(0, 0)
    columns = [camera_to_world[..., None, None, :3, index] for index in range(4)]
    direction = columns[0] * x[..., None] + columns[1] * y[..., None] + columns[2] * z[..., None]
    origin = xp.broadcast_to(columns[3], direction.shape)
    return xp.concatenate([origin, direction], axis=-1)


def points_from_rays(ray, depth):
    """World points t + depth * d.

    Args:
      ray: [..., 6].
      depth: [...] z-depth, the shape of `ray` without its last axis.

    Returns:
      [..., 3].
    """
    _, (ray, depth) = floats(ray, depth)
    require_shape("ray", ray, (6,))
    if tuple(depth.shape) != tuple(ray.shape[:-1]):
        raise ValueError(f"'depth' has shape {tuple(depth.shape)}, 'ray' asks for {tuple(ray.shape[:-1])}.")
    return ray[..., :3] + depth[..., None] * ray[..., 3:]


def points_from_depth(depth, intrinsics, camera_to_world):
    """World points of a z-depth map: t + depth * d. A pixel with depth 0 gives the camera centre.

    Args:
      depth: [..., H, W].
      intrinsics: [..., 3, 3].
      camera_to_world: [..., 4, 4].

    Returns:
      [..., H, W, 3].
    """
    xp, (depth, intrinsics, camera_to_world) = floats(depth, intrinsics, camera_to_world)
    require_shape("depth", depth, (None, None))
    height, width = depth.shape[-2:]
    ray = rays_from_camera(intrinsics, camera_to_world, height, width)
    lead = np.broadcast_shapes(ray.shape[:-3], depth.shape[:-2])
    ray = xp.broadcast_to(ray, (*lead, height, width, 6))
    return points_from_rays(ray, xp.broadcast_to(depth, (*lead, height, width)))


def point_distances(depth, intrinsics, camera_to_world) -> np.ndarray:
    """Distances from the origin of the points of `points_from_depth`, bit for bit, in a fifth of the time. NumPy only.

    Args:
      depth: float64[V, H, W].
      intrinsics: float64[V, 3, 3], upper triangular.
      camera_to_world: float64[V, 4, 4].

    Returns:
      float64[V, H, W].
    """
    height, width = depth.shape[1:]
    u, v = np.arange(width)[None] + 0.5, np.arange(height)[:, None] + 0.5
    result = np.empty(depth.shape)
    for view, (matrix, pose) in enumerate(zip(intrinsics, camera_to_world, strict=True)):
        z = 1 / matrix[2, 2]
        y = (v - matrix[1, 2] * z) / matrix[1, 1]
        skew = matrix[0, 1] * y if matrix[0, 1] else 0.0  # without it x is one row, not a map
        x = (u - skew - matrix[0, 2] * z) / matrix[0, 0]
        squares = []
        for axis in range(3):  # a component at a time: three small maps stay in the processor's cache
            part = pose[axis, 0] * x + pose[axis, 1] * y + pose[axis, 2] * z
            part *= depth[view]
            part += pose[axis, 3]
            squares.append(np.multiply(part, part, out=part))
        np.sqrt(squares[0] + squares[1] + squares[2], out=result[view])
    return result


def project(points, intrinsics, camera_to_world):
    """Projects world points into a camera.

    Args:
      points: [..., N, 3].
      intrinsics: [..., 3, 3], the leading axes of `points` without N.
      camera_to_world: [..., 4, 4], likewise.

    Returns:
      (pixels [..., N, 2], z [..., N]): continuous (u, v), so pixel (column, row) covers
      [column, column + 1) x [row, row + 1). Where z = 0 pixels are 0.
    """
    xp, (points, intrinsics, camera_to_world) = floats(points, intrinsics, camera_to_world)
    require_shape("points", points, (None, 3))
    offset = points - camera_to_world[..., None, :3, 3]
    local = contract(xp, "...ni,...ij->...nj", offset, camera_to_world[..., :3, :3])
    image = contract(xp, "...nj,...ij->...ni", local, intrinsics)
    z = image[..., 2]
    usable = z != 0
    pixels = xp.where(usable[..., None], image[..., :2] / xp.where(usable, z, 1.0)[..., None], 0.0)
    return pixels, local[..., 2]


class CameraFit(NamedTuple):
    """Camera fitted to a ray map; identity matrices where `ok` is False."""

    intrinsics: np.ndarray  # [..., 3, 3] pixels, upper triangular
    camera_to_world: np.ndarray  # [..., 4, 4]
    ok: np.ndarray  # bool[...]


def solve_camera(ray, confidence=None) -> CameraFit:
    """Closed-form camera of a ray map (docs/method.md, 4.1).

    Weighted least squares for A in d = A p with weights `confidence`, in pixel coordinates mapped
    to [-1, 1], then QR of A with positive diagonal: R = Q, K = inverse(U / U[2,2]) with its skew
    kept; centre = weighted mean of the ray origins. NumPy computes in float64 and returns the
    input's dtype. Pixels of weight 0 (or not > 0) are ignored whatever they hold.

    Args:
      ray: [..., H, W, 6].
      confidence: [..., H, W] weights, or None for equal ones.

    Returns:
      CameraFit. `ok` is False, and the matrices the identity, where no camera fits: total weight
      0, pixels that do not span the image, det A <= 0 or A of lower rank, non-finite rays.
    """
    xp, (ray, confidence) = floats(ray, confidence)
    require_shape("ray", ray, (None, None, 6))
    dtype = ray.dtype
    if xp is np:
        ray = ray.astype(np.float64)
    if confidence is None:
        weight = xp.ones(ray.shape[:-1], ray.dtype)
    else:
        if tuple(confidence.shape) != tuple(ray.shape[:-1]):
            raise ValueError(
                f"'confidence' has shape {tuple(confidence.shape)}, 'ray' asks for {tuple(ray.shape[:-1])}."
            )
        weight = xp.where(confidence > 0, confidence, 0).astype(ray.dtype)
    ray = xp.where((weight > 0)[..., None], ray, 0)
    mapped, centre, spread = _fit_directions(xp, ray, weight)
    fits, mapped = _invertible(xp, mapped, spread & xp.isfinite(centre).all(-1))
    rotation, intrinsics = _rotation_and_intrinsics(xp, mapped, *ray.shape[-3:-1])
    pose = pose_matrix(rotation, centre)
    chosen = fits[..., None, None]
    eye = xp.eye(4, dtype=ray.dtype).reshape((1,) * (pose.ndim - 2) + (4, 4))
    intrinsics = xp.where(chosen, intrinsics, eye[..., :3, :3])
    return CameraFit(intrinsics.astype(dtype), xp.where(chosen, pose, eye).astype(dtype), fits)


def camera_from_rays(ray, confidence=None):
    """`solve_camera` without its flag: (intrinsics [..., 3, 3], camera_to_world [..., 4, 4]).

    Both are identity matrices where no camera fits; ask `solve_camera` for the flag.
    """
    fit = solve_camera(ray, confidence)
    return fit.intrinsics, fit.camera_to_world


def _fit_directions(xp, ray, weight):
    """Least squares d = B n over n = (x, y, 1), x and y in [-1, 1].

    Returns B [..., 3, 3], the weighted mean origin [..., 3] and whether the weighted pixels span
    the image (False where the total weight is 0).
    """
    height, width = ray.shape[-3:-1]
    # Moments sum over pixels of x^i y^j (w, w t, w d), rows first and then the rows' sums: in
    # float32 one sum over all pixels would lose two more digits.
    values = xp.concatenate([weight[..., None], weight[..., None] * ray], axis=-1)
    moments = contract(xp, "...hwc,wi->...hic", values, _powers(xp, width, ray.dtype))
    moments = contract(xp, "...hic,hj->...ijc", moments, _powers(xp, height, ray.dtype))
    total = moments[..., 0, 0, 0]
    weighted = total > 0
    moments = moments / xp.where(weighted, total, 1)[..., None, None, None]
    one, x, y = (0, 0), (1, 0), (0, 1)
    powers = [[(a[0] + b[0], a[1] + b[1]) for b in (x, y, one)] for a in (x, y, one)]
    rows = [xp.stack([moments[..., i, j, 0] for i, j in row], axis=-1) for row in powers]
    cofactors = xp.stack([xp.cross(rows[k - 2], rows[k - 1]) for k in range(3)], axis=-1)
    determinant = (rows[0] * cofactors[..., :, 0]).sum(-1)
    spread = weighted & (determinant > 100 * np.finfo(ray.dtype).eps)
    inverse = cofactors / xp.where(spread, determinant, 1)[..., None, None]
    directions = xp.stack([moments[..., i, j, 4:] for i, j in (x, y, one)], axis=-1)
    mapped = contract(xp, "...ci,...ij->...cj", directions, inverse)
    return mapped, moments[..., 0, 0, 1:4], spread


def _powers(xp, size: int, dtype):
    """[size, 3]: 1, x, x^2 of pixel centres mapped to [-1, 1]."""
    x = (xp.arange(size, dtype=dtype) * 2 + (1 - size)) / size
    return xp.stack([xp.ones_like(x), x, x * x], axis=-1)


def _invertible(xp, matrix, allowed):
    """Which matrices have a QR with clearly positive diagonal; the others become the identity."""
    first, second, third = (matrix[..., index] for index in range(3))
    across = xp.cross(first, second)
    size = (matrix * matrix).sum((-2, -1))
    limit = (100 * np.finfo(matrix.dtype).eps) ** 2 * size
    lengths = (first * first).sum(-1), (across * across).sum(-1)
    determinant = (third * across).sum(-1)
    fits = allowed & (lengths[0] > limit) & (lengths[1] > limit * lengths[0])
    fits = fits & (determinant > 0) & (determinant**2 > limit * lengths[1]) & xp.isfinite(size)
    eye = xp.eye(3, dtype=matrix.dtype).reshape((1,) * (matrix.ndim - 2) + (3, 3))
    return fits, xp.where(fits[..., None, None], matrix, eye)


def _rotation_and_intrinsics(xp, mapped, height: int, width: int):
    """QR with positive diagonal by Gram-Schmidt, then K in pixels. det(mapped) > 0."""
    first, second, third = (mapped[..., index] for index in range(3))
    r00 = xp.sqrt((first * first).sum(-1))
    q0 = first / r00[..., None]
    r01 = (q0 * second).sum(-1)
    rest = second - r01[..., None] * q0
    r11 = xp.sqrt((rest * rest).sum(-1))
    q1 = rest / r11[..., None]
    q2 = xp.cross(q0, q1)
    r02, r12, r22 = ((q * third).sum(-1) for q in (q0, q1, q2))
    rotation = xp.stack([q0, q1, q2], axis=-1)
    # Inverse of U / U[2,2], then back from [-1, 1] to pixels: (n + 1) * size / 2.
    zero, one = xp.zeros_like(r00), xp.ones_like(r00)
    fx, fy = r22 / r00, r22 / r11
    cx, cy = (r01 * r12 - r02 * r11) / (r00 * r11), -r12 / r11
    half_w, half_h = width / 2, height / 2
    intrinsics = xp.stack(
        [
            *(half_w * fx, -half_w * r01 * r22 / (r00 * r11), half_w * (cx + 1)),
            *(zero, half_h * fy, half_h * (cy + 1)),
            *(zero, zero, one),
        ],
        axis=-1,
    )
    return rotation, intrinsics.reshape((*intrinsics.shape[:-1], 3, 3))
