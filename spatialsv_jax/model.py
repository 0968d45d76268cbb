"""SpatialMLLM: a multimodal backbone whose hidden states are lifted to depth, rays and points.

Parameters: {"backbone": {"vision", "projector", "language"}, "lifting": {...}}, plain nested dicts.
Without "lifting" (`drop_lifting`) and with `lift=False` the program is the bare backbone's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from spatialsv_jax.backbones import BACKBONES, Decoding, default_taps
from spatialsv_jax.backbones.base import check_taps
from spatialsv_jax.backbones.decoder import LanguageConfig
from spatialsv_jax.backbones.tiny import VisionConfig
from spatialsv_jax.lifting.heads import Lifting, LiftingConfig
from spatialsv_jax.partitioning import create, names_of

__all__ = ["BatchModule", "LanguageConfig", "LiftingConfig", "SpatialMLLM", "VisionConfig", "drop_lifting"]


class BatchModule(nn.Module):
    """A module called with (batch, label_hw), whose parameters are plain nested dicts."""

    @nn.nowrap
    def init(self, rngs: jax.Array, batch: Mapping[str, jax.Array], *, label_hw: tuple[int, int]) -> dict:
        """{"params": plain nested dict}; `rngs` is one random key."""
        return {"params": self.init_params(rngs, batch, label_hw=label_hw)}

    @nn.nowrap
    def init_params(self, key: jax.Array, batch: Mapping[str, jax.Array], *, label_hw: tuple[int, int]) -> dict:
        """The parameter tree, float32. Only shapes of `batch` matter."""
        return create(key, self._declared(batch, label_hw))

    @nn.nowrap
    def logical_axes(self, batch: Mapping[str, jax.Array], *, label_hw: tuple[int, int]) -> dict:
        """The parameter tree with a tuple of `partitioning.LOGICAL_AXES` names per parameter."""
        return names_of(self._declared(batch, label_hw))

    @nn.nowrap
    def _declared(self, batch: Mapping[str, jax.Array], label_hw: tuple[int, int]) -> dict:
        init = super().init
        return jax.eval_shape(lambda key: init(key, batch, label_hw=label_hw), jax.random.key(0))["params"]


class SpatialMLLM(BatchModule):
    """Backbone, taps and lifting heads.

    `init(key, batch, label_hw=(H, W))` gives {"params": tree}; `apply({"params": tree}, batch,
    label_hw=(H, W), lift=True)` gives a dict of `spec.PREDICTIONS`. Both are pure; `batch` follows
    `spec.BATCH`, of which only the language, vision and `view_valid` fields are read. A batch
    without `question_tokens` gets no `answer_logits`.
    """

    vision: VisionConfig
    language: LanguageConfig
    lifting: LiftingConfig
    family: str = "tiny"

    def setup(self):
        if self.family not in BACKBONES:
            raise ValueError(f"Model family '{self.family}' is unknown. Known: {', '.join(BACKBONES)}.")
        if self.language.vocab_size < 1:
            raise ValueError("language.vocab_size is not set; take the tokenizer's vocab_size.")
        self.backbone = BACKBONES[self.family].backbone(self.vision, self.language)
        self.lifting_part = Lifting(self.lifting, name="lifting")

    @property
    def taps(self) -> tuple[int, ...]:
        """The four state indices that the heads read."""
        return tuple(self.lifting.taps) or default_taps(self.language.layers)

    def __call__(self, batch: Mapping[str, jax.Array], *, label_hw: tuple[int, int], lift: bool = True) -> dict:
        """Predictions for one batch.

        Args:
          batch: fields of `spec.BATCH`.
          label_hw: (H, W) of the maps (static).
          lift: False leaves out everything but the answer logits (inference; static).

        Raises:
          ValueError: taps that the model does not have, or `output="token"` with another map size.
        """
        states = self._states() if lift else ()
        output = self.backbone(batch, states)
        predictions = {}
        if output.hidden is not None:
            predictions["answer_logits"] = self.backbone.logits(
                gather_answers(output.hidden, batch["answer_positions"])
            )
        if states:
            grid, size = self.backbone.grid_hw(batch), tuple(label_hw)
            if self.lifting.heads and self.lifting.output == "token" and size != grid:
                raise ValueError(f"lifting.output 'token' gives maps of {grid}, but the labels are {size}.")
            taps = output.taps[: len(self.taps)] if self.lifting.heads else None
            final = output.taps[-1] if self.lifting.distill_features else None
            predictions.update(self.lifting_part(taps, final, grid, size, batch["view_valid"]))
        return predictions

    def _states(self) -> tuple[int, ...]:
        """States to tap: the four of the heads, then state L for distillation."""
        states = self.taps if self.lifting.heads else ()
        check_taps(states, self.language.layers)
        return states + ((self.language.layers,) if self.lifting.distill_features else ())

    def encode_pictures(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The vision encoder's output [B,X,r,C], directly before the projector; see `backbones.multimodal`."""
        return self.backbone.encode_pictures(batch)

    def prefill(self, batch: Mapping[str, jax.Array], new_tokens: int) -> tuple[jax.Array, Decoding]:
        """First step of generation; see `backbones.base.Backbone.prefill`. Returns logits [B,Q,N]."""
        hidden, state = self.backbone.prefill(batch, new_tokens)
        return self.backbone.logits(hidden), state

    def extend(self, tokens: jax.Array, slot: jax.Array, state: Decoding) -> tuple[jax.Array, Decoding]:
        """Appends one token per question; returns the next logits [B,Q,N]."""
        hidden, state = self.backbone.extend(tokens, slot, state)
        return self.backbone.logits(hidden), state


def gather_answers(hidden: jax.Array, answer_positions: jax.Array) -> jax.Array:
    """Hidden states [B,Q,A,D] that predict the answer tokens: those one position before each."""
    before = jnp.maximum(answer_positions - 1, 0)
    return jnp.take_along_axis(hidden, before[..., None], axis=2)


def drop_lifting(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters without the lifting part: exactly the base model's tree."""
    return {name: tree for name, tree in params.items() if name != "lifting"}
