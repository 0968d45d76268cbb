"""Depth Anything 3's cameras: encoder (given cameras to tokens), decoder (last tap to cameras), the nine numbers between.

An encoding is [camera centre (3), quaternion x y z w of the camera-to-world rotation (4), vertical and horizontal field of
view in radians (2)], as `spec.PREDICTIONS["pose"]`: camera to world, OpenCV axes. (The published program hands out the inverse,
world to camera; VGGT's encoding has the same slots and means world to camera.) Everything is float32 with full products.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from spatialsv_jax.backbones.layers import dense, layer_norm
from spatialsv_jax.geometry import invert_pose, pose_matrix, quaternion_of, umeyama
from spatialsv_jax.teachers.camera_encoding import rotation_of
from spatialsv_jax.teachers.layers import BlockConfig, Layers

ENCODER_HEADS, ENCODER_BLOCKS = 16, 4  # whatever the width
LEAST_DISTANCE = 0.1  # given cameras are divided by at least this
LEAST_TANGENT = 1e-6  # of half a field of view


class CameraDecoder(nn.Module):
    """The camera rows [B,S,2C] of the last tap, not normed, to encodings float32[B,S,9]."""

    @nn.compact
    def __call__(self, rows: jax.Array) -> jax.Array:
        width = rows.shape[-1]
        with jax.default_matmul_precision("highest"):
            x = nn.relu(dense(width, ("embed", "mlp"), "first", bias=True)(rows.astype(jnp.float32)))
            x = nn.relu(dense(width, ("embed", "mlp"), "second", bias=True)(x))
            read = lambda outputs, name: dense(outputs, ("embed", "output"), name, bias=True)(x)
            fields = nn.relu(read(2, "field_of_view"))
            return jnp.concatenate([read(3, "translation"), read(4, "quaternion"), fields], -1)


class CameraEncoder(nn.Module):
    """Encodings [B,S,9] of given cameras (normalised: `normalise_poses`) to class rows float32[B,S,C]."""

    width: int

    @nn.compact
    def __call__(self, encoding: jax.Array, view_valid: jax.Array | None = None) -> jax.Array:
        block = BlockConfig(self.width, ENCODER_HEADS, 4 * self.width, epsilon=1e-5, attention="xla")
        with jax.default_matmul_precision("highest"):
            x = dense(self.width // 2, ("patch", "mlp"), "up", bias=True)(encoding.astype(jnp.float32))
            x = dense(self.width, ("mlp", "embed"), "down", bias=True)(nn.gelu(x, approximate=False))
            x = layer_norm("token_norm", epsilon=1e-5)(x)
            # The rows of a sample are its views: one row a view, attention across.
            trunk = Layers(block, ENCODER_BLOCKS, across=True, name="trunk")
            x = trunk(x[:, :, None], None, view_valid).x[:, :, 0]
            return layer_norm("trunk_norm", epsilon=1e-5)(x)


def encode_cameras(camera_to_world: jax.Array, intrinsics: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Encodings [...,9] of camera_to_world [...,4,4] and intrinsics [...,3,3] in pixels of a picture of `size` (H, W)."""
    fields = [2 * jnp.arctan(side / (2 * intrinsics[..., axis, axis])) for side, axis in zip(size, (1, 0), strict=True)]
    rotation = quaternion_of(camera_to_world[..., :3, :3])
    return jnp.concatenate([camera_to_world[..., :3, 3], rotation, jnp.stack(fields, -1)], -1)


def decode_cameras(encoding: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """(camera_to_world [...,4,4], intrinsics [...,3,3] in pixels of a picture of `size` (H, W)) of encodings [...,9].

    The quaternion need not have length 1; that of zeros is the identity. The principal point is the picture's centre, (W/2, H/2) from the corner.
    """
    focal_y, focal_x = (
        side / 2 / jnp.maximum(jnp.tan(encoding[..., slot] / 2), LEAST_TANGENT)
        for side, slot in zip(size, (7, 8), strict=True)
    )
    zero, one = jnp.zeros_like(focal_x), jnp.ones_like(focal_x)
    rows = [
        [focal_x, zero, one * (size[1] / 2)],
        [zero, focal_y, one * (size[0] / 2)],
        [zero, zero, one],
    ]
    intrinsics = jnp.stack([jnp.stack(row, -1) for row in rows], -2)
    return pose_matrix(rotation_of(encoding[..., 3:7]), encoding[..., :3]), intrinsics


def normalise_poses(camera_to_world: jax.Array, view_valid: jax.Array | None = None) -> jax.Array:
    """Given poses as the encoder expects them: in the first valid view's frame, over the median distance from it.

    The median is the lower one, view 0's distance 0 is among them, and it is taken as at least 0.1.

    Args:
      camera_to_world: [B,S,4,4].
      view_valid: bool[B,S], None = all.
    """
    valid = jnp.ones(camera_to_world.shape[:2], bool) if view_valid is None else view_valid
    first = jnp.argmax(valid, -1)[:, None, None, None]
    origin = invert_pose(jnp.take_along_axis(camera_to_world, first, 1))
    poses = jnp.matmul(origin, camera_to_world, precision="highest")
    distance = jnp.where(valid, jnp.sqrt(jnp.square(poses[..., :3, 3]).sum(-1)), jnp.inf)
    middle = jnp.maximum(valid.sum(-1, keepdims=True) - 1, 0) // 2
    median = jnp.take_along_axis(jnp.sort(distance, -1), middle, -1)
    scale = jnp.maximum(jnp.where(jnp.isfinite(median), median, 1), LEAST_DISTANCE)
    return pose_matrix(poses[..., :3, :3], poses[..., :3, 3] / scale[..., None])


def scale_to_given(predicted: jax.Array, given: jax.Array, view_valid: jax.Array | None = None) -> jax.Array:
    """[B]: by what predicted depth is divided where cameras were given, so that it has their unit.

    It is the scale of the similarity that maps the given camera centres onto the predicted ones (Umeyama). The published program
    fits it by RANSAC from ten views on; here all valid views count.

    Args:
      predicted, given: camera_to_world [B,S,4,4].
      view_valid: bool[B,S], None = all.
    """
    weights = None if view_valid is None else view_valid.astype(jnp.float32)
    return umeyama(given[..., :3, 3], predicted[..., :3, 3], weights)[2]
