"""Resizing of a learned position table to another grid of patches, as two constant matrices made in NumPy.

The published models use two different bicubic resizes, and trained tables expect theirs:

- "offset" (Depth Anything 3): kernel a = -0.75, no antialiasing, clamped at the edge, and a scale of (n + 0.1) / m: output i
  samples (i + 0.5) * m / (n + 0.1) - 0.5.
- "antialiased" (VGGT): kernel a = -0.5, widened by m / n when shrinking, weights normalised at the border; what
  `jax.image.resize(..., "cubic", antialias=True)` computes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np


def cubic_kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel of Keys (1981) with constant `a`; 0 from distance 2 on."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def cubic_weights(centre: np.ndarray, source: int, a: float) -> np.ndarray:
    """float64[n,source] weights of samples at `centre` (0 = the first cell's centre), indices clamped at the edge."""
    weights = np.zeros((len(centre), source))
    lower = np.floor(centre).astype(int)
    for tap in range(-1, 3):
        index = np.clip(lower + tap, 0, source - 1)
        np.add.at(weights, (np.arange(len(centre)), index), cubic_kernel(centre - (lower + tap), a))
    return weights


def offset_bicubic(source: int, target: int) -> np.ndarray:
    """float64[target,source] of the "offset" resize."""
    scale = (target + 0.1) / source
    return cubic_weights((np.arange(target) + 0.5) / scale - 0.5, source, -0.75)


def antialiased_bicubic(source: int, target: int) -> np.ndarray:
    """float64[target,source] of the "antialiased" resize."""
    widened = max(1.0, source / target)
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    weights = cubic_kernel((centre[:, None] - np.arange(source)) / widened, -0.5)
    return weights / weights.sum(-1, keepdims=True)


RESIZES = {"offset": offset_bicubic, "antialiased": antialiased_bicubic}


@functools.lru_cache(maxsize=64)
def _matrix(resize: str, source: int, target: int) -> np.ndarray:
    return RESIZES[resize](source, target).astype(np.float32)


def resize_table(table: jax.Array, side: int, grid: tuple[int, int], resize: str) -> jax.Array:
    """A table float32[side*side,C] for a grid of other size, float32[h*w,C]; unchanged where the grid is the table's.

    Args:
      table: positions of the patches row by row, without those of special tokens.
      side: of the square that it was learned for.
      grid: (h, w) patches.
      resize: key of RESIZES.
    """
    if tuple(grid) == (side, side):
        return table
    down, across = (jnp.asarray(_matrix(resize, side, target)) for target in grid)
    exact = functools.partial(jnp.matmul, precision="highest")
    x = exact(down, table.reshape(side, -1)).reshape(grid[0], side, -1)
    return exact(across[None], x).reshape(grid[0] * grid[1], -1)
