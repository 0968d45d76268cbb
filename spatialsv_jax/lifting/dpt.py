"""Dense prediction decoder: four token grids to one map at the output resolution.

Reassembly: per tap a 1x1 convolution to C_i, then resize by 4, 2, 1, 1/2 (learned: transposed
convolutions whose kernel is their stride, and a 3x3 convolution of stride 2), then 3x3 to F.
Fusion runs from the coarsest to the finest grid. Constants are those of VGGT's and DA3's DPT.
Views are folded into the leading axis; maps are [n,h,w,c].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spatialsv_jax.convolution import CONV_OPTIONS
from spatialsv_jax.lifting.projectors import linear
from spatialsv_jax.linear import dot_general
from spatialsv_jax.partitioning import Constant, declare, lecun

UPSAMPLING = (4, 2, 1)  # of the first three taps; the fourth is halved
OUTPUT_WIDTH = 32


def conv3(features: int, name: str, dtype: Any, stride: int = 1, bias: bool = True) -> nn.Conv:
    """3x3 convolution, zero padding 1."""
    return nn.Conv(features, (3, 3), strides=stride, padding=1, use_bias=bias, dtype=dtype, name=name, **CONV_OPTIONS)


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize of [n,h,w,c] to [n,H,W,c], pixel centres at +0.5, no antialiasing.

    Written as two small matrix products, one per axis: quick in forward and backward pass.
    """
    for axis, target in ((1, size[0]), (2, size[1])):
        source = x.shape[axis]
        if source != target:
            weights = jnp.asarray(_bilinear(source, target), x.dtype)
            number, rows, columns, channels = x.shape
            if axis == 1:
                x = jnp.matmul(weights[None], x.reshape(number, rows, columns * channels))
                x = x.reshape(number, target, columns, channels)
            else:
                x = jnp.matmul(weights[None], x.reshape(number * rows, columns, channels))
                x = x.reshape(number, rows, target, channels)
    return x


def _bilinear(source: int, target: int) -> np.ndarray:
    """float32[target,source] interpolation weights; each row sums to 1."""
    centre = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    lower = np.minimum(centre.astype(int), max(source - 2, 0))
    weights = np.zeros((target, source), np.float32)
    share = centre - lower
    weights[np.arange(target), lower] = 1 - share
    if source > 1:
        weights[np.arange(target), lower + 1] = share
    return weights


