"""A frozen teacher inside of the training step: its predictions on a batch's pictures as the batch's labels.

The loader gives pictures and where the label grids lie in them (`data_pipelines.online`); here they become what it would have
given from label files of the same weights and settings. No gradient passes.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from spatialsv_jax.geometry import possible_cameras
from spatialsv_jax.partitioning import BATCH_AXES, context_size
from spatialsv_jax.teachers import label_maps

PATCH = 14  # of both families; sides of pictures are multiples of it


@dataclasses.dataclass(frozen=True)
class OnlineConfig:
    """The teacher that runs in the step, for sources with `labels` or `features` "online".

    Attributes:
      teacher: "da3" or "vggt"; "" = none.
      checkpoint: folder of the published safetensors.
      metric_checkpoint: da3: folder of DA3METRIC-LARGE, for metres.
      resize, process_res: how pictures are brought to size; "" and 0 = the published default.
      features: tap to distil, 0 to 3; -1 = none.
      dtype: of the backbone's products.
      height, width: of the pictures as the teacher reads them, the same in all batches; 0 = those of the first record.
    """

    teacher: str = ""
    checkpoint: str = ""
    metric_checkpoint: str = ""
    resize: str = ""
    process_res: int = 0
    features: int = -1
    dtype: str = "bfloat16"
    height: int = 0
    width: int = 0

    def __post_init__(self):
        if self.teacher not in ("", "da3", "vggt"):
            raise ValueError(f"config.online.teacher is '{self.teacher}'; choose 'da3' or 'vggt', or '' for none.")
        others = {field.name: field.default for field in dataclasses.fields(self) if field.name != "teacher"}
        if not self.teacher and (stated := [name for name, value in others.items() if getattr(self, name) != value]):
            raise ValueError(f"config.online.teacher is '', but {stated} of config.online are set. Name the teacher.")
        if self.teacher and not self.checkpoint:
            raise ValueError("config.online.checkpoint is '': give the folder of the teacher's published safetensors.")
        if self.features not in range(-1, 4):
            raise ValueError(f"config.online.features is {self.features}; taps are 0 to 3, -1 = none.")
        if self.dtype not in ("bfloat16", "float32"):
            raise ValueError(f"config.online.dtype is '{self.dtype}'; choose 'bfloat16' or 'float32'.")
        if self.process_res < 0:
            raise ValueError(f"config.online.process_res is {self.process_res}, expected 0 (the default) or a size.")
        sides = (self.height, self.width)
        if any(side < 0 or side % PATCH for side in sides) or (0 in sides and sides != (0, 0)):
            raise ValueError(
                f"config.online.height and width are {sides}: multiples of {PATCH}, or both 0 for those of the first record."
            )

    @property
    def tap(self) -> int | None:
        """The tap to distil."""
        return None if self.features < 0 else self.features


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What each source takes of the teacher, in the order of `source_index`.

    Attributes:
      geometry: whether depth and cameras.
      features: whether features.
      quantile: share of its pixels that is masked, the least confident ones.
      weights: whether pixels count by their confidence.
    """

    geometry: tuple[bool, ...]
    features: tuple[bool, ...]
    quantile: tuple[float, ...]
    weights: tuple[bool, ...]

    def rows(self, name: str, source_index: jax.Array) -> jax.Array:
        """[B]: a field for each row's source."""
        return jnp.asarray(getattr(self, name))[source_index]


