"""LLaVA-OneVision-1.5 (arXiv 2509.23661).

A picture, or a frame of a video, is float32[h,w,3], h and w multiples of patch_size * merge; it attends to
itself alone, behind a class token of its own whose rotary angles are learned. Pictures of a sample that differ
in size stand at the upper left of a common canvas, with `feature_valid` False outside of them.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from spatialsv_jax.backbones.decoder import Decoder
from spatialsv_jax.backbones.layers import dense, layer_norm
from spatialsv_jax.backbones.multimodal import MultimodalBackbone
from spatialsv_jax.backbones.vision_layers import (
    VitConfig,
    WindowOrder,
    cut_patches,
    fold_pictures,
    real_patches,
    rotary_2d,
    vit_layers,
    window_order,
)
from spatialsv_jax.partitioning import Normal, declare

_BLOCK_EPSILON = 1e-5  # of the blocks' norms; fixed in the published model


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """RICE-ViT; the defaults are those of both published sizes."""

    image_size: tuple = (448, 448)  # (height, width) of training pictures
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    merge: int = 2
    norm_eps: float = 1e-5  # of the norms before the blocks and of the merger
    # The published model file drops class tokens by offsets that leave them out, so that picture k of a sample (from 0)
    # is read k rows too early. True repeats that, to reproduce numbers made with it.
    published_slicing: bool = False
    trainable: bool = False  # False: stop_gradient before the merger

    def __post_init__(self):
        unit = self.patch_size * self.merge
        if len(self.image_size) != 2 or any(side < unit or side % unit for side in self.image_size):
            raise ValueError(
                f"vision.image_size {self.image_size} must be (height, width), multiples of patch_size * merge = {unit}."
            )
        if self.width % self.heads or self.width // self.heads % 4:
            raise ValueError(f"vision.width {self.width} must be 4 x a whole number x heads {self.heads}.")


class VisionEncoder(nn.Module):
    """Pictures [n,h,w,3] to a class token and patches [n,1+r,D] in `order`."""

    config: VisionConfig
    dtype: str
    attention: str

    @nn.compact
    def __call__(self, pixels: jax.Array, order: WindowOrder, real: jax.Array | None) -> jax.Array:
        config = self.config
        patches = cut_patches(pixels.astype(self.dtype), config.patch_size)[:, order.patches]
        x = dense(config.width, ("patch", "embed"), "patch", False, self.dtype)(patches)
        first = self.param("class", declare(Normal(0.02), "position", "embed"), (1, config.width), jnp.float32)
        first = jnp.broadcast_to(first[None].astype(self.dtype), (x.shape[0], 1, config.width))
        x = layer_norm("norm", self.dtype, config.norm_eps)(jnp.concatenate([first, x], axis=1))
        head_dim = config.width // config.heads
        own = self.param("class_angle", declare(Normal(0.02), "position", "norm"), (1, head_dim // 2), jnp.float32)
        angle = jnp.concatenate([own, jnp.asarray(rotary_2d(order.rows, order.columns, head_dim))])
        if real is not None:
            real = jnp.concatenate([jnp.ones((real.shape[0], 1), bool), real], axis=1)
        layer = VitConfig(
            config.width, config.layers, config.heads, config.mlp_width, _BLOCK_EPSILON, attention=self.attention
        )
        return vit_layers(layer, self.dtype)(x, (jnp.cos(angle), jnp.sin(angle)), real)[0]


class Merger(nn.Module):
    """Patches [n,r,D] to tokens [n,r/m^2,width]: norm, each merge block in one row, two linear layers."""

    merge: int
    width: int
    epsilon: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layer_norm("norm", self.dtype, self.epsilon)(x)
        x = x.reshape(x.shape[0], -1, self.merge**2 * x.shape[-1])
        x = dense(x.shape[-1], ("patch", "mlp"), "up", True, self.dtype)(x)
        return dense(self.width, ("mlp", "embed"), "down", True, self.dtype)(nn.gelu(x, approximate=False))


class LlavaOneVision15(MultimodalBackbone):
    """See `backbones.base.Backbone`. `pixel_values` is float32[B,V,h,w,3]; the frames of a video are views."""

    vision_config: VisionConfig

    def setup(self):
        config, dtype = self.vision_config, self.language_config.dtype
        self.vision = VisionEncoder(config, dtype, self.language_config.attention)
        self.projector = Merger(config.merge, self.language_config.width, config.norm_eps, dtype)
        self.language = Decoder(self.language_config)

    def grid_hw(self, batch: dict) -> tuple[int, int]:
        """Rows and columns of the lifting grid."""
        unit = self.vision_config.patch_size * self.vision_config.merge
        height, width = batch["pixel_values"].shape[-3:-1]
        return height // unit, width // unit

    def encode_pictures(self, batch: dict) -> jax.Array:
        """Patches [B,V,r,C] of all pictures, merge block after merge block."""
        config, pixels, order = self.vision_config, batch["pixel_values"], self._order(batch)
        real = real_patches(batch, order, config.merge**2)
        x = self.vision(fold_pictures(pixels), order, real)
        x = x.reshape(*pixels.shape[:2], *x.shape[1:])
        return _sliced_too_early(x, real) if config.published_slicing else x[:, :, 1:]

    def project(self, features: jax.Array, batch: dict) -> jax.Array:
        """Merged tokens [B,V,P,D], row-major."""
        tokens = self.projector(fold_pictures(features))[:, self._order(batch).merged]
        return tokens.reshape(*features.shape[:2], *tokens.shape[1:])

    def _order(self, batch: dict) -> WindowOrder:
        config, (rows, columns) = self.vision_config, self.grid_hw(batch)
        return window_order(rows * config.merge, columns * config.merge, 0, config.merge)


def _sliced_too_early(x: jax.Array, real: jax.Array | None) -> jax.Array:
    """Rows [B,V,r,D] of [B,V,1+r,D] as the published file takes them from the packed sequence of a sample."""
    number, views, count, width = x.shape
    counts = jnp.ones((number, views, count - 1), bool) if real is None else real.reshape(number, views, count - 1)
    there = jnp.concatenate([jnp.ones((number, views, 1), bool), counts], axis=2).reshape(number, -1)
    place = jnp.cumsum(there, axis=1) - 1  # of each row in the packed sequence
    packed = jax.vmap(
        lambda rows, slots, keep: jnp.zeros_like(rows).at[jnp.where(keep, slots, len(rows))].set(rows, mode="drop")
    )(x.reshape(number, -1, width), place, there)
    wanted = place.reshape(number, views, count)[:, :, 1:] - jnp.arange(views)[None, :, None]
    return jnp.take_along_axis(packed, wanted.reshape(number, -1, 1), axis=1).reshape(number, views, count - 1, width)
