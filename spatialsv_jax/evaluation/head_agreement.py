"""Do the depth, ray and point heads tell the same story? Gaps per pixel, and whether they foretell the depth error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spatialsv_jax import geometry

AGREEMENT_METHOD = (
    "Per pixel, with ray t + s d, depth D and point P of the three heads: the ray passes P at s* = d.(P - t) / |d|^2. "
    "depth_points = |s* - D| / D (depth head against points head along the ray); ray_points = the angle at t between d and "
    "P - t in degrees (rays against points; 180 where P lies at t); all = |P - (t + D d)| in scene units, whose square is "
    "((s* - D) |d|)^2 + the squared distance of P from the ray. Depth and rays alone say different things of a pixel and "
    "meet only in a point. Medians and means over a record's valid pixels of posed views, then means over records."
)
GAPS = ("depth_points", "ray_points", "all")


def head_gaps(maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The three gaps (`AGREEMENT_METHOD`), float64[...,H,W] each; {} where a head is missing.

    Args:
      maps: depth [...,H,W], ray [...,H,W,6], points [...,H,W,3] of spec.PREDICTIONS.
    """
    if not {"depth", "ray", "points"} <= set(maps):
        return {}
    depth, ray, points = (np.asarray(maps[name], np.float64) for name in ("depth", "ray", "points"))
    origin, direction = ray[..., :3], ray[..., 3:]
    offset = points - origin
    square = np.maximum((direction**2).sum(-1), 1e-24)
    along = (direction * offset).sum(-1)
    across = np.linalg.norm(np.cross(direction, offset), axis=-1)
    length = np.linalg.norm(offset, axis=-1)
    return {
        "depth_points": np.abs(along / square - depth) / depth,
        "ray_points": np.where(length > 0, np.degrees(np.arctan2(across, along)), 180.0),
        "all": np.linalg.norm(points - geometry.points_from_rays(ray, depth), axis=-1),
    }
