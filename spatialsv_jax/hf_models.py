"""Hugging Face checkpoints as models of ours: settings, processor and parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from spatialsv_jax.assembly import Settings
from spatialsv_jax.interop import hub
from spatialsv_jax.interop.conversion import Conversion
from spatialsv_jax.interop.gguf_files import GGUFFile
from spatialsv_jax.interop.tensor_files import TensorFolder
from spatialsv_jax.losses.objective import ObjectiveConfig
from spatialsv_jax.model import LiftingConfig
from spatialsv_jax.processing import PROCESSORS, Processor
from spatialsv_jax.processing.pretrained import read_tokenizer
from spatialsv_jax.teacher import TeacherConfig
from spatialsv_jax.training.checkpoints import CheckpointConfig
from spatialsv_jax.training.loop import LoopConfig
from spatialsv_jax.training.optimizer import OptimizerConfig
from spatialsv_jax.training.sharding import MeshConfig

# What a user chooses; everything else of the two configs is the checkpoint's.
CHOSEN = {
    "vision": ("image_size", "trainable"),
    "language": (
        "visual_attention",
        "attention",
        "remat",
        "unroll",
        "dtype",
        "lora_rank",
        "lora_alpha",
        "lora_targets",
    ),
}
NEW = ("lifting/.*", ".*_lora/[ab]")  # parameters that no checkpoint has

LABEL_PIXELS = (
    14  # label pixels of a token's side, where a model without heads is evaluated: 224 for 448 x 448 pictures
)


def label_size(processor: Processor) -> tuple[int, int]:
    """(H, W) of the label maps beside a model that has no heads."""
    return tuple(LABEL_PIXELS * side for side in processor.grid_hw)


def own_type(folder: TensorFolder) -> str:
    """Type of the arithmetic that suits a checkpoint: bfloat16 if most of its numbers are 16 bits wide."""
    sizes = {2: 0, 4: 0}
    for info in folder.tensors.values():
        sizes[info.dtype.itemsize] = sizes.get(info.dtype.itemsize, 0) + int(np.prod(info.shape, dtype=np.int64))
    return "bfloat16" if sizes[2] > sizes[4] else "float32"


def settings_of(checkpoint: hub.Checkpoint, dtype: str) -> Settings:
    """Settings of a model that answers and has no heads; its training settings are the defaults."""
    return Settings(
        model="mllm",
        family=checkpoint.family,
        vision=checkpoint.vision,
        language=dataclasses.replace(checkpoint.language, dtype=dtype),
        lifting=LiftingConfig(heads=()),
        teacher=TeacherConfig(),
        losses=ObjectiveConfig(text=0.0, distill=0.0, depth=0.0, ray=0.0, points=0.0),
        optimizer=OptimizerConfig(),
        mesh=MeshConfig(),
        training=LoopConfig(),
        checkpoint=CheckpointConfig(),
    )


def as_config(settings: Settings, label_size: tuple[int, int]) -> dict[str, Any]:
    """The settings as a phase's config.json holds them."""
    return {**dataclasses.asdict(settings), "data": {"label_size": list(label_size), "sources": {}}}


def sizes_of_checkpoint(config: Mapping, checkpoint: hub.Checkpoint, where: str = "config") -> dict[str, dict]:
    """`vision` and `language` of a phase's config with the sizes of the checkpoint that it starts from.

    With `family` "auto" all sizes come from the checkpoint. With a family named, sizes that the config states must
    be the checkpoint's.

    Raises:
      ValueError: another family, or other sizes, all of them named.
    """
    stated = config["family"] != "auto"
    if stated and config["family"] != checkpoint.family:
        raise ValueError(
            f"{where}.family is '{config['family']}', but {checkpoint.directory} holds a model of '{checkpoint.family}'. "
            "Use a config of that family, or family = 'auto'."
        )
    resolved, wrong = {}, []
    for section, chosen in CHOSEN.items():
        if getattr(checkpoint, section) is None:  # a language model alone: the encoder is the config's
            resolved[section] = dict(config[section])
            continue
        theirs = dataclasses.asdict(getattr(checkpoint, section))
        for key, value in dict(config[section]).items():
            value = tuple(value) if isinstance(value, list) else value
            if key in chosen and key in theirs:
                theirs[key] = value if value != () else theirs[key]
            elif key in chosen and value != ():
                wrong.append(f"{where}.{section}.{key} is {value}, but this family has one size of pictures")
            elif (
                stated and not (key in ("vocab_size", "max_length") and value == 0) and theirs.get(key, value) != value
            ):
                wrong.append(f"{where}.{section}.{key} is {value}, the checkpoint has {theirs[key]}")
        resolved[section] = theirs
    if wrong:
        raise ValueError(
            f"{checkpoint.directory} is of another size than this config: {'; '.join(wrong)}. Use the config of its size, "
            f"or --{where}.family=auto, which reads the sizes."
        )
    return resolved


def processor_of(checkpoint: hub.Checkpoint, image_size: tuple[int, int] | None = None) -> Processor:
    """The family's processor with the folder's tokenizer.

    Raises:
      ValueError: a file is missing or broken, or the tokenizer is of another family.
    """
    return PROCESSORS[checkpoint.family].from_checkpoint(checkpoint.directory, image_size)


def tokenizer_of(checkpoint: hub.Checkpoint) -> Tokenizer:
    """The tokenizer of a language model's folder or GGUF file.

    Raises:
      ValueError: it is missing or of a kind that is not read here.
    """
    tensors = checkpoint.tensors()
    return tensors.tokenizer() if isinstance(tensors, GGUFFile) else read_tokenizer(checkpoint.directory)


def read_parameters(
    checkpoint: hub.Checkpoint, shapes: Mapping, dtype: Any = None, progress: bool = False
) -> tuple[dict, Conversion, TensorFolder]:
    """The checkpoint's parameters in the places and (unless `dtype` is given) types of `shapes`.

    Parameters of the lifting part are left out: no checkpoint has them.

    Raises:
      ConversionError: everything that does not fit, in one message.
    """
    if dtype is not None:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding), shapes)
    return hub.import_parameters(checkpoint, shapes, new=NEW, progress=progress)


def count(tree: Mapping) -> int:
    """Number of parameters."""
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in jax.tree.leaves(tree))
