"""Depth Anything 3's MONO and METRIC models: every picture by itself to depth and a score of sky.

MONO gives relative depth (not disparity), METRIC depth that becomes metres by `scale.metric_depth`. Neither gives cameras or a
confidence. Depth of sky pixels is made up: mask it, or fill it as the published program does (`scale.fill_sky`).
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from spatialsv_jax.backbones.layers import layer_norm
from spatialsv_jax.lifting.dpt import conv3
from spatialsv_jax.teachers.da3.presets import PATCH, Sizes
from spatialsv_jax.teachers.dpt import Output, Pyramid, in_view_chunks, reassembly, resize_aligned
from spatialsv_jax.teachers.layers import Layers, PatchTokens


class MonoBackbone(nn.Module):
    """Pictures [B,S,H,W,3] to four normed grids [B,S,h,w,C]: a plain DINOv2."""

    sizes: Sizes

    @nn.compact
    def __call__(self, pixels: jax.Array) -> list[jax.Array]:
        sizes = self.sizes
        number, views, height, width, _ = pixels.shape
        x = PatchTokens(PATCH, sizes.width, sizes.table_side, "offset", dtype=sizes.dtype, name="tokens")(pixels)
        states = Layers(sizes.block(), sizes.layers, sizes.taps, sizes.dtype, name="plain")(x).taps
        norm = layer_norm("norm", epsilon=1e-5)
        shape = (number, views, height // PATCH, width // PATCH, sizes.width)
        return [norm(state[:, :, 1:]).reshape(shape) for state in states]


class MonoHead(nn.Module):
    """Four grids to depth and sky; no norm before and no sine embedding, unlike the any-view head."""

    sizes: Sizes

    @nn.compact
    def __call__(self, grids: Sequence[jax.Array]) -> dict[str, jax.Array]:
        sizes = self.sizes
        number, views, rows, columns, _ = grids[0].shape
        with jax.default_matmul_precision(sizes.head_precision):
            folded = [grid.reshape(-1, *grid.shape[2:]) for grid in grids]
            maps = reassembly(sizes.channels, sizes.features, None, jnp.float32, "reassembly")(folded)
            x = conv3(sizes.features // 2, "neck", jnp.float32)(Pyramid(sizes.features, name="pyramid")(maps))
            x = resize_aligned(x, (PATCH * rows, PATCH * columns))
            read = lambda name: Output(1, name=name)(x)[..., 0].reshape(number, views, *x.shape[1:3])
            return {"depth": jnp.exp(read("output")), "sky": nn.relu(read("sky_output"))}


class MonoModel(nn.Module):
    """Depth Anything 3 MONO-LARGE or METRIC-LARGE."""

    sizes: Sizes

    def setup(self):
        self.backbone = MonoBackbone(self.sizes)
        self.head = MonoHead(self.sizes)

    def __call__(self, pixels: jax.Array) -> dict[str, jax.Array]:
        """depth > 0 and sky >= 0, float32[B,S,H,W], of normalised pictures float[B,S,H,W,3]; sky from 0.3 on is sky."""
        return in_view_chunks(self.head, self.backbone(pixels))
