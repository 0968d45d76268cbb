"""Next-token cross-entropy over answer tokens (docs/method.md, 3.7)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from spatialsv_jax.losses.base import Part


def text_terms(logits, tokens, mask) -> dict[str, Part]:
    """Mean cross-entropy over all answer tokens of the batch, log-sum-exp in float32.

    Args:
      logits: [..., A, N], those that predict each answer token (of the position before it).
      tokens: int32[..., A], the answer tokens.
      mask: bool[..., A].

    Returns:
      ce: one value per answer token, in nat.

    Raises:
      ValueError: shapes that do not fit, named.
    """
    logits, tokens, mask = jnp.asarray(logits), jnp.asarray(tokens), jnp.asarray(mask)
    for name, shape in (("tokens", tokens.shape), ("mask", mask.shape)):
        if shape != logits.shape[:-1]:
            raise ValueError(f"'{name}' has shape {shape}, but 'logits' {logits.shape} asks for {logits.shape[:-1]}.")
    logits = jnp.where(mask[..., None], logits.astype(jnp.float32), 0)
    # A comparison instead of a gather: elementwise in the backward pass and with sharded vocabularies.
    vocabulary = jnp.arange(logits.shape[-1], dtype=tokens.dtype).reshape((1,) * tokens.ndim + (-1,))
    chosen = jnp.where(vocabulary == tokens[..., None], logits, 0).sum(-1)
    return {"ce": Part(jax.nn.logsumexp(logits, axis=-1) - chosen, mask, mask)}


def answer_tokens(batch: Mapping) -> tuple[jax.Array, jax.Array]:
    """Answer tokens int32[B,Q,A] of a `spec.BATCH` batch, and the mask of those that count."""
    tokens = jnp.take_along_axis(jnp.asarray(batch["question_tokens"]), jnp.asarray(batch["answer_positions"]), axis=-1)
    counted = jnp.asarray(batch["question_valid"]) & jnp.asarray(batch["has_text"])[:, None]
    return tokens, jnp.asarray(batch["answer_valid"]) & counted[..., None]