def make_labels(network, wanted: Wanted, params: dict, batch: dict) -> dict[str, jax.Array]:
    """The fields of a batch with the teacher's labels in the rows of sources that take them; other rows are as they were.

    The teacher computes on all rows of the batch, also those of other sources: every device then has as many.

    Args:
      network: a `networks.Network`.
      wanted: what sources take.
      params: the network's parameters.
      batch: fields of `spec.BATCH` with those of `spec.ONLINE`.

    Returns:
      depth, valid, cameras, scale, weights, features and their flags, as far as the batch has them.
    """
    takes = {name: wanted.rows(name, batch["source_index"]) for name in ("geometry", "features", "quantile", "weights")}
    taking = takes["geometry"] | takes["features"]
    shown = batch["view_valid"] & taking[:, None]
    first = jnp.arange(shown.shape[1])[None] == 0
    seen = shown | (first & ~shown.any(-1, keepdims=True))  # rows without pictures: a view of zeros, which no one reads
    pixels = network.normalise(batch["teacher_pixels"])
    found = _over_views(lambda pixels, seen: network.predict(params, pixels, seen), pixels, seen)
    made: dict[str, jax.Array] = {}
    if any(wanted.geometry):
        made |= _geometry(found, wanted, takes, shown, batch, network.is_metric)
    if any(wanted.features):
        pooled = label_maps.pool_features(found["features"], batch["teacher_pool_rows"], batch["teacher_pool_columns"])
        made["teacher_features"] = jnp.where(shown[..., None, None], pooled, 0)
        made["has_features"] = shown.any(-1)
    kind = lambda name: "features" if name.endswith("features") else "geometry"
    return {name: _choose(takes[kind(name)], value, batch[name]) for name, value in made.items() if name in batch}


def _over_views(function, pixels: jax.Array, seen: jax.Array):
    """function(pixels, seen), the views of a row split over the mesh's context axis where that divides them."""
    size = context_size()
    if size == 1 or pixels.shape[1] % size:
        return function(pixels, seen)
    place = lambda array, *axes: jax.lax.with_sharding_constraint(array, PartitionSpec(*axes))
    found = function(place(pixels, BATCH_AXES, "context"), place(seen, BATCH_AXES, "context"))
    return jax.tree.map(lambda array: place(array, BATCH_AXES), found)


def _geometry(
    found: dict, wanted: Wanted, takes: dict, shown: jax.Array, batch: dict, metric: bool
) -> dict[str, jax.Array]:
    """depth, valid, cameras, flags, scale and weights of all rows."""
    height, width = found["depth"].shape[2:]
    finite = jnp.isfinite(found["confidence"])
    confidence = jnp.where(finite, found["confidence"], 0)
    good = found["valid"] & finite & _box(batch["teacher_inside"], height, width)  # nothing in views of padding
    if any(wanted.quantile):
        good = label_maps.confident(confidence, good, takes["quantile"])
    grid = label_maps.Grid(batch["teacher_columns"], batch["teacher_rows"])
    depth = label_maps.resample_depth(jnp.where(good, found["depth"], 0), grid)
    valid = (depth > 0) & batch["covered"]
    intrinsics, poses = found["intrinsics"], found["camera_to_world"]
    pose_valid = shown & possible_cameras(intrinsics, poses, height, width)
    intrinsics = label_maps.label_intrinsics(intrinsics, batch["teacher_affine"])
    scene = label_maps.normalize(depth, valid, intrinsics, poses, pose_valid)
    made = {name: value for name, value in scene._asdict().items() if name != "scale"}
    made["scene_scale_m"] = jnp.where(scene.has_geometry & metric, scene.scale, 0)
    made["label_weight"] = scene.valid.astype(jnp.float32)
    if any(wanted.weights):
        weighted = label_maps.weights(confidence, scene.valid, grid)
        made["label_weight"] = _choose(takes["weights"], weighted, made["label_weight"])
    return made


def _box(inside: jax.Array, height: int, width: int) -> jax.Array:
    """bool[B,V,h,w] of boxes int32[B,V,4] (top, bottom, left, right; ends excluded)."""
    top, bottom, left, right = (inside[..., place, None] for place in range(4))
    rows, columns = (jnp.arange(side)[None, None] for side in (height, width))
    return ((rows >= top) & (rows < bottom))[..., None] & ((columns >= left) & (columns < right))[:, :, None]


def _choose(rows: jax.Array, made: jax.Array, given: jax.Array) -> jax.Array:
    """`made` in the rows where the flag is True, else `given`."""
    return jnp.where(rows.reshape(-1, *(1,) * (given.ndim - 1)), made.astype(given.dtype), given)
