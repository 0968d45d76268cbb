"""Gradient accumulation: one update from several passes over parts of the batch, equal to one pass over all of it.

Masks depend on the batch only, so the counts N of all parts of the loss are known before the first pass
(`losses.objective.batch_counts`). Every pass then takes the gradient of S of its rows / N of the whole batch, and
the sums of gradients and values over the passes are those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def split_rows(batch: Mapping[str, jax.Array], microbatches: int) -> dict[str, jax.Array]:
    """Fields [B,...] as [B/m,m,...]: microbatch j holds every m-th row, so that a batch split over devices stays put.

    Raises:
      ValueError: rows that m does not divide.
    """
    rows = len(next(iter(batch.values())))
    if rows % microbatches:
        raise ValueError(
            f"A global batch of {rows} rows does not divide into {microbatches} microbatches; change "
            "config.training.microbatches or config.data.sources.*.per_batch."
        )
    return {
        name: jnp.reshape(value, (rows // microbatches, microbatches, *value.shape[1:]))
        for name, value in batch.items()
    }


def accumulate(function: Callable, batch: Mapping[str, jax.Array], microbatches: int, places=None):
    """The sum of `function(microbatch)` over all microbatches, in float32, one after the other.

    Args:
      function: microbatch -> tree of arrays; each of them is a sum over rows.
      batch: fields [B,...].
      microbatches: m, a divisor of B.
      places: tree of shardings (a prefix of the result's) for the running sums; None = as XLA likes.
    """
    parts = split_rows(batch, microbatches)

    def add(total, index):
        part = {name: jax.lax.dynamic_index_in_dim(value, index, 1, keepdims=False) for name, value in parts.items()}
        return _placed(jax.tree.map(lambda old, new: old + new.astype(old.dtype), total, function(part)), places), None

    first = {name: jax.ShapeDtypeStruct((len(value), *value.shape[2:]), value.dtype) for name, value in parts.items()}
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), jax.eval_shape(function, first))
    return jax.lax.scan(add, _placed(zeros, places), jnp.arange(microbatches))[0]


def in_turns(function: Callable, batch: Mapping[str, jax.Array], microbatches: int) -> dict[str, jax.Array]:
    """`function(batch)` in passes over the microbatches, one after the other, rows in the order of the batch.

    Args:
      function: microbatch -> fields [B/m,...], in which every row depends on its own row alone.
      batch: fields [B,...].
      microbatches: m, a divisor of B.
    """
    parts = split_rows(batch, microbatches)

    def one(_, index):
        return None, function(
            {name: jax.lax.dynamic_index_in_dim(value, index, 1, keepdims=False) for name, value in parts.items()}
        )

    found = jax.lax.scan(one, None, jnp.arange(microbatches))[1]
    return {name: jnp.moveaxis(value, 0, 1).reshape(-1, *value.shape[2:]) for name, value in found.items()}


def _placed(tree, places):
    if places is None:
        return tree
    whole = jax.tree.broadcast(places, tree, is_leaf=lambda leaf: leaf is None)
    return jax.tree.map(
        lambda place, leaf: leaf if place is None else jax.lax.with_sharding_constraint(leaf, place),
        whole,
        tree,
        is_leaf=lambda leaf: leaf is None,
    )
