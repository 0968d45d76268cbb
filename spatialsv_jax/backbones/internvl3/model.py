"""InternVL3 (arXiv 2504.10479).

A picture is one or several square tiles float32[s,s,3] (`processing.internvl3` cuts them); each gives
(s / patch_size / merge)^2 tokens. The view that is lifted is the tile that shows the whole picture.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

from spatialsv_jax.backbones.decoder import Decoder
from spatialsv_jax.backbones.layers import dense, layer_norm, merge_patches
from spatialsv_jax.backbones.multimodal import MultimodalBackbone
from spatialsv_jax.backbones.vision_layers import TileEmbedding, VitConfig, fold_pictures, vit_layers


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """InternViT; the defaults are those of all published sizes (InternViT-300M)."""

    tile_size: int = 448  # pixels of a tile's side
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    merge: int = 2  # pixel shuffle: patches of a token's side
    qkv_bias: bool = True
    norm_eps: float = 1e-6
    trainable: bool = False  # False: stop_gradient before the projector

    def __post_init__(self):
        if self.tile_size % (self.patch_size * self.merge):
            raise ValueError(
                f"vision.tile_size {self.tile_size} is no multiple of patch_size {self.patch_size} x merge {self.merge}."
            )
        if self.width % self.heads:
            raise ValueError(f"vision.width {self.width} is no multiple of heads {self.heads}.")


class VisionEncoder(nn.Module):
    """Tiles [n,s,s,3] to patches [n,r,D], row-major, without the class token."""

    config: VisionConfig
    dtype: str
    attention: str

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        config = self.config
        layer = VitConfig(
            config.width, config.layers, config.heads, config.mlp_width, config.norm_eps,
            qkv_bias=config.qkv_bias, layer_scale=True, attention=self.attention,
        )  # fmt: skip
        x = TileEmbedding(config.patch_size, config.width, True, self.dtype, name="embedding")(pixels)
        x, _ = vit_layers(layer, self.dtype)(x, None, None)
        return x[:, 1:]


class Projector(nn.Module):
    """Merged patches [n,p,4D] to the language width: LayerNorm, Linear, GELU, Linear."""

    width: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layer_norm("norm", self.dtype, 1e-5)(x)
        x = dense(self.width, ("patch", "mlp"), "up", True, self.dtype)(x)
        return dense(self.width, ("mlp", "embed"), "down", True, self.dtype)(nn.gelu(x, approximate=False))


class InternVL3(MultimodalBackbone):
    """See `backbones.base.Backbone`. `pixel_values` is float32[B,X,s,s,3], X tiles of all views."""

    vision_config: VisionConfig

    def setup(self):
        dtype = self.language_config.dtype
        self.vision = VisionEncoder(self.vision_config, dtype, self.language_config.attention)
        self.projector = Projector(self.language_config.width, dtype)
        self.language = Decoder(self.language_config)

    def grid_hw(self, batch: dict) -> tuple[int, int]:
        """Rows and columns of the lifting grid."""
        config = self.vision_config
        return (config.tile_size // (config.patch_size * config.merge),) * 2

    def encode_pictures(self, batch: dict) -> jax.Array:
        """Patches [B,X,r,C] of all tiles, row-major."""
        pixels = batch["pixel_values"]
        x = self.vision(fold_pictures(pixels))
        return x.reshape(*pixels.shape[:2], *x.shape[1:])

    def project(self, features: jax.Array, batch: dict) -> jax.Array:
        """Tokens [B,X,R,D], row-major."""
        side = self.vision_config.tile_size // self.vision_config.patch_size
        merged = merge_patches(fold_pictures(features), (side, side), self.vision_config.merge)
        return self.projector(merged).reshape(*features.shape[:2], -1, self.width)
