"""VGGT: pictures of one scene to depth, points and cameras (arXiv 2503.11651).

Written from a description of the published program, not from its code. Conventions of the outputs are the project's
(`spec.PREDICTIONS`): OpenCV axes, camera to world, z-depth, pixel centres at +0.5. The world is close to the frame of the first
valid view, but not exactly that, and its unit is one free scale a scene.

The published program unprojects depth through whole pixel numbers u, v and the same intrinsics, half a pixel from here; the
principal point is the picture's centre in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spatialsv_jax.backbones.layers import layer_norm
from spatialsv_jax.lifting.dpt import conv3
from spatialsv_jax.partitioning import Normal, declare
from spatialsv_jax.teachers.dpt import Output, Pyramid, add_sine, in_view_chunks, reassembly, resize_aligned
from spatialsv_jax.teachers.layers import Layers, PairedLayers, PatchTokens, patch_positions, rotary_turn
from spatialsv_jax.teachers.vggt.camera_head import CameraHead, decode_cameras
from spatialsv_jax.teachers.vggt.presets import ENCODER_EPSILON, EPSILON, PATCH, TABLE_SIDE, Sizes

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0..1


class PatchEncoder(nn.Module):
    """Pictures [B,S,H,W,3] in 0..1 to patch rows float32[B,S,h*w,C]; each view for itself."""

    sizes: Sizes

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        sizes = self.sizes
        mean, std = (jnp.asarray(np.reshape(part, (1, 1, 1, 1, 3)), jnp.float32) for part in (MEAN, STD))
        pixels = (pixels.astype(jnp.float32) - mean) / std
        tokens = PatchTokens(
            PATCH, sizes.width, TABLE_SIDE, "antialiased", sizes.registers, sizes.dtype, name="tokens"
        )(pixels)
        x = Layers(sizes.encoder_block(), sizes.encoder_layers, dtype=sizes.dtype, name="blocks")(tokens).x
        return layer_norm("norm", epsilon=ENCODER_EPSILON)(x[:, :, 1 + sizes.registers :])


class SpecialRows(nn.Module):
    """Patch rows [B,S,h*w,C] behind a view's special rows (camera, registers), float32[B,S,special+h*w,C].

    The first valid view has special rows of its own, all others share theirs; nothing else tells views apart.
    """

    sizes: Sizes

    @nn.compact
    def __call__(self, patches: jax.Array, view_valid: jax.Array | None) -> jax.Array:
        sizes = self.sizes
        stored = lambda name, rows: self.param(
            name, declare(Normal(0.02), "position", "embed"), (2 * rows, sizes.width), jnp.float32
        ).reshape(2, rows, sizes.width)
        special = jnp.concatenate([stored("camera", 1), stored("registers", sizes.special_registers)], axis=1)
        valid = jnp.ones(patches.shape[:2], bool) if view_valid is None else view_valid
        first = valid & (jnp.cumsum(valid, axis=1) == 1)
        return jnp.concatenate([special[jnp.where(first, 0, 1)], patches], axis=2)


class Aggregator(nn.Module):
    """Patch rows [B,S,h*w,C] to the states float32[4,B,S,special+h*w,2C] of the four taps, [within | across], without a norm."""

    sizes: Sizes

    @nn.compact
    def __call__(self, patches: jax.Array, grid: tuple[int, int], view_valid: jax.Array | None) -> jax.Array:
        sizes, block = self.sizes, self.sizes.pair_block()
        x = SpecialRows(sizes, name="special")(patches, view_valid)
        turn = rotary_turn(patch_positions(grid, sizes.special), block.head_dim)
        pairs = PairedLayers(block, sizes.pairs, sizes.taps, sizes.dtype, name="pairs")
        return pairs(x, (turn, turn), view_valid).taps


class DenseHead(nn.Module):
    """Four grids [B,S,h,w,2C] to `outputs` numbers a pixel, float32[B,S,14h,14w,outputs], without an activation."""

    sizes: Sizes
    outputs: int

    @nn.compact
    def __call__(self, grids: Sequence[jax.Array]) -> jax.Array:
        sizes = self.sizes
        number, views, rows, columns, _ = grids[0].shape
        aspect = columns / rows  # of the picture, whose sides are whole patches
        with jax.default_matmul_precision(sizes.head_precision):
            norm = layer_norm("norm", epsilon=EPSILON)
            folded = [norm(grid.reshape(-1, *grid.shape[2:])) for grid in grids]
            maps = reassembly(sizes.channels, sizes.features, aspect, jnp.float32, "reassembly")(folded)
            x = Pyramid(sizes.features, clipped=True, name="pyramid")(maps)
            x = conv3(sizes.features // 2, "neck", jnp.float32)(x)
            x = add_sine(resize_aligned(x, (PATCH * rows, PATCH * columns)), aspect)
            x = Output(self.outputs, name="output")(x)
        return x.reshape(number, views, *x.shape[1:])


class VGGT(nn.Module):
    """VGGT without its head for point tracks."""

    sizes: Sizes

    def setup(self):
        self.encoder = PatchEncoder(self.sizes)
        self.aggregator = Aggregator(self.sizes)
        self.camera_head = CameraHead(self.sizes.camera_block(), self.sizes.camera_layers)
        self.depth_head = DenseHead(self.sizes, 2)
        self.point_head = DenseHead(self.sizes, 4)

    def __call__(
        self,
        pixels: jax.Array,
        view_valid: jax.Array | None = None,
        features: int | None = None,
        points: bool = True,
    ) -> dict[str, jax.Array]:
        """Predictions of one batch of scenes.

        Args:
          pixels: float[B,S,H,W,3] in 0..1 (`preprocess`; they are normalised here), H and W multiples of 14.
          view_valid: bool[B,S], None = all; other views change nothing in these, and what they get means nothing.
          features: which tap (0..3) to hand out as "features", or None.
          points: whether to run the point head; depth and cameras give better points, says the published README.

        Returns:
          float32: depth, depth_confidence [B,S,H,W] (z-depth; confidence >= 1); points [B,S,H,W,3] in the world and
          points_confidence (unless left out); pose [B,S,9], camera_to_world [B,S,4,4], intrinsics [B,S,3,3]
          (`camera_head.decode_cameras`) of the last round; pose_rounds [4,B,S,9], the encodings of all rounds, world to
          camera; features [B,S,h*w,2C] if asked for, [within | across] without a norm.
        """
        size = pixels.shape[2:4]
        grid = (size[0] // PATCH, size[1] // PATCH)
        states = self.aggregator(self.encoder(pixels), grid, view_valid)
        patches = states[:, :, :, self.sizes.special :]
        rounds = self.camera_head(states[-1][:, :, 0], view_valid)
        pose, camera_to_world, intrinsics = decode_cameras(rounds[-1], size)
        predictions = {
            "pose": pose,
            "camera_to_world": camera_to_world,
            "intrinsics": intrinsics,
            "pose_rounds": rounds,
        }
        grids = [tap.reshape(*tap.shape[:2], *grid, tap.shape[-1]) for tap in patches]
        depth = in_view_chunks(self.depth_head, grids)
        predictions["depth"] = jnp.exp(depth[..., 0])
        predictions["depth_confidence"] = 1 + jnp.exp(depth[..., 1])
        if points or self.is_initializing():
            found = in_view_chunks(self.point_head, grids)
            predictions["points"] = jnp.sign(found[..., :3]) * jnp.expm1(jnp.abs(found[..., :3]))
            predictions["points_confidence"] = 1 + jnp.exp(found[..., 3])
        if features is not None:
            predictions["features"] = patches[features]
        return predictions
