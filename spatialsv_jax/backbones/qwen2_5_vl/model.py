"""Qwen2.5-VL (arXiv 2502.13923).

A picture is float32[h,w,3], h and w multiples of patch_size * merge; two frames of a video are
float32[2,h,w,3]. Their patches are kept window after window from the first layer to the merger, so
that attention within windows needs no shuffling; windows at the right and lower edge may be partly
empty, and the empty places are never attended to. Pictures of a sample that differ in size stand at
the upper left of a common canvas, with `feature_valid` False outside of them.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spatialsv_jax.backbones.attention import self_attention
from spatialsv_jax.backbones.decoder import Decoder
from spatialsv_jax.backbones.layers import SwiGLU, dense, rms_norm, scan_layers
from spatialsv_jax.backbones.multimodal import MultimodalBackbone
from spatialsv_jax.backbones.vision_layers import (
    VisionAttention,
    WindowOrder,
    attend_windows,
    cut_patches,
    fold_pictures,
    real_patches,
    rotary_2d,
    window_order,
)
from spatialsv_jax.partitioning import declare, lecun

_EPSILON = 1e-6  # of all norms of the encoder and the merger; fixed in the published model


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision encoder; the defaults are those of all published sizes."""

    image_size: tuple = (448, 448)  # (height, width) of training pictures
    patch_size: int = 14
    frames: int = 2  # frames of a patch; a still picture counts as all of them
    width: int = 1280
    layers: int = 32
    heads: int = 16
    mlp_width: int = 3420
    merge: int = 2
    window_size: int = 112  # pixels
    full_attention_layers: tuple = (7, 15, 23, 31)  # the others attend within windows
    trainable: bool = False  # False: stop_gradient before the merger

    def __post_init__(self):
        unit = self.patch_size * self.merge
        if len(self.image_size) != 2 or any(side < unit or side % unit for side in self.image_size):
            raise ValueError(
                f"vision.image_size {self.image_size} must be (height, width), multiples of patch_size * merge = {unit}."
            )
        if self.window_size % unit:
            raise ValueError(f"vision.window_size {self.window_size} is no multiple of patch_size * merge = {unit}.")
        if self.width % self.heads or self.width // self.heads % 4:
            raise ValueError(f"vision.width {self.width} must be 4 x a whole number x heads {self.heads}.")
        if wrong := [layer for layer in self.full_attention_layers if not 0 <= layer < self.layers]:
            raise ValueError(f"vision.full_attention_layers {wrong} do not exist; there are {self.layers} layers.")


class _Block(nn.Module):
    """One pre-norm layer; the scan's body."""

    config: VisionConfig
    dtype: str
    window: int
    attention: str

    @nn.compact
    def __call__(self, x, full, turn, real):
        normed = rms_norm("attention_norm", self.dtype, _EPSILON)(x)

        def whole(query, key, value, real):
            out = self_attention(query, key, value, causal=False, real=real, backend=self.attention)
            return out.astype(jnp.float32)

        def among(query, key, value):
            windows = functools.partial(attend_windows, window=self.window)
            return jax.lax.cond(full, whole, windows, query, key, value, real)

        x = x + VisionAttention(self.config.heads, self.dtype, name="attention")(normed, among, turn)
        normed = rms_norm("mlp_norm", self.dtype, _EPSILON)(x)
        return x + SwiGLU(self.config.mlp_width, self.dtype, bias=True, name="mlp")(normed), None


class VisionEncoder(nn.Module):
    """Pictures [n,h,w,3] or pairs of frames [n,2,h,w,3] to patches [n,r,D] in `order`."""

    config: VisionConfig
    dtype: str
    attention: str

    @nn.compact
    def __call__(self, pixels: jax.Array, order: WindowOrder, real: jax.Array | None) -> jax.Array:
        config = self.config
        size, still = config.patch_size**2 * 3, pixels.ndim == 4
        kernel = self.param(
            "patch", declare(lecun, "patch", "embed"), (config.frames * size, config.width), jnp.float32
        )
        if still:
            kernel = kernel.reshape(config.frames, size, config.width).sum(0)
        patches = cut_patches(pixels.astype(self.dtype), config.patch_size)
        x = jnp.matmul(patches, kernel.astype(self.dtype))
        x = jnp.take(x, order.patches, axis=1, mode="fill", fill_value=0)
        angle = rotary_2d(order.rows, order.columns, config.width // config.heads)
        turn = (jnp.asarray(np.cos(angle)), jnp.asarray(np.sin(angle)))
        full = np.isin(np.arange(config.layers), config.full_attention_layers)
        blocks = scan_layers(_Block, config.layers, (0, nn.broadcast, nn.broadcast))
        return blocks(config, self.dtype, order.window, self.attention, name="layers")(
            x, jnp.asarray(full), turn, real
        )[0]


class Merger(nn.Module):
    """Patches [n,r,D] to tokens [n,r/m^2,width]: norm, each merge block in one row, two linear layers."""

    merge: int
    width: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = rms_norm("norm", self.dtype, _EPSILON)(x)
        x = x.reshape(x.shape[0], -1, self.merge**2 * x.shape[-1])
        x = dense(x.shape[-1], ("patch", "mlp"), "up", True, self.dtype)(x)
        return dense(self.width, ("mlp", "embed"), "down", True, self.dtype)(nn.gelu(x, approximate=False))


class Qwen25VL(MultimodalBackbone):
    """See `backbones.base.Backbone`. `pixel_values` is float32[B,V,h,w,3] or, of a video, [B,V,2,h,w,3]."""

    vision_config: VisionConfig

    def setup(self):
        dtype = self.language_config.dtype
        self.vision = VisionEncoder(self.vision_config, dtype, self.language_config.attention)
        self.projector = Merger(self.vision_config.merge, self.language_config.width, dtype)
        self.language = Decoder(self.language_config)

    def grid_hw(self, batch: dict) -> tuple[int, int]:
        """Rows and columns of the lifting grid."""
        unit = self.vision_config.patch_size * self.vision_config.merge
        height, width = batch["pixel_values"].shape[-3:-1]
        return height // unit, width // unit

    def encode_pictures(self, batch: dict) -> jax.Array:
        """Patches [B,V,r,C] of all pictures, window after window."""
        pixels, order = batch["pixel_values"], self._order(batch)
        real = real_patches(batch, order, self.vision_config.merge**2)
        x = self.vision(fold_pictures(pixels), order, real)
        return x.reshape(*pixels.shape[:2], *x.shape[1:])

    def project(self, features: jax.Array, batch: dict) -> jax.Array:
        """Merged tokens [B,V,P,D], row-major."""
        tokens = self.projector(fold_pictures(features))[:, self._order(batch).merged]
        return tokens.reshape(*features.shape[:2], *tokens.shape[1:])

    def _order(self, batch: dict) -> WindowOrder:
        config, (rows, columns) = self.vision_config, self.grid_hw(batch)
        return window_order(
            rows * config.merge, columns * config.merge, config.window_size // config.patch_size, config.merge
        )
