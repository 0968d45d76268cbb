"""LLaVA-NeXT-Video (llava-vl.github.io/blog/2024-04-30-llava-next-video).

The encoder reads square tiles float32[s,s,3]: frames of a video, or a whole picture and its crops
(`processing.llava_next_video` makes both). Frames are pooled to half the grid before the projector. Each row
of a crop can be followed by a learned newline; those are features behind the patches' own.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from spatialsv_jax.backbones.decoder import Decoder
from spatialsv_jax.backbones.layers import dense, layer_norm
from spatialsv_jax.backbones.multimodal import MultimodalBackbone
from spatialsv_jax.backbones.vision_layers import TileEmbedding, VitConfig, fold_pictures, vit_layers
from spatialsv_jax.partitioning import Normal, declare


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """CLIP; the defaults are those of the published model (CLIP-L/336)."""

    image_size: tuple = ()  # () = views are frames of a video; (height, width) = any-resolution pictures of this size
    tile_size: int = 336  # pixels of a tile's side
    patch_size: int = 14
    width: int = 1024
    layers: int = 23  # layers that are run: the published model reads the last but one of 24
    heads: int = 16
    mlp_width: int = 4096
    pool: int = 2  # patches of a frame's token's side
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    trainable: bool = False  # False: stop_gradient before the projector

    def __post_init__(self):
        if self.tile_size % self.patch_size:
            raise ValueError(f"vision.tile_size {self.tile_size} is no multiple of patch_size {self.patch_size}.")
        if self.width % self.heads:
            raise ValueError(f"vision.width {self.width} is no multiple of heads {self.heads}.")

    @property
    def side(self) -> int:
        """Patches of a tile's side."""
        return self.tile_size // self.patch_size


class VisionEncoder(nn.Module):
    """Tiles [n,s,s,3] to patches [n,r,D], row-major, without the class token."""

    config: VisionConfig
    dtype: str
    attention: str

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        config = self.config
        layer = VitConfig(
            config.width,
            config.layers,
            config.heads,
            config.mlp_width,
            config.norm_eps,
            config.activation,
            attention=self.attention,
        )
        x = TileEmbedding(config.patch_size, config.width, False, self.dtype, name="embedding")(pixels)
        x = layer_norm("norm", self.dtype, config.norm_eps)(x)
        x, _ = vit_layers(layer, self.dtype)(x, None, None)
        return x[:, 1:]


class Projector(nn.Module):
    """Patches [n,r,D] to the language width: Linear, GELU, Linear; and the newline [width]."""

    width: int
    dtype: str

    def setup(self):
        self.up = dense(self.width, ("patch", "mlp"), None, True, self.dtype)
        self.down = dense(self.width, ("mlp", "embed"), None, True, self.dtype)
        self.newline = self.param("newline", declare(Normal(self.width**-0.5), "embed"), (self.width,), jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nn.gelu(self.up(x), approximate=False))


class LlavaNextVideo(MultimodalBackbone):
    """See `backbones.base.Backbone`. `pixel_values` is float32[B,X,s,s,3], X frames, or pictures and crops."""

    vision_config: VisionConfig

    def setup(self):
        dtype = self.language_config.dtype
        self.vision = VisionEncoder(self.vision_config, dtype, self.language_config.attention)
        self.projector = Projector(self.language_config.width, dtype)
        self.language = Decoder(self.language_config)

    def grid_hw(self, batch: dict) -> tuple[int, int]:
        """Rows and columns of the lifting grid: a frame's pooled one, or the whole picture's."""
        config = self.vision_config
        side = config.side // config.pool if self._are_frames(batch) else config.side
        return side, side

    def _are_frames(self, batch: dict) -> bool:
        """Whether the tiles are frames of a video, by the number of features that have slots."""
        slots = batch.get("feature_slots", batch["image_token_index"])
        return slots.shape[-1] == (self.vision_config.side // self.vision_config.pool) ** 2

    def encode_pictures(self, batch: dict) -> jax.Array:
        """Patches [B,X,r,C] of all tiles, row-major: of frames the pooled grid."""
        pixels = batch["pixel_values"]
        x = self.vision(fold_pictures(pixels))
        if self._are_frames(batch):
            x = self._pooled(x)
        return x.reshape(*pixels.shape[:2], *x.shape[1:])

    def project(self, features: jax.Array, batch: dict) -> jax.Array:
        """Tokens [B,X,R,D]: of frames the grid; of pictures the grid, then a newline for each of its rows."""
        tokens = self.projector(features)
        newline = self.projector.newline.astype(tokens.dtype)
        if self._are_frames(batch):
            return tokens
        lines = jnp.broadcast_to(newline[None, None, None], (*features.shape[:2], self.vision_config.side, self.width))
        return jnp.concatenate([tokens, lines], axis=2)

    def _pooled(self, x: jax.Array) -> jax.Array:
        side, pool = self.vision_config.side, self.vision_config.pool
        rows = side // pool
        x = x.reshape(x.shape[0], side, side, x.shape[-1])[:, : rows * pool, : rows * pool]
        return x.reshape(x.shape[0], rows, pool, rows, pool, x.shape[-1]).mean((2, 4)).reshape(x.shape[0], rows**2, -1)
