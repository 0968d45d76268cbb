"""Attention of a sequence to itself, by XLA, cuDNN (GPU) or splash attention (TPU).

What it serves are the long parts: the decoder's prefix and pictures in the encoders. Questions attend to
the prefix and their own past in two parts joined by their log-sum-exp (`layers.join`), and stay with XLA.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jax.sharding import PartitionSpec

from spatialsv_jax.backbones.layers import attend, join

BACKENDS = ("auto", "xla", "cudnn", "splash")
_LANES = 128  # of a TPU: rows and head width are padded to multiples of it
_LONGEST_BLOCK = 512
_BATCH, _HEADS = ("data", "fsdp"), "tensor"  # mesh axes that split rows of a batch, and heads


def choose_backend(backend: str, dtype) -> str:
    """What "auto" stands for on this machine: splash on TPU, cuDNN on GPU in 16-bit types, XLA otherwise.

    Raises:
      ValueError: an unknown name.
    """
    if backend not in BACKENDS:
        raise ValueError(f"language.attention is {backend!r}; choose one of {BACKENDS}.")
    if backend != "auto":
        return backend
    platform = jax.default_backend()
    if platform == "tpu":
        return "splash"
    return "cudnn" if platform == "gpu" and jnp.dtype(dtype).itemsize == 2 else "xla"


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
    kind = choose_backend(backend, query.dtype)
    if kind == "splash":
        return _over_mesh(query, key, value, real, causal, interpret)
    if kind == "cudnn":
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
    if mask is not None:
        mask = jnp.broadcast_to(mask[:, None], (mask.shape[0], groups, count, count))
        mask = mask.reshape(mask.shape[0], 1, groups * count, count)
    rows = query.reshape(number, kv_heads, groups * count, dim)
    return join([attend(rows, key, value, mask)]).reshape(query.shape)


def _cudnn(query, key, value, real, causal):
    count, odd = query.shape[2], query.shape[2] % 2
    mask = None
    if real is not None:  # the kernel takes no mask of one query row, and none of odd length where it is differentiated
        pad = lambda part: jnp.pad(part, ((0, 0), (0, 0), (0, odd), (0, 0)))
        query, key, value, real = pad(query), pad(key), pad(value), jnp.pad(real, ((0, 0), (0, odd)))
        mask = jnp.broadcast_to(real[:, None, None], (real.shape[0], 1, real.shape[1], real.shape[1]))
    swap = lambda part: part.swapaxes(1, 2)
    out = jax.nn.dot_product_attention(
        swap(query), swap(key), swap(value), mask=mask, scale=1.0, is_causal=causal, implementation="cudnn"
    )
    return swap(out)[:, :, :count]


def _over_mesh(query, key, value, real, causal, interpret):
    """The kernel on each device's rows and heads: XLA cannot split it by itself."""
    mesh = jax.sharding.get_abstract_mesh()
    local = functools.partial(_splash, causal=causal, interpret=interpret)
    if mesh.empty or mesh.size == 1:
        return local(query, key, value, real)
    rows = tuple(axis for axis in _BATCH if axis in mesh.shape)
    size = 1
    for axis in rows:
        size *= mesh.shape[axis]
    rows = rows if query.shape[0] % size == 0 else None
    heads = _HEADS if key.shape[1] % mesh.shape.get(_HEADS, 1) == 0 else None
    part = PartitionSpec(rows, heads)
    # The kernel's outputs carry no type of what they vary over.
    split = jax.shard_map(
        local,
        in_specs=(part, part, part, None if real is None else PartitionSpec(rows)),
        out_specs=part,
        check_vma=False,
    )
    return split(query, key, value, real)


def _splash(query, key, value, real, causal, interpret):
    number, heads, count, dim = query.shape
    block = min(_LONGEST_BLOCK, -(-count // _LANES) * _LANES)
    length, width = -(-count // block) * block, -(-dim // _LANES) * _LANES
    padded = lambda part: jnp.pad(part, ((0, 0), (0, 0), (0, length - count), (0, width - dim)))
    there = jnp.ones((number, count), bool) if real is None else real
    segment = jnp.pad(there.astype(jnp.int32), ((0, 0), (0, length - count)))
    make = splash_mask.CausalMask if causal else splash_mask.FullMask
    sizes = splash.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    kernel = splash.make_splash_mha_single_device(
        splash_mask.MultiHeadMask([make((length, length))] * heads), block_sizes=sizes, interpret=interpret
    )
    # Rows that are not there form a segment of their own.
    run = lambda q, k, v, s: kernel(q, k, v, splash.SegmentIds(s, s))
    return jax.vmap(run)(padded(query), padded(key), padded(value), segment)[:, :, :count, :dim]
