"""Point maps: surface normals from neighbour differences, pooling to a grid, multi-view agreement."""

from __future__ import annotations

import numpy as np

from spatialsv_jax.geometry.arrays import contract, floats, require_shape
from spatialsv_jax.geometry.cameras import points_from_depth, project

# A cross product of this length or less has no direction (docs/method.md, 3.4).
DEGENERATE_NORMAL = 1e-8


def neighbour_normals(points, valid):
    """The four unit normals per pixel that docs/method.md, 3.4, defines.

    They are up x left, left x down, down x right, right x up of (neighbour - centre).

    Args:
      points: [..., H, W, 3]; what lies at invalid pixels must be finite but has no influence.
      valid: bool[..., H, W].

    Returns:
      (normals [..., 4, H, W, 3], valid bool[..., 4, H, W], regular bool[..., 4, H, W]): an element
      is valid when centre and both neighbours are; it is regular unless its cross product is at
      most 1e-8 long, in which case the normal is the zero vector and has no gradient.
    """
    xp, (points,) = floats(points)
    require_shape("points", points, (None, None, 3))
    if tuple(valid.shape) != tuple(points.shape[:-1]):
        raise ValueError(f"'valid' has shape {tuple(valid.shape)}, 'points' asks for {tuple(points.shape[:-1])}.")
    lead = [(0, 0)] * (valid.ndim - 2)

    def rows(array):
        """H - 1 steps down as seen from every pixel: (up, down), 0 outside."""
        array = xp.pad(array, (*lead, (1, 1), (0, 0)))
        return array[..., :-1, :], array[..., 1:, :]

    def columns(array):
        """W - 1 steps right as seen from every pixel: (left, right), 0 outside."""
        array = xp.pad(array, (*lead, (0, 0), (1, 1)))
        return array[..., :-1], array[..., 1:]

    planes = [points[..., axis] for axis in range(3)]
    vertical = [rows(p[..., 1:, :] - p[..., :-1, :]) for p in planes]
    horizontal = [columns(p[..., 1:] - p[..., :-1]) for p in planes]
    vertical_valid = rows(valid[..., 1:, :] & valid[..., :-1, :])
    horizontal_valid = columns(valid[..., 1:] & valid[..., :-1])
    normals, elements, regulars = [], [], []
    # With v the step down and h the step right all four products are v x h: (-v) x (-h),
    # (-h) x v, v x h and h x (-v).
    for row, column in ((0, 0), (1, 0), (1, 1), (0, 1)):
        element = vertical_valid[row] & horizontal_valid[column]
        steps = [pair[row] for pair in vertical], [pair[column] for pair in horizontal]
        normal, _, regular = unit_cross(xp, *steps, element)
        normals.append(xp.stack(normal, axis=-1))
        elements.append(element)
        regulars.append(regular)
    return xp.stack(normals, axis=-4), xp.stack(elements, axis=-3), xp.stack(regulars, axis=-3)


def unit_cross(xp, first, second, valid):
    """Unit cross product of vector maps given as separate x, y, z maps (docs/method.md, 3.4).

    Args:
      xp: numpy or jax.numpy.
      first: three arrays of one shape.
      second: three arrays of that shape.
      valid: bool of that shape.

    Returns:
      (three arrays, inverse length, regular): regular where valid and longer than 1e-8; elsewhere
      the vector and the inverse length are 0, without gradient.
    """
    (ax, ay, az), (bx, by, bz) = first, second
    cross = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    squared = cross[0] ** 2 + cross[1] ** 2 + cross[2] ** 2
    regular = valid & (squared > DEGENERATE_NORMAL**2)
    # Replaced before root and division: a masked result alone still has NaN gradients.
    inverse = xp.where(regular, 1 / xp.sqrt(xp.where(regular, squared, 1.0)), 0.0)
    return tuple(c * inverse for c in cross), inverse, regular


