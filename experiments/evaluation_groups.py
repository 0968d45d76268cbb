"""What an evaluation shows at which size: records of like proportions share one bucket, model input size and baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from data_pipelines.config import GROUPS
from data_pipelines.loader import DataConfig, evaluation_batches
from data_pipelines.packing import question_prompt
from spatialsv_jax.evaluation import baselines
from spatialsv_jax.evaluation.predictions import Engine, Meter, Outcome, engine_of, outcomes

MOST_FITTED = 1000  # training records behind the constant predictor


class Subset:
    """Some records of a source, in the given order; with `views`, their first ones without questions."""

    def __init__(self, records, indices: Sequence[int], views: int | None = None):
        self._records, self._indices, self._views = records, [int(index) for index in indices], views

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int):
        record = self._records[self._indices[place]]
        if self._views is None or len(record.view_ids) <= self._views:
            return record
        per_view = ("view_ids", "images", "depths", "intrinsics", "camera_to_world", "pose_valid")
        first = {name: getattr(record, name)[: self._views] for name in per_view}
        return dataclasses.replace(record, **first, questions=())


@dataclasses.dataclass(frozen=True)
class _Group:
    """Records that are shown at one size."""

    config: DataConfig
    processor: object
    engine: Engine
    places: range  # of its records among all


class Groups:
    """The records of an evaluation by the trained picture size that suits them.

    Args:
      loaded: the model.
      records: the evaluated split.
      chosen: indices of the records to evaluate.
      training: the training split, for the constant predictors; None if there is none.
      batch_size: rows of a batch.
      seed: of the choice of training records.

    Attributes:
      indices: `chosen`, in the order of evaluation.
      constants: one constant predictor for each size; none without training records that have depth.
      meter: counts generated tokens.
    """

    def __init__(self, loaded, records, chosen: Sequence[int], training, batch_size: int, seed: int):
        self._batch_size, self.meter, self.constants = batch_size, Meter(), []
        by_size: dict = {}
        for index in chosen:
            row = records.rows[index]
            fitted = loaded.fitted([(row["height"], row["width"])]) if row["views"] else loaded
            by_size.setdefault(fitted.processor.image_size, (fitted, []))[1].append(index)
        self.indices: list[int] = []
        self._groups: list[_Group] = []
        for fitted, own in by_size.values():
            config = shapes_for(fitted, records, own)
            constant = None if training is None else fit_constant(config, fitted.processor, training, seed)
            self.constants += [] if constant is None else [constant]
            engine = engine_of(fitted, config.answer_tokens, self.meter)
            places = range(len(self.indices), len(self.indices) + len(own))
            self._groups.append(_Group(config, fitted.processor, engine, places))
            self.indices += own
        self._records = Subset(records, self.indices)

    def outcomes(self, places: Sequence[int], blind: bool, ask: bool = True) -> Iterator[Outcome]:
        """What the model says of the records at `places` (ascending), in that order; without `ask` its maps alone."""
        for group in self._groups:
            own = [place for place in places if place in group.places]
            asked = GROUPS if ask and group.engine.answer is not None else ()
            subset = Subset(self._records, own)
            batches = evaluation_batches(group.config, group.processor, subset, self._batch_size, groups=asked)
            yield from outcomes(group.engine, batches, blind)

    def describe(self) -> list[dict]:
        """Per size: pictures' and label maps' (height, width), and the number of records; plain JSON types."""
        return [
            {
                "image_size": group.processor.image_size,
                "label_size": list(group.config.label_size),
                "records": len(group.places),
            }
            for group in self._groups
        ]


def shapes_for(loaded, records, chosen: Sequence[int]) -> DataConfig:
    """The bucket of the evaluation: as many views, questions and tokens as the chosen records need."""
    views, most, tokens, answer = 1, 1, 1, 1
    encode, known = loaded.processor.encode_question, {}
    for index in chosen:
        record = records[index]
        views = max(views, len(record.view_ids))
        asked = [question for question in record.questions if question.group in GROUPS]
        most = max(most, len(asked))
        for question in asked:
            pair = (question_prompt(question, *loaded.processor.option_form), question.answer, bool(record.view_ids))
            if pair not in known:
                mask = encode(*pair[:2], **({} if pair[2] else {"pictures": False})).answer_mask
                known[pair] = (len(mask), int(mask.sum()))
            tokens, answer = max(tokens, known[pair][0]), max(answer, known[pair][1])
    rows = -(-most // 128)
    return DataConfig(
        sources=(),
        questions=_round_up(-(-most // rows), 8),
        question_tokens=_round_up(tokens, 4),
        answer_tokens=answer,
        views=views,
        label_size=loaded.label_hw,
    )


def fit_constant(config: DataConfig, processor, training, seed: int) -> baselines.ConstantPredictor | None:
    """The constant predictor of at most `MOST_FITTED` training records (a fixed random choice); None without depth."""
    chosen = choose(len(training), MOST_FITTED, seed)
    samples = []
    shown = Subset(training, chosen, config.views)
    batches = evaluation_batches(dataclasses.replace(config, questions=1), processor, shown, 16, groups=())
    with tqdm(total=len(chosen), desc="constant predictor") as bar:
        for batch, rows in batches:
            for place, row in enumerate(rows):
                if row is None or not row.first:
                    continue
                samples.append(
                    {
                        "depth": batch["depth"][place],
                        "depth_mask": batch["valid"][place] & batch["has_geometry"][place],
                        "intrinsics": batch["intrinsics"][place],
                        "camera_to_world": batch["camera_to_world"][place],
                        "pose_valid": batch["pose_valid"][place] & batch["has_geometry"][place],
                        "setting": row.record.setting,
                        "scene": row.record.scene,
                    }
                )
                bar.update(1)
    return baselines.fit_constant(samples) if any(sample["depth_mask"].any() for sample in samples) else None


def choose(available: int, count: int | None, seed: int) -> list[int]:
    """`count` of `available` indices in order, drawn by the seed; all if `count` is None."""
    if count is None or count >= available:
        return list(range(available))
    return sorted(np.random.default_rng(seed).permutation(available)[:count].tolist())


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
