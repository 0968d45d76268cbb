"""A published teacher without its weights: the model and the shapes of its parameters, for checks and plans."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from spatialsv_jax.interop.config_fields import read_config
from spatialsv_jax.interop.tensor_files import TensorFolder
from spatialsv_jax.teachers import networks
from spatialsv_jax.teachers.da3 import hf as da3_files
from spatialsv_jax.teachers.da3 import presets as da3_presets
from spatialsv_jax.teachers.da3.model import AnyViewModel
from spatialsv_jax.teachers.da3.mono import MonoModel
from spatialsv_jax.teachers.key_tables import parameter_shapes
from spatialsv_jax.teachers.vggt import hf as vggt_files
from spatialsv_jax.teachers.vggt import presets as vggt_presets
from spatialsv_jax.teachers.vggt.model import VGGT


def outline(
    family: str,
    checkpoint: str | Path,
    metric: str | Path = "",
    *,
    resize: str = "",
    process_res: int = 0,
    features: int | None = None,
    dtype: str = "bfloat16",
) -> networks.Network:
    """`networks.load` with ShapeDtypeStructs as parameters, and no hash.

    Of a folder only headers are read. One that is not there may have the name of a published checkpoint.

    Args:
      family, checkpoint, metric, resize, process_res, features, dtype: as for `networks.load`.

    Raises:
      ValueError: an unknown family or setting, a model without cameras, or no folder and no published name.
      ConversionError: a folder that is none of the family's checkpoints.
    """
    resize = networks.checked_resize(family, resize, features)
    sizes, nested = _sizes(family, checkpoint, "any_view")
    scaling = None
    if family == "vggt":
        model: Any = VGGT(dataclasses.replace(sizes, dtype=dtype))
        if metric:
            raise ValueError(networks.NO_METRIC)
    else:
        if not sizes.any_view:
            raise ValueError(networks.no_cameras(checkpoint))
        model = AnyViewModel(dataclasses.replace(sizes, dtype=dtype))
        if metric or nested:
            found, _ = _sizes(family, metric or checkpoint, "metric")
            if found.any_view:
                raise ValueError(f"{metric} is no mono checkpoint: DA3METRIC-LARGE gives metres.")
            scaling = MonoModel(dataclasses.replace(found, dtype=dtype))
    pixels = jax.ShapeDtypeStruct((1, 1, 2 * da3_presets.PATCH, 2 * da3_presets.PATCH, 3), jnp.float32)
    modules = {"model": model} | ({"metric": scaling} if scaling else {})
    presets = da3_presets if family == "da3" else vggt_presets
    known = presets.published(Path(checkpoint).absolute().name)
    return networks.Network(
        family=family,
        name=Path(checkpoint).absolute().name,
        model=model,
        params={name: parameter_shapes(module, pixels) for name, module in modules.items()},
        metric=scaling,
        licence=known.licence if known else "",
        commercial=known is not None and known.commercial,
        checkpoint="",
        resize=resize,
        process_res=process_res or networks.SIDES[family],
        features=features,
    )


def _sizes(family: str, checkpoint: str | Path, part: str) -> tuple[Any, bool]:
    """(sizes of a checkpoint's part, whether it is DA3's nested pair)."""
    if not Path(checkpoint).is_dir():
        presets = da3_presets if family == "da3" else vggt_presets
        known = presets.published(str(checkpoint))
        if known is None:
            raise ValueError(
                f"{checkpoint} is no folder, and its name is none of the published {', '.join(presets.PUBLISHED)}."
            )
        nested = family == "da3" and known is da3_presets.PUBLISHED["DA3NESTED-GIANT-LARGE"]
        return (da3_presets.MONO if nested and part == "metric" else known.sizes), nested
    folder, path = TensorFolder(checkpoint), Path(checkpoint) / da3_files.CONFIG
    values = read_config(path) if path.is_file() else {}
    if family == "vggt":
        return vggt_files.recognise(values, folder.tensors, str(checkpoint)), False
    prefix = da3_files.prefix_of(folder.tensors, part, str(checkpoint))
    nested = any(name.startswith(da3_files.NESTED["metric"]) for name in folder.tensors)
    return da3_files.recognise(values, folder.tensors, prefix, str(checkpoint)), nested
