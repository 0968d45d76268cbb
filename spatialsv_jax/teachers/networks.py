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

from spatialsv_jax.geometry import possible_cameras
from spatialsv_jax.interop.config_fields import read_config
from spatialsv_jax.interop.tensor_files import TensorFolder
from spatialsv_jax.partitioning import names_of
from spatialsv_jax.processing import da3_pictures, vggt_pictures
from spatialsv_jax.processing.vggt_pictures import PATCH
from spatialsv_jax.teachers.da3 import hf as da3_files
from spatialsv_jax.teachers.da3 import preprocess as da3_preprocess
from spatialsv_jax.teachers.da3 import presets as da3_presets
from spatialsv_jax.teachers.da3 import scale
from spatialsv_jax.teachers.da3.hf import CONFIG
from spatialsv_jax.teachers.da3.model import AnyViewModel
from spatialsv_jax.teachers.da3.mono import MonoModel
from spatialsv_jax.teachers.key_tables import Place, in_one_place, parameter_shapes
from spatialsv_jax.teachers.vggt import hf as vggt_files
from spatialsv_jax.teachers.vggt import preprocess as vggt_preprocess
from spatialsv_jax.teachers.vggt import presets as vggt_presets
from spatialsv_jax.teachers.vggt.model import VGGT

FAMILIES = ("da3", "vggt")
RESIZES = {"da3": da3_preprocess.METHODS, "vggt": vggt_preprocess.MODES}  # the first is the published default
NO_METRIC = "VGGT has no metric model; its scale is free."
SIDES = {"da3": da3_preprocess.PROCESS_RES, "vggt": vggt_pictures.SIDE}
PIXELS = jax.ShapeDtypeStruct((1, 1, 2 * PATCH, 2 * PATCH, 3), jnp.float32)  # the least that a model can be traced with


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
      checkpoint: SHA-256 of the weight files, and of config.json where it states the sizes; "" without weights.
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
        return jax.eval_shape(self.predict, self.parameter_shapes(), PIXELS)["features"].shape[-1]

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
          depth, confidence float32[B,V,H,W]; valid bool[B,V,H,W], False where the depth is made up (sky), no number or, with a METRIC
          model, without a scale;
          camera_to_world [B,V,4,4] in the teacher's own world and intrinsics [B,V,3,3] in pixels of H x W; features
          [B,V,gh,gw,F], ray [B,V,h',w',6] and ray_confidence, if asked for.
        """
        params = jax.lax.stop_gradient(params)
        options = {} if self.family == "da3" else {"points": False}
        # Accelerators multiply float32 in fewer bits unless told otherwise.
        precision = "highest" if self.model.sizes.dtype == "float32" else None
        with jax.default_matmul_precision(precision):
            found = self.model.apply({"params": params["model"]}, pixels, view_valid, features=self.features, **options)
            metric = None if self.metric is None else self.metric.apply({"params": params["metric"]}, pixels)
        valid = jnp.isfinite(found["depth"]) & (found["depth"] > 0)
        if metric is not None:
            # A focal length that no lens has (a field of view of 0) would make metres without end of its view.
            posed = possible_cameras(found["intrinsics"], found["camera_to_world"], *pixels.shape[2:4])
            found = scale.join_nested(found, metric, posed if view_valid is None else posed & view_valid)
            valid &= ~found["sky"] & found["in_metres"][:, None, None, None]
        kept = ("camera_to_world", "intrinsics", *(("ray", "ray_confidence") if self.rays else ()))
        result = {name: found[name] for name in kept} | {"depth": jnp.where(valid, found["depth"], 0), "valid": valid}
        result["confidence"] = found["depth_confidence"]
        if self.features is not None:
            grid = (pixels.shape[2] // PATCH, pixels.shape[3] // PATCH)
            result["features"] = found["features"].reshape(*pixels.shape[:2], *grid, -1)
        return jax.tree.map(jax.lax.stop_gradient, result)


def axes_of(module: Any) -> dict:
    """Logical axis names of a teacher module's parameters, for `training.sharding`."""
    return names_of(jax.eval_shape(module.init, jax.random.key(0), PIXELS)["params"])


