"""A teacher's maps as labels, in JAX: what `data_pipelines.transforms.geometry` and `.features` do with label files in NumPy.

All functions take batches [B,V,...] and treat samples alone. Where NumPy has float64, float32 stands here; which pixels take part
is decided by the same comparisons.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from spatialsv_jax.geometry import MIN_VALID_PIXELS, points_from_depth
from spatialsv_jax.geometry.arrays import contract

SAME_SURFACE = 0.02  # as in data_pipelines.transforms.geometry
_ALONG_X, _ALONG_Y = 1, 2


class Grid(NamedTuple):
    """Where a label grid lies in the teacher's map.

    Attributes:
      columns: float32[B,V,W,2], the whole pixel and the rest (0 to 1) of the map's x at each label column's centre.
      rows: float32[B,V,H,2], the same of y.
    """

    columns: jax.Array
    rows: jax.Array


class Scene(NamedTuple):
    """Labels of samples; the fields of `spec.BATCH` of these names."""

    depth: jax.Array
    valid: jax.Array
    intrinsics: jax.Array
    camera_to_world: jax.Array
    pose_valid: jax.Array
    depth_valid: jax.Array
    has_geometry: jax.Array
    scale: jax.Array  # float32[B], the teacher's units per scene unit


def confident(confidence: jax.Array, valid: jax.Array, quantile: jax.Array) -> jax.Array:
    """bool[B,V,h,w]: the valid pixels without the least confident ones, as `features.file_to_measured` masks them.

    Args:
      confidence: float32[B,V,h,w], finite.
      valid: bool[B,V,h,w].
      quantile: float32[B], the share that is masked; 0 = none.
    """
    flat, mask = confidence.reshape(len(confidence), -1), valid.reshape(len(valid), -1)
    number = mask.sum(-1, dtype=jnp.int32)
    place = (number - 1).astype(jnp.float32) * quantile
    whole = jnp.floor(place)
    lower, upper = _neighbours(flat, mask, jnp.clip(whole.astype(jnp.int32), 0, jnp.maximum(number - 1, 0)))
    share = place - whole
    # numpy.quantile's own two forms, so that the cut rounds alike.
    cut = jnp.where(share >= 0.5, upper - (upper - lower) * (1 - share), lower + (upper - lower) * share)
    least = jnp.where(mask, flat, jnp.inf).min(-1)
    above = flat > least[:, None]
    shared = (cut <= least) & (mask & above).any(-1)  # the cut is the least confidence of all, and not all have it
    kept = jnp.where(shared[:, None], above, flat >= cut[:, None]) | ~(quantile > 0)[:, None]
    return valid & kept.reshape(valid.shape)


def _neighbours(values: jax.Array, mask: jax.Array, rank: jax.Array) -> tuple[jax.Array, jax.Array]:
    """([B], [B]): the masked values of `rank` (from 0) and of the next rank in order.

    Found bit by bit, in 32 passes: sorting the millions of pixels of a scene costs an accelerator more.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    top = jnp.uint32(1 << 31)
    keys = jnp.where(bits >= top, ~bits, bits | top)  # in the order of the floats

    def add_bit(turn, found):
        candidate = found | (top >> turn.astype(jnp.uint32))
        below = (mask & (keys < candidate[:, None])).sum(-1, dtype=jnp.int32)
        return jnp.where(below <= rank, candidate, found)

    key = jax.lax.fori_loop(0, 32, add_bit, jnp.zeros(rank.shape, jnp.uint32))
    own = jax.lax.bitcast_convert_type(jnp.where(key >= top, key ^ top, ~key), jnp.float32)
    through = (mask & (keys <= key[:, None])).sum(-1, dtype=jnp.int32)
    larger = jnp.where(mask & (keys > key[:, None]), values, jnp.inf).min(-1)
    return own, jnp.where((through > rank + 1) | ~jnp.isfinite(larger), own, larger)


