"""The `tiny` family: a small ViT with 2x2 merge, an MLP projector and a causal decoder."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from spatialsv_jax.backbones.base import BackboneOutput, Decoding, check_taps
from spatialsv_jax.backbones.decoder import Cache, Decoder, LanguageConfig, Rows, choose
from spatialsv_jax.backbones.layers import (
    UNROLL,
    EncoderBlock,
    PatchStem,
    dense,
    layer_norm,
    merge_patches,
    rotary_table,
)


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
        blocks = nn.scan(
            _EncoderStep,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=config.layers,
            unroll=min(UNROLL, config.layers),
            metadata_params={meta.PARTITION_NAME: "layers"},
        )
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


class TinyBackbone(nn.Module):
    """See `backbones.base.Backbone`. `pixel_values` is float32[B,V,h,w,3]."""

    vision_config: VisionConfig
    language_config: LanguageConfig

    def setup(self):
        dtype = self.language_config.dtype
        self.vision = VisionEncoder(self.vision_config, dtype)
        self.projector = Projector(self.language_config.width, dtype)
        self.language = Decoder(self.language_config)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of the lifting grid."""
        return self.vision_config.grid_hw

    @property
    def width(self) -> int:
        """D."""
        return self.language_config.width

    @property
    def num_layers(self) -> int:
        """L."""
        return self.language_config.layers

    def __call__(self, batch: dict, taps: tuple[int, ...] = ()) -> BackboneOutput:
        """Question hidden states, and the states `taps` at the visual tokens.

        Without `question_tokens` in the batch only the prefix is read.
        """
        check_taps(taps, self.num_layers)
        x, positions = self._prefix(batch), batch["prefix_positions"]
        prefix, questions, own_mask = x.shape[1], 0, None
        if "question_tokens" in batch:
            number, questions, length = batch["question_tokens"].shape
            x = jnp.concatenate([x, self.language.embed(batch["question_tokens"].reshape(number, -1))], axis=1)
            own = self._question_positions(batch["question_start"], jnp.arange(length)[None, None], questions)
            positions = jnp.concatenate([positions, own], axis=1)
            own_mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
        rows = self._rows(batch, positions, own_mask, None, prefix, questions)
        index = batch["image_token_index"]
        hidden, tapped, _ = self.language(x, rows, None, index.reshape(index.shape[0], -1), taps)
        if tapped is not None:
            tapped = tapped.reshape(len(taps), *index.shape, self.width)
        if not questions:
            return BackboneOutput(None, tapped)
        return BackboneOutput(hidden[:, prefix:].reshape(*batch["question_tokens"].shape, self.width), tapped)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[...,N] next-token logits."""
        return self.language.logits(hidden)

    def prefill(self, batch: dict, new_tokens: int) -> tuple[jax.Array, Decoding]:
        """Reads prefix and questions without their answers; see `Backbone.prefill`."""
        config = self.language_config
        number, questions, length = batch["question_tokens"].shape
        real = batch["question_mask"] & ~batch["answer_mask"]
        x = self._prefix(batch)
        prefix = x.shape[1]
        x = jnp.concatenate([x, self.language.embed(batch["question_tokens"].reshape(number, -1))], axis=1)
        own = self._question_positions(batch["question_start"], jnp.arange(length)[None, None], questions)
        positions = jnp.concatenate([batch["prefix_positions"], own], axis=1)
        slots = length + new_tokens
        own_mask = (jnp.arange(slots)[None] <= jnp.arange(length)[:, None])[None, None]
        shape = (config.layers, number, config.kv_heads, questions, slots, config.head_dim)
        empty = tuple(jnp.zeros(shape, config.dtype) for _ in range(2))
        rows = self._rows(batch, positions, own_mask, jnp.zeros((), jnp.int32), prefix, questions)
        hidden, _, cache = self.language(x, rows, Cache(None, empty))
        lengths = real.sum(-1).astype(jnp.int32)
        hidden = hidden[:, prefix:].reshape(number, questions, length, self.width)
        last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[..., None, None], axis=2)[:, :, 0]
        mask = jnp.concatenate([real, jnp.zeros((number, questions, new_tokens), bool)], axis=-1)
        return last, Decoding(cache.prefix, cache.own, batch["prefix_mask"], mask, lengths, batch["question_start"])

    def extend(self, tokens: jax.Array, slot: jax.Array, state: Decoding) -> tuple[jax.Array, Decoding]:
        """Appends one token per question at cache slot `slot`; see `Backbone.extend`."""
        number, questions = tokens.shape
        positions = self._question_positions(state.question_start, state.lengths[..., None], questions)
        here = (jnp.arange(state.own_mask.shape[-1]) == slot)[None, None]
        mask = state.own_mask | here
        batch = {"prefix_mask": state.prefix_mask}
        rows = self._rows(batch, positions, mask[:, :, None], slot, 0, questions)
        x, _, cache = self.language(self.language.embed(tokens), rows, Cache(state.prefix, state.own))
        return x, state._replace(own=cache.own, own_mask=mask, lengths=state.lengths + 1)

    def _prefix(self, batch: dict) -> jax.Array:
        """Embedded prefix [B,S,D] with the views' tokens in their slots; padded views fill none."""
        pixels = batch["pixel_values"]
        number, views = pixels.shape[:2]
        features = self.vision(pixels.reshape(number * views, *pixels.shape[2:]))
        if not self.vision_config.trainable:
            features = jax.lax.stop_gradient(features)
        features = self.projector(features).reshape(number, -1, self.width)
        x = self.language.embed(batch["prefix_tokens"])
        return jax.vmap(lambda row, slots, values: row.at[slots].set(values, mode="drop"))(
            x, self._slots(batch), features
        )

    def _slots(self, batch: dict) -> jax.Array:
        """int32[B,V*P] prefix index of each visual token; S (outside) for padded views."""
        length = batch["prefix_tokens"].shape[1]
        slots = jnp.where(batch["view_valid"][..., None], batch["image_token_index"], length)
        return slots.reshape(slots.shape[0], -1)

    def _question_positions(self, start: jax.Array, offset: jax.Array, questions: int) -> jax.Array:
        """int32[B,Q*T,K]: offset int32[B|1,Q|1,T] after each row's question_start; K = 1."""
        positions = start[:, None, None] + offset.astype(jnp.int32)
        positions = jnp.broadcast_to(positions, (start.shape[0], questions, offset.shape[-1]))
        return positions.reshape(start.shape[0], -1, 1)

    def _rows(self, batch, positions, own_mask, slot, prefix: int, questions: int) -> Rows:
        config = self.language_config
        cos, sin = rotary_table(positions, config.head_dim, config.rope_theta)
        visual = None
        if prefix and config.visual_attention == "bidirectional":
            empty = jnp.zeros(batch["prefix_tokens"].shape, bool)
            visual = jax.vmap(lambda row, slots: row.at[slots].set(True, mode="drop"))(empty, self._slots(batch))
        return Rows(cos[:, :, None], sin[:, :, None], batch["prefix_mask"], visual, own_mask, slot, prefix, questions)
