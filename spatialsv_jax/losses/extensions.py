"""Loss terms that the paper does not have, all off by default (docs/method.md, 3.8).

Pure functions of arrays that return name -> Part, as those of `losses.dense`. Masked entries are replaced before any
arithmetic, so what they hold reaches neither values nor gradients.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from spatialsv_jax.geometry import quaternion_of
from spatialsv_jax.losses.base import CLAMP, Part

POSE_WIDTH = 9  # translation 3, quaternion x, y, z, w, vertical and horizontal field of view
_FIELD_OF_VIEW_WEIGHT = 0.5  # VGGT's


def consistency_terms(points, depth, ray, mask) -> dict[str, Part]:
    """Distance of the point head from t + depth d of the other two heads; all three get gradients.

    Args:
      points: [B, V, H, W, 3].
      depth: [B, V, H, W].
      ray: [B, V, H, W, 6], t and d.
      mask: bool[B, V, H, W].

    Returns:
      reg: the mean of min(100, sqrt(|points - (t + depth d)|^2 + 1e-12)).
    """
    difference = jnp.where(mask[..., None], points - _lifted(depth, ray, mask), 0)
    return {"reg": _residual(difference, mask)}


def lifted_points_terms(depth, ray, target, mask) -> dict[str, Part]:
    """DA3's L1 of t + depth d against the true points, summed over x, y and z.

    Args:
      depth, ray, mask: as `consistency_terms`.
      target: [B, V, H, W, 3]; gets no gradient.

    Returns:
      l1: the mean of min(100, |x| + |y| + |z|) of the difference.
    """
    target = jax.lax.stop_gradient(target)
    difference = jnp.where(mask[..., None], _lifted(depth, ray, mask) - target, 0)
    return {"l1": Part(jnp.minimum(_absolute(difference).sum(-1), CLAMP), mask, mask)}


def scale_invariant_terms(depth, target, mask, balance: float) -> dict[str, Part]:
    """Error of log depth without (a share of) what one factor per sample explains (Eigen et al. 2014, eq. 4).

    With d = log m - log y it is mean d^2 - balance (mean d)^2 over a sample's valid pixels; samples count by their
    number of pixels. With balance 1 it is the variance of d: no factor on a sample's depth changes it.

    Args:
      depth: [B, V, H, W], > 0 where `mask`.
      target: the same shape; gets no gradient.
      mask: bool[B, V, H, W].
      balance: 0..1.

    Returns:
      log: values d^2 - balance d mean(d), whose sum over a sample's n pixels is n (mean d^2 - balance (mean d)^2).
    """
    log = lambda array: jnp.log(jnp.where(mask, array, 1))
    d = log(depth) - log(jax.lax.stop_gradient(target))
    number = jnp.maximum(mask.sum((1, 2, 3), keepdims=True), 1)
    mean = d.sum((1, 2, 3), keepdims=True) / number
    return {"log": Part(jnp.square(d) - balance * d * mean, mask, mask)}


def pose_terms(pose, intrinsics, camera_to_world, mask, size: tuple[int, int]) -> dict[str, Part]:
    """L1 of a camera vector against the true camera (VGGT's camera loss, on camera_to_world).

    The quaternion is compared with the sign that is nearer, because q and -q are one rotation. The field of view is that
    of a centred principal point, 2 atan(side / (2 focal length)).

    Args:
      pose: [B, V, 9]: t, quaternion x, y, z, w of camera_to_world, vertical and horizontal field of view in radians.
      intrinsics: [B, V, 3, 3] in pixels of maps of `size`.
      camera_to_world: [B, V, 4, 4].
      mask: bool[B, V], views with a camera.
      size: (H, W).

    Returns:
      translation, rotation (mean of |difference| over components, weight 1 each) and fov (weight 0.5).
    """
    chosen = mask[..., None, None]
    camera = jnp.where(chosen, intrinsics, jnp.eye(3, dtype=intrinsics.dtype))
    world = jnp.where(chosen, camera_to_world, jnp.eye(4, dtype=camera_to_world.dtype))
    half = [side / 2 / camera[..., axis, axis] for side, axis in zip(size, (1, 0), strict=True)]
    fov = 2 * jnp.arctan(jnp.stack(half, -1))
    target = jax.lax.stop_gradient((world[..., :3, 3], quaternion_of(world[..., :3, :3]), fov))
    pose = jnp.where(mask[..., None], pose, jnp.concatenate(target, -1))
    translation, quaternion, own_fov = pose[..., :3], pose[..., 3:7], pose[..., 7:]
    same = (quaternion * target[1]).sum(-1, keepdims=True) >= 0
    pairs = {
        "translation": (translation - target[0], 1.0),
        "rotation": (quaternion - jnp.where(same, target[1], -target[1]), 1.0),
        "fov": (own_fov - target[2], _FIELD_OF_VIEW_WEIGHT),
    }
    return {
        name: Part(jnp.minimum(_absolute(difference).mean(-1), CLAMP), mask, mask, weight)
        for name, (difference, weight) in pairs.items()
    }


def scale_terms(scale, target, mask) -> dict[str, Part]:
    """|log1p(s') - log1p(s)| of the predicted and the true metres per scene unit.

    Args:
      scale: [B], > -1.
      target: [B] metres; read where `mask`.
      mask: bool[B].
    """
    log = lambda array: jnp.log1p(jnp.where(mask, array, 0))
    return {"log": Part(_absolute(log(scale) - log(jax.lax.stop_gradient(target))), mask, mask)}


def ema_terms(own: dict, average: dict, mask) -> dict[str, Part]:
    """Distance of the depth, ray and point maps from those of the averaged model, by that model's confidence.

    A pixel's weight is 1 - 1 / c with c the averaged model's confidence: 0 at c = 1, where the confidence loss puts pixels
    whose expected residual is at least lambda. A mean over all pixels of `mask`, so that a doubtful model teaches little.

    Args:
      own, average: "depth" [B, V, H, W], "ray" [..., 6], "points" [..., 3] and, of `average`, "NAME_confidence". The
        average gets no gradient.
      mask: bool[B, V, H, W].
    """
    parts = {}
    for name in ("depth", "ray", "points"):
        value, target, confidence = own[name], average[name], average[f"{name}_confidence"]
        if name == "depth":
            value, target = value[..., None], target[..., None]
        target, confidence = jax.lax.stop_gradient((target, confidence))
        part = _residual(jnp.where(mask[..., None], value - target, 0), mask)
        weight = 1 - 1 / jnp.where(mask, confidence, 1)
        parts[name] = Part(part.values * weight, mask, mask)
    return parts


def _lifted(depth, ray, mask):
    """t + depth d, 0 where not `mask`."""
    ray = jnp.where(mask[..., None], ray, 0)
    return ray[..., :3] + jnp.where(mask, depth, 0)[..., None] * ray[..., 3:]


def _residual(difference, mask) -> Part:
    error = jnp.minimum(jnp.sqrt(jnp.square(difference).sum(-1) + np.float32(1e-12)), CLAMP)
    return Part(error, mask, mask)


def _absolute(x):
    """|x| whose derivative is 0 at 0 (jnp.abs has +1 there)."""
    return jax.lax.stop_gradient(jnp.sign(x)) * x
