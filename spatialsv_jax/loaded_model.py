"""A model ready for use: it answers questions about pictures and reconstructs them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spatialsv_jax import assembly, processing
from spatialsv_jax.generation import batching, decoding
from spatialsv_jax.geometry import solve_camera
from spatialsv_jax.picture_sizes import PictureSize, nearest
from spatialsv_jax.processing.base import check_pictures
from spatialsv_jax.reconstruction import Reconstruction

QUESTION_STEP = 16  # tokens


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model ready for use.

    Attributes:
      model: the pure module; params: its parameters (device arrays).
      config: the resolved config of its phase; settings: the same, checked.
      processor: pictures and text to model inputs.
      label_hw: height and width of its depth maps.
      path, step: where it came from.
      meta: what the checkpoint says of its data and objective.
      sizes: picture sizes that it was trained with; those of `processor` and `label_hw` alone if empty.
      mesh: over which the parameters are split; None = one device.
    """

    model: Any
    params: Any
    config: dict
    settings: assembly.Settings
    processor: processing.Processor
    label_hw: tuple[int, int]
    path: Path
    step: int
    meta: dict
    sizes: tuple[PictureSize, ...] = ()
    mesh: Any = None

    def on_mesh(self):
        """The context for its compiled functions: kernels that XLA cannot split ask for the mesh."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def fitted(self, shapes: Sequence[tuple[int, int]]) -> LoadedModel:
        """The same model with the trained picture size that suits pictures of (height, width) `shapes` best."""
        best = nearest(self.sizes or (PictureSize(self.processor.image_size, self.label_hw),), shapes)
        if best.image_size == self.processor.image_size:
            return self
        return dataclasses.replace(
            self, processor=self.processor.resized(best.image_size), label_hw=best.label_hw, sizes=()
        )

    @property
    def can_lift(self) -> bool:
        """Whether it has heads that reconstruct."""
        return self.settings.model == "teacher" or bool(self.settings.lifting.heads)

    def apply(self, params, batch: dict) -> dict:
        """All predictions for a batch of spec.BATCH; pure, to be jitted by the caller."""
        lift = "lifting" in params or self.settings.model == "teacher"
        return self.model.apply({"params": params}, batch, label_hw=self.label_hw, lift=lift)

    def answer(
        self,
        images: list[np.ndarray],
        questions: list[str],
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """Answers, all questions of one batch, each unaware of the others.

        Args:
          images: uint8[h,w,3] pictures in prompt order; a question names view k as `<view:K>`, K from 0.
          questions: texts in the language that the tokenizer knows.
          max_new_tokens: limit of an answer's length.
          temperature: 0 = the most probable token at every step, else tokens drawn from softmax(logits / temperature).
          seed: of the draws.

        Raises:
          ValueError: pictures or texts that the processor refuses, or more tokens than the model was made for.
        """
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}, expected a number from 0 on.")
        batch = self.inputs(images, questions, native=True)
        length = batch["prefix_tokens"].shape[1] + batch["question_tokens"].shape[2] + max_new_tokens
        self.settings.language.check_length(length)
        with self.on_mesh():
            if temperature:
                tokens = _sampled(self, max_new_tokens)(self.params, batch, float(temperature), jax.random.key(seed))
            else:
                tokens = _greedy(self, max_new_tokens)(self.params, batch)
        return [self.processor.decode(row) for row in np.asarray(tokens)[0, : len(questions)]]

    def answer_rows(
        self,
        rows: Sequence[tuple[Sequence[np.ndarray], Sequence[str]]],
        max_new_tokens: int = 32,
        size: int | None = None,
        most_questions: int | None = None,
        video_rates: Sequence[float | None] | None = None,
    ) -> list[list[str]]:
        """Greedy answers to questions about different pictures, in one batch; the same as `answer` row by row.

        On a mesh the rows are split over its data and fsdp axes.

        Args:
          rows: (pictures, questions) of each row; see `answer`.
          max_new_tokens: limit of an answer's length.
          size, most_questions: shape of the batch, filled up with empty rows and questions, so that batches of one
            benchmark share a program; by default as the rows need.
          video_rates: frames a second of the rows whose pictures are one video's frames and are to be read as such; None
            for pictures.

        Returns:
          The answers of each row.

        Raises:
          ValueError: as `answer`; a family that reads no videos.
        """
        rates = video_rates or [None] * len(rows)
        made = [
            self.inputs(list(images), list(questions), native=True, video_rate=rate)
            for (images, questions), rate in zip(rows, rates, strict=True)
        ]
        shards = 1 if self.mesh is None else batching.shards(self.mesh)
        size = -(-max(size or 0, len(rows)) // shards) * shards
        most = max(most_questions or 0, *(len(questions) for _, questions in rows))
        # Of each row: positions do not count padding, so a long prefix and another row's long question may share a batch.
        lengths = [row["prefix_tokens"].shape[1] + row["question_tokens"].shape[2] for row in made]
        self.settings.language.check_length(max(lengths) + max_new_tokens)
        batch = batching.stack(made, self.processor.pad_id, size, most)
        with self.on_mesh():
            batch = batch if self.mesh is None else batching.placed(batch, self.mesh)
            tokens = np.asarray(_greedy(self, max_new_tokens)(self.params, batch))
        return [
            [self.processor.decode(ids) for ids in row[: len(questions)]]
            for row, (_, questions) in zip(tokens, rows, strict=False)
        ]

    def reconstruct(self, images: list[np.ndarray]) -> Reconstruction:
        """Depth, cameras and points of some pictures, at the trained size that suits them best.

        Raises:
          ValueError: the model has no lifting heads, or pictures that `processing.base.check_pictures` refuses.
        """
        images = [np.asarray(image) for image in images]
        check_pictures(images)
        fitted = self.fitted([image.shape[:2] for image in images])
        if fitted is not self:
            return fitted.reconstruct(images)
        missing = {"depth", "ray", "points"} - set(self.settings.lifting.heads)
        if self.settings.model != "teacher" and missing:
            raise ValueError(f"The model at {self.path} was trained without the heads {sorted(missing)}.")
        batch = self.inputs(images, ())
        with self.on_mesh():
            predicted = _forward(self)(self.params, batch)
        found = {name: np.asarray(value[0]) for name, value in predicted.items() if value is not None}
        fit = solve_camera(found["ray"].astype(np.float64), found["ray_confidence"].astype(np.float64))
        return Reconstruction(
            images=np.stack([self.processor.resize(image) for image in images]),
            **{name: found[name] for name in Reconstruction.__dataclass_fields__ if name in found},
            intrinsics=fit.intrinsics,
            camera_to_world=fit.camera_to_world,
            camera_ok=fit.ok,
        )

    def inputs(
        self,
        images: list[np.ndarray],
        questions: tuple[str, ...] | list[str],
        native: bool = False,
        video_rate: float | None = None,
    ) -> dict[str, np.ndarray]:
        """A batch of one row with `questions` unanswered and no labels.

        Args:
          images: uint8[h,w,3] in prompt order.
          questions: may be empty.
          native: pictures at the sizes that the published model would choose, not at the training size.
          video_rate: the pictures are frames of a video, so many a second, and are read as one.

        Raises:
          ValueError: pictures that `processing.base.check_pictures` refuses; a family that reads no videos.
        """
        images = [np.asarray(image) for image in images]
        check_pictures(images)
        if video_rate is not None:
            if not hasattr(self.processor, "native_video"):
                raise ValueError("This model family reads no videos; show their frames as pictures.")
            prefix, pixels = self.processor.native_video(images, video_rate)
        elif native:
            prefix, pixels = self.processor.native(images)
        else:
            prefix, pixels = self.processor.encode_prefix(len(images)), self.processor.pixels(images)
        encoded = [self.processor.encode_question(text, None)[0] for text in questions] or [np.zeros(1, np.int32)]
        # Rounded up, so that not every length of a question compiles a program of its own.
        length = -(-max(len(tokens) for tokens in encoded) // QUESTION_STEP) * QUESTION_STEP
        tokens, mask = (
            np.full((1, len(encoded), length), self.processor.pad_id, np.int32),
            np.zeros((1, len(encoded), length), bool),
        )
        for row, ids in enumerate(encoded):
            tokens[0, row, : len(ids)], mask[0, row, : len(ids)] = ids, True
        views, (height, width) = len(prefix.image_token_index), self.label_hw  # of a video: its steps in time
        batch = {
            "prefix_tokens": prefix.tokens[None],
            "prefix_mask": np.ones((1, len(prefix.tokens)), bool),
            "prefix_positions": prefix.positions[None],
            "question_tokens": tokens,
            "question_mask": mask,
            "question_start": np.array([prefix.question_start], np.int32),
            "question_valid": np.full((1, len(encoded)), bool(questions)),
            "answer_mask": np.zeros_like(mask),
            "answer_positions": np.zeros((1, len(encoded), 1), np.int32),
            "answer_valid": np.zeros((1, len(encoded), 1), bool),
            "pixel_values": pixels.pixel_values[None],
            "image_token_index": prefix.image_token_index[None],
            "view_valid": np.ones((1, views), bool),
            "covered": np.ones((1, views, height, width), bool),
        }
        for name in ("feature_slots", "feature_valid"):
            if getattr(prefix, name) is not None:
                batch[name] = getattr(prefix, name)[None]
        return batch


@functools.lru_cache(maxsize=8)
def _compiled(model, label_hw, lift: bool, max_new_tokens: int, stop_ids: tuple[int, ...]):
    """Compiled functions by what is static; a loaded model is not hashable, its module is."""
    forward = jax.jit(lambda params, batch: model.apply({"params": params}, batch, label_hw=label_hw, lift=lift))
    greedy = jax.jit(lambda params, batch: decoding.greedy(model, params, batch, max_new_tokens, stop_ids))
    sampled = jax.jit(
        lambda params, batch, temperature, key: decoding.sample(
            model, params, batch, max_new_tokens, stop_ids, temperature=temperature, key=key
        )
    )
    return forward, greedy, sampled


def _forward(loaded: LoadedModel):
    return _compiled(loaded.model, loaded.label_hw, True, 0, loaded.processor.stop_ids)[0]


def _greedy(loaded: LoadedModel, max_new_tokens: int):
    return _compiled(loaded.model, loaded.label_hw, False, max_new_tokens, loaded.processor.stop_ids)[1]


def _sampled(loaded: LoadedModel, max_new_tokens: int):
    return _compiled(loaded.model, loaded.label_hw, False, max_new_tokens, loaded.processor.stop_ids)[2]
