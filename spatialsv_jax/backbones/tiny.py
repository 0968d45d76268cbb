"""The `tiny` family: a small ViT with 2x2 merge, an MLP projector and a causal decoder."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

from spatialsv_jax.backbones.decoder import Decoder, choose
from spatialsv_jax.backbones.layers import EncoderBlock, PatchStem, dense, layer_norm, merge_patches, scan_layers
from spatialsv_jax.backbones.multimodal import MultimodalBackbone
from spatialsv_jax.backbones.vision_layers import fold_pictures


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision encoder. Lengths in pixels; the lifting grid is image_size / (patch_size * merge) squared."""

    image_size: int = 64
    patch_size: int = 8
    stem: str = "conv"  # "conv" (stride-2 convolutions; patch_size a power of two) or "patch"
    width: int = 96
    layers: int = 2
    heads: int = 4
    mlp_ratio: int = 4
    merge: int = 2
    trainable: bool = True  # False: stop_gradient before the projector, so that its backward pass vanishes

    def __post_init__(self):
        choose(self.stem, ("conv", "patch"), "vision.stem")
        if self.image_size % (self.patch_size * self.merge):
            raise ValueError(
                f"vision.image_size {self.image_size} is no multiple of patch_size {self.patch_size} x merge {self.merge}."
            )
        if self.stem == "conv" and self.patch_size & (self.patch_size - 1):
            raise ValueError(f"vision.patch_size {self.patch_size} must be a power of two with stem 'conv'.")
        if self.width % self.heads:
            raise ValueError(f"vision.width {self.width} is no multiple of heads {self.heads}.")

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of the lifting grid."""
        return (self.image_size // (self.patch_size * self.merge),) * 2


class _EncoderStep(nn.Module):
    """Scan body: one encoder block."""

    heads: int
    mlp_ratio: int
    dtype: str

    @nn.compact
    def __call__(self, x, _):
        return EncoderBlock(self.heads, self.mlp_ratio, self.dtype, name="block")(x), None


class VisionEncoder(nn.Module):
    """Pixels [n,h,w,3] to merged patches [n,P,merge^2*D], row-major over the lifting grid."""

    config: VisionConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        config = self.config
        x = PatchStem(config.stem, config.patch_size, config.width, self.dtype, name="stem")(pixels)
        blocks = scan_layers(_EncoderStep, config.layers)
        x, _ = blocks(config.heads, config.mlp_ratio, self.dtype, name="layers")(x, None)
        side = config.image_size // config.patch_size
        return merge_patches(layer_norm("norm", self.dtype)(x), (side, side), config.merge)


class Projector(nn.Module):
    """Merged patches to the language width: Linear, GELU, Linear."""

    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = dense(self.width, ("patch", "mlp"), "up", bias=True, dtype=self.dtype)(x)
        return dense(self.width, ("mlp", "embed"), "down", bias=True, dtype=self.dtype)(nn.gelu(x))


class TinyBackbone(MultimodalBackbone):
    """See `backbones.base.Backbone`. `pixel_values` is float32[B,V,h,w,3]."""

    vision_config: VisionConfig

    def setup(self):
        dtype = self.language_config.dtype
        self.vision = VisionEncoder(self.vision_config, dtype)
        self.projector = Projector(self.language_config.width, dtype)
        self.language = Decoder(self.language_config)

    def grid_hw(self, batch: dict) -> tuple[int, int]:
        """Rows and columns of the lifting grid."""
        return self.vision_config.grid_hw

    def encode_pictures(self, batch: dict) -> jax.Array:
        """Merged patches [B,V,P,C] of all pictures."""
        pixels = batch["pixel_values"]
        features = self.vision(fold_pictures(pixels))
        return features.reshape(*pixels.shape[:2], *features.shape[1:])

    def project(self, features: jax.Array, batch: dict) -> jax.Array:
        """Projected features [B,V,P,D]."""
        return self.projector(features)
