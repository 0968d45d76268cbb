"""Parts of vision encoders that families share: patches, their order in windows, rotary attention."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spatialsv_jax.backbones.attention import self_attention
from spatialsv_jax.backbones.layers import attend, dense, join, layer_norm, rotate, scan_layers
from spatialsv_jax.partitioning import Normal, constrain, declare, ones


def cut_patches(pixels: jax.Array, size: int) -> jax.Array:
    """Pictures [n,...,h,w,c] to patches [n, h/p * w/p, ... * p * p * c], row-major, frames before pixels.

    Axes between n and h (frames) become the slowest part of a patch.
    """
    number, *frames, height, width, channels = pixels.shape
    rows, columns, count = height // size, width // size, int(np.prod(frames, dtype=int))
    x = pixels.reshape(number, count, rows, size, columns, size, channels)
    return x.transpose(0, 2, 4, 1, 3, 5, 6).reshape(number, rows * columns, count * size * size * channels)


def fold_pictures(x: jax.Array) -> jax.Array:
    """[B,X,...] as pictures [B*X,...], each device of a context axis with its own."""
    folded = x.reshape(-1, *x.shape[2:])
    return constrain(folded, "pictures", *(None,) * (folded.ndim - 1))


class WindowOrder(NamedTuple):
    """Patches of a grid, window after window, in each window merge block after merge block.

    The grid is padded at the right and the bottom to whole windows. n padded patches.
    """

    patches: np.ndarray  # int32[n] row-major index of each patch; rows * columns where there is none
    rows: np.ndarray  # int32[n]
    columns: np.ndarray  # int32[n]
    merged: np.ndarray  # int32[rows/m * columns/m] place of each merged token, row-major, in this order
    window: int  # patches of a window


@functools.lru_cache(maxsize=64)
def window_order(rows: int, columns: int, window: int, merge: int) -> WindowOrder:
    """The order for a grid of patches.

    Args:
      rows, columns: of the grid, multiples of `merge`.
      window: patches along a window's side, a multiple of `merge`; 0 = one window, the whole grid.
      merge: patches along the side of a merge block.
    """
    down, across = (window, window) if window else (rows, columns)
    height, width = -(-rows // down) * down, -(-columns // across) * across
    index = np.full((height, width), rows * columns, np.int32)
    index[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)

    def ordered(grid: np.ndarray) -> np.ndarray:
        blocks = grid.reshape(height // down, down // merge, merge, width // across, across // merge, merge)
        return blocks.transpose(0, 3, 1, 4, 2, 5).reshape(-1)

    patches = ordered(index)
    row, column = (ordered(np.ascontiguousarray(grid)) for grid in np.indices((height, width), np.int32))
    first = patches[:: merge * merge]  # the upper left patch of each block
    real = np.flatnonzero(first < rows * columns)
    merged = real[np.argsort(first[real], kind="stable")].astype(np.int32)
    return WindowOrder(patches, row, column, merged, down * across)


def real_patches(batch: Mapping, order: WindowOrder, block: int) -> jax.Array | None:
    """bool[B*V,r] patches that are part of a picture, in `order`; None = all.

    Args:
      batch: `feature_valid` says which merged tokens are, where pictures differ in size.
      order: of the canvas.
      block: patches of a merge block.
    """
    count, valid = len(order.merged), batch.get("feature_valid")
    if valid is None and len(order.patches) == count * block:
        return None
    pictures = int(np.prod(batch["pixel_values"].shape[:2]))
    valid = jnp.ones((pictures, count), bool) if valid is None else valid.reshape(pictures, count)
    tokens = jnp.zeros((pictures, len(order.patches) // block), bool).at[:, order.merged].set(valid)
    return jnp.repeat(tokens, block, axis=1)


def rotary_2d(rows: np.ndarray, columns: np.ndarray, head_dim: int, theta: float = 1e4) -> np.ndarray:
    """Angles float32[n, head_dim/2] of patches: the first half turns with the row, the second with the column."""
    quarter = head_dim // 4
    frequency = (theta ** (-np.arange(quarter) / quarter)).astype(np.float32)
    return np.concatenate([place[:, None].astype(np.float32) * frequency for place in (rows, columns)], axis=-1)


class VisionAttention(nn.Module):
    """Multi-head attention among the tokens of a picture, x[n,r,D].

    `among(query, key, value)` on [n,heads,r,d] does the attention itself; `turn` are cosines and
    sines float32[r,d/2] of a rotary embedding.
    """

    heads: int
    dtype: Any = jnp.float32
    qkv_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, among: Callable, turn: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
        number, count, width = x.shape
        head_dim = width // self.heads

        def project(name: str) -> jax.Array:
            linear = dense(width, ("embed", "heads"), name, self.qkv_bias, self.dtype)
            return linear(x).reshape(number, count, -1, head_dim)

        query, key, value = (project(name) for name in ("q", "k", "v"))
        if turn is not None:
            cos, sin = (part[None, :, None] for part in turn)
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        query, key, value = (part.transpose(0, 2, 1, 3) for part in (query * head_dim**-0.5, key, value))
        out = among(query, key, value).transpose(0, 2, 1, 3).reshape(number, count, width)
        return dense(width, ("heads", "embed"), "o", True, self.dtype)(out.astype(self.dtype))


def attend_windows(query: jax.Array, key: jax.Array, value: jax.Array, real: jax.Array | None, window: int):
    """Attention of [n,heads,r,d] within runs of `window` tokens; `real` bool[n,r] hides keys."""
    number, heads, count, dim = query.shape
    split = lambda part: part.reshape(number, heads, count // window, window, dim)
    mask = None if real is None else real.reshape(number, 1, count // window, 1, window)
    return join([attend(split(query), split(key), split(value), mask)]).reshape(query.shape)


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """The layers of a plain vision transformer.

    Attributes:
      activation: "gelu" (erf) or "quick_gelu" (CLIP's x * sigmoid(1.702 x)).
      layer_scale: whether each branch is multiplied by a learned vector before it is added.
      attention: see `attention.BACKENDS`.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    epsilon: float
    activation: str = "gelu"
    qkv_bias: bool = True
    layer_scale: bool = False
    attention: str = "auto"


class VitBlock(nn.Module):
    """One pre-norm layer over x[n,r,D]; a scan's body.

    `turn` as in `VisionAttention`, None = no rotary positions; `real` bool[n,r] hides keys, None = none.
    """

    config: VitConfig
    dtype: str

    @nn.compact
    def __call__(self, x, turn=None, real=None):
        config = self.config
        normed = layer_norm("attention_norm", self.dtype, config.epsilon)(x)
        among = functools.partial(self_attention, causal=False, real=real, backend=config.attention)
        mixed = VisionAttention(config.heads, self.dtype, config.qkv_bias, name="attention")(normed, among, turn)
        x = x + self._scaled("attention_scale", mixed)
        normed = layer_norm("mlp_norm", self.dtype, config.epsilon)(x)
        hidden = dense(config.mlp_width, ("embed", "mlp"), "up", True, self.dtype)(normed)
        hidden = ACTIVATIONS[config.activation](hidden)
        return x + self._scaled(
            "mlp_scale", dense(x.shape[-1], ("mlp", "embed"), "down", True, self.dtype)(hidden)
        ), None

    def _scaled(self, name: str, branch: jax.Array) -> jax.Array:
        if not self.config.layer_scale:
            return branch
        scale = self.param(name, declare(ones, "norm"), branch.shape[-1:], jnp.float32)
        return branch * scale[None, None].astype(self.dtype)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}


def vit_layers(config: VitConfig, dtype: str) -> nn.Module:
    """All layers, named "layers": (x, turn, real) -> (x, None), see `VitBlock`."""
    return scan_layers(VitBlock, config.layers, (nn.broadcast, nn.broadcast))(config, dtype, name="layers")


class TileEmbedding(nn.Module):
    """Square pictures [n,s,s,3] to a class token and patches [n,1+r,D], with learned positions."""

    patch_size: int
    width: int
    bias: bool
    dtype: str

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        patches = cut_patches(pixels.astype(self.dtype), self.patch_size)
        x = dense(self.width, ("patch", "embed"), "patch", self.bias, self.dtype)(patches)
        first = self.param("class", declare(Normal(0.02), "position", "embed"), (1, self.width), jnp.float32)
        first = jnp.broadcast_to(first[None].astype(self.dtype), (x.shape[0], 1, self.width))
        x = jnp.concatenate([first, x], axis=1)
        table = self.param("position", declare(Normal(0.02), "position", "embed"), x.shape[1:], jnp.float32)
        return x + table[None].astype(self.dtype)
