"""Transformer layers that the published teachers share: DINOv2-type blocks within a view and across all views.

Tokens are [B,S,N,C]: S views of N rows, first the special rows (class, camera, registers), then the patches row by row. The
residual stream is float32; linear layers and attention compute in `dtype`, as the published programs do under autocast.

Rows across views carry nothing that tells their order: attention over all views does not depend on how views are sorted.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from spatialsv_jax.backbones.attention import self_attention
from spatialsv_jax.backbones.layers import UNROLL, SwiGLU, dense, layer_norm, rotate
from spatialsv_jax.backbones.vision_layers import cut_patches
from spatialsv_jax.partitioning import Normal, declare, ones
from spatialsv_jax.teachers.position_tables import resize_table

Turn = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """One kind of pre-norm block; LayerScale and biases are always there.

    Attributes:
      width, heads, mlp_width: C, number of heads, hidden width of the MLP.
      epsilon: of the two norms before the branches.
      mlp: "gelu" (erf) or "swiglu".
      qk_norm: whether queries and keys go through a LayerNorm over a head's width, before the rotary.
      qk_epsilon: of that norm.
      attention: see `backbones.attention.BACKENDS`.
    """

    width: int
    heads: int
    mlp_width: int
    epsilon: float = 1e-6
    mlp: str = "gelu"
    qk_norm: bool = False
    qk_epsilon: float = 1e-5
    attention: str = "auto"

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}.")
        if self.mlp not in ("gelu", "swiglu"):
            raise ValueError(f"mlp is {self.mlp!r}; choose 'gelu' or 'swiglu'.")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.width // self.heads


def patch_positions(grid: tuple[int, int], special: int) -> np.ndarray:
    """int32[special + h*w, 2] rotary positions (row, column): special rows (0, 0), patches from (1, 1) on, row by row."""
    rows, columns = np.indices(grid, np.int32).reshape(2, -1) + 1
    return np.concatenate([np.zeros((special, 2), np.int32), np.stack([rows, columns], -1)])


def rotary_turn(positions: np.ndarray, head_dim: int, base: float = 100.0) -> Turn:
    """Cosines and sines float32[N,2,head_dim/4] of the 2-D rotary: half of a head turns with the row, half with the column.

    Within a half of m = head_dim/2 features the frequencies are base^(-2k/m), k < m/2, and feature k is paired with k + m/2.

    Args:
      positions: [N,2].
      head_dim: a multiple of 4.
      base: of the frequencies.
    """
    half = head_dim // 2
    frequency = base ** (-2.0 * np.arange(half // 2) / half)
    angle = positions[..., None].astype(np.float64) * frequency
    return jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)


class MultiViewAttention(nn.Module):
    """Attention among the rows of each view, or (`across`) among the rows of all views of a sample."""

    config: BlockConfig
    dtype: Any
    across: bool

    @nn.compact
    def __call__(self, x: jax.Array, turn: Turn | None, view_valid: jax.Array | None) -> jax.Array:
        config = self.config
        number, views, count, width = x.shape
        heads, dim = config.heads, config.head_dim

        def project(name: str) -> jax.Array:
            linear = dense(width, ("embed", "heads"), name, True, self.dtype)
            return linear(x).reshape(number, views, count, heads, dim)

        query, key, value = (project(name) for name in ("q", "k", "v"))
        if config.qk_norm:
            query = layer_norm("q_norm", self.dtype, config.qk_epsilon)(query)
            key = layer_norm("k_norm", self.dtype, config.qk_epsilon)(key)
        if turn is not None:
            query, key = rotate_halves(query, turn), rotate_halves(key, turn)
        rows = (number, views * count) if self.across else (number * views, count)
        query, key, value = (
            part.reshape(*rows, heads, dim).transpose(0, 2, 1, 3) for part in (query * dim**-0.5, key, value)
        )
        real = jnp.repeat(view_valid, count, axis=1) if self.across and view_valid is not None else None
        out = self_attention(query, key, value, causal=False, real=real, backend=config.attention)
        out = out.transpose(0, 2, 1, 3).reshape(x.shape).astype(self.dtype)
        return dense(width, ("heads", "embed"), "o", True, self.dtype)(out)


def rotate_halves(x: jax.Array, turn: Turn) -> jax.Array:
    """Turns the halves of each head of x[B,S,N,heads,d] by `rotary_turn`."""
    halves = x.reshape(*x.shape[:-1], 2, -1)
    return rotate(halves, *(part[None, None, :, None] for part in turn)).reshape(x.shape)


class Block(nn.Module):
    """x += scale * attention(norm(x)); x += scale * mlp(norm(x)), over x float32[B,S,N,C].

    `turn`: of `rotary_turn`, None = no rotary. `view_valid` bool[B,S], None = all: rows of other views are not seen across
    views.
    """

    config: BlockConfig
    dtype: Any = jnp.float32
    across: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, turn: Turn | None = None, view_valid: jax.Array | None = None) -> jax.Array:
        config = self.config
        normed = layer_norm("attention_norm", self.dtype, config.epsilon)(x)
        mixed = MultiViewAttention(config, self.dtype, self.across, name="attention")(normed, turn, view_valid)
        x = x + self._scaled("attention_scale", mixed)
        normed = layer_norm("mlp_norm", self.dtype, config.epsilon)(x)
        if config.mlp == "swiglu":
            branch = SwiGLU(config.mlp_width, self.dtype, bias=True, name="mlp")(normed)
        else:
            branch = GeluMlp(config.mlp_width, self.dtype, name="mlp")(normed)
        return x + self._scaled("mlp_scale", branch)

    def _scaled(self, name: str, branch: jax.Array) -> jax.Array:
        scale = self.param(name, declare(ones, "norm"), branch.shape[-1:], jnp.float32)
        return branch.astype(jnp.float32) * scale[None, None, None]


class GeluMlp(nn.Module):
    """down(gelu(up(x))), the erf form."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.gelu(dense(self.hidden, ("embed", "mlp"), "up", True, self.dtype)(x), approximate=False)
        return dense(x.shape[-1], ("mlp", "embed"), "down", True, self.dtype)(hidden)