def surface_normals(points, valid):
    """One unit normal per pixel, the direction of the sum of its regular neighbour normals.

    With image rows going down, normals of surfaces that a camera sees face the camera.

    Args:
      points: [..., H, W, 3].
      valid: bool[..., H, W].

    Returns:
      (normals [..., H, W, 3], valid bool[..., H, W]); zero vectors where invalid.
    """
    xp, (points,) = floats(points)
    normals, _, regular = neighbour_normals(points, valid)
    total = normals.sum(-4)
    squared = (total * total).sum(-1)
    known = regular.any(-3) & (squared > DEGENERATE_NORMAL**2)
    length = xp.sqrt(xp.where(known, squared, 1.0))
    return xp.where(known[..., None], total / length[..., None], 0.0), known


def area_pool(features, grid_height: int, grid_width: int):
    """Adaptive average pooling to a token grid (docs/method.md, 3.7).

    Cell (i, j) averages rows floor(i H / gh) to ceil((i + 1) H / gh) - 1, columns alike.

    Args:
      features: [..., H, W, F].
      grid_height: gh.
      grid_width: gw.

    Returns:
      [..., gh, gw, F].
    """
    xp, (features,) = floats(features)
    require_shape("features", features, (None, None, None))
    height, width = features.shape[-3:-1]
    rows = xp.asarray(_pool_weights(height, grid_height), dtype=features.dtype)
    columns = xp.asarray(_pool_weights(width, grid_width), dtype=features.dtype)
    return contract(xp, "jw,...iwf->...ijf", columns, contract(xp, "ih,...hwf->...iwf", rows, features))


def _pool_weights(size: int, cells: int) -> np.ndarray:
    """Row-stochastic [cells, size] matrix of adaptive average pooling."""
    if cells < 1:
        raise ValueError(f"A pooling grid needs at least one cell, not {cells}.")
    weights = np.zeros((cells, size))
    for cell in range(cells):
        first, last = cell * size // cells, -(-(cell + 1) * size // cells)
        weights[cell, first:last] = 1 / (last - first)
    return weights


def multi_view_filter(
    depth,
    intrinsics,
    camera_to_world,
    valid,
    threshold: float = 0.05,
    keep_unless_contradicted: bool = False,
) -> np.ndarray:
    """Keeps the pixels whose depth another view confirms (docs/method.md, 4.3). NumPy only.

    A pixel is lifted and projected into every other view j. With z its depth there, j sees it if
    z > 0 and it falls on a valid pixel of j (nearest pixel: floor of u and v); j agrees if
    |z - D_j| / z < threshold. At least one view must agree.

    Args:
      depth: [V, H, W] z-depth.
      intrinsics: [V, 3, 3].
      camera_to_world: [V, 4, 4].
      valid: bool[V, H, W].
      threshold: largest relative difference, exclusive.
      keep_unless_contradicted: also keep pixels that no other view sees (rotation-only scenes).

    Returns:
      bool[V, H, W], a subset of `valid`.
    """
    valid = np.asarray(valid, bool)
    depth = np.where(valid, np.asarray(depth, np.float64), 0.0)
    views, height, width = depth.shape
    points = points_from_depth(depth, intrinsics, camera_to_world).reshape(views, height * width, 3)
    agreed = np.zeros((views, height * width), bool)
    seen = np.zeros_like(agreed)
    for first in range(views):
        for second in range(views):
            if first == second:
                continue
            pixels, z = project(points[first], intrinsics[second], camera_to_world[second])
            inside = (z > 0) & (pixels >= 0).all(-1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
            column, row = np.where(inside[:, None], np.floor(pixels), 0).astype(np.int64).T
            inside &= valid[second, row, column]
            z = np.where(inside, z, 1.0)
            close = np.abs(z - depth[second, row, column]) / z < threshold
            seen[first] |= inside
            agreed[first] |= inside & close
    keep = agreed | ~seen if keep_unless_contradicted else agreed
    return valid & keep.reshape(depth.shape)
