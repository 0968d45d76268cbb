"""Depth Anything 3, any-view form: pictures of one scene to depth, rays and cameras (arXiv 2511.10647).

Written from a description of the published program, not from its code. Conventions of the outputs are the project's
(`spec.PREDICTIONS`): OpenCV axes, camera to world, rays [origin, direction], pixel centres at +0.5. The world is the one the
model chooses, close to the frame of its reference view but not exactly that, and its unit is one free scale a scene.
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
from spatialsv_jax.teachers.da3.cameras import (
    CameraDecoder,
    CameraEncoder,
    decode_cameras,
    encode_cameras,
    normalise_poses,
)
from spatialsv_jax.teachers.da3.presets import PATCH, Sizes
from spatialsv_jax.teachers.da3.reference_view import choose_reference
from spatialsv_jax.teachers.dpt import Output, Pyramid, add_sine, in_view_chunks, reassembly, resize_aligned
from spatialsv_jax.teachers.layers import Block, Layers, PairedLayers, PatchTokens, patch_positions, rotary_turn

RAY_CONVOLUTIONS = 5


class Backbone(nn.Module):
    """Pictures to four taps: blocks within each view, then from `alt_start` on every odd block across all views.

    The published program moves the reference view to the front. Nothing here depends on the order of the views, so the
    reference is only marked by its token, and all arrays stay in the order of the pictures.
    """

    sizes: Sizes

    @nn.compact
    def __call__(
        self,
        pixels: jax.Array,
        view_valid: jax.Array | None,
        camera_rows: jax.Array | None,
        reference: jax.Array | None,
        strategy: str,
    ) -> tuple[list[jax.Array], jax.Array, jax.Array]:
        """(four grids [B,S,h,w,2C] for the head, camera rows [B,S,2C], reference int32[B]); see `AnyViewModel`."""
        sizes = self.sizes
        plain, mixed = sizes.block(), sizes.block(qk_norm=True)
        number, views, height, width, _ = pixels.shape
        grid = (height // PATCH, width // PATCH)
        x = PatchTokens(PATCH, sizes.width, sizes.table_side, "offset", dtype=sizes.dtype, name="tokens")(pixels)
        x, _, rows = Layers(plain, sizes.alt_start, dtype=sizes.dtype, name="plain")(x)
        # The class rows that enter block alt_start - 1, which still sees each view alone: the order of the two does not matter.
        if reference is None:
            strategy = "first" if camera_rows is not None else strategy
            reference = choose_reference(rows[sizes.alt_start - 2], strategy, view_valid)
        tokens = self.param("camera", declare(Normal(0.02), "position", "embed"), (2, sizes.width), jnp.float32)
        if camera_rows is None:
            is_reference = jnp.arange(views)[None] == reference[:, None]
            camera_rows = tokens[jnp.where(is_reference, 0, 1)]
        x = jnp.concatenate([camera_rows[:, :, None], x[:, :, 1:]], axis=2)
        within = patch_positions(grid, special=1)
        across = np.minimum(within, 1)  # all patches stand at (1, 1): only camera rows and patches differ
        turns = tuple(rotary_turn(positions, mixed.head_dim) for positions in (within, across))
        start = sizes.alt_start
        if start % 2:  # an odd first block sees all views at once
            x = Block(mixed, sizes.dtype, across=True, name="lone")(x, turns[1], view_valid)
            start += 1
        taps = tuple((tap - start) // 2 for tap in sizes.taps)
        pairs = PairedLayers(mixed, (sizes.layers - start) // 2, taps, sizes.dtype, sizes.unroll, name="pairs")
        states = pairs(x, turns, view_valid).taps
        norm = layer_norm("norm", epsilon=1e-5)
        grids = []
        for state in states:  # [within | across]: only the second half is normed
            first, second = jnp.split(state[:, :, 1:], 2, axis=-1)
            features = jnp.concatenate([first, norm(second)], -1)
            grids.append(features.reshape(number, views, *grid, 2 * sizes.width))
        return grids, states[-1][:, :, 0], reference


class DualHead(nn.Module):
    """Four grids [B,S,h,w,2C] to depth at the picture's size and rays at 8/14 of it, float32.

    Both branches read the same four maps and have pyramids of their own.
    """

    sizes: Sizes

    @nn.compact
    def __call__(self, grids: Sequence[jax.Array]) -> dict[str, jax.Array]:
        sizes = self.sizes
        number, views, rows, columns, _ = grids[0].shape
        size = (PATCH * rows, PATCH * columns)
        aspect, half = columns / rows, sizes.features // 2
        unfold = lambda x: x.reshape(number, views, *x.shape[1:])
        with jax.default_matmul_precision(sizes.head_precision):
            norm = layer_norm("norm", epsilon=1e-5)
            folded = [norm(grid.reshape(-1, *grid.shape[2:])) for grid in grids]
            maps = reassembly(sizes.channels, sizes.features, aspect, jnp.float32, "reassembly")(folded)
            x = conv3(half, "neck", jnp.float32)(Pyramid(sizes.features, name="pyramid")(maps))
            depth = unfold(Output(2, name="output")(add_sine(resize_aligned(x, size), aspect)))
            x = Pyramid(sizes.features, name="ray_pyramid")(maps)
            for number_of in range(RAY_CONVOLUTIONS):  # nothing between them
                x = conv3(sizes.features if number_of % 2 else half, f"ray_neck_{number_of}", jnp.float32)(x)
            ray = unfold(Output(7, norm=True, name="ray_output")(add_sine(x, aspect)))
        return {
            "depth": jnp.exp(depth[..., 0]),
            "depth_confidence": 1 + jnp.exp(depth[..., 1]),
            "ray": jnp.concatenate([ray[..., 3:6], ray[..., :3]], -1),  # theirs: direction before origin
            "ray_confidence": 1 + jnp.exp(ray[..., 6]),
        }


class AnyViewModel(nn.Module):
    """Depth Anything 3 SMALL, BASE, LARGE or GIANT."""

    sizes: Sizes

    def setup(self):
        self.backbone = Backbone(self.sizes)
        self.head = DualHead(self.sizes)
        self.camera_decoder = CameraDecoder()
        self.camera_encoder = CameraEncoder(self.sizes.width)

    def __call__(
        self,
        pixels: jax.Array,
        view_valid: jax.Array | None = None,
        cameras: tuple[jax.Array, jax.Array] | None = None,
        reference: jax.Array | None = None,
        strategy: str = "saddle_balanced",
        features: int | None = None,
    ) -> dict[str, jax.Array]:
        """Predictions of one batch of scenes.

        Args:
          pixels: float[B,S,H,W,3], colours normalised (`preprocess`), H and W multiples of 14.
          view_valid: bool[B,S], None = all; other views change nothing in these, and what they get means nothing.
          cameras: (camera_to_world [B,S,4,4], intrinsics [B,S,3,3] in pixels of H x W) to condition on, or None. Results are
            still predictions, in the model's own unit (`scale.adopt_cameras`).
          reference: int32[B], the view to take as reference; None: chosen by `strategy`. Without effect where cameras are given.
          strategy: one of `reference_view.STRATEGIES`.
          features: which tap (0..3) to hand out as "features", or None.

        Returns:
          float32: depth, depth_confidence [B,S,H,W] (z-depth; confidence >= 1); ray [B,S,8h,8w,6] = [origin, direction],
          ray_confidence, of h x w patches, each cell the middle of its part of the picture, direction as R K^-1 p up to scale;
          pose [B,S,9] (`cameras`), camera_to_world [B,S,4,4] and intrinsics [B,S,3,3] decoded from it; reference int32[B];
          features [B,S,h*w,2C] if asked for.
        """
        size = pixels.shape[2:4]
        camera_rows = None
        if cameras is not None or self.is_initializing():
            poses, intrinsics = cameras if cameras is not None else _any_cameras(pixels.shape[:2])
            encoding = encode_cameras(normalise_poses(poses, view_valid), intrinsics, size)
            encoded = self.camera_encoder(encoding, view_valid)
            camera_rows = None if cameras is None else encoded
        grids, rows, reference = self.backbone(pixels, view_valid, camera_rows, reference, strategy)
        pose = self.camera_decoder(rows)
        camera_to_world, intrinsics = decode_cameras(pose, size)
        predictions = in_view_chunks(self.head, grids)
        predictions |= {
            "pose": pose,
            "camera_to_world": camera_to_world,
            "intrinsics": intrinsics,
            "reference": reference,
        }
        if features is not None:
            tap = grids[features]
            predictions["features"] = tap.reshape(*tap.shape[:2], -1, tap.shape[-1])
        return predictions


def _any_cameras(lead: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    eye = lambda side: jnp.broadcast_to(jnp.eye(side)[None, None], (*lead, side, side))
    return eye(4), eye(3)
