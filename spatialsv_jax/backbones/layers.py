"""Layers shared by model families: norms, rotary positions, attention, MLPs.

Attention is written with explicit transposes to [..., heads, rows, width] and batched matrix
products, about twice as fast on CPU as einsum over 'bthd'. Kernels are matrices [in, out].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from spatialsv_jax.convolution import CONV_OPTIONS
from spatialsv_jax.linear import as_rows, linear_options
from spatialsv_jax.partitioning import Normal, declare, lecun, ones, zeros

_MASKED = -1e30
# Layers per iteration of a scan. Parameters stay stacked; on CPU products inside a loop body run
# slower and every saved array is copied, so small models are better off without the loop.
UNROLL = 4


def dense(features: int, axes: tuple[str, str], name: str, bias: bool = False, dtype: Any = jnp.float32) -> nn.Dense:
    """A linear layer whose kernel [in, out] carries the logical axes `axes`."""
    return nn.Dense(features, use_bias=bias, dtype=dtype, name=name, **linear_options(axes))


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) beside some linear layers.

    Attributes:
      rank: 0 = none.
      alpha: the adapters' outputs are multiplied by alpha / rank.
      targets: names of the layers, of q, k, v, o, gate, up, down.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = ()


class Adapter(nn.Module):
    """alpha / rank * x A B, with B = 0 at first; A is [in, rank], B [rank, out]."""

    config: LoraConfig
    features: int
    axes: tuple[str, str]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        rank = self.config.rank
        first = self.param("a", declare(lecun, self.axes[0], "norm"), (x.shape[-1], rank), jnp.float32)
        second = self.param("b", declare(zeros, "norm", self.axes[1]), (rank, self.features), jnp.float32)
        low = jnp.matmul(x.astype(self.dtype), first.astype(self.dtype))
        return jnp.matmul(low, second.astype(self.dtype)) * jnp.asarray(self.config.alpha / rank, self.dtype)


def adapted(
    x: jax.Array, features: int, axes: tuple[str, str], name: str, bias: bool, dtype: Any, lora: LoraConfig
) -> jax.Array:
    """`dense` of x, plus an adapter `name`_lora where `lora` targets it; within a compact module."""
    out = dense(features, axes, name, bias, dtype)(x)
    if lora.rank and name in lora.targets:
        out = out + Adapter(lora, features, axes, dtype, name=f"{name}_lora")(x)
    return out


def layer_norm(name: str, dtype: Any = jnp.float32, epsilon: float = 1e-6) -> nn.LayerNorm:
    """LayerNorm over the last axis, statistics in float32."""
    return nn.LayerNorm(
        epsilon=epsilon, dtype=dtype, scale_init=declare(ones, "norm"), bias_init=declare(zeros, "norm"), name=name
    )


def rms_norm(name: str, dtype: Any = jnp.float32, epsilon: float = 1e-6) -> nn.RMSNorm:
    """RMSNorm over the last axis, statistics in float32."""
    return nn.RMSNorm(epsilon=epsilon, dtype=dtype, scale_init=declare(ones, "norm"), name=name)


def rotary_table(
    positions: jax.Array, head_dim: int, theta: float, sections: Sequence[int] = (), factor: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of rotary embedding, float32[...,head_dim/2].

    Args:
      positions: int32[...,K], K position axes.
      head_dim: width of a head, even.
      theta: base of the frequencies theta^(-2i/head_dim).
      sections: with K > 1, how many of the head_dim/2 frequencies follow each axis.
      factor: positions are divided by it ("linear" scaling).

    Raises:
      ValueError: K > 1 without sections that fit.
    """
    half, axes = head_dim // 2, positions.shape[-1]
    sections = tuple(sections) or (half,)
    if len(sections) != axes or sum(sections) != half:
        raise ValueError(f"{axes} position axes and {half} frequencies do not fit rotary sections {sections}.")
    frequency = jnp.asarray(theta ** (-np.arange(half) / half), jnp.float32)
    axis = np.repeat(np.arange(axes), sections)
    angle = positions[..., axis].astype(jnp.float32) / factor * frequency.reshape((1,) * (positions.ndim - 1) + (half,))
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates pairs (i, i + d/2) of the last axis; cos and sin have x's rank and d/2 last."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class AttentionPart(NamedTuple):
    """Attention over a part of the keys, not yet normalised: log-sum-exp = top + log(total)."""

    weighted: jax.Array  # float32[...,rows,d] sum of exp(score - top) * value
    top: jax.Array  # float32[...,rows,1] largest score
    total: jax.Array  # float32[...,rows,1] sum of exp(score - top)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> AttentionPart:
    """Attention of scaled queries [...,rows,d] to keys and values [...,keys,d].

    `mask` (True = visible) is broadcast to the scores [...,rows,keys], the same rank. A row that
    sees no key stays finite and has weight 0 once joined with a part in which it does.
    """
    scores = jnp.matmul(query, jnp.swapaxes(key, -1, -2), preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, _MASKED)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weighted = jnp.matmul(weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return AttentionPart(weighted, top, total)


def join(parts: Sequence[AttentionPart]) -> jax.Array:
    """Softmax attention over the union of the parts' keys, float32[...,rows,d]."""
    if len(parts) == 1:
        return parts[0].weighted / parts[0].total
    top = parts[0].top
    for part in parts[1:]:
        top = jnp.maximum(top, part.top)
    shares = [jnp.exp(part.top - top) for part in parts]
    weighted = sum(part.weighted * share for part, share in zip(parts, shares, strict=True))
    return weighted / sum(part.total * share for part, share in zip(parts, shares, strict=True))


def scan_layers(block: type[nn.Module], length: int, in_axes: tuple = ()) -> Callable:
    """`length` layers of one kind with stacked parameters: block(...)(carry, *inputs) -> (carry, output).

    `in_axes` says for each input whether every layer has its own (0) or all have the same (nn.broadcast).
    """
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=in_axes or 0,
        length=length,
        unroll=min(UNROLL, length),
        metadata_params={meta.PARTITION_NAME: "layers"},
    )


