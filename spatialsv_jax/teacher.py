"""The network that labels rooms: Depth Anything 3's any-view model at small sizes, trained from nothing on exact labels.

Backbone and dense head are those of `teachers.da3`, the camera encoder and decoder are left out: labels have no cameras given,
and theirs are solved from the rays. It is called as the MLLM is and trained by the same objective with the text weight 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from spatialsv_jax.lifting.dpt import resize
from spatialsv_jax.model import BatchModule
from spatialsv_jax.teachers.da3.model import Backbone, DualHead
from spatialsv_jax.teachers.da3.presets import PATCH, Sizes
from spatialsv_jax.teachers.dpt import in_view_chunks


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The teacher. The model's patches are of 14 x 14 pixels, to which it enlarges (or shrinks) those of the pictures."""

    image_size: int = 64
    patch_size: int = 8  # pixels of a picture that become a patch's side
    merge: int = 2  # features are averaged over merge x merge patches: the student's lifting grid
    width: int = 128  # also the width of the features to distil
    layers: int = 10  # blocks, an even number
    heads: int = 4
    mlp_ratio: int = 4
    alt_start: int = 2  # first block with rotary positions; from it on odd blocks see all views
    taps: tuple = (3, 5, 7, 9)  # odd blocks whose states the head reads, the last one the last block
    channels: tuple = (32, 32, 64, 64)  # of the head
    features: int = 32  # of the head
    dtype: str = "float32"  # of the backbone's products
    unroll: int = 4  # pairs of blocks in one turn of the loop over them

    def __post_init__(self):
        if self.image_size % (self.patch_size * self.merge):
            raise ValueError(
                f"teacher.image_size {self.image_size} is no multiple of patch_size {self.patch_size} x merge {self.merge}."
            )
        if self.width % (4 * self.heads):
            raise ValueError(
                f"teacher.width {self.width} is no multiple of 4 x heads {self.heads}: a head turns with row and column."
            )
        if self.alt_start < 2:
            raise ValueError(f"teacher.alt_start is {self.alt_start}, expected 2 or more.")
        try:
            self.sizes  # noqa: B018
        except ValueError as error:
            raise ValueError(f"teacher: {error}") from error

    @property
    def sizes(self) -> Sizes:
        """Of the model; its position table is that of its one grid of patches."""
        return Sizes(
            self.width,
            self.layers,
            self.heads,
            self.mlp_ratio * self.width,
            self.alt_start,
            self.taps,
            self.features,
            self.channels,
            dtype=self.dtype,
            table_side=self.image_size // self.patch_size,
            unroll=self.unroll,
        )

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of the feature grid (the student's lifting grid)."""
        return (self.image_size // (self.patch_size * self.merge),) * 2


class SpatialTeacher(BatchModule):
    """Same call and predictions as `SpatialMLLM`, without answers, with `teacher_features[B,V,P,D]`.

    Reads `pixel_values` and `view_valid` only. The first valid view is the reference, whose frame is the world's. Parameters:
    {"teacher": backbone, "lifting": head}.
    """

    config: TeacherConfig

    def setup(self):
        self.teacher = Backbone(self.config.sizes)
        self.lifting = DualHead(self.config.sizes)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of `teacher_features`."""
        return self.config.grid_hw

    @property
    def feature_width(self) -> int:
        """Width of `teacher_features`."""
        return self.config.width

    def __call__(self, batch: Mapping[str, jax.Array], *, label_hw: tuple[int, int], lift: bool = True) -> dict:
        """Predictions for one batch; `lift=False` leaves the dense head out (features only).

        The head gives depth at the enlarged picture's size and rays at 8/14 of it; all maps are brought to `label_hw`. It has
        no point maps: `points` are origin + depth * direction, as sure as the less sure of the two.
        """
        config = self.config
        side = PATCH * config.sizes.table_side
        pixels = _resized(batch["pixel_values"], (side, side))
        grids, _, _ = self.teacher(pixels, batch["view_valid"], None, None, "first")
        last = grids[-1][..., config.width :]  # [within a view | across views]: what stands behind the last block
        lead, rows, merge = last.shape[:2], config.grid_hw[0], config.merge
        pooled = last.reshape(*lead, rows, merge, rows, merge, config.width).mean((3, 5))
        predictions = {"teacher_features": pooled.reshape(*lead, rows * rows, config.width)}
        if lift:
            maps = in_view_chunks(self.lifting, grids)
            maps = {name: _resized(x, tuple(label_hw)) for name, x in maps.items()}
            ray = maps["ray"]
            maps["points"] = ray[..., :3] + maps["depth"][..., None] * ray[..., 3:]
            maps["points_confidence"] = jnp.minimum(maps["depth_confidence"], maps["ray_confidence"])
            predictions |= maps
        return predictions


def _resized(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize of [B,V,h,w] or [B,V,h,w,c], pixel centres at +0.5."""
    number, views, height, width = maps.shape[:4]
    resized = resize(maps.reshape(number * views, height, width, -1), size)
    return resized.reshape(number, views, *size, *maps.shape[4:])
