"""Procedural textures and materials, NumPy only.

A texture here is a *pattern*: a tileable grey picture in [0, 1] with its mip levels. A material mixes
two colours by a pattern, so one shared atlas of patterns serves every scene and a scene's own
materials are a few numbers each.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

TILE = 128  # texels along a side of mip level 0
LEVELS = 7  # mip levels: 128, 64, 32, 16, 8, 4, 2
VARIANTS = 3  # differently seeded pictures per pattern kind


@dataclasses.dataclass(frozen=True)
class Material:
    """Surface look: colour = low + (high - low) * pattern, both sRGB in 0..255.

    `scale_m` is the side of one pattern tile in metres; `emission` is light given off, in units of
    the surface's own colour (0 = none).
    """

    name: str
    pattern: str
    variant: int
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    scale_m: float = 1.0
    emission: float = 0.0


def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(TILE) + 0.5) / TILE
    return np.meshgrid(axis, axis)


def _noise(rng: np.random.Generator, power: float, stretch: float = 1.0) -> np.ndarray:
    """Tileable noise with spectrum 1 / f^power in 0..1; `stretch` > 1 lengthens it along u."""
    fu, fv = np.meshgrid(np.fft.fftfreq(TILE) * TILE * stretch, np.fft.fftfreq(TILE) * TILE)
    radius = np.sqrt(fu**2 + fv**2)
    spectrum = np.fft.fft2(rng.standard_normal((TILE, TILE))) / np.maximum(radius, 1.0) ** power
    spectrum[0, 0] = 0.0
    values = np.fft.ifft2(spectrum).real
    return np.clip(0.5 + values / (5.0 * values.std()), 0.0, 1.0)


def _cells(rng: np.random.Generator, rows: int, columns: int, shift: float, gap: float) -> np.ndarray:
    """Rectangles in rows, each row shifted, with dark joints of `gap` of a cell and a shade per cell."""
    u, v = _grid()
    row = np.floor(v * rows).astype(int)
    across = (u * columns + shift * row) % columns
    column = np.floor(across).astype(int)
    shade = rng.uniform(0.55, 1.0, (rows, columns))[row, column]
    inside = (np.abs((across % 1) - 0.5) < 0.5 - gap) & (np.abs((v * rows) % 1 - 0.5) < 0.5 - gap * rows / columns)
    return np.where(inside, shade, 0.1)


def _planks(rng):
    return np.clip(_cells(rng, 6, 2, 0.5, 0.012) - 0.25 * _noise(rng, 1.5, 6.0), 0, 1)


def _tiles(rng):
    return np.clip(_cells(rng, 2, 2, 0.0, 0.03) * 0.5 + 0.5 * (_cells(rng, 2, 2, 0.0, 0.03) > 0.2), 0, 1)


def _brick(rng):
    return _cells(rng, 8, 4, 0.5, 0.06)


def _parquet(rng):
    return np.clip(_cells(rng, 4, 4, 0.0, 0.02) - 0.2 * _noise(rng, 1.5, 4.0), 0, 1)


def _carpet(rng):
    return 0.6 * rng.uniform(0, 1, (TILE, TILE)) + 0.4 * _noise(rng, 1.5)


def _fabric(rng):
    u, v = _grid()
    weave = 0.5 + 0.25 * np.sign(np.sin(2 * np.pi * 16 * u)) * np.sign(np.sin(2 * np.pi * 16 * v))
    return np.clip(weave + 0.3 * (_noise(rng, 1.0) - 0.5), 0, 1)


def _wood(rng):
    _, v = _grid()
    return 0.5 + 0.5 * np.sin(2 * np.pi * (4 * v + 1.3 * _noise(rng, 2.0, 5.0)))


def _checker(rng):
    u, v = _grid()
    return ((np.floor(u * 4) + np.floor(v * 4)) % 2).astype(float)


def _stripes(rng):
    u, _ = _grid()
    return (np.sin(2 * np.pi * (int(rng.integers(3, 6)) * u)) > 0).astype(float)


def _dots(rng):
    u, v = _grid()
    shifted = u * 4 + 0.5 * (np.floor(v * 4) % 2)
    return ((shifted % 1 - 0.5) ** 2 + (v * 4 % 1 - 0.5) ** 2 > 0.07).astype(float)


def _picture(rng):
    """Abstract painting: a few soft rectangles and discs."""
    u, v = _grid()
    values = np.full((TILE, TILE), 0.75)
    for _ in range(7):
        centre, size, level = rng.uniform(0.1, 0.9, 2), rng.uniform(0.06, 0.28, 2), rng.uniform(0, 1)
        if rng.random() < 0.5:
            inside = (np.abs(u - centre[0]) < size[0]) & (np.abs(v - centre[1]) < size[1])
        else:
            inside = (u - centre[0]) ** 2 + (v - centre[1]) ** 2 < size[0] ** 2
        values[inside] = level
    return values


def _zigzag(rng):
    u, v = _grid()
    return ((v * 6 + 0.8 * np.abs((u * 4) % 2 - 1)) % 1 > 0.5).astype(float)


def _diamonds(rng):
    u, v = _grid()
    return (np.abs((u * 4) % 1 - 0.5) + np.abs((v * 4) % 1 - 0.5) > 0.4).astype(float)


def _terrazzo(rng):
    speckle = _noise(rng, 0.6)
    return np.select([speckle > 0.68, speckle < 0.34], [1.0, 0.0], 0.6)


def _waves(rng):
    u, v = _grid()
    return 0.5 + 0.5 * np.sin(2 * np.pi * (6 * v + 0.35 * np.sin(2 * np.pi * 2 * u)))


PATTERNS = {
    "plain": lambda rng: np.full((TILE, TILE), 1.0),
    "plaster": lambda rng: _noise(rng, 0.8),
    "carpet": _carpet,
    "fabric": _fabric,
    "wood": _wood,
    "planks": _planks,
    "parquet": _parquet,
    "tiles": _tiles,
    "brick": _brick,
    "marble": lambda rng: 1.0 - np.abs(2.0 * _noise(rng, 2.0) - 1.0) ** 0.6,
    "brushed": lambda rng: _noise(rng, 0.7, 8.0),
    "stripes": _stripes,
    "checker": _checker,
    "dots": _dots,
    "picture": _picture,
    # Seen only in the out-of-distribution split.
    "zigzag": _zigzag,
    "diamonds": _diamonds,
    "terrazzo": _terrazzo,
    "waves": _waves,
}


@functools.lru_cache(maxsize=1)
def atlas() -> np.ndarray:
    """All patterns with their mip levels, float32 in 0..1, flat.

    Pattern `pattern_index(kind, variant)` starts at that index times `atlas_stride()`; level k holds
    (TILE >> k) squared texels, row-major, after the levels before it.
    """
    rows = []
    for number, make in enumerate(PATTERNS.values()):
        for variant in range(VARIANTS):
            level = make(np.random.default_rng([7, number, variant])).astype(np.float64)
            for _ in range(LEVELS):
                rows.append(level.ravel())
                half = level.shape[0] // 2
                level = level.reshape(half, 2, half, 2).mean((1, 3))
    return np.concatenate(rows).astype(np.float32)


LEVEL_OFFSET = np.concatenate([[0], np.cumsum([(TILE >> k) ** 2 for k in range(LEVELS)])])


def atlas_stride() -> int:
    """Texels of one pattern with all its mip levels."""
    return int(LEVEL_OFFSET[-1])


def pattern_index(kind: str, variant: int) -> int:
    """Place of a pattern in the atlas. Raises ValueError for an unknown kind or variant."""
    if kind not in PATTERNS or not 0 <= variant < VARIANTS:
        raise ValueError(f"Pattern '{kind}' variant {variant} unknown. Kinds: {', '.join(PATTERNS)}; variants 0..2.")
    return list(PATTERNS).index(kind) * VARIANTS + variant


def linear_from_srgb(rgb: np.ndarray) -> np.ndarray:
    """sRGB in 0..255 -> linear light in 0..1 (IEC 61966-2-1)."""
    value = np.asarray(rgb, np.float64) / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


@functools.lru_cache(maxsize=1)
def srgb_table() -> np.ndarray:
    """uint8[4096]: sRGB code of linear light k / 4095."""
    value = np.arange(4096) / 4095.0
    encoded = np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class MaterialTable:
    """The materials of one scene as arrays; index = material number."""

    first_texel: np.ndarray  # int64[K] into `atlas()`
    low: np.ndarray  # float32[K,3] linear light
    span: np.ndarray  # float32[K,3] high - low
    scale_m: np.ndarray  # float32[K]
    emission: np.ndarray  # float32[K]


def material_table(materials: tuple[Material, ...]) -> MaterialTable:
    """Arrays for the renderer."""
    low = linear_from_srgb(np.array([material.low for material in materials]))
    high = linear_from_srgb(np.array([material.high for material in materials]))
    return MaterialTable(
        np.array([pattern_index(m.pattern, m.variant) * atlas_stride() for m in materials], np.int64),
        low.astype(np.float32),
        (high - low).astype(np.float32),
        np.array([m.scale_m for m in materials], np.float32),
        np.array([m.emission for m in materials], np.float32),
    )


def sample(first_texel: np.ndarray, uv: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Pattern values float32[n] at uv float32[n,2] (in tiles, wrapped) from mip `level` int[n]."""
    side = TILE >> level
    cell = ((uv - np.floor(uv)) * side[:, None]).astype(np.int64)
    np.minimum(cell, side[:, None] - 1, out=cell)
    return atlas()[first_texel + LEVEL_OFFSET[level] + cell[:, 1] * side + cell[:, 0]]
