"""How hard a view is to see through: which boxes its rays meet, and how much of them something nearer hides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatialsv_jax import geometry

MARGIN_M = 0.03  # by how much nearer than a box a surface must be to hide it: depth is stored in steps


def sight_of_boxes(
    depth: np.ndarray,
    valid: np.ndarray,
    intrinsics: np.ndarray,
    camera_to_world: np.ndarray,
    centres: np.ndarray,
    axes: np.ndarray,
    sizes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the rays that meet each box in each view, and those of them that something nearer stops.

    A ray of a pixel without depth counts nowhere. A camera within a box sees it unhidden.

    Args:
      depth: float[V,H,W] z-depth in metres.
      valid: bool[V,H,W], pixels with depth in posed views.
      intrinsics: float[V,3,3]; camera_to_world: float[V,4,4], in the boxes' frame.
      centres: float[N,3]; axes: float[N,3,3], own axes in rows; sizes: float[N,3], lengths along them. Metres.

    Returns:
      (met, hidden): int[N,V] each.
    """
    ray = geometry.rays_from_camera(
        np.asarray(intrinsics, np.float64), np.asarray(camera_to_world, np.float64), *depth.shape[1:]
    )
    met, hidden = (np.zeros((len(centres), len(depth)), int) for _ in range(2))
    for place, (centre, own, size) in enumerate(zip(centres, axes, sizes, strict=True)):
        origin, direction = (ray[..., :3] - centre) @ own.T, ray[..., 3:] @ own.T
        direction = np.where(np.abs(direction) < 1e-12, 1e-12, direction)
        # The slab method; directions have z = 1 in the camera, so the parameter is the z-depth.
        one, other = (-size / 2 - origin) / direction, (size / 2 - origin) / direction
        enters, leaves = np.minimum(one, other).max(-1), np.maximum(one, other).min(-1)
        meets = valid & (leaves > np.maximum(enters, 0))
        met[place] = meets.sum((1, 2))
        hidden[place] = (meets & (depth < enters - MARGIN_M)).sum((1, 2))
    return met, hidden


def difficulty(met: np.ndarray, hidden: np.ndarray, views: Sequence[int]) -> dict:
    """`object_count` and `occlusion` of some views (docs/diagnosis.md); occlusion None where no box is met."""
    met, hidden = met[:, list(views)], hidden[:, list(views)]
    some = met > 0
    return {
        "object_count": int(some.any(1).sum()),
        "occlusion": float((hidden[some] / met[some]).mean()) if some.any() else None,
    }
