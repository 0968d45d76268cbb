"""The rows that the decoder runs over: a prefix and questions, in runs where devices share them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Rows:
    """What the N rows of a pass are: `prefix` rows, then `questions` times T rows."""

    cos: jax.Array  # float32[B,N,1,d/2]
    sin: jax.Array
    prefix_mask: jax.Array  # bool[B,S] real prefix tokens
    visual: jax.Array | None  # bool[B,S] tokens that see all visual tokens; None = causal
    own_mask: jax.Array | None  # bool[B|1,Q|1,T,M] which of a question's M keys each row sees
    slot: jax.Array | None  # int32[] first cache slot that the rows fill
    prefix: int = struct.field(pytree_node=False)  # S, or 0 when the prefix is in the cache
    questions: int = struct.field(pytree_node=False)  # Q
    # Devices that share the rows: these are then c runs, each of S / c prefix rows and Q T / c question rows, so that
    # both parts are split without moving a row.
    runs: int = struct.field(pytree_node=False, default=1)

    def of_prefix(self, x: jax.Array) -> jax.Array:
        """The prefix rows [B,S,...] of x[B,N,...]."""
        if self.runs == 1:
            return x[:, : self.prefix]
        return self._in_runs(x)[:, :, : self.prefix // self.runs].reshape(x.shape[0], -1, *x.shape[2:])

    def of_questions(self, x: jax.Array) -> jax.Array:
        """The questions' rows [B,Q*T,...] of x[B,N,...]."""
        if self.runs == 1:
            return x[:, self.prefix :]
        return self._in_runs(x)[:, :, self.prefix // self.runs :].reshape(x.shape[0], -1, *x.shape[2:])

    def joined(self, prefix: jax.Array, questions: jax.Array) -> jax.Array:
        """Inverse of the two: rows [B,N,...]."""
        return join_runs(prefix, questions, self.runs)

    def _in_runs(self, x):
        return x.reshape(x.shape[0], self.runs, -1, *x.shape[2:])


def join_runs(prefix: jax.Array, questions: jax.Array, runs: int) -> jax.Array:
    """Rows [B,S,...] and [B,M,...] as [B,S+M,...], in `runs` runs of both (`Rows.runs`)."""
    if runs == 1:
        return jnp.concatenate([prefix, questions], axis=1)
    parts = [part.reshape(part.shape[0], runs, -1, *part.shape[2:]) for part in (prefix, questions)]
    joined = jnp.concatenate(parts, axis=2)
    return joined.reshape(joined.shape[0], -1, *joined.shape[3:])
