"""Attention of a sequence to itself, by XLA, cuDNN (GPU) or splash attention (TPU).

What it serves are the long parts: the decoder's prefix and pictures in the encoders. Questions attend to
the prefix and their own past in two parts joined by their log-sum-exp (`layers.join`), and stay with XLA.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jax.sharding import PartitionSpec

from spatialsv_jax import target
from spatialsv_jax.backbones.layers import attend, join
from spatialsv_jax.partitioning import BATCH_AXES, constrain, context_size

BACKENDS = ("auto", "xla", "cudnn", "splash")
_LANES = 128  # of a TPU: rows and head width are padded to multiples of it
_LONGEST_BLOCK = 512
_HEADS, _CONTEXT = "tensor", "context"  # mesh axes that split heads, and rows of a sequence


def choose_backend(backend: str, dtype, split: bool = False) -> str:
    """What "auto" stands for on the target: splash on TPU, cuDNN on GPU in 16-bit types, XLA otherwise.

    Args:
      backend: one of `BACKENDS`.
      dtype: of the queries.
      split: whether the rows of a sequence are split over a mesh axis, which cuDNN cannot do.

    Raises:
      ValueError: an unknown name, or cuDNN for a split sequence.
    """
    if backend not in BACKENDS:
        raise ValueError(f"language.attention is {backend!r}; choose one of {BACKENDS}.")
    if backend == "cudnn" and split:
        raise ValueError(
            "language.attention is 'cudnn', which cannot split a sequence over mesh axis 'context'. Choose 'xla', or "
            "config.mesh.context = 1."
        )
    if backend != "auto":
        return backend
    platform = target.platform()
    if platform == "tpu":
        return "splash"
    return "cudnn" if platform == "gpu" and jnp.dtype(dtype).itemsize == 2 and not split else "xla"


def self_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool,
    real: jax.Array | None = None,
    backend: str = "auto",
    interpret: bool = False,
) -> jax.Array:
    """Attention of n rows to themselves.

    Args:
      query: scaled queries [B,H,n,d].
      key, value: [B,Hk,n,d], Hk a divisor of H: query head h reads key head h // (H / Hk).
      causal: whether a row sees only itself and rows before it.
      real: bool[B,n] rows that are there; the others are not seen, and what they get means nothing.
      backend: one of `BACKENDS`.
      interpret: runs the TPU kernel in Pallas' interpreter (tests).

    Returns:
      [B,H,n,d].
    """
    # Pictures are split by whole pictures: only a causal sequence is split over the context axis.
    kind = choose_backend(backend, query.dtype, split=causal and context_size() > 1)
    if kind == "splash":
        return _over_mesh(query, key, value, real, causal, interpret)
    if kind == "cudnn":
        if not causal:  # it takes no part of a sequence, as views that are split over the context axis would give it
            query, key, value = (constrain(part, "pictures", "heads", None, None) for part in (query, key, value))
            real = None if real is None else constrain(real, "pictures", None)
        return _cudnn(query, key, value, real, causal)
    return _xla(query, key, value, real, causal)


def _xla(query, key, value, real, causal):
    number, heads, count, dim = query.shape
    kv_heads = key.shape[1]
    mask = None
    if causal:
        mask = jnp.tril(jnp.ones((count, count), bool))[None]
    if real is not None:
        mask = real[:, None] if mask is None else mask & real[:, None]
    groups = heads // kv_heads
    if causal and context_size() > 1:
        # Groups stand behind the rows, so that the joint axis is split as the rows are.
        mask = jnp.broadcast_to(mask[:, :, None], (mask.shape[0], count, groups, count))
        rows = query.reshape(number, kv_heads, groups, count, dim).swapaxes(2, 3)
        out = join(
            [attend(rows.reshape(number, kv_heads, -1, dim), key, value, mask.reshape(-1, 1, count * groups, count))]
        )
        return out.reshape(number, kv_heads, count, groups, dim).swapaxes(2, 3).reshape(query.shape)
    if mask is not None:
        mask = jnp.broadcast_to(mask[:, None], (mask.shape[0], groups, count, count))
        mask = mask.reshape(mask.shape[0], 1, groups * count, count)
    rows = query.reshape(number, kv_heads, groups * count, dim)
    return join([attend(rows, key, value, mask)]).reshape(query.shape)


def _cudnn(query, key, value, real, causal):
    count, odd = query.shape[2], query.shape[2] % 2
    if odd:  # the kernel is not differentiated at odd lengths
        pad = lambda part: jnp.pad(part, ((0, 0), (0, 0), (0, 1), (0, 0)))
        query, key, value = pad(query), pad(key), pad(value)
        if real is None and not causal:  # a causal row does not see the one behind it
            real = jnp.ones((len(query), count), bool)
        real = None if real is None else jnp.pad(real, ((0, 0), (0, 1)))
    mask = None
    if real is not None:  # the kernel takes no mask of one query row
        mask = jnp.broadcast_to(real[:, None, None], (real.shape[0], 1, real.shape[1], real.shape[1]))
    swap = lambda part: part.swapaxes(1, 2)
    out = jax.nn.dot_product_attention(
        swap(query), swap(key), swap(value), mask=mask, scale=1.0, is_causal=causal, implementation="cudnn"
    )
    return swap(out)[:, :, :count]


def _over_mesh(query, key, value, real, causal, interpret):
    """The kernel on each device's rows and heads: XLA cannot split it by itself.

    On a context axis each device has a run of a causal sequence's queries and all its keys, or its own pictures.
    """
    mesh = jax.sharding.get_abstract_mesh()
    local = functools.partial(_splash, causal=causal, interpret=interpret)
    if mesh.empty or mesh.size == 1:
        return local(query, key, value, real)
    number, _, count, _ = query.shape
    rows = tuple(axis for axis in BATCH_AXES if axis in mesh.shape)
    size, context = math.prod(mesh.shape[axis] for axis in rows), context_size()
    if context > 1 and not causal and number % (size * context) == 0:
        rows, size = (*rows, _CONTEXT), size * context
    rows = rows if number % size == 0 else None
    heads = _HEADS if key.shape[1] % mesh.shape.get(_HEADS, 1) == 0 else None
    split = _CONTEXT if context > 1 and causal and count % context == 0 else None
    if split:
        local = functools.partial(_own_run, context=context, interpret=interpret)
    own, whole = PartitionSpec(rows, heads, split), PartitionSpec(rows, heads)
    # The kernel's outputs carry no type of what they vary over.
    mapped = jax.shard_map(
        local,
        in_specs=(own, whole, whole, None if real is None else PartitionSpec(rows)),
        out_specs=own,
        check_vma=False,
    )
    return mapped(query, key, value, real)


def _own_run(query, key, value, real, context, interpret):
    """This device's run of queries: its mask is static, so there is a program for every place on the axis."""
    length = query.shape[2]
    run = lambda place: functools.partial(_splash, causal=True, interpret=interpret, offset=place * length)
    places = [run(place) for place in range(context)]
    return jax.lax.switch(jax.lax.axis_index(_CONTEXT), places, query, key, value, real)