class EncoderAttention(nn.Module):
    """Full multi-head attention over [...,n,D]."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, count = x.shape[-1], x.shape[-2]
        split = lambda y: jnp.swapaxes(y.reshape(*x.shape[:-1], self.heads, width // self.heads), -2, -3)
        query, key, value = (
            split(dense(width, ("embed", "heads"), name, bias=True, dtype=self.dtype)(x)) for name in ("q", "k", "v")
        )
        out = join([attend(query * (width // self.heads) ** -0.5, key, value)])
        out = jnp.swapaxes(out, -2, -3).reshape(*x.shape[:-2], count, width).astype(self.dtype)
        return dense(width, ("heads", "embed"), "o", bias=True, dtype=self.dtype)(out)


class EncoderBlock(nn.Module):
    """Pre-norm transformer block with LayerNorm and a GELU MLP, over [...,n,D]."""

    heads: int
    mlp_ratio: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        normed = layer_norm("attention_norm", self.dtype)(x)
        x = x + EncoderAttention(self.heads, self.dtype, name="attention")(normed)
        hidden = layer_norm("mlp_norm", self.dtype)(x)
        hidden = dense(self.mlp_ratio * width, ("embed", "mlp"), "up", bias=True, dtype=self.dtype)(hidden)
        return x + dense(width, ("mlp", "embed"), "down", bias=True, dtype=self.dtype)(nn.gelu(hidden))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    hidden: int
    dtype: Any = jnp.float32
    bias: bool = False
    lora: LoraConfig = LoraConfig()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # One matrix of rows through all of it, see `as_rows`.
        rows = as_rows(x)
        options = (self.bias, self.dtype, self.lora)
        gate = adapted(rows, self.hidden, ("embed", "mlp"), "gate", *options)
        up = adapted(rows, self.hidden, ("embed", "mlp"), "up", *options)
        return adapted(nn.silu(gate) * up, x.shape[-1], ("mlp", "embed"), "down", *options).reshape(x.shape)


class PatchStem(nn.Module):
    """Pictures [n,h,w,3] to patch embeddings [n, h/p * w/p, D] with a learned position table.

    `conv`: log2(p) convolutions 3x3 of stride 2 with GELU, then a linear map. `patch`: one linear
    map of the p x p pixels.
    """

    kind: str
    patch_size: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        number, height, width, channels = pixels.shape
        size = self.patch_size
        rows, columns = height // size, width // size
        x = pixels.astype(self.dtype)
        if self.kind == "conv":
            steps = size.bit_length() - 1
            for step in range(steps):
                width = max(self.width >> (steps - 1 - step), 8)
                x = nn.Conv(width, (3, 3), strides=2, dtype=self.dtype, name=f"conv_{step}", **CONV_OPTIONS)(x)
                x = nn.gelu(x)
            x = x.reshape(number, rows * columns, x.shape[-1])
        else:
            x = x.reshape(number, rows, size, columns, size, channels)
            x = x.transpose(0, 1, 3, 2, 4, 5).reshape(number, rows * columns, size * size * channels)
        x = dense(self.width, ("patch", "embed"), "project", bias=True, dtype=self.dtype)(x)
        table = self.param(
            "position",
            declare(Normal(0.02), "position", "embed"),
            (rows * columns, self.width),
            jnp.float32,
        )
        return x + table[None].astype(self.dtype)


def merge_patches(x: jax.Array, grid: tuple[int, int], merge: int) -> jax.Array:
    """[n, gh*gw, D] to [n, (gh/m)*(gw/m), m*m*D]: each m x m square of patches becomes one token."""
    number, _, width = x.shape
    rows, columns = grid[0] // merge, grid[1] // merge
    x = x.reshape(number, rows, merge, columns, merge, width).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(number, rows * columns, merge * merge * width)
