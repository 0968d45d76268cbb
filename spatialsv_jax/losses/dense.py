"""Losses of the depth, ray and point maps (docs/method.md, 3.1 to 3.6).

Every function takes (prediction, target, mask, confidence) and returns name -> Part. Masked
entries of all three arrays are replaced before any arithmetic, so whatever they hold, NaN
included, reaches neither values nor gradients.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from spatialsv_jax.losses.base import CLAMP, Part, reduce
from spatialsv_jax.losses.normals import normal_residuals

__all__ = ["depth_terms", "point_terms", "ray_terms", "reduce"]

CONFIDENCE_LAMBDA = 0.2
DEPTH_STRIDES = (1, 2, 4, 8)
NORMAL_STRIDES = (1, 2, 4)


def depth_terms(
    prediction, target, mask, confidence, confidence_lambda: float = CONFIDENCE_LAMBDA, weight=None
) -> dict[str, Part]:
    """Depth loss: reg, conf and the gradient term at 4 dyadic scales (paper eq. 11; constants VGGT).

    Args:
      prediction: [B, V, H, W] z-depth (a last axis of size 1 is accepted).
      target: the same shape.
      mask: bool[B, V, H, W].
      confidence: [B, V, H, W], >= 1 where `mask`.
      confidence_lambda: weight of -log c.
      weight: [B, V, H, W] how much each pixel counts, of mean 1; None = alike. A pair counts as its later pixel.

    Returns:
      reg, conf, grad_s0 .. grad_s3. The mean over scales is in the coefficients (1/4 each); a
      gradient part counts valid pixels, not pairs.

    Raises:
      ValueError: shapes or mask dtype that do not fit, named.
    """
    ndim = jnp.ndim(mask)
    if jnp.ndim(prediction) == ndim:
        _require_same("target", target, "prediction", jnp.shape(prediction))
        prediction, target = jnp.asarray(prediction)[..., None], jnp.asarray(target)[..., None]
    prediction, target, mask, confidence = _cleaned(prediction, target, mask, confidence, 1)
    parts = _regression(prediction, target, mask, confidence, confidence_lambda)
    error = (prediction - target)[..., 0]
    for scale, stride in enumerate(DEPTH_STRIDES):
        grid = (..., slice(None, None, stride), slice(None, None, stride))
        parts[f"grad_s{scale}"] = _gradient(error[grid], mask[grid], confidence[grid], confidence_lambda)
    return _counted_by(weight, parts, mask, DEPTH_STRIDES)


def ray_terms(prediction, target, mask, confidence, confidence_lambda: float = CONFIDENCE_LAMBDA) -> dict[str, Part]:
    """Ray loss: reg and conf of one norm over the six channels.

    Args and errors as `point_terms`, with 6 channels.

    Returns:
      reg, conf.
    """
    prediction, target, mask, confidence = _cleaned(prediction, target, mask, confidence, 6)
    return _regression(prediction, target, mask, confidence, confidence_lambda)


def point_terms(
    prediction, target, mask, confidence, confidence_lambda: float = CONFIDENCE_LAMBDA, weight=None
) -> dict[str, Part]:
    """Point loss: reg, conf and the normal term at 3 dyadic scales (paper eq. 12; constants VGGT).

    Args:
      prediction: [B, V, H, W, 3] world points.
      target: the same shape.
      mask: bool[B, V, H, W].
      confidence: [B, V, H, W], >= 1 where `mask`.
      confidence_lambda: weight of -log c.
      weight: [B, V, H, W] how much each pixel counts, of mean 1; None = alike. A normal counts as its centre.

    Returns:
      reg, conf, normal_s0 .. normal_s2. The mean over scales is in the coefficients (1/3 each).

    Raises:
      ValueError: shapes or mask dtype that do not fit, named.
    """
    prediction, target, mask, confidence = _cleaned(prediction, target, mask, confidence, 3)
    parts = _regression(prediction, target, mask, confidence, confidence_lambda)
    scales = normal_residuals(prediction, target, mask, NORMAL_STRIDES)
    for scale, (stride, (residual, count)) in enumerate(zip(NORMAL_STRIDES, scales, strict=True)):
        # A pixel's value is the sum over its valid cross products, which all use its confidence.
        c = confidence[..., ::stride, ::stride]
        values = _weighted(residual, c, count * (confidence_lambda * jnp.log(c)))
        parts[f"normal_s{scale}"] = Part(values, count > 0, count, 1 / len(NORMAL_STRIDES))
    return _counted_by(weight, parts, mask, NORMAL_STRIDES)


def _counted_by(weight, parts: dict[str, Part], mask, strides: tuple[int, ...]) -> dict[str, Part]:
    """The parts with every value times its pixel's weight; names end in `_s` and the place of their stride."""
    if weight is None:
        return parts
    _require_same("weight", weight, "mask", mask.shape)
    weight = jnp.where(mask, jax.lax.stop_gradient(weight), 0)
    weighted = {}
    for name, part in parts.items():
        stride = strides[int(name.rsplit("_s", 1)[1])] if "_s" in name else 1
        weighted[name] = dataclasses.replace(part, values=part.values * weight[..., ::stride, ::stride])
    return weighted


