"""VGGT's published checkpoints: whose model it is, and which tensor is which parameter.

Two things that a file holds are no parameters here and are named in `IGNORED`: the head for point tracks and the patch encoder's
mask token, which only its training used. The names of published files were not checked against the files themselves, only
against a description and a file of random weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spatialsv_jax.interop.config_fields import part, read_config
from spatialsv_jax.interop.conversion import FIRST, SAME, Conversion, Rule, Transform, linear, norm, patches
from spatialsv_jax.interop.tensor_files import ConversionError, TensorFolder, TensorInfo
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
from spatialsv_jax.teachers.vggt.model import VGGT
from spatialsv_jax.teachers.vggt.presets import CAMERA_HEADS, ITERATIONS, PATCH, VGGT_1B, Sizes

CONFIG = "config.json"
# Regular expressions of tensors without a parameter.
IGNORED = (r"track_head\..*", r"aggregator\.patch_embed\.mask_token")
_ENCODER = "aggregator.patch_embed."


def _variants(x: np.ndarray) -> np.ndarray:
    if x.ndim != 4 or x.shape[:2] != (1, 2):
        raise ValueError("expected [1, 2, rows, width]")
    return x.reshape(-1, x.shape[-1])


# Special rows of the first view, then those of all others.
VARIANTS = Transform("rows of both variants", _variants, lambda x: x.reshape(1, 2, -1, x.shape[-1]))


@dataclasses.dataclass(frozen=True)
class Imported:
    """A checkpoint as a model of ours: `model.apply({"params": params}, pixels)`."""

    model: VGGT
    params: dict
    conversion: Conversion


def load(directory: str | Path, progress: bool = False, place: Place = in_one_place, **changes: Any) -> Imported:
    """A checkpoint folder's model and float32 parameters.

    Args:
      directory: with safetensors, and config.json unless the sizes of the tensors are those of VGGT-1B.
      progress: whether to show a bar.
      place: says where parameters go.
      changes: fields of `Sizes` that one chooses: dtype, attention, head_precision.

    Raises:
      ConversionError: a folder that cannot be read, a model that is not recognised, or tensors that do not fit it, all named.
    """
    folder = TensorFolder(directory)
    path = Path(directory) / CONFIG
    sizes = recognise(read_config(path) if path.is_file() else {}, folder.tensors, str(directory))
    model = VGGT(dataclasses.replace(sizes, **changes))
    pixels = jax.ShapeDtypeStruct((1, 1, 2 * PATCH, 2 * PATCH, 3), jnp.float32)
    shapes = place(model, parameter_shapes(model, pixels))
    params, conversion = read_teacher(folder, rules(), shapes, carried=IGNORED, progress=progress)
    return Imported(model, params, conversion)


def recognise(values: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: str = "The checkpoint") -> Sizes:
    """The model's sizes: as config.json states them, or those of VGGT-1B where the tensors have its width.

    Args:
      values: config.json; {} without one. The published one states no depths.
      tensors: what the checkpoint holds.
      where: names the checkpoint in messages.

    Raises:
      ConversionError: tensors of another model, or of another size that config.json does not state.
    """
    if "aggregator" in values:
        return _stated(values, where)
    first = tensors.get("aggregator.camera_token")
    if first is None:
        raise ConversionError(
            f"{where} has no tensor 'aggregator.camera_token': it is no checkpoint of VGGT. It holds {sorted(tensors)[:3]} ..."
        )
    if first.shape[-1] != VGGT_1B.width:
        raise ConversionError(
            f"{where}: 'aggregator.camera_token' is {first.shape[-1]} wide; published is {VGGT_1B.width}. State the sizes in "
            f"{CONFIG}, fields 'dino', 'aggregator', 'camera_head' and 'dpt'."
        )
    return VGGT_1B


def _stated(values: Mapping[str, Any], where: str) -> Sizes:
    """Sizes written out in config.json."""
    stated = f"{where}, {CONFIG}"
    dino, aggregator, camera, dpt = (
        part(values, name, stated) for name in ("dino", "aggregator", "camera_head", "dpt")
    )
    try:
        fixed = {
            "dino.num_heads": (dino["num_heads"], aggregator["num_heads"]),
            "dino.mlp_ratio": (dino["mlp_ratio"], 4),
            "aggregator.mlp_ratio": (aggregator["mlp_ratio"], 4),
            "aggregator.qk_norm": (aggregator["qk_norm"], True),
            "aggregator.rope_base": (aggregator["rope_base"], 100),
            "camera_head.num_heads": (camera["num_heads"], CAMERA_HEADS),
            "camera_head.num_iterations": (camera["num_iterations"], ITERATIONS),
            "patch_size": (values["patch_size"], PATCH),
        }
        wrong = [f"{name} is {found!r}, built is {built!r}" for name, (found, built) in fixed.items() if found != built]
        if wrong:
            raise ConversionError(f"{stated}: {'; '.join(wrong)}.")
        return Sizes(
            width=values["embed_dim"],
            heads=aggregator["num_heads"],
            encoder_layers=dino["depth"],
            pairs=aggregator["depth"],
            camera_layers=camera["trunk_depth"],
            taps=tuple(dpt["intermediate_layer_idx"]),
            features=dpt["features"],
            channels=tuple(dpt["out_channels"]),
            registers=dino["num_register_tokens"],
            special_registers=values["num_register_tokens"],
        )
    except KeyError as error:
        raise ConversionError(f"{stated}: field {error} is missing.") from error
    except ConversionError:
        raise
    except (TypeError, ValueError) as error:
        raise ConversionError(f"{stated}: these sizes make no model: {error}") from error


def rules() -> list[Rule]:
    """The table, the same for all sizes; layers of a group are stacked."""
    table = [
        Rule(f"{_ENCODER}cls_token", "encoder/tokens/class", FIRST),
        Rule(f"{_ENCODER}register_tokens", "encoder/tokens/registers", FIRST),
        Rule(f"{_ENCODER}pos_embed", "encoder/tokens/position", FIRST),
        Rule(f"{_ENCODER}patch_embed.proj.weight", "encoder/tokens/patch/kernel", patches((PATCH, PATCH), True)),
        Rule(f"{_ENCODER}patch_embed.proj.bias", "encoder/tokens/patch/bias", SAME),
        *block_rules(f"{_ENCODER}blocks.{{layer}}.", "encoder/blocks/layers/block/"),
        *norm(f"{_ENCODER}norm", "encoder/norm"),
        Rule("aggregator.camera_token", "aggregator/special/camera", VARIANTS),
        Rule("aggregator.register_token", "aggregator/special/registers", VARIANTS),
        *block_rules("aggregator.frame_blocks.{layer}.", "aggregator/pairs/layers/within/", qk_norm=True),
        *block_rules("aggregator.global_blocks.{layer}.", "aggregator/pairs/layers/across/", qk_norm=True),
        *_camera_rules(),
    ]
    for head in ("depth_head", "point_head"):
        table += norm(f"{head}.norm", f"{head}/norm")
        table += reassembly_rules(f"{head}.", f"{head}/reassembly/") + pyramid_rules(f"{head}.", f"{head}/pyramid/")
        table += convolution(f"{head}.scratch.output_conv1", f"{head}/neck")
        table += output_rules(f"{head}.scratch.output_conv2", f"{head}/output/")
    return table


def _camera_rules() -> list[Rule]:
    return [
        Rule("camera_head.empty_pose_tokens", "camera_head/empty_pose", FIRST),
        *norm("camera_head.token_norm", "camera_head/token_norm"),
        *norm("camera_head.trunk_norm", "camera_head/rounds/trunk_norm"),
        *linear("camera_head.embed_pose", "camera_head/rounds/embed_pose"),
        *linear("camera_head.poseLN_modulation.1", "camera_head/rounds/modulation"),
        *linear("camera_head.pose_branch.fc1", "camera_head/rounds/up"),
        *linear("camera_head.pose_branch.fc2", "camera_head/rounds/down"),
        *block_rules("camera_head.trunk.{layer}.", "camera_head/rounds/trunk/layers/block/"),
    ]
