"""The contract between a multimodal backbone and everything that uses it.

A backbone is a Linen module, a pure function of parameters and a batch. Its inputs are always a
prefix that holds every image, and questions that each see the prefix and their own past, never
each other (`spec.BATCH`). It knows nothing of depth or cameras: `model.SpatialMLLM` reads its
hidden states at the visual tokens.

Hidden states are numbered: state 0 = embeddings, state i = raw output of layer i (of L), state L =
after the final norm. A tap index is a state index.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple, Protocol

import jax

_TAP_SHARES = (Fraction(11, 100), Fraction(33, 100), Fraction(56, 100), Fraction(78, 100))


class BackboneOutput(NamedTuple):
    """Hidden states of one pass."""

    hidden: jax.Array | None  # [B,Q,T,D] questions after the final norm; None when the batch has none
    taps: jax.Array | None  # [t,B,V,P,D] requested states at the visual tokens; None when none is requested


class Decoding(NamedTuple):
    """What generation carries from token to token. L layers, M cached tokens per question."""

    prefix: tuple[jax.Array, jax.Array]  # keys, values [L,B,Hk,S,d], computed once
    own: tuple[jax.Array, jax.Array]  # keys, values [L,B,Hk,Q,M,d]
    prefix_mask: jax.Array  # bool[B,S]
    own_mask: jax.Array  # bool[B,Q,M] slots that hold a real token
    lengths: jax.Array  # int32[B,Q] tokens of each question so far
    question_start: jax.Array  # int32[B]


class Backbone(Protocol):
    """Methods and attributes that `SpatialMLLM` and `generation` call."""

    width: int  # D
    num_layers: int  # L

    def grid_hw(self, batch: dict) -> tuple[int, int]:
        """Rows and columns of one view's lifting grid, from the shapes in `batch` (static)."""

    def __call__(self, batch: dict, taps: tuple[int, ...] = ()) -> BackboneOutput:
        """Question hidden states, and the states `taps` at the visual tokens."""

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[...,N] next-token logits of final hidden states [...,D]."""

    def prefill(self, batch: dict, new_tokens: int) -> tuple[jax.Array, Decoding]:
        """Reads prefix and questions (answers left out), with room for `new_tokens` more.

        Returns:
          Hidden state [B,Q,D] at each question's last token, and the cache.
        """

    def extend(self, tokens: jax.Array, slot: jax.Array, state: Decoding) -> tuple[jax.Array, Decoding]:
        """Appends one token per question (int32[B,Q]) at cache slot `slot`; returns hidden [B,Q,D]."""


def default_taps(num_layers: int) -> tuple[int, int, int, int]:
    """Four spread states: round(L * (0.11, 0.33, 0.56, 0.78)), half to even, at least 1, increasing.

    Source: ours; it gives the published taps of the eight paper models to within two layers.

    Raises:
      ValueError: fewer than four layers.
    """
    if num_layers < 4:
        raise ValueError(f"Four increasing taps need at least 4 layers, the language model has {num_layers}.")
    taps: list[int] = []
    for share in _TAP_SHARES:
        taps.append(max(round(num_layers * share), taps[-1] + 1 if taps else 1))
    return tuple(taps)


def check_taps(taps: tuple[int, ...], num_layers: int) -> None:
    """Raises ValueError when a tap is no state index of a model with `num_layers` layers."""
    wrong = [tap for tap in taps if not 0 <= tap <= num_layers]
    if wrong:
        raise ValueError(
            f"Taps {wrong} do not exist: the model has {num_layers} layers, so states 0 (embeddings) "
            f"to {num_layers} (after the final norm)."
        )
