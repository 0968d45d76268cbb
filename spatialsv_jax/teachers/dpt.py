"""The published DPT of Depth Anything 3 and VGGT: what `lifting.dpt`, which follows it, does otherwise or leaves out.

Differences: bilinear resizes align the corners; a sine embedding of the place in the picture is added to maps; the last
convolutions stand before and behind the resize to the picture. Maps are [n,h,w,c], views folded into n.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spatialsv_jax.backbones.layers import layer_norm
from spatialsv_jax.lifting.dpt import Reassembly, ResidualUnit, conv3
from spatialsv_jax.lifting.projectors import linear

SINE_FACTOR, SINE_BASE = 0.1, 100.0
OUTPUT_WIDTH = 32
CHUNK_VIEWS = 8  # views that a head treats at once


def aligned_bilinear(source: int, target: int) -> np.ndarray:
    """float64[target,source] weights of a bilinear resize whose first and last samples lie on the first and last cells."""
    centre = np.arange(target) * ((source - 1) / max(target - 1, 1))
    return np.maximum(0.0, 1.0 - np.abs(centre[:, None] - np.arange(source)))


@functools.lru_cache(maxsize=64)
def _aligned(source: int, target: int) -> np.ndarray:
    return aligned_bilinear(source, target).astype(np.float32)


def resize_aligned(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize of [n,h,w,c] to [n,H,W,c] with aligned corners, as two matrix products."""
    for axis, target in enumerate(size):
        number, rows, columns, channels = x.shape
        if x.shape[1 + axis] == target:
            continue
        weights = jnp.asarray(_aligned(x.shape[1 + axis], target), x.dtype)[None]
        if axis == 0:
            x = jnp.matmul(weights, x.reshape(number, rows, columns * channels))
            x = x.reshape(number, target, columns, channels)
        else:
            x = jnp.matmul(weights, x.reshape(number * rows, columns, channels))
            x = x.reshape(number, rows, target, channels)
    return x


def sine_embedding(height: int, width: int, channels: int, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """The embedding of a map's cells as a sum of two parts, float32[1,w,c] and [h,1,c], factor included.

    Cells lie at u in [-sx (w-1)/w, sx (w-1)/w], v alike, where (sx, sy) is the half diagonal's direction of a picture of that
    aspect; channels are [sin, cos of u; sin, cos of v] at frequencies 100^(-k/(c/4)).

    Args:
      height, width, channels: of the map; channels a multiple of 4.
      aspect: width / height of the picture (not of the map).
    """
    across, down = (np.zeros((size, channels)) for size in (width, height))
    frequency = SINE_BASE ** (-np.arange(channels // 4) / (channels // 4))
    diagonal = np.hypot(aspect, 1.0)
    for part, reach, half in ((across, aspect / diagonal, 0), (down, 1.0 / diagonal, channels // 2)):
        end = reach * (len(part) - 1) / len(part)
        angle = np.linspace(-end, end, len(part))[:, None] * frequency
        part[:, half : half + channels // 2] = SINE_FACTOR * np.concatenate([np.sin(angle), np.cos(angle)], -1)
    return across[None].astype(np.float32), down[:, None].astype(np.float32)


def add_sine(x: jax.Array, aspect: float) -> jax.Array:
    """x[n,h,w,c] plus the embedding of its cells."""
    across, down = sine_embedding(*x.shape[1:], aspect)
    return x + jnp.asarray(across, x.dtype)[None] + jnp.asarray(down, x.dtype)[None]


def reassembly(channels: Sequence[int], features: int, aspect: float | None, dtype: Any, name: str) -> Reassembly:
    """Four token grids to four maps, with the sine embedding unless `aspect` is None and one bias a channel, as published."""
    embed = None if aspect is None else functools.partial(add_sine, aspect=aspect)
    return Reassembly(channels, features, dtype, embed, False, name=name)


class FusionLevel(nn.Module):
    """One step down the pyramid: unit(top + unit(lateral)), resized to `size`, through a 1x1 convolution.

    `clipped`: the units add relu(x) instead of x (VGGT).
    """

    features: int
    clipped: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array | None, lateral: jax.Array, size: tuple[int, int]) -> jax.Array:
        unit = lambda name: ResidualUnit(self.features, self.dtype, self.clipped, name=name)
        x = lateral if x is None else x + unit("skip")(lateral)
        # A 1x1 convolution commutes with interpolation and is cheaper on the smaller map.
        x = linear(self.features, ("conv_in", "conv_out"), "mix", self.dtype)(unit("fuse")(x))
        return resize_aligned(x, size)


class Pyramid(nn.Module):
    """The four maps, fine to coarse, to one [n,8h,8w,features] of a grid of h x w patches."""

    features: int
    clipped: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        x = None
        for level in range(len(maps) - 1, -1, -1):
            size = maps[level - 1].shape[1:3] if level else tuple(2 * side for side in maps[0].shape[1:3])
            x = FusionLevel(self.features, self.clipped, self.dtype, name=f"level_{level}")(x, maps[level], size)
        return x


class Output(nn.Module):
    """3x3 convolution to 32 channels, (norm,) relu and a linear map to `outputs`, float32."""

    outputs: int
    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = conv3(OUTPUT_WIDTH, "refine", self.dtype)(x)
        if self.norm:
            x = layer_norm("norm", self.dtype, 1e-5)(x)
        x = nn.relu(x).astype(jnp.float32)
        return linear(self.outputs, ("conv_in", "output"), "predict")(x)


def in_view_chunks(head: Callable, arrays: Sequence[jax.Array], chunk: int = CHUNK_VIEWS) -> Any:
    """head(arrays) for arrays [B,S,...], a few views of every sample at a time; the same values in less memory.

    Args:
      head: a module (made in `setup`) that takes the arrays and gives arrays or a dict of them, [B,S,...].
      arrays: with equal B and S.
      chunk: most views at once.
    """
    number, views = arrays[0].shape[:2]
    turns = -(-views // chunk)
    if turns == 1:
        return head(arrays)
    size = -(-views // turns)
    padding = turns * size - views

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(number, turns, size, *x.shape[2:]), 1, 0)

    body = lambda head, _, part: (None, head(part))
    scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
    _, made = scan(head, None, [split(x) for x in arrays])
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(number, turns * size, *x.shape[3:])[:, :views]
    return jax.tree.map(join, made)