class LayerStates(NamedTuple):
    """What a stack of layers gives."""

    x: jax.Array  # float32[B,S,N,C] after the last layer
    taps: jax.Array | None  # float32[T,B,S,N,C or 2C] after the layers asked for
    first_rows: jax.Array  # float32[layers,B,S,C] row 0 of every view after each layer


class _Plain(nn.Module):
    config: BlockConfig
    dtype: Any
    across: bool

    @nn.compact
    def __call__(self, carry, slot, turn, view_valid):
        x, taps = carry
        x = Block(self.config, self.dtype, self.across, name="block")(x, turn, view_valid)
        return (x, _store(taps, x, slot)), x[:, :, 0]


class _Pair(nn.Module):
    config: BlockConfig
    dtype: Any

    @nn.compact
    def __call__(self, carry, slot, turns, view_valid):
        x, taps = carry
        within = Block(self.config, self.dtype, name="within")(x, turns[0], view_valid)
        x = Block(self.config, self.dtype, across=True, name="across")(within, turns[1], view_valid)
        taps = _store(taps, None if taps is None else jnp.concatenate([within, x], -1), slot)
        return (x, taps), x[:, :, 0]


def _store(taps, state, slot):
    return taps if taps is None else jax.lax.dynamic_update_index_in_dim(taps, state, slot, 0)


def _slots(taps: tuple[int, ...], length: int) -> np.ndarray:
    """int32[length]: where each layer puts its state. Each tap's place is overwritten until its own layer comes."""
    if list(taps) != sorted(set(taps)) or any(not 0 <= tap < length for tap in taps):
        raise ValueError(f"taps {taps} must be increasing numbers of {length} layers, 0 to {length - 1}.")
    if taps and taps[-1] != length - 1:
        raise ValueError(f"the last tap {taps[-1]} must be the last of {length} layers.")
    return np.searchsorted(np.asarray(taps, np.int32), np.arange(length)).astype(np.int32)


