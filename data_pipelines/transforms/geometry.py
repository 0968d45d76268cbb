"""Depth and cameras of a sample as label maps: first-view frame, scene scale, masks.

Label maps follow the processor: `label_affine` says where a label pixel lies in the original
picture, and nothing else about preprocessing is used. Pixel coordinates are continuous, counted
from the picture's corner, so pixel (column i, row j) has its centre at (i + 0.5, j + 0.5).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.collate import default_intrinsics
from spatialsv_jax import geometry

SAME_SURFACE = 0.02  # relative departure from a straight line in inverse depth that still is one surface
_ALONG_X, _ALONG_Y = np.uint8(1), np.uint8(2)


@dataclasses.dataclass(frozen=True)
class Labels:
    """Geometry of the v views of one sample on the H x W label grid, scene-scale units."""

    depth: np.ndarray  # float32[v,H,W], 0 where invalid
    valid: np.ndarray  # bool[v,H,W]
    intrinsics: np.ndarray  # float32[v,3,3], label pixels
    camera_to_world: np.ndarray  # float32[v,4,4], frame of the reference view
    pose_valid: np.ndarray  # bool[v]
    depth_valid: np.ndarray  # bool[v]
    scene_scale_m: float  # metres per scene unit, 0 = unknown
    has_geometry: bool
    weight: np.ndarray | None = None  # float32[v,H,W], mean 1 over the valid pixels; None = 1 everywhere

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        arrays = (self.depth, self.valid, self.intrinsics, self.camera_to_world, self.weight)
        return sum(array.nbytes for array in arrays if array is not None) + 500


@dataclasses.dataclass(frozen=True)
class Measured:
    """Geometry of v views before it is brought to the label grid; pixels of the depth map."""

    depths: Sequence[np.ndarray | None]  # float32[h,w] each, 0 = invalid, None = no depth
    intrinsics: np.ndarray  # float64[v,3,3], pixels of the depth map
    camera_to_world: np.ndarray  # float64[v,4,4]
    pose_valid: np.ndarray  # bool[v]
    label_affine: np.ndarray  # float64[v,2,3], label pixels -> pixels of the depth map
    metric: bool  # lengths are metres
    confidences: Sequence[np.ndarray] | None = None  # float32[h,w] each, >= 0: how much a pixel counts; None = alike


def affine_matrix(affine: np.ndarray) -> np.ndarray:
    """float64[...,3,3] with last row (0, 0, 1) from float[...,2,3]."""
    affine = np.asarray(affine, np.float64)
    last = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (*affine.shape[:-2], 1, 3))
    return np.concatenate([affine, last], axis=-2)


def label_intrinsics(intrinsics: np.ndarray, label_affine: np.ndarray) -> np.ndarray:
    """Intrinsics of the label map: inverse(affine) K, float64[...,3,3], corner convention."""
    return np.linalg.solve(affine_matrix(label_affine), np.asarray(intrinsics, np.float64))


def sample_places(affine: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the centres of an H x W label grid lie in the source map: (x, y), float64[H,W] each.

    Without rotation x is the same in all rows and y in all columns: then float64[1,W] and float64[H,1].
    """
    u, v = np.arange(width)[None] + 0.5, np.arange(height)[:, None] + 0.5
    (a, b, c), (d, e, f) = np.asarray(affine, np.float64)
    if b == 0 and d == 0:
        return a * u + c, e * v + f
    return a * u + b * v + c, d * u + e * v + f


