"""The small multi-view network that labels rooms: depth, rays, points and features from pictures alone.

A transformer over the patches of all views, its blocks alternating between attention within a
view and attention over all views (as in VGGT), with the same DPT heads as the MLLM. It is trained
on exact labels by the same objective with the text weight 0 and writes label files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from spatialsv_jax.backbones.base import default_taps
from spatialsv_jax.backbones.layers import UNROLL, EncoderBlock, PatchStem, layer_norm
from spatialsv_jax.lifting.heads import HEADS, LiftingConfig, apply_heads
from spatialsv_jax.model import BatchModule
from spatialsv_jax.partitioning import Normal, declare


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The teacher. One layer is a block within the views and a block over all views."""

    image_size: int = 64
    patch_size: int = 8
    merge: int = 2  # features are averaged over merge x merge patches: the student's lifting grid
    stem: str = "conv"  # as vision.stem
    width: int = 128  # also the width of the features to distil
    layers: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    channels: tuple = (32, 32, 64, 64)  # of the DPTs
    features: int = 32  # of the DPTs
    tasks: tuple = ("depth", "ray", "points")  # dense heads
    dtype: str = "float32"

    def __post_init__(self):
        if self.image_size % (self.patch_size * self.merge):
            raise ValueError(
                f"teacher.image_size {self.image_size} is no multiple of patch_size {self.patch_size} x merge {self.merge}."
            )
        if self.stem not in ("conv", "patch") or (self.stem == "conv" and self.patch_size & (self.patch_size - 1)):
            raise ValueError(
                f"teacher.stem {self.stem!r}: 'patch', or 'conv' with a patch_size that is a power of two."
            )
        if self.width % self.heads:
            raise ValueError(f"teacher.width {self.width} is no multiple of heads {self.heads}.")
        if self.layers < 4 or len(self.channels) != 4:
            raise ValueError(f"teacher.layers {self.layers} must be at least 4, and channels {self.channels} four.")
        unknown = [task for task in self.tasks if task not in HEADS]
        if unknown:
            raise ValueError(f"teacher.tasks {unknown} are unknown; choose from {', '.join(HEADS)}.")

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of the feature grid (the student's lifting grid)."""
        return (self.image_size // (self.patch_size * self.merge),) * 2


class _AlternatingStep(nn.Module):
    """Scan body: a block within each view, then a block over the patches of all views."""

    config: TeacherConfig

    @nn.compact
    def __call__(self, x, view_valid):
        config = self.config
        number, views, count, width = x.shape
        x = EncoderBlock(config.heads, config.mlp_ratio, config.dtype, name="frame")(x)
        mask = jnp.repeat(view_valid, count, axis=1)
        across = EncoderBlock(config.heads, config.mlp_ratio, config.dtype, name="across")
        x = across(x.reshape(number, views * count, width), mask).reshape(number, views, count, width)
        return x, x


class MultiViewTrunk(nn.Module):
    """Pictures [B,V,h,w,3] to the output [B,V,p,D] of every layer, stacked, and the normed last one.

    The first valid view is marked by a learned vector: all predictions are in its frame.
    """

    config: TeacherConfig

    @nn.compact
    def __call__(self, pixels: jax.Array, view_valid: jax.Array) -> tuple[jax.Array, jax.Array]:
        config = self.config
        number, views = pixels.shape[:2]
        x = PatchStem(config.stem, config.patch_size, config.width, config.dtype, name="stem")(
            pixels.reshape(number * views, *pixels.shape[2:])
        )
        x = x.reshape(number, views, -1, config.width)
        roles = self.param("role", declare(Normal(0.02), "position", "embed"), (2, config.width), jnp.float32)
        first = view_valid & (jnp.cumsum(view_valid, axis=1) == 1)
        x = x + roles[jnp.where(first, 0, 1)][:, :, None].astype(config.dtype)
        blocks = nn.scan(
            _AlternatingStep,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=config.layers,
            unroll=min(UNROLL, config.layers),
            metadata_params={meta.PARTITION_NAME: "layers"},
        )
        x, states = blocks(config, name="layers")(x, view_valid)
        return states, layer_norm("norm", config.dtype)(x)


class SpatialTeacher(BatchModule):
    """Same call and predictions as `SpatialMLLM`, without answers, with `teacher_features[B,V,P,D]`.

    Reads `pixel_values` and `view_valid` only. Parameters: {"teacher": trunk, "lifting": heads}.
    """

    config: TeacherConfig

    def setup(self):
        self.teacher = MultiViewTrunk(self.config)
        self.lifting = _TeacherHeads(self.config)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of `teacher_features`."""
        return self.config.grid_hw

    @property
    def feature_width(self) -> int:
        """Width of `teacher_features`."""
        return self.config.width

    def __call__(self, batch: Mapping[str, jax.Array], *, label_hw: tuple[int, int], lift: bool = True) -> dict:
        """Predictions for one batch; `lift=False` leaves the dense heads out (features only)."""
        config = self.config
        states, final = self.teacher(batch["pixel_values"], batch["view_valid"])
        rows, merge = config.grid_hw[0], config.merge
        pooled = final.astype(jnp.float32).reshape(*final.shape[:2], rows, merge, rows, merge, config.width)
        predictions = {"teacher_features": pooled.mean((3, 5)).reshape(*final.shape[:2], rows * rows, config.width)}
        if lift:
            predictions.update(self.lifting(states, final, tuple(label_hw)))
        return predictions


class _TeacherHeads(nn.Module):
    """Four layer outputs (the last one normed) to the dense heads."""

    config: TeacherConfig

    @nn.compact
    def __call__(self, states: jax.Array, final: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
        config = self.config
        side = config.image_size // config.patch_size
        readouts = [
            layer_norm(f"norm_{level}", config.dtype)(states[layer - 1])
            for level, layer in enumerate(default_taps(config.layers)[:3])
        ]
        readouts = [x.reshape(*x.shape[:2], side, side, config.width) for x in (*readouts, final)]
        sizes = LiftingConfig(channels=config.channels, features=config.features, dtype=config.dtype)
        return apply_heads(self, sizes, config.tasks, readouts, size)
