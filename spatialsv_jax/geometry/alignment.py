"""Bringing geometry into a common frame and scale: Umeyama and the scene normalisation."""

from __future__ import annotations

import dataclasses

import numpy as np

from spatialsv_jax.geometry.arrays import contract, floats, require_shape
from spatialsv_jax.geometry.cameras import point_distances
from spatialsv_jax.geometry.rotations import nearest_rotation

# Samples with fewer valid pixels in all have no geometry (docs/method.md, 1.1).
MIN_VALID_PIXELS = 100


def umeyama(source, target, weights=None, with_scale: bool = True):
    """Similarity that best maps `source` onto `target` (Umeyama 1991; docs/method.md, 4.2).

    Minimises sum of w |target - (scale * R source + translation)|^2 with det R = +1: a mirrored
    cloud leaves a residual, it does not flip R. NumPy computes in float64 and returns the input's
    dtype. Weight-0 points are ignored whatever they hold.

    Args:
      source: [..., N, 3].
      target: [..., N, 3].
      weights: [..., N], not negative, or None for equal ones.
      with_scale: False fixes scale = 1.

    Returns:
      (rotation [..., 3, 3], translation [..., 3], scale [...]). Where the clouds determine no scale
      (all points of either equal up to rounding, or no covariance), scale = 1. Points on a line leave
      the turn about it open; one of the equally good rotations is returned.

    Raises:
      ValueError: different shapes, no points; in NumPy also negative, non-finite or all-zero weights.
    """
    xp, (source, target, weights) = floats(source, target, weights)
    require_shape("source", source, (None, 3))
    if tuple(source.shape) != tuple(target.shape) or source.shape[-2] == 0:
        raise ValueError(
            f"'source' {tuple(source.shape)} and 'target' {tuple(target.shape)} must be the same [..., N, 3], N > 0."
        )
    dtype = source.dtype
    if weights is None:
        weights = xp.ones(source.shape[:-1], dtype)
    elif tuple(weights.shape) != tuple(source.shape[:-1]):
        raise ValueError(f"'weights' has shape {tuple(weights.shape)}, expected {tuple(source.shape[:-1])}.")
    if xp is np:
        source, target, weights = (array.astype(np.float64) for array in (source, target, weights))
        if not (np.isfinite(weights).all() and (weights >= 0).all() and (weights.sum(-1) > 0).all()):
            raise ValueError("'weights' must be finite, not negative, and not all zero.")
    used = (weights > 0)[..., None]
    source, target = xp.where(used, source, 0), xp.where(used, target, 0)
    weights = weights / weights.sum(-1)[..., None]
    source_mean = contract(xp, "...n,...ni->...i", weights, source)
    target_mean = contract(xp, "...n,...ni->...i", weights, target)
    source = xp.where(used, source - source_mean[..., None, :], 0)
    target = xp.where(used, target - target_mean[..., None, :], 0)
    covariance = contract(xp, "...ni,...nj->...ij", weights[..., None] * target, source)
    rotation, trace = nearest_rotation(covariance)
    if with_scale:
        variance, target_variance = ((weights * (array * array).sum(-1)).sum(-1) for array in (source, target))
        # Equal points minus their rounded mean leave about eps of their size, which is no spread.
        noise = (16 * np.finfo(source.dtype).eps) ** 2
        defined = (trace > 0) & (variance > noise * (source_mean * source_mean).sum(-1))
        defined = defined & (target_variance > noise * (target_mean * target_mean).sum(-1))
        scale = xp.where(defined, trace / xp.where(defined, variance, 1), 1)
    else:
        scale = xp.ones_like(trace)
    moved = contract(xp, "...ij,...j->...i", rotation, source_mean)
    translation = target_mean - scale[..., None] * moved
    return rotation.astype(dtype), translation.astype(dtype), scale.astype(dtype)


@dataclasses.dataclass(frozen=True)
class NormalizedScene:
    """Labels of one sample in its reference view's frame, lengths divided by `scale`. float64."""

    depth: np.ndarray  # [V, H, W], 0 where invalid
    camera_to_world: np.ndarray  # [V, 4, 4], identity where not posed
    scale: float  # input length units per scene unit; 1 when undefined
    reference_view: int | None  # the view whose frame is the world; None: no posed view with depth
    has_geometry: bool  # there is a reference view and at least 100 valid pixels in all


def normalize_scene(depth, intrinsics, camera_to_world, valid, pose_valid) -> NormalizedScene:
    """First-view frame and unit scale of one sample (docs/method.md, 1.1). NumPy only.

    The reference is the first view with a pose and a valid pixel; poses become inverse(its pose)
    times theirs; the scale is the mean of |point| over the valid pixels of all posed views.
    Without a reference view poses are the identity and the scale is 1.

    Args:
      depth: [V, H, W] z-depth, any length unit.
      intrinsics: [V, 3, 3] pixels of the H x W map.
      camera_to_world: [V, 4, 4], same length unit.
      valid: bool[V, H, W].
      pose_valid: bool[V]; intrinsics and pose of other views are not read.

    Raises:
      ValueError: wrong shapes; a valid pixel whose depth is not finite and positive; a valid pose
        that is not finite.
    """
    depth, valid = np.asarray(depth, np.float64), np.asarray(valid, bool)
    require_shape("depth", depth, (None, None, None))
    views = depth.shape[0]
    pose_valid = np.asarray(pose_valid, bool)
    shapes = {
        "depth": (depth, (views, *depth.shape[1:])),
        "valid": (valid, depth.shape),
        "intrinsics": (np.asarray(intrinsics), (views, 3, 3)),
        "camera_to_world": (np.asarray(camera_to_world), (views, 4, 4)),
        "pose_valid": (pose_valid, (views,)),
    }
    for name, (array, expected) in shapes.items():
        if array.shape != expected:
            raise ValueError(f"'{name}' has shape {array.shape}, expected {expected} (V views of 'depth').")
    wrong = valid & ~(np.isfinite(depth) & (depth > 0))
    if wrong.any():
        views_wrong = np.flatnonzero(wrong.any((1, 2))).tolist()
        raise ValueError(
            f"{int(wrong.sum())} pixels of views {views_wrong} are valid, but their depth is not finite and positive."
        )
    posed = pose_valid[:, None, None]
    intrinsics = np.where(posed, np.asarray(intrinsics, np.float64), np.eye(3))
    pose = np.where(posed, np.asarray(camera_to_world, np.float64), np.eye(4))
    broken = ~(np.isfinite(pose).all((1, 2)) & np.isfinite(intrinsics).all((1, 2)))
    if broken.any():
        raise ValueError(f"Views {np.flatnonzero(broken).tolist()} have a non-finite camera; set pose_valid False.")
    depth = np.where(valid, depth, 0.0)
    candidates = np.flatnonzero(pose_valid & valid.any((1, 2)))
    if not candidates.size:
        return NormalizedScene(depth, np.tile(np.eye(4), (views, 1, 1)), 1.0, None, False)
    reference = int(candidates[0])
    pose = np.where(posed, np.linalg.inv(pose[reference]) @ pose, np.eye(4))
    pose[reference] = np.eye(4)
    scale = float(point_distances(depth, intrinsics, pose)[valid & posed].mean())
    pose[:, :3, 3] /= scale
    enough = int(valid.sum()) >= MIN_VALID_PIXELS
    return NormalizedScene(depth / scale, pose, scale, reference, enough)
