"""Batched generation with a key-value cache: all questions of all samples advance together.

The prefix (every image) is read once per sample; then question and answer tokens are appended.
Parts of the batch that belong to an answer (`answer_mask`) are ignored, so a training or
evaluation batch can be passed as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def greedy(model: Any, params: Mapping, batch: Mapping, max_new_tokens: int, end_id: int | Sequence[int]) -> jax.Array:
    """The most probable token at every step.

    Args:
      model: `SpatialMLLM`.
      params: its parameter tree, with or without "lifting".
      batch: fields of `spec.BATCH`; only language and vision fields are read.
      max_new_tokens: length of the output (static).
      end_id: token that ends an answer, or several, of which any does.

    Returns:
      int32[B,Q,max_new_tokens]; the token that ends a row and everything after it are the (first)
      `end_id`. Invalid questions give it throughout. Pure; wrap it in `jax.jit` with model,
      max_new_tokens and end_id closed over. Sharded parameters and batches give a sharded program.

    Raises:
      ValueError: max_new_tokens < 1, or no end token.
    """
    return _generate(model, params, batch, max_new_tokens, end_id, lambda logits, _: jnp.argmax(logits, axis=-1))


def sample(
    model: Any,
    params: Mapping,
    batch: Mapping,
    max_new_tokens: int,
    end_id: int | Sequence[int],
    *,
    temperature: float | jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Tokens drawn from softmax(logits / temperature); otherwise as `greedy`.

    Raises:
      ValueError: temperature <= 0 (use `greedy`) or max_new_tokens < 1.
    """
    if not isinstance(temperature, jax.core.Tracer) and temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive. Use greedy for the most probable token.")

    def choose(logits, step):
        return jax.random.categorical(jax.random.fold_in(key, step), logits / temperature, axis=-1)

    return _generate(model, params, batch, max_new_tokens, end_id, choose)


def _generate(model, params, batch, count: int, end_id: int | Sequence[int], choose: Callable) -> jax.Array:
    if count < 1:
        raise ValueError(f"max_new_tokens is {count}; at least one token must be made.")
    stops = (end_id,) if isinstance(end_id, int) else tuple(end_id)
    if not stops:
        raise ValueError("end_id is empty; name at least one token (-1 for none that the model can make).")
    variables = {"params": params}
    length = batch["question_tokens"].shape[-1]
    logits, state = model.apply(variables, batch, count, method="prefill")

    def ended(tokens, done):
        done = done | jnp.isin(tokens, jnp.asarray(stops, jnp.int32))
        return jnp.where(done, stops[0], tokens), done

    tokens, done = ended(choose(logits, 0).astype(jnp.int32), ~jnp.asarray(batch["question_valid"]))
    output = jnp.full((*tokens.shape, count), stops[0], jnp.int32).at[..., 0].set(tokens)

    def unfinished(carry):
        step, _, done, *_ = carry
        return (step < count) & ~jnp.all(done)

    def advance(carry):
        step, tokens, done, output, state = carry
        logits, state = model.apply(variables, tokens, length + step - 1, state, method="extend")
        tokens, done = ended(choose(logits, step).astype(jnp.int32), done)
        return step + 1, tokens, done, output.at[..., step].set(tokens), state

    carry = (jnp.ones((), jnp.int32), tokens, done, output, state)
    return jax.lax.while_loop(unfinished, advance, carry)[3]