class ResizedConv(nn.Module):
    """`conv3` of `resize(x, size)` without the large map of all input channels; parameters as `conv3`'s.

    Both are linear: the tap (i, j) of the kernel applied to the resized map is that map shifted, and it does not matter
    whether a tap's matrix stands before or after the interpolation. So the 9 taps act on the small map, and one product
    per axis then interpolates, shifts and adds them up. The same function up to rounding.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int]) -> jax.Array:
        number, height, width, channels = x.shape
        shape = (3, 3, channels, self.features)
        kernel = self.param("kernel", CONV_OPTIONS["kernel_init"], shape, jnp.float32)
        bias = self.param("bias", CONV_OPTIONS["bias_init"], (self.features,), jnp.float32)
        taps = kernel.astype(self.dtype).transpose(2, 0, 1, 3).reshape(channels, -1)
        x = jnp.matmul(x.astype(self.dtype), taps)
        x = x.reshape(number, height, width, 3, 3, self.features).transpose(0, 3, 1, 4, 2, 5)
        down, across = (jnp.asarray(_shifted(*sides), x.dtype) for sides in ((height, size[0]), (width, size[1])))
        x = jnp.matmul(down[None], x.reshape(number, 3 * height, 3 * width * self.features))
        x = jnp.matmul(across[None], x.reshape(number * size[0], 3 * width, self.features))
        return x.reshape(number, *size, self.features) + bias[None, None, None].astype(self.dtype)

    @staticmethod
    def is_cheaper(source: tuple[int, int], size: tuple[int, int], channels: int, features: int) -> bool:
        """Whether this takes fewer multiplications than the resize and the convolution."""
        (h, w), (height, width) = source, size
        own = h * w * channels * 9 * features + height * 9 * h * w * features + height * width * 3 * w * features
        resized = (h != height) * height * h * w * channels + (w != width) * height * width * w * channels
        return own < resized + height * width * 9 * channels * features


def _shifted(source: int, target: int) -> np.ndarray:
    """float32[target,3*source]: interpolation weights of the rows before, at and behind; 0 outside of the map."""
    weights = np.pad(_bilinear(source, target), ((1, 1), (0, 0)))
    return np.concatenate([weights[tap : tap + target] for tap in range(3)], axis=1)


class Reassembly(nn.Module):
    """Four token grids [n,gh,gw,C] to four maps of F channels at 4, 2, 1 and 1/2 times the grid.

    `embed` is applied to the projected grids [n,gh,gw,C_i]. `pixel_bias`: whether an enlarged token has a bias per channel of
    each pixel, or one per channel (as a transposed convolution has).
    """

    channels: Sequence[int]
    features: int
    dtype: Any = jnp.float32
    embed: Callable[[jax.Array], jax.Array] | None = None
    pixel_bias: bool = True

    @nn.compact
    def __call__(self, grids: Sequence[jax.Array]) -> list[jax.Array]:
        maps = []
        for level, (grid, channels) in enumerate(zip(grids, self.channels, strict=True)):
            x = linear(channels, ("conv_in", "conv_out"), f"project_{level}", self.dtype)(grid.astype(self.dtype))
            if self.embed is not None:
                x = self.embed(x)
            if level < len(UPSAMPLING):
                x = self._enlarge(x, UPSAMPLING[level], f"resize_{level}")
            else:
                x = conv3(channels, f"resize_{level}", self.dtype, stride=2)(x)
            maps.append(conv3(self.features, f"reduce_{level}", self.dtype, bias=False)(x))
        return maps

    def _enlarge(self, x: jax.Array, factor: int, name: str) -> jax.Array:
        """Transposed convolution with kernel = stride = factor: a linear map per token, then its pixels."""
        if factor == 1:
            return x
        number, rows, columns, channels = x.shape
        x = linear(factor * factor * channels, ("conv_in", "conv_out"), name, self.dtype, self.pixel_bias)(x)
        x = x.reshape(number, rows, columns, factor, factor, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(number, rows * factor, columns * factor, channels)
        if not self.pixel_bias:
            bias = self.param(f"{name}_bias", CONV_OPTIONS["bias_init"], (channels,), jnp.float32)
            x = x + bias[None, None, None].astype(self.dtype)
        return x


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))); `clipped`: relu(x) is added instead of x."""

    features: int
    dtype: Any = jnp.float32
    clipped: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        positive = nn.relu(x)
        inner = conv3(self.features, "first", self.dtype)(positive)
        return (positive if self.clipped else x) + conv3(self.features, "second", self.dtype)(nn.relu(inner))


class Fusion(nn.Module):
    """Top-down fusion of the four maps, then a map [n,H,W,outputs] in float32.

    `refine`: "full" runs the last 3x3 convolution on the resized map, "folded" together with the resize
    (`ResizedConv`), where that is cheaper.
    """

    features: int
    outputs: int
    output_bias: Sequence[float]
    dtype: Any = jnp.float32
    refine: str = "full"

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], size: tuple[int, int]) -> jax.Array:
        x = None
        for level in range(len(maps) - 1, -1, -1):
            if x is None:
                x = maps[level]
            else:
                x = x + ResidualUnit(self.features, self.dtype, name=f"skip_{level}")(maps[level])
            x = ResidualUnit(self.features, self.dtype, name=f"fuse_{level}")(x)
            # A 1x1 convolution commutes with interpolation and is cheaper on the smaller map.
            x = linear(self.features, ("conv_in", "conv_out"), f"mix_{level}", self.dtype)(x)
            if level:
                x = resize(x, maps[level - 1].shape[1:3])
        if self.refine == "folded" and ResizedConv.is_cheaper(x.shape[1:3], size, self.features, OUTPUT_WIDTH):
            x = ResizedConv(OUTPUT_WIDTH, self.dtype, name="refine")(x, size)
        else:
            x = conv3(OUTPUT_WIDTH, "refine", self.dtype)(resize(x, size))
        x = nn.relu(x).astype(jnp.float32)
        return nn.Dense(
            self.outputs,
            dot_general=dot_general,
            kernel_init=declare(lecun, "conv_in", "output"),
            bias_init=declare(Constant(tuple(self.output_bias)), "output"),
            name="predict",
        )(x)