def resample_depth(depth: jax.Array, grid: Grid) -> jax.Array:
    """float32[B,V,H,W]: `geometry.resample_depth` of depth float32[B,V,h,w], 0 = invalid, to the label grid."""
    size = depth.shape[2:]
    (x, across), (y, down) = (_split(places) for places in (grid.columns, grid.rows))
    nearest = _pick(depth, y, x)
    # Of the pixel centres: the one before each place, and how far it lies behind that.
    left, top = x - (across < 0.5), y - (down < 0.5)
    right_share, lower_share = (jnp.where(rest < 0.5, rest + 0.5, rest - 0.5) for rest in (across, down))
    with_inverse = 1 / depth  # invalid pixels are infinitely near: no line, no blend
    flags = _straight(with_inverse)
    corners = lambda array: [[_pick(array, top + i, left + j) for j in (0, 1)] for i in (0, 1)]
    upper, lower = (_between(*pair, right_share[:, :, None, :]) for pair in corners(with_inverse))
    blended = _between(upper, lower, lower_share[..., None])
    (upper_left, upper_right), (lower_left, lower_right) = corners(flags)
    along_x = (upper_left | upper_right) & (lower_left | lower_right) & _ALONG_X
    along_y = (upper_left | lower_left) & (upper_right | lower_right) & _ALONG_Y
    inside = _inside(grid, size)
    smooth = inside & (along_x != 0) & (along_y != 0) & jnp.isfinite(blended)
    return jnp.where(smooth, 1 / jnp.where(smooth, blended, 1), jnp.where(inside, nearest, 0))


def _split(places: jax.Array) -> tuple[jax.Array, jax.Array]:
    return places[..., 0].astype(jnp.int32), places[..., 1]


def _inside(grid: Grid, size: tuple[int, int]) -> jax.Array:
    """bool[B,V,H,W]: the label pixel's centre lies in the map."""
    within = lambda places, side: (places[..., 0] >= 0) & (places[..., 0] < side)
    return within(grid.rows, size[0])[..., None] & within(grid.columns, size[1])[:, :, None, :]


