"""A published teacher as one thing: its checkpoint, how pictures come to it, and what it predicts, whichever family it is of.

    network = load("da3", "checkpoints/DA3-LARGE-1.1", dtype="bfloat16")
    prepared = network.prepare(pictures)
    predictions = network.predict(network.params, prepared.pixel_values[None], view_valid)

Predictions are in the project's conventions (`da3.model`, `vggt.model`). With a METRIC checkpoint beside a Depth Anything 3
model, or with its nested pair, depth and camera centres are metres.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spatialsv_jax.interop.tensor_files import TensorFolder
from spatialsv_jax.partitioning import names_of
from spatialsv_jax.processing import da3_pictures, vggt_pictures
from spatialsv_jax.teachers.da3 import hf as da3_files
from spatialsv_jax.teachers.da3 import preprocess as da3_preprocess
from spatialsv_jax.teachers.da3 import presets as da3_presets
from spatialsv_jax.teachers.da3 import scale
from spatialsv_jax.teachers.key_tables import Place, in_one_place
from spatialsv_jax.teachers.vggt import hf as vggt_files
from spatialsv_jax.teachers.vggt import preprocess as vggt_preprocess
from spatialsv_jax.teachers.vggt import presets as vggt_presets

FAMILIES = ("da3", "vggt")
RESIZES = {"da3": da3_preprocess.METHODS, "vggt": vggt_preprocess.MODES}  # the first is the published default
NO_METRIC = "VGGT has no metric model; its scale is free."
SIDES = {"da3": da3_preprocess.PROCESS_RES, "vggt": vggt_pictures.SIDE}


class Prepared(NamedTuple):
    """Pictures of one scene as the teacher reads them.

    Attributes:
      pixel_values: float32[V,H,W,3].
      label_affine: float64[V,2,3], (u, v) of H x W -> (x, y) of the picture, both from the corner with pixel centres at +0.5.
      covered: bool[V,H,W], the pixel shows the picture.
      pictures: uint8[V,H,W,3], which `Network.normalise` makes `pixel_values` of.
    """

    pixel_values: np.ndarray
    label_affine: np.ndarray
    covered: np.ndarray
    pictures: np.ndarray


@dataclasses.dataclass(frozen=True)
class Network:
    """A teacher with its weights.

    Attributes:
      family: "da3" or "vggt".
      name: of the checkpoint's folder.
      model, params: the network, {"model": ..., "metric": ... where there is one}.
      metric: DA3's METRIC model, which gives the scale, or None.
      licence: of the weights; "" = not known.
      commercial: whether the licence allows commercial use.
      checkpoint: SHA-256 of the weight files.
      resize, process_res: how pictures come to it.
      features: which of the four taps is handed out as "features", None = none.
      rays: da3: whether the ray map goes along, to solve cameras from it.
    """

    family: str
    name: str
    model: Any
    params: dict
    metric: Any | None
    licence: str
    commercial: bool
    checkpoint: str
    resize: str
    process_res: int
    features: int | None
    rays: bool = False

    @property
    def is_metric(self) -> bool:
        """Whether lengths are metres."""
        return self.metric is not None

    @property
    def facts(self) -> dict:
        """All that decides what it predicts, beside the weights and the pictures."""
        return {
            "network": self.name,
            "resize": self.resize,
            "process_res": self.process_res,
            "dtype": self.model.sizes.dtype,
            "features": self.features,
            "metric": self.is_metric,
            "cameras": "rays" if self.rays else "head",
            "licence": self.licence,
        }

    def parameter_shapes(self) -> dict:
        """ShapeDtypeStructs of `params`."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.params)

    def parameter_axes(self) -> dict:
        """The logical axis names of `params`, for `training.sharding`."""
        return {"model": axes_of(self.model)} | ({"metric": axes_of(self.metric)} if self.metric else {})

    def prepare(self, pictures: Sequence[np.ndarray]) -> Prepared:
        """Pictures uint8[h,w,3] of one scene, all at one size."""
        if self.family == "vggt":
            found = vggt_preprocess.prepare(pictures, self.resize, self.process_res)
            return Prepared(found.pixel_values, found.label_affine, found.covered, found.pictures)
        found = da3_preprocess.prepare(pictures, self.resize, self.process_res)
        return Prepared(found.pixel_values, found.label_affine, np.ones(found.pictures.shape[:3], bool), found.pictures)

    def normalise(self, pictures: jax.Array) -> jax.Array:
        """`pixel_values` of pictures uint8[...,H,W,3] as `prepare` gives them."""
        values = pictures.astype(jnp.float32) / 255
        if self.family == "vggt":  # the model does the rest
            return values
        part = lambda value: jnp.asarray(value, jnp.float32).reshape((1,) * (values.ndim - 1) + (3,))
        return (values - part(da3_preprocess.MEAN)) / part(da3_preprocess.STD)

    def feature_width(self) -> int:
        """Of the features that are handed out; 0 = none."""
        if self.features is None:
            return 0
        patches = jax.ShapeDtypeStruct((1, 1, 2 * da3_presets.PATCH, 2 * da3_presets.PATCH, 3), jnp.float32)
        return jax.eval_shape(self.predict, self.parameter_shapes(), patches)["features"].shape[-1]

    def prepared_shape(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """(H, W) that pictures of these (height, width) come to, together."""
        if self.family == "vggt":
            return vggt_pictures.MODES[self.resize]([size[::-1] for size in sizes], self.process_res)[0]
        return da3_pictures.places([size[::-1] for size in sizes], self.resize, self.process_res)[0]

    def predict(self, params: dict, pixels: jax.Array, view_valid: jax.Array | None = None) -> dict[str, jax.Array]:
        """What the teacher sees; pure, for `jax.jit`. Nothing is differentiated through it.

        Args:
          params: `self.params`, on devices in any layout.
          pixels: float[B,V,H,W,3] of `prepare`.
          view_valid: bool[B,V], None = all; padding changes nothing in the other views.

        Returns:
          depth, confidence float32[B,V,H,W]; valid bool[B,V,H,W], False where the depth is made up (sky) or no number;
          camera_to_world [B,V,4,4] in the teacher's own world and intrinsics [B,V,3,3] in pixels of H x W; features
          [B,V,gh,gw,F], ray [B,V,h',w',6] and ray_confidence, if asked for.
        """
        params = jax.lax.stop_gradient(params)
        options = {} if self.family == "da3" else {"points": False}
        found = self.model.apply({"params": params["model"]}, pixels, view_valid, features=self.features, **options)
        valid = jnp.isfinite(found["depth"]) & (found["depth"] > 0)
        if self.metric is not None:
            metric = self.metric.apply({"params": params["metric"]}, pixels)
            found = scale.join_nested(found, metric, view_valid)
            valid &= ~found["sky"]
        kept = ("camera_to_world", "intrinsics", *(("ray", "ray_confidence") if self.rays else ()))
        result = {name: found[name] for name in kept} | {"depth": jnp.where(valid, found["depth"], 0), "valid": valid}
        result["confidence"] = found["depth_confidence"]
        if self.features is not None:
            patch = da3_presets.PATCH
            grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
            result["features"] = found["features"].reshape(*pixels.shape[:2], *grid, -1)
        return jax.tree.map(jax.lax.stop_gradient, result)


def axes_of(module: Any) -> dict:
    """Logical axis names of a teacher module's parameters, for `training.sharding`."""
    patch = jax.ShapeDtypeStruct((1, 1, 2 * da3_presets.PATCH, 2 * da3_presets.PATCH, 3), jnp.float32)
    return names_of(jax.eval_shape(module.init, jax.random.key(0), patch)["params"])


def checked_resize(family: str, resize: str, features: int | None) -> str:
    """`resize`, or the family's default if it is "".

    Raises:
      ValueError: an unknown family, way of resizing or tap.
    """
    if family not in FAMILIES:
        raise ValueError(f"teacher {family!r} is unknown; choose from {', '.join(FAMILIES)}.")
    resize = resize or RESIZES[family][0]
    if resize not in RESIZES[family]:
        raise ValueError(f"resize is {resize!r}; {family} has {', '.join(RESIZES[family])}.")
    if features is not None and features not in range(4):
        raise ValueError(f"features is {features}; the taps are 0 to 3.")
    return resize


def no_cameras(directory: str | Path) -> str:
    """What is said of DA3's mono form."""
    return f"{directory} holds DA3's mono form, which gives no cameras: take an any-view checkpoint, and this one as --metric_checkpoint."


def load(
    family: str,
    directory: str | Path,
    metric: str | Path = "",
    *,
    resize: str = "",
    process_res: int = 0,
    features: int | None = None,
    rays: bool = False,
    licence: str = "",
    dtype: str = "bfloat16",
    progress: bool = False,
    place: Place = in_one_place,
) -> Network:
    """A teacher from its checkpoint folder.

    Args:
      family: one of FAMILIES.
      directory: folder with the published safetensors.
      metric: da3: folder of DA3METRIC-LARGE, which then gives the scale; the nested checkpoint holds it itself.
      resize: one of RESIZES[family]; its default if "".
      process_res: pixels of the side that pictures are brought to; 0 = the published 504 or 518.
      features: which tap to hand out, 0 to 3 (the published programs' last is 3).
      rays: da3: hand the ray map out too.
      licence: of the weights, where the folder's name is none of the published ones.
      dtype: of the backbone's products; heads and cameras are float32.
      progress: whether to show a bar.
      place: says where parameters go, by default all to the first device.

    Raises:
      ValueError: an unknown family or setting, or a model without cameras.
      ConversionError: a folder that cannot be read, or tensors that fit no published model.
    """
    resize = checked_resize(family, resize, features)
    files, presets = (da3_files, da3_presets) if family == "da3" else (vggt_files, vggt_presets)
    folder, weights = TensorFolder(directory), [directory]
    options = {"progress": progress, "dtype": dtype, "place": place}
    imported, scaling = files.load(directory, **options), None
    if family == "da3":
        if not imported.model.sizes.any_view:
            raise ValueError(no_cameras(directory))
        nested = any(name.startswith(da3_files.NESTED["metric"]) for name in folder.tensors)
        if metric or nested:
            scaling = da3_files.load(metric or directory, part="metric", **options)
            weights += [metric] if metric else []
        if scaling is not None and scaling.model.sizes.any_view:
            raise ValueError(f"{metric} is no mono checkpoint: DA3METRIC-LARGE gives metres.")
    elif metric:
        raise ValueError(NO_METRIC)
    elif rays:
        raise ValueError("VGGT has no rays: its cameras are those of the camera head.")
    known = [presets.published(Path(place).absolute().name) for place in weights]
    texts = list(dict.fromkeys([licence] if licence else [one.licence for one in known if one]))
    return Network(
        family=family,
        name=Path(directory).absolute().name,
        model=imported.model,
        params={"model": imported.params} | ({"metric": scaling.params} if scaling else {}),
        metric=scaling.model if scaling else None,
        licence="; ".join(texts),
        commercial=bool(known) and all(one is not None and one.commercial for one in known),
        checkpoint=_weights_hash(weights),
        resize=resize,
        process_res=process_res or SIDES[family],
        features=features,
        rays=rays,
    )


def _weights_hash(directories: Sequence[str | Path]) -> str:
    """Hex SHA-256 over all weight files in the order of their names."""
    digest = hashlib.sha256()
    for directory in directories:
        for name in sorted({info.file for info in TensorFolder(directory).tensors.values()}):
            with open(Path(directory) / name, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