def _scan(body: type[nn.Module], length: int, unroll: int):
    return nn.scan(
        body,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast),
        length=length,
        unroll=min(unroll, length),
        metadata_params={meta.PARTITION_NAME: "layers"},
    )


class Layers(nn.Module):
    """`length` equal blocks in one scan, parameters stacked under "layers/block".

    `taps`: layers (0-based, increasing, the last one the last layer) whose states [B,S,N,C] are kept; () = none.
    """

    config: BlockConfig
    length: int
    taps: tuple[int, ...] = ()
    dtype: Any = jnp.float32
    across: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, turn: Turn | None = None, view_valid: jax.Array | None = None) -> LayerStates:
        taps = jnp.zeros((len(self.taps), *x.shape), x.dtype) if self.taps else None
        scan = _scan(_Plain, self.length, UNROLL)(self.config, self.dtype, self.across, name="layers")
        (x, taps), rows = scan((x, taps), jnp.asarray(_slots(self.taps, self.length)), turn, view_valid)
        return LayerStates(x, taps, rows)


class PairedLayers(nn.Module):
    """`length` pairs of a block within each view and one across all views, stacked under "layers/within" and "layers/across".

    `taps`: pairs (0-based, as in `Layers`) of which [output within | output across] [B,S,N,2C] is kept, without a norm.
    `unroll`: pairs in one turn of the scan.
    """

    config: BlockConfig
    length: int
    taps: tuple[int, ...]
    dtype: Any = jnp.float32
    unroll: int = UNROLL // 2

    @nn.compact
    def __call__(
        self, x: jax.Array, turns: tuple[Turn | None, Turn | None], view_valid: jax.Array | None = None
    ) -> LayerStates:
        taps = jnp.zeros((len(self.taps), *x.shape[:-1], 2 * x.shape[-1]), x.dtype) if self.taps else None
        scan = _scan(_Pair, self.length, self.unroll)(self.config, self.dtype, name="layers")
        (x, taps), rows = scan((x, taps), jnp.asarray(_slots(self.taps, self.length)), turns, view_valid)
        return LayerStates(x, taps, rows)


class PatchTokens(nn.Module):
    """Normalised pictures [B,S,H,W,3] to tokens float32[B,S,1+registers+h*w,C]: class, registers, patches row by row.

    The stored position table has a row for the class token and `table_side`^2 for patches; it is resized to the picture's
    grid (see `position_tables`). Registers get no position.
    """

    patch_size: int
    width: int
    table_side: int
    resize: str  # key of `position_tables.RESIZES`
    registers: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        number, views, height, width, _ = pixels.shape
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"pictures of {height} x {width}: both must be multiples of {self.patch_size}.")
        grid = (height // self.patch_size, width // self.patch_size)
        patches = cut_patches(pixels.reshape(-1, *pixels.shape[2:]).astype(self.dtype), self.patch_size)
        x = dense(self.width, ("patch", "embed"), "patch", True, self.dtype)(patches).astype(jnp.float32)
        x = x.reshape(number, views, -1, self.width)
        stored = lambda name, rows: self.param(
            name, declare(Normal(0.02), "position", "embed"), (rows, self.width), jnp.float32
        )
        table = stored("position", 1 + self.table_side**2)
        everywhere = lambda rows: jnp.broadcast_to(rows[None, None], (number, views, *rows.shape))
        parts = [everywhere(stored("class", 1) + table[:1])]
        if self.registers:
            parts.append(everywhere(stored("registers", self.registers)))
        positions = resize_table(table[1:], self.table_side, grid, self.resize)
        return jnp.concatenate([*parts, x + positions[None, None]], axis=2)