def _pick(maps: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """[B,V,H,W]: entries of [B,V,h,w] at rows int[B,V,H] and columns int[B,V,W], those outside cut to the border."""
    height, width = maps.shape[2:]
    taken = jnp.take_along_axis(maps, jnp.clip(rows, 0, height - 1)[..., None], axis=2)
    return jnp.take_along_axis(taken, jnp.clip(columns, 0, width - 1)[:, :, None, :], axis=3)


def _between(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    """first + share (second - first), as a sum in which a share of 0 or 1 leaves one of them as it is."""
    return first * (1 - share) + second * share


def _straight(inverse: jax.Array) -> jax.Array:
    """uint8[B,V,h,w]: which pixels lie on the line through their two neighbours in inverse depth, see `geometry._straight`."""

    def along(axis: int, flag: int) -> jax.Array:
        before, middle, behind = (
            jax.lax.slice_in_dim(inverse, first, inverse.shape[axis] - 2 + first, axis=axis) for first in range(3)
        )
        on_line = abs(before - middle * 2 + behind) < middle * SAME_SURFACE  # NaN, of two holes side by side, is False
        padding = [(1, 1) if place == axis else (0, 0) for place in range(inverse.ndim)]
        return jnp.pad(on_line.astype(jnp.uint8) * jnp.uint8(flag), padding)

    if min(inverse.shape[2:]) < 3:
        return jnp.zeros(inverse.shape, jnp.uint8)
    return along(3, _ALONG_X) | along(2, _ALONG_Y)


def label_intrinsics(intrinsics: jax.Array, affine: jax.Array) -> jax.Array:
    """[B,V,3,3] of the label map: inverse(affine) K, for affine [B,V,2,3] from label pixels to the teacher's."""
    (a, b, c), (d, e, f) = ([affine[..., row, column] for column in range(3)] for row in range(2))
    determinant = a * e - b * d
    first, second = (
        intrinsics[..., row, :] - shift[..., None] * intrinsics[..., 2, :] for row, shift in ((0, c), (1, f))
    )
    mixed = lambda left, right: (left[..., None] * first + right[..., None] * second) / determinant[..., None]
    return jnp.stack([mixed(e, -b), mixed(-d, a), intrinsics[..., 2, :]], axis=-2)


def default_intrinsics(height: int, width: int) -> jax.Array:
    """float32[1,1,3,3]: the camera of views that have none, as in `data_pipelines.collate`."""
    return jnp.array([[[[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1]]]], jnp.float32)


def normalize(
    depth: jax.Array, valid: jax.Array, intrinsics: jax.Array, camera_to_world: jax.Array, pose_valid: jax.Array
) -> Scene:
    """Labels in the frame of the first posed view with depth, mean distance of points 1: `geometry.make_labels`.

    Args:
      depth: float32[B,V,H,W], the teacher's units.
      valid: bool[B,V,H,W].
      intrinsics: [B,V,3,3] of the label map.
      camera_to_world: [B,V,4,4].
      pose_valid: bool[B,V]; intrinsics and pose of other views are not read.
    """
    posed = pose_valid[..., None, None]
    default, eye = default_intrinsics(*depth.shape[2:]), jnp.eye(4)[None, None]
    intrinsics = jnp.where(posed, intrinsics, default)
    poses = jnp.where(posed, camera_to_world, eye)
    depth_valid = valid.any((2, 3))
    candidates = pose_valid & depth_valid
    reference = candidates.argmax(-1)
    frame = jnp.take_along_axis(poses, reference[:, None, None, None], axis=1)
    is_reference = (jnp.arange(poses.shape[1])[None] == reference[:, None])[..., None, None]
    poses = jnp.where(posed & ~is_reference, contract(jnp, "bij,bvjk->bvik", _inverse(frame[:, 0]), poses), eye)
    depth = jnp.where(valid, depth, 0)
    distances = jnp.linalg.norm(points_from_depth(depth, intrinsics, poses), axis=-1)
    counted = valid & posed
    number = counted.sum((1, 2, 3), dtype=jnp.int32).astype(jnp.float32)
    scale = jnp.where(counted, distances, 0).sum((1, 2, 3)) / jnp.maximum(number, 1)
    enough = candidates.any(-1) & (valid.sum((1, 2, 3), dtype=jnp.int32) >= MIN_VALID_PIXELS)
    scale = jnp.where(enough, scale, 1)
    sample, view, matrix = enough[:, None, None, None], enough[:, None], scale[:, None, None]
    poses = poses.at[..., :3, 3].divide(matrix)
    return Scene(
        depth=jnp.where(sample, depth / matrix[..., None], 0),
        valid=valid & sample,
        intrinsics=jnp.where(sample, intrinsics, default),
        camera_to_world=jnp.where(sample, poses, eye),
        pose_valid=pose_valid & view,
        depth_valid=depth_valid & view,
        has_geometry=enough,
        scale=scale,
    )


def _inverse(pose: jax.Array) -> jax.Array:
    """[...,4,4] of affine maps whose last row is (0, 0, 0, 1)."""
    x, y, z = (pose[..., :3, column] for column in range(3))
    rows = jnp.stack([jnp.cross(y, z), jnp.cross(z, x), jnp.cross(x, y)], axis=-2)
    rows = rows / (rows[..., 0, :] * x).sum(-1)[..., None, None]
    moved = -contract(jnp, "...ij,...j->...i", rows, pose[..., :3, 3])
    return jnp.concatenate([jnp.concatenate([rows, moved[..., None]], -1), pose[..., 3:, :]], -2)


def weights(confidence: jax.Array, valid: jax.Array, grid: Grid) -> jax.Array:
    """float32[B,V,H,W]: confidence [B,V,h,w] at the nearest pixel over its mean on the valid label pixels, 0 elsewhere."""
    (x, _), (y, _) = (_split(places) for places in (grid.columns, grid.rows))
    counted = valid & _inside(grid, confidence.shape[2:])
    weight = jnp.where(counted, _pick(confidence, y, x), 0)
    mean = weight.sum((1, 2, 3)) / jnp.maximum(valid.sum((1, 2, 3), dtype=jnp.int32).astype(jnp.float32), 1)
    mean = mean[:, None, None, None]
    return jnp.where(mean > 0, weight / jnp.where(mean > 0, mean, 1), valid.astype(jnp.float32))


def pool_features(features: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """float32[B,V,P,F]: features [B,V,th,tw,F] averaged over the lifting grid's cells.

    Args:
      features: on the teacher's grid of patches.
      rows: float32[B,V,gh,th], share of each row of patches in each row of cells.
      columns: float32[B,V,gw,tw].
    """
    pooled = contract(jnp, "bvir,bvrcf->bvicf", rows, features.astype(jnp.float32))
    pooled = contract(jnp, "bvjc,bvicf->bvijf", columns, pooled)
    return pooled.reshape(*pooled.shape[:2], -1, pooled.shape[-1])