def outline(
    family: str,
    checkpoint: str | Path,
    metric: str | Path = "",
    *,
    resize: str = "",
    process_res: int = 0,
    features: int | None = None,
    rays: bool = False,
    licence: str = "",
    dtype: str = "bfloat16",
) -> Network:
    """A teacher without its weights, for checks and plans: ShapeDtypeStructs as parameters, and no hash.

    Of a folder only headers are read. One that is not there may have the name of a published checkpoint.

    Args:
      family: one of FAMILIES.
      checkpoint: folder with the published safetensors.
      metric: da3: folder of DA3METRIC-LARGE, which then gives the scale; the nested checkpoint holds it itself.
      resize: one of RESIZES[family]; its default if "".
      process_res: pixels of the side that pictures are brought to; 0 = the published 504 or 518.
      features: which tap to hand out, 0 to 3 (the published programs' last is 3).
      rays: da3: hand the ray map out too.
      licence: of the weights; "" = that of the published checkpoint whose name the folder has and whose sizes the model.
      dtype: of the backbone's products; heads and cameras are float32.

    Raises:
      ValueError: an unknown family or setting, a model without cameras, a metric checkpoint that gives no metres, or no folder
        and no published name.
      ConversionError: a folder that is none of the family's checkpoints.
    """
    resize, process_res = _checked(family, resize, process_res, features)
    if family == "vggt" and (metric or rays):
        raise ValueError(NO_METRIC if metric else "VGGT has no rays: its cameras are those of the camera head.")
    folders = [checkpoint] + ([metric] if metric else [])
    sizes, known, nested = _sizes(family, checkpoint, "any_view")
    licences = [known]
    if family == "da3" and not sizes.any_view:
        raise ValueError(
            f"{checkpoint} holds DA3's mono form, which gives no cameras: take an any-view checkpoint, and this one as "
            "--metric_checkpoint."
        )
    models = [(VGGT if family == "vggt" else AnyViewModel)(dataclasses.replace(sizes, dtype=dtype))]
    if metric or nested:
        found, of_metric, _ = _sizes(family, folders[-1], "metric")
        if found.any_view or (of_metric is not None and not of_metric.metric):
            what = "is no mono checkpoint" if found.any_view else "gives relative depth, which has no unit"
            raise ValueError(f"{metric} {what}: DA3METRIC-LARGE gives metres.")
        models.append(MonoModel(dataclasses.replace(found, dtype=dtype)))
        licences += [of_metric] if metric else []
    stated = list(dict.fromkeys([licence] if licence else [one.licence for one in licences if one]))
    return Network(
        family=family,
        name=Path(checkpoint).absolute().name,
        model=models[0],
        params={name: parameter_shapes(one, PIXELS) for name, one in zip(("model", "metric"), models, strict=False)},
        metric=models[1] if len(models) > 1 else None,
        licence="; ".join(stated) if licence or all(licences) else "",
        commercial=all(one is not None and one.commercial for one in licences),
        checkpoint="",
        resize=resize,
        process_res=process_res,
        features=features,
        rays=rays,
    )


def load(
    family: str,
    directory: str | Path,
    metric: str | Path = "",
    *,
    progress: bool = False,
    place: Place = in_one_place,
    **options: Any,
) -> Network:
    """A teacher from its checkpoint folder.

    Args:
      family, directory, metric: as for `outline`.
      progress: whether to show a bar.
      place: says where parameters go, by default all to this host's first device.
      options: of `outline`.

    Raises:
      ValueError: as `outline`.
      ConversionError: a folder that cannot be read, or tensors that fit no published model.
    """
    TensorFolder(directory)  # a published name alone is no folder
    outlined = outline(family, directory, metric, **options)
    how = {"progress": progress, "dtype": outlined.model.sizes.dtype, "place": place}
    params = {"model": (da3_files if family == "da3" else vggt_files).load(directory, **how).params}
    if outlined.metric is not None:
        params["metric"] = da3_files.load(metric or directory, part="metric", **how).params
    identity = _identity([directory] + ([metric] if metric else []))
    return dataclasses.replace(outlined, params=params, checkpoint=identity)


def _checked(family: str, resize: str, process_res: int, features: int | None) -> tuple[str, int]:
    """`resize` and `process_res`, or the family's defaults.

    Raises:
      ValueError: an unknown family, way of resizing, size or tap.
    """
    if family not in FAMILIES:
        raise ValueError(f"teacher {family!r} is unknown; choose from {', '.join(FAMILIES)}.")
    resize = resize or RESIZES[family][0]
    if resize not in RESIZES[family]:
        raise ValueError(f"resize is {resize!r}; {family} has {', '.join(RESIZES[family])}.")
    side = process_res or SIDES[family]
    if side < PATCH or (family == "vggt" and side % PATCH):
        wanted = f"a multiple of {PATCH}" if family == "vggt" else f"{PATCH} or more"
        raise ValueError(f"process_res is {process_res}; for {family} it must be {wanted}, or 0 for {SIDES[family]}.")
    if features is not None and features not in range(4):
        raise ValueError(f"features is {features}; the taps are 0 to 3.")
    return resize, side


def _sizes(family: str, checkpoint: str | Path, part: str) -> tuple[Any, Any, bool]:
    """(sizes of a checkpoint's part, the published one that it is or None, whether it is DA3's nested pair)."""
    presets = da3_presets if family == "da3" else vggt_presets
    known = presets.published(str(Path(checkpoint).absolute()))
    if not Path(checkpoint).is_dir():
        if known is None:
            raise ValueError(
                f"{checkpoint} is no folder, and its name is none of the published {', '.join(presets.PUBLISHED)}."
            )
        nested = family == "da3" and known is da3_presets.PUBLISHED["DA3NESTED-GIANT-LARGE"]
        return (da3_presets.MONO if nested and part == "metric" else known.sizes), known, nested
    folder, path = TensorFolder(checkpoint), Path(checkpoint) / CONFIG
    values = read_config(path) if path.is_file() else {}
    if family == "vggt":
        sizes, nested = vggt_files.recognise(values, folder.tensors, str(checkpoint)), False
    else:
        prefix = da3_files.prefix_of(folder.tensors, part, str(checkpoint))
        nested = any(name.startswith(da3_files.NESTED["metric"]) for name in folder.tensors)
        sizes = da3_files.recognise(values, folder.tensors, prefix, str(checkpoint))
        known = known or presets.published(str(values.get("model_name", "")))
    wanted = da3_presets.MONO if nested and part == "metric" else known and known.sizes
    return sizes, known if sizes == wanted else None, nested


def _identity(directories: Sequence[str | Path]) -> str:
    """Hex SHA-256 over all weight files in the order of their names, and config.json where it states the sizes."""
    digest = hashlib.sha256()
    for directory in map(Path, directories):
        for name in sorted({info.file for info in TensorFolder(directory).tensors.values()}):
            with open(directory / name, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        config = directory / CONFIG
        if config.is_file() and read_config(config).keys() & {"backbone", "aggregator"}:
            digest.update(hashlib.sha256(config.read_bytes()).digest())
    return digest.hexdigest()
