"""Dense targets and their masks, made inside the step from depth and cameras."""

from __future__ import annotations

from collections.abc import Mapping

from spatialsv_jax.geometry import points_from_rays, rays_from_camera
from spatialsv_jax.geometry.arrays import namespace


def make_targets(batch: Mapping) -> dict:
    """Ray map, point map and the three masks of a batch (the fields of `spec.TARGETS`).

    docs/method.md, 3.1: depth and points count on valid pixels of samples with geometry, points only in
    posed views; a ray counts on every covered pixel of a posed view. What invalid views hold is not
    read into any result. NumPy in, NumPy out; jax in, jax out.

    Args:
      batch: fields of `spec.BATCH`: depth, valid, covered, intrinsics, camera_to_world,
        view_valid, pose_valid, depth_valid, has_geometry.

    Returns:
      ray float[B,V,H,W,6], points float[B,V,H,W,3] (both 0 where invalid), ray_valid, depth_mask,
      points_mask bool[B,V,H,W].
    """
    xp = namespace(*batch.values())
    depth = xp.asarray(batch["depth"])
    height, width = depth.shape[-2:]
    view = xp.asarray(batch["view_valid"]) & xp.asarray(batch["has_geometry"])[:, None]
    posed = view & xp.asarray(batch["pose_valid"])
    measured = view & xp.asarray(batch["depth_valid"])
    covered = xp.asarray(batch["covered"])
    depth_mask = xp.asarray(batch["valid"]) & covered & measured[..., None, None]
    points_mask = depth_mask & posed[..., None, None]
    ray_valid = covered & posed[..., None, None]
    chosen = posed[..., None, None]

    def matrix(name: str, size: int):
        eye = xp.eye(size, dtype=depth.dtype).reshape(1, 1, size, size)
        return xp.where(chosen, xp.asarray(batch[name]), eye)

    ray = rays_from_camera(matrix("intrinsics", 3), matrix("camera_to_world", 4), height, width)
    points = points_from_rays(ray, xp.where(points_mask, depth, 0))
    return {
        "ray": xp.where(ray_valid[..., None], ray, 0),
        "points": xp.where(points_mask[..., None], points, 0),
        "ray_valid": ray_valid,
        "depth_mask": depth_mask,
        "points_mask": points_mask,
    }