def _splash(query, key, value, real, causal, interpret, offset: int = 0):
    """Queries [B,H,m,d], rows offset to offset + m of the sequence, and keys of all its n rows."""
    number, heads, own, dim = query.shape
    count = key.shape[2]
    block, own_block = (min(_LONGEST_BLOCK, -(-size // _LANES) * _LANES) for size in (count, own))
    length, own_length = -(-count // block) * block, -(-own // own_block) * own_block
    width = -(-dim // _LANES) * _LANES

    def padded(part):
        longer = (own_length if part is query else length) - part.shape[2]
        return jnp.pad(part, ((0, 0), (0, 0), (0, longer), (0, width - dim)))

    there = jnp.ones((number, count), bool) if real is None else real
    segment = jnp.pad(there.astype(jnp.int32), ((0, 0), (0, length - count)))
    own_segment = jnp.pad(there[:, offset : offset + own].astype(jnp.int32), ((0, 0), (0, own_length - own)))
    shape = (own_length, length)
    mask = splash_mask.CausalMask(shape, offset) if causal else splash_mask.FullMask(shape)
    sizes = splash.BlockSizes(
        block_q=own_block, block_kv=block, block_kv_compute=block, block_q_dkv=own_block, block_kv_dkv=block,
        block_kv_dkv_compute=block, block_q_dq=own_block, block_kv_dq=block,
    )  # fmt: skip
    kernel = splash.make_splash_mha_single_device(
        splash_mask.MultiHeadMask([mask] * heads), block_sizes=sizes, interpret=interpret
    )
    # Rows that are not there form a segment of their own.
    run = lambda q, k, v, own, all_rows: kernel(q, k, v, splash.SegmentIds(own, all_rows))
    out = jax.vmap(run)(padded(query), padded(key), padded(value), own_segment, segment)
    return out[:, :, :own, :dim]
