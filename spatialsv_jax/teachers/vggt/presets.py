"""Sizes and licences of the published VGGT checkpoints; there is one size."""

from __future__ import annotations

import dataclasses

from spatialsv_jax.teachers.layers import BlockConfig

PATCH, TABLE_SIDE = 14, 37  # pixels of a patch's side; the position table is that of 518 x 518 pictures
ENCODER_EPSILON, EPSILON = 1e-6, 1e-5  # norms of the patch encoder; all others with weights
CAMERA_HEADS, ITERATIONS = 16, 4  # of the camera head, whatever the width


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
      width, heads: of the patch encoder's and the aggregator's blocks; the MLPs' hidden width is 4 x width.
      encoder_layers, registers: of the patch encoder, whose registers are dropped behind it.
      pairs: of aggregator blocks, one within each view and one across all views.
      special_registers: the aggregator's own, beside one camera row a view.
      camera_layers: of the camera head's trunk.
      taps: the four pairs (0-based) whose states the dense heads read.
      features, channels: of the dense heads.
      dtype: of linear layers and attention of patch encoder and aggregator; residual stream and heads are float32.
      attention: see `backbones.attention.BACKENDS`.
      head_precision: of the dense heads' float32 products, as `jax.default_matmul_precision` has it.
    """

    width: int
    heads: int
    encoder_layers: int
    pairs: int
    camera_layers: int
    taps: tuple[int, int, int, int]
    features: int
    channels: tuple[int, int, int, int]
    registers: int = 4
    special_registers: int = 4
    dtype: str = "float32"
    attention: str = "auto"
    head_precision: str = "high"

    def __post_init__(self):
        if len(self.taps) != 4 or list(self.taps) != sorted(set(self.taps)) or self.taps[-1] != self.pairs - 1:
            raise ValueError(f"taps {self.taps}: four increasing pairs, the last one pair {self.pairs - 1}.")
        if len(self.channels) != 4 or any(size % 4 for size in (*self.channels, self.features // 2)):
            raise ValueError(f"channels {self.channels} must be four, they and half of features multiples of 4.")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(f"width {self.width} over {self.heads} heads: a head's width must be a multiple of 4.")
        if 2 * self.width % CAMERA_HEADS:
            raise ValueError(f"width {self.width}: twice of it must be a multiple of the camera head's {CAMERA_HEADS}.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}; choose 'float32' or 'bfloat16'.")

    @property
    def special(self) -> int:
        """Rows before the patches of a view in the aggregator: camera and registers."""
        return 1 + self.special_registers

    def encoder_block(self) -> BlockConfig:
        """Blocks of the patch encoder: no q/k norm, no rotary positions."""
        return BlockConfig(self.width, self.heads, 4 * self.width, ENCODER_EPSILON, attention=self.attention)

    def pair_block(self) -> BlockConfig:
        """Both kinds of blocks of the aggregator."""
        return BlockConfig(
            self.width, self.heads, 4 * self.width, EPSILON, qk_norm=True, qk_epsilon=EPSILON, attention=self.attention
        )

    def camera_block(self) -> BlockConfig:
        """Blocks of the camera head's trunk, twice as wide; always float32, so XLA's attention."""
        return BlockConfig(2 * self.width, CAMERA_HEADS, 8 * self.width, EPSILON, attention="xla")


@dataclasses.dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
      sizes: of its model.
      licence: of the weights, as the project's README states it.
      commercial: whether that licence allows commercial use.
    """

    sizes: Sizes
    licence: str
    commercial: bool


VGGT_1B = Sizes(1024, 16, 24, 24, 4, (4, 11, 17, 23), 256, (256, 512, 1024, 1024))
PUBLISHED: dict[str, Published] = {
    "VGGT-1B": Published(VGGT_1B, "VGGT-1B weights: non-commercial use only", False),
    "VGGT-1B-COMMERCIAL": Published(
        VGGT_1B,
        "VGGT License v1 (2025-07-29): commercial use allowed; acceptable-use policy (no military use, no weapons); access "
        "on application; derivatives only under the same licence",
        True,
    ),
}


def published(name: str) -> Published | None:
    """The checkpoint of a name or folder ("facebook/VGGT-1B"), None if it is none of `PUBLISHED`."""
    return PUBLISHED.get(name.rstrip("/").rsplit("/", 1)[-1].upper())
