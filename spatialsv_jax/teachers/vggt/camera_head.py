"""VGGT's cameras: the head that refines them in four rounds, and what its nine numbers mean.

An encoding of the head is [world-to-camera translation (3), world-to-camera quaternion x y z w of any length (4), vertical and
horizontal field of view in radians (2)]. `decode_cameras` gives the project's conventions: camera to world. (Depth Anything 3's
encoding has the same slots and means camera to world.) Everything is float32 with full products.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from spatialsv_jax.backbones.layers import dense, layer_norm
from spatialsv_jax.geometry import invert_pose, pose_matrix, quaternion_of
from spatialsv_jax.partitioning import Normal, declare
from spatialsv_jax.teachers.camera_encoding import clip_fields, intrinsics_of, rotation_of
from spatialsv_jax.teachers.layers import BlockConfig, Layers
from spatialsv_jax.teachers.vggt.presets import EPSILON, ITERATIONS

ENCODING = 9
ADAPTIVE_EPSILON = 1e-6  # of the norm without weights that the pose scales and shifts


class _Round(nn.Module):
    """Scan body: (encoding to show, encoding so far), both [B,S,9], to those of the next round and what this one gives."""

    block: BlockConfig
    layers: int

    @nn.compact
    def __call__(self, carry, tokens, view_valid):
        shown, encoding = carry
        width = tokens.shape[-1]
        x = dense(width, ("patch", "embed"), "embed_pose", bias=True)(shown)
        x = dense(3 * width, ("embed", "mlp"), "modulation", bias=True)(nn.silu(x))
        shift, scale, gate = jnp.split(x, 3, axis=-1)
        bare = nn.LayerNorm(epsilon=ADAPTIVE_EPSILON, use_bias=False, use_scale=False, name="adaptive_norm")(tokens)
        x = gate * (bare * (1 + scale) + shift) + tokens
        # The rows of a sample are its views: one row a view, attention across.
        trunk = Layers(self.block, self.layers, across=True, name="trunk")
        x = layer_norm("trunk_norm", epsilon=EPSILON)(trunk(x[:, :, None], None, view_valid).x[:, :, 0])
        x = nn.gelu(dense(width // 2, ("embed", "mlp"), "up", bias=True)(x), approximate=False)
        encoding = encoding + dense(ENCODING, ("mlp", "output"), "down", bias=True)(x)
        given = jnp.concatenate([encoding[..., :7], nn.relu(encoding[..., 7:])], -1)
        fed_back = jax.lax.stop_gradient(encoding)  # not clipped
        return (fed_back, fed_back), given


class CameraHead(nn.Module):
    """Camera rows [B,S,D] of the aggregator's last pair to the encodings float32[4,B,S,9] of all rounds.

    All rounds have the same weights and start from the same rows; gradients do not cross from one round to the one before.
    `view_valid` bool[B,S], None = all: other views are not seen.
    """

    block: BlockConfig
    layers: int

    @nn.compact
    def __call__(self, rows: jax.Array, view_valid: jax.Array | None = None) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            tokens = layer_norm("token_norm", epsilon=EPSILON)(rows.astype(jnp.float32))
            empty = self.param("empty_pose", declare(Normal(0.02), "position", "patch"), (1, ENCODING), jnp.float32)
            shown = jnp.broadcast_to(empty[None], (*tokens.shape[:2], ENCODING))
            rounds = nn.scan(
                _Round,
                variable_axes={"intermediates": 0},
                variable_broadcast="params",
                split_rngs={"params": False},
                in_axes=nn.broadcast,
                length=ITERATIONS,
            )(self.block, self.layers, name="rounds")
            _, given = rounds((shown, jnp.zeros_like(shown)), tokens, view_valid)
        return given


def decode_cameras(encoding: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cameras of the head's encodings [...,9].

    Args:
      encoding: world to camera, fields of view (vertical, horizontal); 0 among them is clipped, `camera_encoding.clip_fields`.
      size: (H, W) of the pictures.

    Returns:
      (pose [...,9] as `spec.PREDICTIONS` has it: camera centre, quaternion x y z w of camera_to_world with w >= 0, vertical and
      horizontal field of view; camera_to_world [...,4,4]; intrinsics [...,3,3] in pixels, the principal point in the middle).
    """
    world_to_camera = pose_matrix(rotation_of(encoding[..., 3:7]), encoding[..., :3])
    camera_to_world = invert_pose(world_to_camera)
    fields = encoding[..., 7:]
    rotation = quaternion_of(camera_to_world[..., :3, :3])
    pose = jnp.concatenate([camera_to_world[..., :3, 3], rotation, clip_fields(fields)], -1)
    return pose, camera_to_world, intrinsics_of(fields, size)