def _pick(array: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[H,W]: entries of array[h,w] at row y, column x; whole rows, then columns, where the grid allows it."""
    return _corners(array, [y], [x])[0][0]


def _corners(array: np.ndarray, ys: list[np.ndarray], xs: list[np.ndarray]) -> list[list[np.ndarray]]:
    """`_pick` for each row of `ys` with each column of `xs`; views of `array` where the grid takes every n-th pixel."""
    if xs[0].shape[0] == 1 and ys[0].shape[1] == 1:
        rows, columns = [_every(y[:, 0]) for y in ys], [_every(x[0]) for x in xs]
        taken = [array[y] if isinstance(y, slice) else array.take(y, axis=0) for y in rows]
        return [[part[:, x] if isinstance(x, slice) else part.take(x, axis=1) for x in columns] for part in taken]
    return [[array[y, x] for x in xs] for y in ys]


def _every(places: np.ndarray) -> np.ndarray | slice:
    """Places int[n] as a slice, if they are evenly spaced and rising."""
    steps = np.diff(places)
    if len(steps) and steps[0] > 0 and (steps == steps[0]).all():
        return slice(int(places[0]), int(places[-1]) + 1, int(steps[0]))
    return places


def resample_depth(depth: np.ndarray, affine: np.ndarray, height: int, width: int) -> np.ndarray:
    """Brings z-depth to the label grid without inventing surfaces.

    Where the four pixels around a label pixel's centre are valid and on one surface, inverse depth
    is interpolated linearly, which is exact on planes; elsewhere the nearest pixel is taken, valid
    or not. A grid that falls on pixel centres returns the map's own values. Depth is z-depth, so
    resizing does not scale it.

    Args:
      depth: float32[...,h,w], 0 (or not finite) = invalid.
      affine: float64[2,3], label pixels -> pixels of `depth`.
      height, width: label size H, W.

    Returns:
      float32[...,H,W], 0 where invalid or outside the map.
    """
    maps = np.asarray(depth).reshape(-1, *depth.shape[-2:])  # one at a time: a map fits into the processor's cache
    result = np.empty((len(maps), height, width), np.float32)
    for number, one in enumerate(maps):
        result[number] = _resample_map(one, affine, height, width)
    return result.reshape(*depth.shape[:-2], height, width)


def _resample_map(depth: np.ndarray, affine: np.ndarray, height: int, width: int) -> np.ndarray:
    depth = depth.astype(np.float32, copy=False)
    if not (depth.min() >= 0 and depth.max() < np.inf):  # NaN fails both; most maps need no copy
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
    rows, columns = depth.shape
    x, y = sample_places(affine, height, width)
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    nearest_x = np.clip(np.floor(x), 0, columns - 1).astype(np.intp)
    nearest_y = np.clip(np.floor(y), 0, rows - 1).astype(np.intp)
    nearest = np.where(inside, _pick(depth, nearest_y, nearest_x), np.float32(0))
    left, top = np.floor(x - 0.5), np.floor(y - 0.5)
    right_share, lower_share = (x - 0.5 - left).astype(np.float32), (y - 0.5 - top).astype(np.float32)
    if not right_share.any() and not lower_share.any():
        return nearest
    xs = [np.clip(left + step, 0, columns - 1).astype(np.intp) for step in (0, 1)]
    ys = [np.clip(top + step, 0, rows - 1).astype(np.intp) for step in (0, 1)]
    one = np.float32(1)
    with np.errstate(divide="ignore", invalid="ignore"):  # invalid pixels are infinitely near: no line, no blend
        inverse = one / depth
        upper, lower = (_between(*pair, right_share) for pair in _corners(inverse, ys, xs))
        blended = _between(upper, lower, lower_share)
        straight = _straight(inverse)
    (upper_left, upper_right), (lower_left, lower_right) = _corners(straight, ys, xs)
    along_x = (upper_left | upper_right) & (lower_left | lower_right) & _ALONG_X
    along_y = (upper_left | lower_left) & (upper_right | lower_right) & _ALONG_Y
    smooth = inside & (along_x != 0) & (along_y != 0) & np.isfinite(blended)
    return np.divide(one, blended, out=nearest, where=smooth)


def _between(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """first + share (second - first), as a sum in which a share of 0 or 1 leaves one of them as it is."""
    first = first * (np.float32(1) - share)
    first += second * share
    return first


def _straight(inverse: np.ndarray) -> np.ndarray:
    """Which pixels lie on the line through their two neighbours in inverse depth, uint8[h,w].

    `_ALONG_X` is set where that holds in the row, `_ALONG_Y` where in the column: on planes whatever
    their slope, not on either side of an edge, at the border or beside a hole. Two neighbouring
    pixels are on one surface if either continues a line with the other.
    """
    straight = np.zeros(inverse.shape, np.uint8)
    spare = np.empty((2, inverse.size), np.float32)  # every step in place: fresh memory costs more than the arithmetic
    for before, middle, behind, flag, place in (
        (inverse[:, :-2], inverse[:, 1:-1], inverse[:, 2:], _ALONG_X, straight[:, 1:-1]),
        (inverse[:-2], inverse[1:-1], inverse[2:], _ALONG_Y, straight[1:-1]),
    ):
        bend, limit = (part[: middle.size].reshape(middle.shape) for part in spare)
        np.multiply(middle, np.float32(2), out=bend)
        np.subtract(before, bend, out=bend)
        bend += behind
        np.abs(bend, out=bend)
        np.multiply(middle, np.float32(SAME_SURFACE), out=limit)
        # NaN, of two holes side by side, compares False.
        place |= np.less(bend, limit).view(np.uint8) * np.uint8(flag)
    return straight


def _resample_views(measured: Measured, shape: tuple[int, int, int]) -> np.ndarray:
    """Depth of all views on the label grid, float32[v,H,W]."""
    depth = np.zeros(shape, np.float32)
    for view, source in enumerate(measured.depths):
        if source is not None:
            depth[view] = _resample_map(source, measured.label_affine[view], *shape[1:])
    return depth


def make_labels(measured: Measured, covered: np.ndarray, record_id: str, multi_view: str = "off") -> Labels:
    """Labels of one sample (docs/method.md, 1.1): frame of the first posed view with depth, scene scale.

    A view without pose keeps its depth; a view without depth keeps its camera; a sample without a
    posed view with depth, or with fewer than 100 valid pixels, has no geometry at all.

    Args:
      measured: depth maps and cameras of the sample's views.
      covered: bool[v,H,W], label pixels that show the picture.
      record_id: for messages.
      multi_view: "agrees" keeps the pixels whose depth another posed view confirms; "contradicts" all that no posed
        view denies, so also those that none sees (docs/method.md, 4.3). Views without pose are neither confirmed
        nor denied.

    Raises:
      ValueError: a camera matrix that cannot be inverted, naming record and view.
    """
    views, height, width = covered.shape
    depth = _resample_views(measured, covered.shape)
    valid = (depth > 0) & covered
    pose_valid = np.asarray(measured.pose_valid, bool)
    fallback = default_intrinsics(height, width).astype(np.float64)
    intrinsics = np.where(
        pose_valid[:, None, None], label_intrinsics(measured.intrinsics, measured.label_affine), fallback
    )
    singular = np.flatnonzero(np.abs(np.linalg.det(intrinsics)) < 1e-9)
    if len(singular):
        raise ValueError(
            f"Record '{record_id}', view {singular[0]}: intrinsics {measured.intrinsics[singular[0]].tolist()} cannot be "
            "inverted; expected focal lengths above 0 in pixels, or pose_valid False."
        )
    poses = np.where(pose_valid[:, None, None], measured.camera_to_world, np.eye(4))
    if multi_view != "off":
        valid &= _confirmed(depth, intrinsics, poses, valid, pose_valid, multi_view == "contradicts")
    scene = geometry.normalize_scene(depth.astype(np.float64), intrinsics, poses, valid, pose_valid)
    if not scene.has_geometry:
        return no_labels(covered.shape)
    return Labels(
        depth=np.where(valid, scene.depth, 0).astype(np.float32),
        valid=valid,
        intrinsics=intrinsics.astype(np.float32),
        camera_to_world=scene.camera_to_world.astype(np.float32),
        pose_valid=pose_valid,
        depth_valid=valid.any(axis=(1, 2)),
        scene_scale_m=float(scene.scale) if measured.metric else 0.0,
        has_geometry=True,
        weight=_weights(measured, valid),
    )


def _confirmed(depth, intrinsics, poses, valid, pose_valid, unless_contradicted: bool) -> np.ndarray:
    """bool[v,H,W]: pixels that `geometry.multi_view_filter` keeps among the posed views; others by `unless_contradicted`."""
    kept = np.full(valid.shape, unless_contradicted)
    kept[pose_valid] = geometry.multi_view_filter(
        *(array[pose_valid] for array in (depth, intrinsics, poses, valid)),
        keep_unless_contradicted=unless_contradicted,
    )
    return kept


def _weights(measured: Measured, valid: np.ndarray) -> np.ndarray | None:
    """float32[v,H,W]: confidence at the nearest pixel over its mean on the valid ones, 0 where not valid."""
    if measured.confidences is None:
        return None
    weight = np.zeros(valid.shape, np.float64)
    for view, confidence in enumerate(measured.confidences):
        x, y = sample_places(measured.label_affine[view], *valid.shape[1:])
        rows, columns = confidence.shape
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
        column, row = (np.where(inside, np.floor(place), 0).astype(np.intp) for place in (x, y))
        weight[view] = np.where(inside & valid[view], confidence[row, column], 0)
    mean = weight[valid].mean()
    return (weight / mean if mean > 0 else valid).astype(np.float32)


def no_labels(shape: tuple[int, int, int]) -> Labels:
    """Labels of a sample without geometry; `shape` is (v, H, W)."""
    views, height, width = shape
    return Labels(
        depth=np.zeros(shape, np.float32),
        valid=np.zeros(shape, bool),
        intrinsics=np.tile(default_intrinsics(height, width), (views, 1, 1)),
        camera_to_world=np.tile(np.eye(4, dtype=np.float32), (views, 1, 1)),
        pose_valid=np.zeros(views, bool),
        depth_valid=np.zeros(views, bool),
        scene_scale_m=0.0,
        has_geometry=False,
    )


def keep_views(labels: Labels, views: int) -> Labels:
    """The labels of the first `views` views, or with views that have no geometry added behind them."""
    if views == len(labels.depth):
        return labels
    blank = no_labels((max(0, views - len(labels.depth)), *labels.depth.shape[1:]))
    if labels.weight is not None:
        blank = dataclasses.replace(blank, weight=blank.depth)
    arrays = {
        name: np.concatenate([getattr(labels, name)[:views], getattr(blank, name)])
        for name in ("depth", "valid", "intrinsics", "camera_to_world", "pose_valid", "depth_valid", "weight")
        if getattr(labels, name) is not None
    }
    return dataclasses.replace(labels, **arrays)