def _regression(prediction, target, mask, confidence, confidence_lambda) -> dict[str, Part]:
    """reg = mean e and conf = mean of e c - lambda log c, e = min(100, sqrt(|m - y|^2 + 1e-12))."""
    squared = jnp.square(prediction - target).sum(-1)
    error = jnp.minimum(jnp.sqrt(squared + 1e-12), CLAMP)
    return {
        "reg": Part(error, mask, mask),
        "conf": Part(_weighted(error, confidence, confidence_lambda * jnp.log(confidence)), mask, mask),
    }


def _gradient(error, mask, confidence, confidence_lambda) -> Part:
    """One scale of the depth gradient term, maps [..., h, w].

    A pair sits at its later pixel (right or lower), whose confidence it uses; the value of a pixel
    is the sum over its x and its y pair.
    """
    values, some, reward = 0.0, False, confidence_lambda * jnp.log(confidence)
    for axis in (-1, -2):
        pair = mask & _earlier(mask, axis)
        difference = jnp.where(pair, error - _earlier(error, axis), 0)
        # jnp.abs has derivative +1 at 0; this has sign(x), 0 at 0.
        residual = jnp.minimum(jax.lax.stop_gradient(jnp.sign(difference)) * difference, CLAMP)
        values = values + jnp.where(pair, _weighted(residual, confidence, reward), 0)
        some = some | pair
    return Part(values, some, mask, 1 / len(DEPTH_STRIDES))


def _earlier(array, axis: int):
    """The left (axis -1) or upper (axis -2) neighbour of every pixel, 0 or False outside."""
    padding = [(0, 0)] * array.ndim
    padding[axis] = (1, 0)
    size = array.shape[axis]
    return jax.lax.slice_in_dim(jnp.pad(array, padding), 0, size, axis=axis % array.ndim)


def _weighted(residual, confidence, reward):
    """r c - lambda log c, given reward = lambda log c."""
    return residual * confidence - reward


def _cleaned(prediction, target, mask, confidence, channels: int):
    """Checks shapes; float32 arrays with 0 (confidence: 1) at masked pixels."""
    prediction, target, mask, confidence = (jnp.asarray(a) for a in (prediction, target, mask, confidence))
    if mask.dtype != jnp.bool_:
        raise ValueError(f"'mask' must be bool, not {mask.dtype}.")
    if mask.ndim < 2:
        raise ValueError(f"'mask' has shape {mask.shape}, expected [..., H, W].")
    _require_same("prediction", prediction, "mask and channels", (*mask.shape, channels))
    _require_same("target", target, "prediction", prediction.shape)
    _require_same("confidence", confidence, "mask", mask.shape)
    dtype = jnp.result_type(prediction.dtype, jnp.float32)
    valid = mask[..., None]
    prediction = jnp.where(valid, prediction.astype(dtype), 0)
    target = jnp.where(valid, jax.lax.stop_gradient(target).astype(dtype), 0)
    return prediction, target, mask, jnp.where(mask, confidence.astype(dtype), 1)


def _require_same(name: str, array, other: str, expected: tuple[int, ...]) -> None:
    if tuple(jnp.shape(array)) != tuple(expected):
        raise ValueError(f"'{name}' has shape {tuple(jnp.shape(array))}, but '{other}' asks for {tuple(expected)}.")
