"""Batched generation with a key-value cache: all questions of all samples advance together.

The prefix (every image) is read once per sample; then question and answer tokens are appended.
Parts of the batch that belong to an answer (`answer_mask`) are ignored, so a training or
evaluation batch can be passed as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def greedy(model: Any, params: Mapping, batch: Mapping, max_new_tokens: int, end_id: int) -> jax.Array:
    """The most probable token at every step.

    Args:
      model: `SpatialMLLM`.
      params: its parameter tree, with or without "lifting".
      batch: fields of `spec.BATCH`; only language and vision fields are read.
      max_new_tokens: length of the output (static).
      end_id: token that ends an answer.

    Returns:
      int32[B,Q,max_new_tokens]; everything after the first `end_id` of a row is `end_id`. Invalid
      questions give `end_id` throughout. Pure; wrap it in `jax.jit` with model, max_new_tokens and
      end_id closed over.

    Raises:
      ValueError: max_new_tokens < 1.
    """
    return _generate(model, params, batch, max_new_tokens, end_id, lambda logits, _: jnp.argmax(logits, axis=-1))


def sample(
    model: Any,
    params: Mapping,
    batch: Mapping,
    max_new_tokens: int,
    end_id: int,
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


def _generate(model, params, batch, count: int, end_id: int, choose: Callable) -> jax.Array:
    if count < 1:
        raise ValueError(f"max_new_tokens is {count}; at least one token must be made.")
    variables = {"params": params}
    length = batch["question_tokens"].shape[-1]
    logits, state = model.apply(variables, batch, count, method="prefill")
    tokens = choose(logits, 0).astype(jnp.int32)
    done = ~jnp.asarray(batch["question_valid"])
    tokens = jnp.where(done, end_id, tokens)
    output = jnp.full((*tokens.shape, count), end_id, jnp.int32).at[..., 0].set(tokens)

    def unfinished(carry):
        step, _, done, *_ = carry
        return (step < count) & ~jnp.all(done)

    def advance(carry):
        step, tokens, done, output, state = carry
        logits, state = model.apply(variables, tokens, length + step - 1, state, method="extend")
        tokens = jnp.where(done, end_id, choose(logits, step).astype(jnp.int32))
        return step + 1, tokens, done | (tokens == end_id), output.at[..., step].set(tokens), state

    carry = (jnp.ones((), jnp.int32), tokens, done | (tokens == end_id), output, state)
    return jax.lax.while_loop(unfinished, advance, carry)[3]
