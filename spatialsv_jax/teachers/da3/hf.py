"""Depth Anything 3's published checkpoints: whose model it is, and which tensor is which parameter.

What a file holds beside the parameters here is named in `carried`: the Gaussian head of GIANT, and three of the four ray
branches, which nothing reads. (The LayerNorm that the four share is stored with the first.) The names of published files
were not checked against the files themselves, only against a description and a file of random weights.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from spatialsv_jax.interop.config_fields import part, read_config
from spatialsv_jax.interop.conversion import FIRST, SAME, Conversion, Rule, linear, norm, patches
from spatialsv_jax.interop.tensor_files import ConversionError, TensorFolder, TensorInfo
from spatialsv_jax.teachers.da3.model import RAY_CONVOLUTIONS, AnyViewModel
from spatialsv_jax.teachers.da3.mono import MonoModel
from spatialsv_jax.teachers.da3.presets import MONO, PATCH, PUBLISHED, Sizes, published
from spatialsv_jax.teachers.key_tables import (
    Place,
    block_rules,
    convolution,
    in_one_place,
    output_rules,
    parameter_shapes,
    pyramid_rules,
    read_teacher,
    reassembly_rules,
)

CONFIG = "config.json"
NESTED = {"any_view": "model.da3.", "metric": "model.da3_metric."}  # prefixes of the nested pair's parts
_BLOCKS = "backbone.pretrained.blocks."


@dataclasses.dataclass(frozen=True)
class Imported:
    """A checkpoint as a model of ours: `model.apply({"params": params}, pixels)`."""

    model: AnyViewModel | MonoModel
    params: dict
    conversion: Conversion


def load(
    directory: str | Path, part: str = "any_view", progress: bool = False, place: Place = in_one_place, **changes: Any
) -> Imported:
    """A checkpoint folder's model and float32 parameters.

    Args:
      directory: with safetensors, and config.json unless the sizes of the tensors are those of a published model.
      part: of the nested pair, "any_view" or "metric"; other folders have one model, whatever is asked for.
      progress: whether to show a bar.
      place: says where parameters go.
      changes: fields of `Sizes` that one chooses: dtype, attention, head_precision, unroll.

    Raises:
      ConversionError: a folder that cannot be read, a model that is not recognised, or tensors that do not fit it, all named.
      ValueError: an unknown part.
    """
    folder = TensorFolder(directory)
    prefix = prefix_of(folder.tensors, part, str(directory))
    path = Path(directory) / CONFIG
    sizes = recognise(read_config(path) if path.is_file() else {}, folder.tensors, prefix, str(directory))
    sizes = dataclasses.replace(sizes, **changes)
    model = AnyViewModel(sizes) if sizes.any_view else MonoModel(sizes)
    pixels = jax.ShapeDtypeStruct((1, 1, 2 * PATCH, 2 * PATCH, 3), jnp.float32)
    params, conversion = read_teacher(
        folder,
        rules(sizes),
        place(model, parameter_shapes(model, pixels)),
        carried=carried(sizes, prefix),
        rename=lambda name: spelt(name, prefix, sizes),
        progress=progress,
    )
    return Imported(model, params, conversion)


def prefix_of(tensors: Mapping[str, TensorInfo], part: str = "any_view", where: str = "The checkpoint") -> str:
    """What the names of a part's tensors begin with.

    Raises:
      ConversionError: no backbone under any known prefix.
      ValueError: an unknown part.
    """
    if part not in NESTED:
        raise ValueError(f"part is {part!r}; choose one of {tuple(NESTED)}.")
    for prefix in (NESTED[part], "model.", ""):
        if any(name.startswith(f"{prefix}{_BLOCKS}") for name in tensors):
            return prefix
    raise ConversionError(
        f"{where} has no tensors '{_BLOCKS}...' behind any of the prefixes {(*NESTED.values(), 'model.')}: it is no checkpoint "
        f"of Depth Anything 3. It holds {sorted(tensors)[:3]} ..."
    )


def recognise(
    values: Mapping[str, Any], tensors: Mapping[str, TensorInfo], prefix: str, where: str = "The checkpoint"
) -> Sizes:
    """The model's sizes: as config.json states them, those of the published model that it names, or by the tensors' shapes.

    Args:
      values: config.json; {} without one.
      tensors: what the checkpoint holds.
      prefix: of `prefix_of`.
      where: names the checkpoint in messages.

    Raises:
      ConversionError: no published model has these sizes and config.json states none, or fields of it are missing.
    """
    if "backbone" in values:
        return _stated(values, where)
    named = published(str(values.get("model_name", "")))
    if named is not None:
        return MONO if prefix == NESTED["metric"] else named.sizes
    names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    layers = {int(hit.group(1)) for name in names if (hit := re.match(re.escape(_BLOCKS) + r"(\d+)\.", name))}
    table = tensors.get(f"{prefix}backbone.pretrained.cls_token")
    found = (table.shape[-1] if table else None, len(layers), any(name.startswith("cam_dec.") for name in names))
    for one in PUBLISHED.values():
        if found == (one.sizes.width, one.sizes.layers, one.sizes.any_view):
            return one.sizes
    known = sorted({(one.sizes.width, one.sizes.layers, one.sizes.any_view) for one in PUBLISHED.values()})
    raise ConversionError(
        f"{where}: a model of (width, blocks, with cameras) {found}; published are {known}. State its sizes in {CONFIG}, fields "
        "'backbone' and 'head'."
    )


def _stated(values: Mapping[str, Any], where: str) -> Sizes:
    """Sizes written out in config.json."""
    stated = f"{where}, {CONFIG}"
    backbone, head = (part(values, name, stated) for name in ("backbone", "head"))
    try:
        width, mlp = backbone["embed_dim"], backbone["ffn"]
        starts = {max(0, backbone[name]) for name in ("alt_start", "qknorm_start", "rope_start")}
        if mlp not in ("mlp", "swiglu") or len(starts) != 1:
            raise ConversionError(
                f"{stated}: backbone.ffn {mlp!r} must be 'mlp' or 'swiglu', and alt_start, qknorm_start and rope_start "
                f"equal, not {sorted(starts)}."
            )
        return Sizes(
            width=width,
            layers=backbone["depth"],
            heads=backbone["num_heads"],
            mlp_width=4 * width if mlp == "mlp" else 8 * -(-(8 * width // 3) // 8),
            alt_start=starts.pop(),
            taps=tuple(backbone["out_layers"]),
            features=head["features"],
            channels=tuple(head["out_channels"]),
            mlp="gelu" if mlp == "mlp" else mlp,
        )
    except KeyError as error:
        raise ConversionError(f"{stated}: field {error} of 'backbone' or 'head' is missing.") from error
    except ConversionError:
        raise
    except (TypeError, ValueError) as error:
        raise ConversionError(f"{stated}: fields of 'backbone' or 'head' make no model: {error}") from error


def spelt(name: str, prefix: str, sizes: Sizes) -> str:
    """A tensor's name as `rules` spells it: without the prefix, blocks numbered within their group.

    Names without the prefix are left as they are.
    """
    if not name.startswith(prefix):
        return name
    name = name.removeprefix(prefix)
    hit = re.match(re.escape(_BLOCKS) + r"(\d+)\.(.*)", name)
    if not hit or not sizes.any_view:
        return name
    number, rest = int(hit.group(1)), hit.group(2)
    first = sizes.alt_start + sizes.alt_start % 2  # of the pairs
    if number < sizes.alt_start:
        return name
    if number < first:
        return f"backbone.lone.{rest}"
    return f"backbone.{'across' if number % 2 else 'within'}.{(number - first) // 2}.{rest}"


def carried(sizes: Sizes, prefix: str) -> tuple[str, ...]:
    """Regular expressions of tensors (as `spelt`) that are no parameters here."""
    kept = ()
    if sizes.any_view:
        kept += (r"gs_head\..*",)
        kept += (r"head\.scratch\.output_conv1_aux\.[012]\..*", r"head\.scratch\.output_conv2_aux\.[012]\.[05]\..*")
        kept += (r"head\.scratch\.output_conv2_aux\.[123]\.2\..*",)  # copies of the shared norm, where they are stored
    if prefix in NESTED.values():
        kept += tuple(re.escape(other) + ".*" for other in NESTED.values() if other != prefix)
    return kept


def rules(sizes: Sizes) -> list[Rule]:
    """The table, names as `spelt` gives them."""
    ours, theirs = "backbone/", "backbone.pretrained."
    kernel = patches((PATCH, PATCH), channels_last=True)
    table = [
        Rule(f"{theirs}cls_token", f"{ours}tokens/class", FIRST),
        Rule(f"{theirs}pos_embed", f"{ours}tokens/position", FIRST),
        Rule(f"{theirs}patch_embed.proj.weight", f"{ours}tokens/patch/kernel", kernel),
        Rule(f"{theirs}patch_embed.proj.bias", f"{ours}tokens/patch/bias", SAME),
        *norm(f"{theirs}norm", f"{ours}norm"),
        *block_rules(_BLOCKS + "{layer}.", f"{ours}plain/layers/block/", mlp=sizes.mlp),
        *reassembly_rules("head.", "head/reassembly/"),
        *pyramid_rules("head.", "head/pyramid/"),
        *convolution("head.scratch.output_conv1", "head/neck"),
        *output_rules("head.scratch.output_conv2", "head/output/"),
    ]
    if not sizes.any_view:
        return table + output_rules("head.scratch.sky_output_conv2", "head/sky_output/")
    table.append(Rule(f"{theirs}camera_token", f"{ours}camera", FIRST))
    for group in ("within", "across"):
        table += block_rules(f"backbone.{group}.{{layer}}.", f"{ours}pairs/layers/{group}/", True, sizes.mlp)
    if sizes.alt_start % 2:
        table += block_rules("backbone.lone.", f"{ours}lone/", True, sizes.mlp)
    table += norm("head.norm", "head/norm") + pyramid_rules("head.", "head/ray_pyramid/", "_aux")
    for number in range(RAY_CONVOLUTIONS):
        table += convolution(f"head.scratch.output_conv1_aux.3.{number}", f"head/ray_neck_{number}")
    table += output_rules("head.scratch.output_conv2_aux.3", "head/ray_output/", last=5)
    table += norm("head.scratch.output_conv2_aux.0.2", "head/ray_output/norm")
    return table + _camera_rules()


def _camera_rules() -> list[Rule]:
    table = []
    for source, target in (
        ("backbone.0", "first"), ("backbone.2", "second"), ("fc_t", "translation"), ("fc_qvec", "quaternion"),
        ("fc_fov.0", "field_of_view"),
    ):  # fmt: skip
        table += linear(f"cam_dec.{source}", f"camera_decoder/{target}")
    table += linear("cam_enc.pose_branch.fc1", "camera_encoder/up")
    table += linear("cam_enc.pose_branch.fc2", "camera_encoder/down")
    for name in ("token_norm", "trunk_norm"):
        table += norm(f"cam_enc.{name}", f"camera_encoder/{name}")
    return table + block_rules("cam_enc.trunk.{layer}.", "camera_encoder/trunk/layers/block/")
