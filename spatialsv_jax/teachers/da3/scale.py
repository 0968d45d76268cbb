"""Units of Depth Anything 3's depth: metres from the METRIC model, the nested pair's common scale, given cameras; and its sky.

Written from a description of the published program. `join_nested` has no reference numbers behind it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from spatialsv_jax.geometry import pose_matrix
from spatialsv_jax.teachers.da3.cameras import scale_to_given

FOCAL = 300.0  # pixels at which the METRIC model's output is metres
SKY = 0.3  # score from which a pixel is sky
SKY_QUANTILE, SKY_LIMIT = 0.99, 200.0
FEWEST_PIXELS = 10


def metric_depth(depth: jax.Array, intrinsics: jax.Array) -> jax.Array:
    """Metres [...,H,W] from the METRIC model's depth: times f / 300, f the mean of fx and fy.

    Args:
      depth: [...,H,W] as the model gives it.
      intrinsics: [...,3,3] in pixels of the picture that the model saw.
    """
    focal = (intrinsics[..., 0, 0] + intrinsics[..., 1, 1]) / 2
    return depth * (focal / FOCAL)[..., None, None]


def fill_sky(depth: jax.Array, sky: jax.Array, view_valid: jax.Array | None = None) -> jax.Array:
    """Depth [B,S,H,W] with the 99 % quantile of a sample's other pixels in its sky.

    Nothing changes where sky or other pixels are 10 or fewer. The published program takes the quantile of a random part of
    more than 100,000 pixels; here all count.
    """
    is_sky, counts = sky >= SKY, _counting(depth, view_valid)
    far = _quantile(depth, ~is_sky & counts)
    enough = jnp.minimum((is_sky & counts).sum((1, 2, 3)), (~is_sky & counts).sum((1, 2, 3))) > FEWEST_PIXELS
    return jnp.where(is_sky & enough[:, None, None, None], far[:, None, None, None], depth)


def join_nested(any_view: dict, metric: dict, view_valid: jax.Array | None = None) -> dict:
    """The nested pair's result: any-view predictions in metres.

    The scale s is the least-squares fit of the metric depth by s times the any-view depth, over pixels that are no sky, with at
    least the median confidence (of those), depth > 1e-3 and metric depth > 1e-2. Depth and camera centres are multiplied by it;
    sky gets the smaller of the other pixels' 99 % quantile and 200.

    Args:
      any_view: of `AnyViewModel`.
      metric: of `MonoModel` with the metric weights, on the same pictures.
      view_valid: bool[B,S], None = all.

    Returns:
      `any_view` with depth, camera_to_world, pose and ray in metres, and scale [B], sky bool[B,S,H,W], in_metres bool[B]: False, and
      the scale 1, where no pixel could be used.
    """
    depth = any_view["depth"]
    metres = metric_depth(metric["depth"], any_view["intrinsics"])
    is_sky, counts = metric["sky"] >= SKY, _counting(depth, view_valid)
    other, confidence = ~is_sky & counts, any_view["depth_confidence"]
    median = _quantile(confidence, other, 0.5)[:, None, None, None]
    used = other & (confidence >= median) & (depth > 1e-3) & (metres > 1e-2)
    total = lambda value: jnp.where(used, value, 0).sum((1, 2, 3))
    square = total(depth * depth)
    scale = jnp.where(square > 0, total(depth * metres) / jnp.where(square > 0, square, 1), 1.0)
    scaled = depth * scale[:, None, None, None]
    far = jnp.minimum(_quantile(scaled, other), SKY_LIMIT)[:, None, None, None]
    lengths = lambda x, slots: x.at[..., slots].multiply(scale.reshape(-1, *(1,) * (x.ndim - 1)))
    poses = any_view["camera_to_world"]
    return any_view | {
        "depth": jnp.where(is_sky & jnp.isfinite(far), far, scaled),
        "camera_to_world": pose_matrix(poses[..., :3, :3], poses[..., :3, 3] * scale[:, None, None]),
        "pose": lengths(any_view["pose"], slice(0, 3)),
        "ray": lengths(any_view["ray"], slice(0, 3)),
        "scale": scale,
        "sky": is_sky,
        "in_metres": square > 0,
    }


def adopt_cameras(
    predictions: dict, camera_to_world: jax.Array, intrinsics: jax.Array, view_valid: jax.Array | None = None
) -> dict:
    """Predictions conditioned on cameras with these cameras in place of the predicted ones, depth in their unit.

    The rays, which are in the predicted world, and the pose are left out.
    """
    scale = scale_to_given(predictions["camera_to_world"], camera_to_world, view_valid)
    kept = {name: value for name, value in predictions.items() if name not in ("ray", "ray_confidence", "pose")}
    depth = predictions["depth"] / scale[:, None, None, None]
    return kept | {"depth": depth, "camera_to_world": camera_to_world, "intrinsics": intrinsics}


def _counting(depth: jax.Array, view_valid: jax.Array | None) -> jax.Array:
    if view_valid is None:
        return jnp.ones(depth.shape, bool)
    return jnp.broadcast_to(view_valid[..., None, None], depth.shape)


def _quantile(values: jax.Array, mask: jax.Array, quantile: float = SKY_QUANTILE) -> jax.Array:
    """[B], linear between values; NaN where a sample has no pixel."""
    flat = jnp.where(mask, values, jnp.nan).reshape(len(values), -1)
    return jnp.nanquantile(flat, quantile, axis=-1)
