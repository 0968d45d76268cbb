"""What all families share: pictures' features in a prefix of tokens, questions behind it, generation.

A family adds its vision encoder and projector: `setup`, `grid_hw`, `encode_pictures` and `project`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from spatialsv_jax.backbones.base import BackboneOutput, Decoding, check_taps
from spatialsv_jax.backbones.decoder import Cache, LanguageConfig
from spatialsv_jax.backbones.layers import rotary_table
from spatialsv_jax.backbones.rows import Rows, join_runs
from spatialsv_jax.partitioning import context_size


class MultimodalBackbone(nn.Module):
    """See `backbones.base.Backbone`. A family's `setup` makes `vision`, `projector` and `language`."""

    vision_config: Any
    language_config: LanguageConfig

    @property
    def width(self) -> int:
        """D."""
        return self.language_config.width

    @property
    def num_layers(self) -> int:
        """L."""
        return self.language_config.layers

    def grid_hw(self, batch: dict) -> tuple[int, int]:
        """Rows and columns of the lifting grid, from the shapes in `batch`."""
        raise NotImplementedError

    def encode_pictures(self, batch: dict) -> jax.Array:
        """The vision encoder's output [B,X,r,C], directly before the projector."""
        raise NotImplementedError

    def project(self, features: jax.Array, batch: dict) -> jax.Array:
        """Features [B,X,R,D] of the pictures, ready to stand in the prefix, of `encode_pictures`' [B,X,r,C]."""
        raise NotImplementedError

    def picture_features(self, batch: dict) -> jax.Array:
        """Features [B,X,R,D] of the pictures, from `vision_features` where the batch has them."""
        features = batch.get("vision_features")
        if features is None:
            features = self.encode_pictures(batch)
        if not self.vision_config.trainable:
            features = jax.lax.stop_gradient(features)
        return self.project(features, batch)

    def __call__(self, batch: dict, taps: tuple[int, ...] = ()) -> BackboneOutput:
        """Question hidden states, and the states `taps` at the visual tokens.

        Without `question_tokens` in the batch only the prefix is read.
        """
        check_taps(taps, self.num_layers)
        runs = context_size()
        asked = batch["question_tokens"].shape if "question_tokens" in batch else None
        batch = _padded(batch, runs)
        x, positions = self.embed_prefix(batch), batch["prefix_positions"]
        prefix, questions, own_mask = x.shape[1], 0, None
        if asked:
            number, questions, length = batch["question_tokens"].shape
            x = join_runs(x, self.language.embed(batch["question_tokens"].reshape(number, -1)), runs)
            own = self._question_positions(batch["question_start"], jnp.arange(length)[None, None], questions)
            positions = join_runs(positions, own, runs)
            own_mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
        rows = self._rows(batch, positions, own_mask, None, prefix, questions, runs)
        index = batch["image_token_index"]
        places = index.reshape(index.shape[0], -1)
        if runs > 1:  # where the prefix row stands among all rows
            run = prefix // runs
            places = places // run * (x.shape[1] // runs) + places % run
        hidden, tapped, _ = self.language(x, rows, None, places, taps)
        if tapped is not None:
            tapped = tapped.reshape(len(taps), *index.shape, self.width)
        if not asked:
            return BackboneOutput(None, tapped)
        hidden = rows.of_questions(hidden).reshape(*batch["question_tokens"].shape, self.width)
        return BackboneOutput(hidden if length == asked[2] else hidden[:, :, : asked[2]], tapped)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[...,N] next-token logits."""
        return self.language.logits(hidden)

    def prefill(self, batch: dict, new_tokens: int) -> tuple[jax.Array, Decoding]:
        """Reads prefix and questions without their answers; see `Backbone.prefill`."""
        config = self.language_config
        number, questions, length = batch["question_tokens"].shape
        # Up to the first answer: behind it a conversation goes on.
        real = batch["question_mask"] & (jnp.cumsum(batch["answer_mask"], axis=-1) == 0)
        x = self.embed_prefix(batch)
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

    def embed_prefix(self, batch: dict) -> jax.Array:
        """Embedded prefix [B,S,D] with the pictures' features in their slots; those without one are dropped."""
        features = self.picture_features(batch)
        x = self.language.embed(batch["prefix_tokens"])
        return jax.vmap(lambda row, slots, values: row.at[slots].set(values, mode="drop"))(
            x, _slots(batch), features.reshape(features.shape[0], -1, self.width)
        )

    def _question_positions(self, start: jax.Array, offset: jax.Array, questions: int) -> jax.Array:
        """int32[B,Q*T,K]: offset int32[B|1,Q|1,T] after each row's question_start, the same on all K axes."""
        positions = start[:, None, None] + offset.astype(jnp.int32)
        positions = jnp.broadcast_to(positions, (start.shape[0], questions, offset.shape[-1]))
        positions = positions.reshape(start.shape[0], -1, 1)
        return jnp.broadcast_to(positions, (*positions.shape[:2], self.language_config.position_axes))

    def _rows(self, batch, positions, own_mask, slot, prefix: int, questions: int, runs: int = 1) -> Rows:
        config = self.language_config
        cos, sin = rotary_table(positions, config.head_dim, config.rope_theta, config.rope_sections, config.rope_factor)
        visual = None
        if prefix and config.visual_attention == "bidirectional":
            empty = jnp.zeros(batch["prefix_tokens"].shape, bool)
            visual = jax.vmap(lambda row, slots: row.at[slots].set(True, mode="drop"))(empty, _slots(batch))
        real = batch["prefix_mask"]
        return Rows(cos[:, :, None], sin[:, :, None], real, visual, own_mask, slot, prefix, questions, runs)


def _padded(batch: dict, runs: int) -> dict:
    """The batch with padding behind prefix and questions, so that both divide into `runs`."""
    padded = dict(batch)
    for name in ("prefix_tokens", "prefix_mask", "prefix_positions", "question_tokens"):
        if name in batch:
            axis = 2 if name == "question_tokens" else 1
            lacking = -batch[name].shape[axis] % runs
            widths = [(0, lacking if number == axis else 0) for number in range(batch[name].ndim)]
            padded[name] = jnp.pad(batch[name], widths) if lacking else batch[name]
    return padded


def _slots(batch: dict) -> jax.Array:
    """int32[B,X*R] prefix index of each feature; S (outside) for those that have none."""
    slots = batch.get("feature_slots", batch["image_token_index"])
    valid = batch.get("feature_valid", batch["view_valid"][..., None])
    slots = jnp.where(valid, slots, batch["prefix_tokens"].shape[1])
    return slots.reshape(slots.shape[0], -1)
