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

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        return self.depth.nbytes + self.valid.nbytes + self.intrinsics.nbytes + self.camera_to_world.nbytes + 500


@dataclasses.dataclass(frozen=True)
class Measured:
    """Geometry of v views before it is brought to the label grid; pixels of the depth map."""

    depths: Sequence[np.ndarray | None]  # float32[h,w] each, 0 = invalid, None = no depth
    intrinsics: np.ndarray  # float64[v,3,3], pixels of the depth map
    camera_to_world: np.ndarray  # float64[v,4,4]
    pose_valid: np.ndarray  # bool[v]
    label_affine: np.ndarray  # float64[v,2,3], label pixels -> pixels of the depth map
    metric: bool  # lengths are metres


def affine_matrix(affine: np.ndarray) -> np.ndarray:
    """float64[...,3,3] with last row (0, 0, 1) from float[...,2,3]."""
    affine = np.asarray(affine, np.float64)
    last = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (*affine.shape[:-2], 1, 3))
    return np.concatenate([affine, last], axis=-2)


def label_intrinsics(intrinsics: np.ndarray, label_affine: np.ndarray) -> np.ndarray:
    """Intrinsics of the label map: inverse(affine) K, float64[...,3,3], corner convention."""
    return np.linalg.solve(affine_matrix(label_affine), np.asarray(intrinsics, np.float64))


def sample_places(affine: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the centres of an H x W label grid lie in the source map: (x, y), float64[H,W] each."""
    u, v = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
    (a, b, c), (d, e, f) = np.asarray(affine, np.float64)
    return a * u + b * v + c, d * u + e * v + f


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
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0)).astype(np.float32, copy=False)
    rows, columns = depth.shape[-2:]
    x, y = sample_places(affine, height, width)
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    nearest_x = np.clip(np.floor(x), 0, columns - 1).astype(np.intp)
    nearest_y = np.clip(np.floor(y), 0, rows - 1).astype(np.intp)
    nearest = np.where(inside, depth[..., nearest_y, nearest_x], np.float32(0))
    left, top = np.floor(x - 0.5), np.floor(y - 0.5)
    right_share, lower_share = (x - 0.5) - left, (y - 0.5) - top
    if not right_share.any() and not lower_share.any():
        return nearest
    x0, x1 = (np.clip(left + step, 0, columns - 1).astype(np.intp) for step in (0, 1))
    y0, y1 = (np.clip(top + step, 0, rows - 1).astype(np.intp) for step in (0, 1))
    inverse = np.where(depth > 0, 1.0 / np.where(depth > 0, depth, 1.0), np.nan)
    upper = inverse[..., y0, x0] * (1 - right_share) + inverse[..., y0, x1] * right_share
    lower = inverse[..., y1, x0] * (1 - right_share) + inverse[..., y1, x1] * right_share
    blended = upper * (1 - lower_share) + lower * lower_share
    straight_x, straight_y = _straight(inverse), _straight(inverse.swapaxes(-1, -2)).swapaxes(-1, -2)
    along_x = straight_x[..., y0, x0] | straight_x[..., y0, x1]
    along_x &= straight_x[..., y1, x0] | straight_x[..., y1, x1]
    along_y = straight_y[..., y0, x0] | straight_y[..., y1, x0]
    along_y &= straight_y[..., y0, x1] | straight_y[..., y1, x1]
    smooth = inside & along_x & along_y & np.isfinite(blended)
    return np.where(smooth, 1.0 / np.where(smooth, blended, 1.0), nearest).astype(np.float32)


def _straight(inverse: np.ndarray) -> np.ndarray:
    """Which pixels lie on the line through their two row neighbours in inverse depth, bool[...,h,w].

    True on planes whatever their slope, False on both sides of an edge, at the border and beside a
    hole. Two neighbouring pixels are on one surface if either continues a line with the other.
    """
    straight = np.zeros(inverse.shape, bool)
    middle = inverse[..., 1:-1]
    bend = np.abs(inverse[..., :-2] - 2 * middle + inverse[..., 2:])
    straight[..., 1:-1] = bend < SAME_SURFACE * middle  # NaN compares False
    return straight


def _resample_views(measured: Measured, shape: tuple[int, int, int]) -> np.ndarray:
    """Depth of all views on the label grid, float32[v,H,W]; views of one size and affine go together."""
    depth = np.zeros(shape, np.float32)
    groups: dict[tuple, list[int]] = {}
    for view, source in enumerate(measured.depths):
        if source is not None:
            groups.setdefault((source.shape, measured.label_affine[view].tobytes()), []).append(view)
    for group in groups.values():
        stacked = np.stack([measured.depths[view] for view in group])
        depth[group] = resample_depth(stacked, measured.label_affine[group[0]], *shape[1:])
    return depth


def make_labels(measured: Measured, covered: np.ndarray, record_id: str) -> Labels:
    """Labels of one sample (docs/method.md, 1.1): frame of the first posed view with depth, scene scale.

    A view without pose keeps its depth; a view without depth keeps its camera; a sample without a
    posed view with depth, or with fewer than 100 valid pixels, has no geometry at all.

    Args:
      measured: depth maps and cameras of the sample's views.
      covered: bool[v,H,W], label pixels that show the picture.
      record_id: for messages.

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
    )


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
    arrays = {
        name: np.concatenate([getattr(labels, name)[:views], getattr(blank, name)])
        for name in ("depth", "valid", "intrinsics", "camera_to_world", "pose_valid", "depth_valid")
    }
    return dataclasses.replace(labels, **arrays)
