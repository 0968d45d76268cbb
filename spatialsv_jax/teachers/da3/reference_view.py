"""Depth Anything 3's choice of the view that defines the world, from the class rows of all views. float32 throughout.

It is a discrete choice: rounding can change it, and with it all outputs. The model takes a fixed index in its place.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

STRATEGIES = ("saddle_balanced", "saddle_sim_range", "first", "middle")
FEWEST_VIEWS = 3  # with fewer the first view is the reference


def choose_reference(
    rows: jax.Array, strategy: str = "saddle_balanced", view_valid: jax.Array | None = None
) -> jax.Array:
    """int32[B], the reference view of each sample, among its valid views.

    "saddle_balanced": the view whose mean similarity to the others, length and variance of its row, each scaled to 0..1 over
    the views, are together nearest to 0.5. "saddle_sim_range": the view whose similarities range most. "first", and "middle":
    number n // 2 of n. With fewer than three valid views the first valid one, whatever the strategy.

    Args:
      rows: [B,S,C] class rows before block alt_start - 1.
      strategy: one of STRATEGIES.
      view_valid: bool[B,S], None = all.

    Raises:
      ValueError: an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"reference view strategy is {strategy!r}; choose one of {STRATEGIES}.")
    valid = jnp.ones(rows.shape[:2], bool) if view_valid is None else view_valid
    count = valid.sum(-1)
    place = jnp.cumsum(valid, -1) - 1  # of a view among the valid ones
    at = lambda number: jnp.argmax(valid & (place == number[:, None]), -1)
    first = at(jnp.zeros_like(count))
    if strategy == "first":
        chosen = first
    elif strategy == "middle":
        chosen = at(count // 2)
    else:
        chosen = _SADDLES[strategy](jnp.where(valid[..., None], rows.astype(jnp.float32), 0), valid)
    return jnp.where(count >= FEWEST_VIEWS, chosen, first).astype(jnp.int32)


def _units(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows over their lengths (0 for a row of zeros), and the lengths."""
    length = jnp.sqrt(jnp.square(rows).sum(-1))
    return rows / jnp.where(length > 0, length, 1)[..., None], length


def _similarities(unit: jax.Array) -> jax.Array:
    return jnp.einsum("bsc,brc->bsr", unit, unit, precision="highest")


def _balanced(rows: jax.Array, valid: jax.Array) -> jax.Array:
    unit, length = _units(rows)
    others = jnp.maximum(valid.sum(-1, keepdims=True) - 1, 1)
    similarity = (_similarities(unit).sum(-1) - 1) / others  # rows of other views are 0
    variance = jnp.var(unit, axis=-1, ddof=1)
    distance = sum(jnp.abs(_scaled(score, valid) - 0.5) for score in (similarity, length, variance))
    return jnp.argmin(jnp.where(valid, distance, jnp.inf), -1)


def _scaled(score: jax.Array, valid: jax.Array) -> jax.Array:
    low = jnp.where(valid, score, jnp.inf).min(-1, keepdims=True)
    high = jnp.where(valid, score, -jnp.inf).max(-1, keepdims=True)
    return (score - low) / (high - low + 1e-8)


def _range(rows: jax.Array, valid: jax.Array) -> jax.Array:
    unit, _ = _units(rows)
    similarity = _similarities(unit) - jnp.eye(rows.shape[1])[None]
    seen = valid[:, None]
    high = jnp.where(seen, similarity, -jnp.inf).max(-1)
    low = jnp.where(seen, similarity, jnp.inf).min(-1)
    return jnp.argmax(jnp.where(valid, high - low, -jnp.inf), -1)


_SADDLES = {"saddle_balanced": _balanced, "saddle_sim_range": _range}
