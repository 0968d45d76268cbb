"""Loss algebra: a term is a dict of parts, a part is a global sum over a global count.

Sums and counts stay separate until both are complete, so that neither sharding nor padding nor
micro-batches change a value (docs/method.md, 3.1).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from fractions import Fraction

import jax
import jax.numpy as jnp

# Residuals, and values under the quantile filter, are cut here (docs/method.md, 3.2 and 3.5).
CLAMP = 100.0
# The quantile filter leaves at least this many values.
FILTER_MINIMUM = 1000


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("values", "mask", "count_mask"),
    meta_fields=("coefficient",),
)
@dataclasses.dataclass(frozen=True)
class Part:
    """sum(values where mask) / sum(count_mask), which enters its term times `coefficient`.

    `values` and `mask` have one shape. `count_mask` may have another, for N is not always the number
    of values (docs/method.md, 3.1): a value can be the sum of several elements, and then `count_mask` holds
    the number of elements of each value. Masks depend on the batch only, never on predictions,
    unless the quantile filter is on.
    """

    values: jax.Array
    mask: jax.Array
    count_mask: jax.Array
    coefficient: float = 1.0

    def total(self) -> jax.Array:
        """S, the sum of the valid values, float32[]."""
        return jnp.where(self.mask, self.values, 0).sum(dtype=self.values.dtype)

    def count(self) -> jax.Array:
        """N, float32[]; summed as integers, which float32 could not do beyond 2^24."""
        return self.count_mask.sum(dtype=jnp.int32).astype(jnp.float32)


def part_value(part: Part, count: jax.Array | None = None) -> jax.Array:
    """S / N without the coefficient; N = 0 gives 0 with gradient 0.

    Args:
      part: the part.
      count: N of the whole batch where `part` holds one micro-batch of it; the values of the
        micro-batches then add up to the batch's value.
    """
    count = part.count() if count is None else count
    return part.total() / jnp.maximum(count, 1).astype(part.values.dtype)


def row_values(part: Part) -> jax.Array:
    """S / N of every row of the batch alone, float32[B]; NaN where a row has nothing that counts.

    Their mean, weighted by the rows' N, is `part_value`: it says which rows a value comes from.
    """
    over = lambda array: array.reshape(array.shape[0], -1).sum(1)
    number = over(part.count_mask.astype(jnp.int32))
    return jnp.where(number > 0, over(jnp.where(part.mask, part.values, 0)) / jnp.maximum(number, 1), jnp.nan)


def reduce(parts: Mapping[str, Part], counts: Mapping[str, jax.Array] | None = None) -> jax.Array:
    """Value of a term: the sum over its parts of coefficient * S / N.

    Args:
      parts: name -> Part.
      counts: name -> N of the whole batch, see `part_value`; None = the parts' own.

    Returns:
      A scalar (float32).
    """
    total = jnp.zeros((), jnp.float32)
    for name, part in parts.items():
        total = total + part.coefficient * part_value(part, None if counts is None else counts[name])
    return total


def quantile_filter(part: Part, quantile: float) -> Part:
    """Drops the largest values of the whole batch (docs/method.md, 3.5); N becomes the number kept.

    With at most 1000 valid values nothing changes. Else values are cut at 100, and those strictly
    below the value of rank round(quantile (n - 1)) are kept, or all (cut) if at most 1000 would
    remain. Needs all values at once: not for micro-batches.

    Args:
      part: a part whose mask is also its count mask.
      quantile: in (0, 1), for instance 0.98.
    """
    capped = jnp.minimum(part.values, CLAMP)
    number = part.mask.sum(dtype=jnp.int32)
    ordered = jnp.sort(jnp.where(part.mask, jax.lax.stop_gradient(capped), jnp.inf).reshape(-1))
    rank = _scaled_rank(jnp.maximum(number - 1, 0), quantile)
    threshold = jnp.minimum(ordered[rank], CLAMP)
    # Written so that a NaN is kept and shows in the total.
    below = part.mask & ~(capped >= threshold)
    enough = below.sum(dtype=jnp.int32) > FILTER_MINIMUM
    filtered = number > FILTER_MINIMUM
    kept = jnp.where(filtered & enough, below, part.mask)
    values = jnp.where(filtered, capped, part.values)
    return dataclasses.replace(part, values=values, mask=kept, count_mask=kept)


def _scaled_rank(last: jax.Array, quantile: float) -> jax.Array:
    """round(quantile * last), ties to even, in integers (float32 is too coarse for large batches)."""
    fraction = Fraction(str(quantile)).limit_denominator(10_000)
    numerator, denominator = fraction.numerator, fraction.denominator
    whole, rest = last // denominator * numerator, last % denominator * numerator
    rank, twice = whole + rest // denominator, rest % denominator * 2
    up = (twice > denominator) | ((twice == denominator) & (rank % 2 == 1))
    return rank + up.astype(rank.dtype)
