"""Sizes, licences and parameter counts of the published Depth Anything 3 checkpoints."""

from __future__ import annotations

import dataclasses

from spatialsv_jax.teachers.layers import BlockConfig

PATCH, TABLE_SIDE = 14, 37  # pixels of a patch's side; the position table is that of 518 x 518 pictures


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
      width, layers, heads, mlp_width, mlp: of the backbone; see `layers.BlockConfig`.
      alt_start: first block with rotary positions and q/k norm; from it on odd blocks see all views. 0: never (mono form).
      taps: the four blocks (0-based) whose states the head reads.
      features, channels: of the head.
      dtype: of the backbone's linear layers and attention; residual stream, head and cameras are float32.
      attention: see `backbones.attention.BACKENDS`.
      head_precision: of the head's float32 products, as `jax.default_matmul_precision` has it.
      table_side: cells of the stored position table's side, as many as pictures have patches if it is not to be resized.
      unroll: pairs of blocks in one turn of the loop over them: more compile longer, and small models on CPU run faster.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    alt_start: int
    taps: tuple[int, int, int, int]
    features: int
    channels: tuple[int, int, int, int]
    mlp: str = "gelu"
    dtype: str = "float32"
    attention: str = "auto"
    head_precision: str = "high"
    table_side: int = TABLE_SIDE
    unroll: int = 2

    def __post_init__(self):
        if len(self.taps) != 4 or list(self.taps) != sorted(set(self.taps)) or self.taps[-1] != self.layers - 1:
            raise ValueError(f"taps {self.taps}: four increasing blocks, the last one block {self.layers - 1}.")
        if len(self.channels) != 4 or any(size % 4 for size in (*self.channels, self.features // 2)):
            raise ValueError(f"channels {self.channels} must be four, they and half of features multiples of 4.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}; choose 'float32' or 'bfloat16'.")
        if self.alt_start and not (2 <= self.alt_start < self.layers and self.layers % 2 == 0):
            raise ValueError(f"alt_start {self.alt_start} of {self.layers} layers: expected 2 or more, layers even.")
        # A tap on block alt_start itself would need the camera token in its first half (none is published).
        if self.alt_start and any(tap % 2 == 0 or tap <= self.alt_start for tap in self.taps):
            raise ValueError(f"taps {self.taps} must be odd blocks behind alt_start {self.alt_start}.")

    @property
    def any_view(self) -> bool:
        """Whether blocks see all views, and cameras are predicted."""
        return self.alt_start > 0

    def block(self, qk_norm: bool = False) -> BlockConfig:
        """The backbone's blocks: norms 1e-6, q/k norms 1e-5."""
        return BlockConfig(
            self.width, self.heads, self.mlp_width, 1e-6, self.mlp, qk_norm, 1e-5, attention=self.attention
        )


@dataclasses.dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
      sizes: of its model; of the nested pair, those of its any-view part.
      licence: of the weights, as the project's README states it.
      commercial: whether that licence allows commercial use.
      metric: whether depth is in metres once `scale.metric_depth` or `scale.join_nested` was applied.
    """

    sizes: Sizes
    licence: str
    commercial: bool
    metric: bool = False


_WIDE = {"features": 256, "channels": (256, 512, 1024, 1024)}
SMALL = Sizes(384, 12, 6, 1536, 4, (5, 7, 9, 11), 64, (48, 96, 192, 384))
BASE = Sizes(768, 12, 12, 3072, 4, (5, 7, 9, 11), 128, (96, 192, 384, 768))
LARGE = Sizes(1024, 24, 16, 4096, 8, (11, 15, 19, 23), **_WIDE)
GIANT = Sizes(1536, 40, 24, 4096, 13, (19, 27, 33, 39), mlp="swiglu", **_WIDE)
MONO = Sizes(1024, 24, 16, 4096, 0, (4, 11, 17, 23), **_WIDE)

_APACHE, _NC = ("Apache-2.0", True), ("CC BY-NC 4.0", False)
PUBLISHED: dict[str, Published] = {
    "DA3-SMALL": Published(SMALL, *_APACHE),
    "DA3-BASE": Published(BASE, *_APACHE),
    "DA3-LARGE": Published(LARGE, *_NC),
    "DA3-GIANT": Published(GIANT, *_NC),
    "DA3MONO-LARGE": Published(MONO, *_APACHE),
    "DA3METRIC-LARGE": Published(MONO, *_APACHE, metric=True),
    "DA3NESTED-GIANT-LARGE": Published(GIANT, *_NC, metric=True),
}


def published(name: str) -> Published | None:
    """The checkpoint of a name or folder ("depth-anything/DA3-LARGE-1.1"), None if it is none of `PUBLISHED`.

    The retrained "-1.1" checkpoints have the sizes and licence of the first ones.
    """
    return PUBLISHED.get(name.rstrip("/").rsplit("/", 1)[-1].upper().removesuffix("-1.1"))
