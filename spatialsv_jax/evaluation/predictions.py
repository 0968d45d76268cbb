"""Runs a model over evaluation batches: one `Outcome` per record, with answers, maps and labels.

Two compiled programs of fixed shapes serve a whole evaluation: lifting (with one question slot,
so that no answer logits are wasted) and greedy decoding of all packed questions. The blind run is
the second program again with black pictures.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from data_pipelines.records import Question, Record

_VIEW_NAME = re.compile(r"<view:(\d+)>")
QUESTION_FIELDS = (
    "question_tokens", "question_mask", "question_valid", "answer_mask", "answer_positions", "answer_valid",
)  # fmt: skip
LABEL_FIELDS = (
    "depth", "valid", "covered", "intrinsics", "camera_to_world", "view_valid", "pose_valid", "has_geometry", "scene_scale_m",
)  # fmt: skip
MAP_FIELDS = ("depth", "depth_confidence", "ray", "ray_confidence", "points", "points_confidence")


@dataclasses.dataclass(frozen=True)
class Engine:
    """A model as two callables on NumPy batches (spec.BATCH), so that anything can be evaluated.

    Attributes:
      lift: batch -> spec.PREDICTIONS without text, or None for a model that has no heads.
      answer: batch -> int32[B,Q,*] generated ids, or None for a model that cannot talk.
      decode: ids -> text.
      black: (number of views) -> pixel_values[V,...] of black pictures, for the blind run.
      meter: what generation took.
    """

    lift: Callable[[Mapping], Mapping] | None
    answer: Callable[[Mapping], np.ndarray] | None
    decode: Callable[[np.ndarray], str]
    black: Callable[[int], np.ndarray]
    meter: Meter = dataclasses.field(default_factory=lambda: Meter())


@dataclasses.dataclass
class Meter:
    """Tokens that were generated (end tokens counted once) and the seconds that took, compilation included."""

    tokens: int = 0
    seconds: float = 0.0

    def add(self, tokens: np.ndarray, valid: np.ndarray, end_id: int, seconds: float) -> None:
        """Counts int32[B,Q,n] of the questions `valid` bool[B,Q]."""
        made = np.minimum((tokens != end_id).sum(-1) + 1, tokens.shape[-1])
        self.tokens, self.seconds = self.tokens + int(made[valid].sum()), self.seconds + seconds

    @property
    def per_second(self) -> float:
        """Tokens a second; 0 where nothing was generated."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One record after inference. Arrays have the batch's V; `labels` are those of spec.BATCH without B."""

    record: Record
    index: int  # of the record in its source
    labels: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]  # the heads' outputs, those that the model has
    questions: list[Question]
    answers: list[str]
    blind_answers: list[str]

    @property
    def depth_mask(self) -> np.ndarray:
        """bool[V,H,W]: pixels whose depth is judged."""
        return self.labels["valid"] & bool(self.labels["has_geometry"])

    @property
    def points_mask(self) -> np.ndarray:
        """bool[V,H,W]: pixels whose world point is judged."""
        return self.depth_mask & self.labels["pose_valid"][:, None, None]


def engine_of(loaded, max_new_tokens: int, meter: Meter | None = None) -> Engine:
    """The engine of a `spatialsv_jax.load`ed model; compiles on first use, on one device.

    Args:
      loaded: a LoadedModel.
      max_new_tokens: longest answer in tokens, the end token included.
      meter: counts generated tokens; a new one by default.
    """
    import jax

    from spatialsv_jax.generation import decoding

    processor = loaded.processor
    lift = jax.jit(lambda params, batch: {k: v for k, v in loaded.apply(params, batch).items() if k in MAP_FIELDS})
    greedy = jax.jit(
        lambda params, batch: decoding.greedy(loaded.model, params, batch, max_new_tokens, processor.stop_ids)
    )
    meter = meter or Meter()

    def answer(batch: Mapping) -> np.ndarray:
        began = time.perf_counter()
        with loaded.on_mesh():
            tokens = np.asarray(greedy(loaded.params, batch))
        meter.add(tokens, np.asarray(batch["question_valid"]), processor.end_id, time.perf_counter() - began)
        return tokens

    def lifted(batch: Mapping) -> Mapping:
        with loaded.on_mesh():
            return jax.device_get(lift(loaded.params, batch))

    def black(views: int) -> np.ndarray:
        return processor.pixels([np.zeros((8, 8, 3), np.uint8)] * views).pixel_values

    return Engine(
        lift=lifted if loaded.can_lift else None,
        answer=answer if loaded.settings.model == "mllm" else None,
        decode=processor.decode,
        black=black,
        meter=meter,
    )


def outcomes(engine: Engine, batches: Iterable[tuple[Mapping, list]], blind: bool = True) -> Iterator[Outcome]:
    """Infers batch by batch and hands out each record once all its rows are done.

    Args:
      engine: the model.
      batches: of `data_pipelines.loader.evaluation_batches`; a record's rows follow each other.
      blind: whether to answer every question a second time with black pictures.

    Yields:
      Outcomes in the order of the records.
    """
    pending: Outcome | None = None
    for batch, rows in batches:
        maps = {}
        if engine.lift is not None and any(row is not None and row.first for row in rows):
            maps = _checked(engine.lift(_one_question(batch)))
        asked = engine.answer is not None and bool(np.any(batch["question_valid"]))
        seen = engine.answer(batch) if asked else None
        unseen = engine.answer(_blinded(batch, engine.black)) if asked and blind else None
        for place, row in enumerate(rows):
            if row is None:
                continue
            texts = _decode(engine, seen, place, len(row.questions))
            blind_texts = _decode(engine, unseen, place, len(row.questions))
            if row.first:
                if pending is not None:
                    yield pending
                labels = {name: np.asarray(batch[name][place]) for name in LABEL_FIELDS}
                pending = Outcome(
                    row.record, row.index, labels, {name: value[place] for name, value in maps.items()}, [], [], []
                )
            if asked:
                pending.questions.extend(row.questions)
                pending.answers.extend(texts)
                pending.blind_answers.extend(blind_texts)
    if pending is not None:
        yield pending


def spoken(text: str) -> str:
    """A question as the model reads it: `<view:0>` is "view 1"."""
    return _VIEW_NAME.sub(lambda match: f"view {int(match.group(1)) + 1}", text)


def _decode(engine: Engine, tokens: np.ndarray | None, place: int, count: int) -> list[str]:
    return [] if tokens is None else [engine.decode(ids) for ids in tokens[place, :count]]


def _one_question(batch: Mapping) -> dict:
    """The batch with a single question slot: the heads do not see questions."""
    return {name: value[:, :1] if name in QUESTION_FIELDS else value for name, value in batch.items()}


def _blinded(batch: Mapping, black: Callable[[int], np.ndarray]) -> dict:
    pixels = batch["pixel_values"]
    picture = black(batch["view_valid"].shape[1])
    if picture.shape != pixels.shape[1:]:
        raise ValueError(f"Black pictures have shape {picture.shape}, but the batch's have {pixels.shape[1:]}.")
    return {**batch, "pixel_values": np.broadcast_to(picture, pixels.shape).astype(pixels.dtype)}


def _checked(maps: Mapping) -> dict[str, np.ndarray]:
    found = {name: np.asarray(maps[name]) for name in MAP_FIELDS if maps.get(name) is not None}
    for name, value in found.items():
        if not np.isfinite(value).all():
            raise FloatingPointError(f"The model's {name} holds NaN or inf; the checkpoint is broken.")
    return found
