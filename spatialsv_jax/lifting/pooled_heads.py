"""Heads that say one thing per view or per sample: the camera as a vector, the scene's size in metres.

Both are extensions of ours (docs/method.md, 3.8), read from the mean of the projected taps over a view's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from spatialsv_jax.lifting.projectors import Projector

POOLED_HEADS = ("pose", "scale")
_SCALE_LIMIT = 8.0  # log metres


def pooled_heads(
    heads: Sequence[str], width: int, dtype: str, readouts: Sequence[jax.Array], view_valid: jax.Array
) -> dict[str, jax.Array]:
    """Predictions of those of `heads` that are pooled; to be called in a compact method.

    Args:
      heads: names; others than `POOLED_HEADS` are passed over.
      width: of the hidden layer.
      dtype: of the hidden layer; outputs are float32.
      readouts: four of [B,V,h,w,C].
      view_valid: bool[B,V]; views of padding do not enter the sample's mean.

    Returns:
      "pose" float32[B,V,9]: t, a unit quaternion x, y, z, w and two angles in (0, pi); "scene_scale" float32[B] > 0.
    """
    predictions = {}
    if not set(heads) & set(POOLED_HEADS):
        return predictions
    pooled = jnp.concatenate([readout.mean((2, 3)) for readout in readouts], -1)
    if "pose" in heads:
        raw = Projector(width, 9, "output", dtype, name="pose")(pooled).astype(jnp.float32)
        # Starts at the identity: an untrained head turns nothing.
        quaternion = jnp.concatenate([raw[..., 3:6], 1 + raw[..., 6:7]], -1)
        norm = jnp.sqrt(jnp.square(quaternion).sum(-1, keepdims=True) + 1e-12)
        angles = jnp.pi * nn.sigmoid(raw[..., 7:])
        predictions["pose"] = jnp.concatenate([raw[..., :3], quaternion / norm, angles], -1)
    if "scale" in heads:
        valid = view_valid[..., None]
        mean = jnp.where(valid, pooled, 0).sum(1) / jnp.maximum(valid.sum(1), 1)
        raw = Projector(width, 1, "output", dtype, name="scale")(mean.astype(pooled.dtype)).astype(jnp.float32)
        predictions["scene_scale"] = jnp.exp(jnp.clip(raw[..., 0], -_SCALE_LIMIT, _SCALE_LIMIT))
    return predictions
