"""A family's checkpoint as our model, and its inputs from our processor: for the tests of all families."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from spatialsv_jax.generation import decoding
from spatialsv_jax.interop.hub import import_parameters, open_checkpoint, parameter_shapes
from spatialsv_jax.model import LiftingConfig, SpatialMLLM
from spatialsv_jax.processing import PROCESSORS

TRAINING_SIZE = {
    "qwen2_5_vl": (56, 84),
    "llava_onevision1_5": (56, 84),
}  # (height, width) of pictures in training, where a family lets one choose


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model without lifting heads."""

    model: SpatialMLLM
    params: dict
    processor: object
    conversion: object
    folder: object

    @property
    def layers(self):
        return self.model.language.layers


@functools.cache
def imported(folder, dtype="float32"):
    """The checkpoint in `folder`, all of it."""
    checkpoint = open_checkpoint(folder)
    processor = PROCESSORS[checkpoint.family].from_checkpoint(folder, TRAINING_SIZE.get(checkpoint.family))
    language = dataclasses.replace(checkpoint.language, dtype=dtype)
    model = SpatialMLLM(checkpoint.vision, language, LiftingConfig(heads=()), checkpoint.family)
    batch = sample(processor, [np.zeros((56, 56, 3), np.uint8)], "x")
    params, conversion, tensors = import_parameters(checkpoint, parameter_shapes(model, batch))
    assert not conversion.new
    return Imported(model, params, processor, conversion, tensors)


def sample(processor, images, question, video_rate=None):
    """A batch of one row at the model's own picture sizes."""
    if video_rate is None:
        return _batch(processor, *processor.native(images), question)
    return _batch(processor, *processor.native_video(images, video_rate), question)


def trained_sample(processor, images, question):
    """A batch of one row with pictures of the training size."""
    return _batch(processor, processor.encode_prefix(len(images)), processor.pixels(images), question)


def stack(batches, pad):
    """Batches of one row as one batch, padded at the end of every axis."""
    stacked = {}
    for name in batches[0]:
        parts = [batch[name] for batch in batches]
        shape = np.max([part.shape for part in parts], axis=0)
        fill = pad if name.endswith("_tokens") else 0
        padded = [
            np.pad(part, [(0, size - own) for size, own in zip(shape, part.shape, strict=True)], constant_values=fill)
            for part in parts
        ]
        stacked[name] = np.concatenate(padded)
    return stacked


def _batch(processor, prefix, pixels, question):
    asked = processor.encode_question(question)
    views = len(prefix.image_token_index)
    batch = {
        "prefix_tokens": prefix.tokens,
        "prefix_mask": np.ones(len(prefix.tokens), bool),
        "prefix_positions": prefix.positions,
        "question_start": np.asarray(prefix.question_start, np.int32),
        "question_tokens": asked.tokens[None],
        "question_mask": np.ones((1, len(asked.tokens)), bool),
        "question_valid": np.ones(1, bool),
        "answer_mask": asked.answer_mask[None],
        "answer_positions": np.zeros((1, 1), np.int32),
        "answer_valid": np.zeros((1, 1), bool),
        "pixel_values": pixels.pixel_values,
        "image_token_index": prefix.image_token_index,
        "view_valid": np.ones(views, bool),
    }
    for name in ("feature_slots", "feature_valid"):
        if getattr(prefix, name) is not None:
            batch[name] = getattr(prefix, name)
    return {name: np.asarray(value)[None] for name, value in batch.items()}


def tokens_and_positions(batch):
    """int32[S+T] tokens and int32[S+T,K] positions of a row as one sequence."""
    asked = batch["question_tokens"][0, 0]
    axes = batch["prefix_positions"].shape[-1]
    own = np.repeat((batch["question_start"][0] + np.arange(len(asked)))[:, None], axes, axis=1)
    return np.concatenate([batch["prefix_tokens"][0], asked]), np.concatenate([batch["prefix_positions"][0], own])


def every_state(found, batch):
    """Features of the pictures [X,R,D], states [L+1,S+T,D] and logits [S+T,N] of a row."""

    def run(module, batch):
        backbone = module.backbone
        slots = batch["image_token_index"]
        length = batch["prefix_tokens"].shape[1] + batch["question_tokens"].shape[2]
        # Rows of the prefix and of the question, all of them tapped.
        everything = {"feature_slots": slots, "feature_valid": np.ones(slots.shape, bool), **batch}
        everything["image_token_index"] = jnp.arange(length)[None, None]
        states = backbone(everything, tuple(range(found.layers + 1))).taps[:, 0, 0]
        return backbone.picture_features(batch)[0], states, backbone.logits(states[-1])

    return jax.jit(lambda params, batch: found.model.apply({"params": params}, batch, method=run))(found.params, batch)


def greedy(found, batch, count):
    """int32[B,count] tokens; nothing ends them."""
    make = jax.jit(lambda params, batch: decoding.greedy(found.model, params, batch, count, -1))
    return np.asarray(make(found.params, batch))[:, 0]
