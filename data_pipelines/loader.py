"""The training loader.

A Grain MapDataset of steps: row plans (mixture) -> rows (samples, packing) -> batches (collate).
Batch `step` is a pure function of (data, config, step): it does not depend on the number of
processes, threads, on what was read before, or on what the cache holds.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grain
import numpy as np

from data_pipelines import storage
from data_pipelines.buckets import Bucket, Choice, Needs, at_size, choose_buckets, one_bucket
from data_pipelines.collate import Batch
from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.evaluation_rows import EvaluationRow, evaluation_batches
from data_pipelines.lengths import question_lengths
from data_pipelines.mixture import BucketedMixture, Mixture, RowPlan, RowPlans, Schedule
from data_pipelines.online import OnlinePictures, Teacher, pictures_for
from data_pipelines.packing import choose_questions
from data_pipelines.recycled import Memory
from data_pipelines.rows import RowBuilder, measure
from data_pipelines.samples import Sample
from data_pipelines.source import BoundedCache, Source, check_splits, shown_views, used_records
from data_pipelines.vision_cache import VisionCache

__all__ = ["DataConfig", "EvaluationRow", "Loader", "SourceConfig", "evaluation_batches", "make_loader"]

_STEPS = 2**31  # length of the chain; a run ends long before


class Loader:
    """Batches of this process; make it with `make_loader`.

    Attributes:
      config: the data settings.
      choice: the shapes of batches, and which record has which.
      mixture: which record stands where.
      sources: the opened sources.
    """

    def __init__(
        self,
        config: DataConfig,
        processor,
        sources: Sequence[Source],
        members: Sequence[np.ndarray],
        choice: Choice,
        process_index: int,
        process_count: int,
        vision: Sequence[VisionCache | None],
        online: OnlinePictures | None = None,
    ):
        self.config, self.sources, self.choice = config, tuple(sources), choice
        counts = [source.config.per_batch for source in sources]
        mixtures = [
            Mixture(counts, [own[owner == bucket] for own, owner in zip(members, choice.owners, strict=True)], config.seed)
            for bucket in range(len(choice.buckets))
        ]  # fmt: skip
        self.mixture = BucketedMixture(mixtures, Schedule(choice.shares, config.seed))
        self._members = tuple(members)
        self._scenes = {
            number: source.scene_groups() for number, source in enumerate(sources) if source.config.shuffle3d
        }
        width = max((source.feature_width for source in sources), default=0)
        self._processors = [at_size(processor, bucket.image_size) for bucket in choice.buckets]
        self._builders = [
            RowBuilder(
                _in_bucket(config, bucket),
                own,
                width,
                any(one.config.confidence_weights for one in sources),
                features,
                online,
            )
            for bucket, own, features in zip(choice.buckets, self._processors, vision, strict=True)
        ]
        plans = RowPlans(self.mixture, process_index, process_count, _STEPS)
        self.rows_per_process = plans.local_rows
        self._plans = plans
        self._memory = Memory()
        self._dataset = grain.MapDataset.range(_STEPS).map(self._collated)
        self._open: weakref.WeakSet[BatchIterator] = weakref.WeakSet()
        self._verify()

    def row(self, plan: RowPlan, pixels: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The row that `plan` describes, its pixels in a batch's memory if that is given."""
        source, rng = self.sources[plan.source], self.mixture.generator(plan)
        sample = source.sample(plan.record, plan.visit, rng, bucket=plan.bucket)
        choice = choose_questions(len(sample.questions), self.config.questions, rng)
        geometry_of = self._partner(plan, sample) if source.config.shuffle3d and len(sample.covered) else sample
        return self._builders[plan.bucket].row(sample, choice, geometry_of, plan.record, plan.source, pixels)

    def _collated(self, step: int) -> dict[str, np.ndarray]:
        batch = Batch(self.rows_per_process, self._memory)
        for place in range(step * self.rows_per_process, (step + 1) * self.rows_per_process):
            batch.add(self.row(self._plans[place], batch.memory("pixel_values")))
        return batch.whole()

    def _partner(self, plan: RowPlan, sample: Sample) -> Sample:
        other = self.mixture.partner(plan, self._scenes[plan.source])
        rng = self.mixture.generator(plan)
        return self.sources[plan.source].sample(other, plan.visit, rng, len(sample.covered), plan.bucket)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of global batch `step`: a contiguous slice, fields of spec.BATCH."""
        return self._dataset[step]

    def examples(self) -> list[dict[str, np.ndarray]]:
        """One batch of every bucket, of its first step."""
        return [self.batch(self.mixture.schedule.steps(bucket, 1)[0]) for bucket in range(len(self.choice.buckets))]

    def iterate(self, start_step: int = 0) -> BatchIterator:
        """(step, batch) from `start_step` on, prepared ahead by threads; close it when done."""
        iterator = BatchIterator(self._dataset, start_step, self.config.threads, self.config.buffer)
        self._open.add(iterator)
        return iterator

    def close(self) -> None:
        """Closes the iterators that are still open."""
        for iterator in list(self._open):
            iterator.close()

    def record_ids(self, step: int) -> list[str]:
        """Ids of the records of global batch `step`, of all processes, in row order."""
        ids = []
        for slot in range(self.mixture.global_batch):
            plan = self.mixture.row(step, slot)
            ids.append(str(self.sources[plan.source].records.ids[plan.record]))
        return ids

    def _verify(self) -> None:
        """Prepares a few records of every source and tokenises all their questions."""
        for source, members, owners in zip(self.sources, self._members, self.choice.owners, strict=True):
            count = min(self.config.verify, len(members))
            for place in np.linspace(0, len(members) - 1, count).astype(int):
                bucket = int(owners[place])
                sample = source.sample(int(members[place]), 0, np.random.default_rng(0), bucket=bucket)
                for question in range(len(sample.questions)):
                    sample.questions.pack(np.array([question]), 1, self._processors[bucket])

    def describe(self, rows: int = 64) -> dict:
        """What the loader yields, for the start-up table and the run's records; plain JSON types.

        Counts of records are exact; everything under `sampled` was measured on at least `rows` rows of the data order,
        the first ones of every bucket, the same on every process.
        """
        steps = -(-rows // self.mixture.global_batch)
        measured = []
        for bucket in range(len(self.choice.buckets)):
            for step in self.mixture.schedule.steps(bucket, steps):
                plans = [self.mixture.row(step, slot) for slot in range(self.mixture.global_batch)]
                measured += [(plan, self.row(plan)) for plan in plans]
        buckets = [
            {
                "share": share,
                "image_size": bucket.image_size,
                "views": bucket.views,
                "grid_hw": list(processor.grid_hw),
                "label_size": list(bucket.label_size),
                "prefix_tokens": builder.prefix_tokens,
                "questions": self.config.questions,
                "question_tokens": bucket.question_tokens,
                "answer_tokens": self.config.answer_tokens,
                "records": int(sum((owner == number).sum() for owner in self.choice.owners)),
                "sampled": measure([row for plan, row in measured if plan.bucket == number]),
            }
            for number, (share, bucket, processor, builder) in enumerate(
                zip(self.mixture.schedule.shares, self.choice.buckets, self._processors, self._builders, strict=True)
            )
        ]
        sources = []
        for number, source in enumerate(self.sources):
            members = len(self._members[number])
            sources.append({
                "path": source.config.path,
                "split": source.config.split,
                "shows": source.config.shows,
                "records": len(source),
                "records_in_use": members,
                **source.scene_counts(self._members[number]),
                "records_without_labels": source.without_labels,
                "per_batch": source.config.per_batch,
                "steps_per_pass": members / source.config.per_batch,
                "sampled": measure([row for plan, row in measured if plan.source == number]),
            })  # fmt: skip
        return {
            "global_batch": self.mixture.global_batch,
            "rows_per_process": self.rows_per_process,
            "buckets": buckets,
            "wasted_share": self.choice.wasted,
            "wasted_share_in_one_bucket": self.choice.wasted_in_one,
            "skew": list(self.choice.skew),
            "sources": sources,
            "sampled": measure([row for _, row in measured], self._weights(measured)),
        }

    def _weights(self, measured: Sequence[tuple[RowPlan, Mapping]]) -> list[float]:
        """Weight of each measured row: buckets count by their shares, whatever was measured of them."""
        number = np.bincount([plan.bucket for plan, _ in measured], minlength=len(self.choice.buckets))
        shares = self.mixture.schedule.shares
        return [shares[plan.bucket] / number[plan.bucket] * len(measured) for plan, _ in measured]


class BatchIterator:
    """(step, batch) pairs from a step on, prepared ahead by Grain's threads.

    Errors of the reading threads are raised by `next`. Usable as a context manager.
    """

    def __init__(self, dataset: grain.MapDataset, start_step: int, threads: int, buffer: int):
        if start_step < 0:
            raise ValueError(f"start_step is {start_step}, expected 0 or more.")
        self._closed = False
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer if threads else 0)
        self._batches = iter(dataset.slice(slice(start_step, None)).to_iter_dataset(options))
        self._step = start_step

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> tuple[int, dict[str, np.ndarray]]:
        if self._closed:
            raise StopIteration
        batch = next(self._batches)
        self._step += 1
        return self._step - 1, batch

    def close(self) -> None:
        """Stops the threads; batches prepared ahead are dropped."""
        self._closed = True
        self._batches.close()

    def __enter__(self) -> BatchIterator:
        return self

    def __exit__(self, *unused) -> None:
        self.close()


def make_loader(
    config: DataConfig,
    processor,
    process_index: int = 0,
    process_count: int = 1,
    records: Sequence | None = None,
    lengths: Path | None = None,
    vision: Callable[[Choice, Sequence, Sequence[np.ndarray]], Sequence[VisionCache]] | None = None,
    teacher: Teacher | None = None,
    teacher_size: tuple[int, int] = (0, 0),
) -> Loader:
    """Opens the sources and checks a few records of each.

    Args:
      config: the data settings; the global batch is the sum of the sources' `per_batch`.
      processor: the model family's processor.
      process_index, process_count: which contiguous slice of every global batch is loaded here.
      records: opened record sources in the order of `config.sources`; opened from their paths by default.
      lengths: folder in which lengths of questions are kept between starts, where there are several buckets.
      vision: (buckets, opened record sources, records in use of each) -> cached features for each bucket; without it
        pictures are decoded.
      teacher: that runs in the training step, for sources whose labels or features are "online".
      teacher_size: (h, w) of the pictures that it reads; (0, 0) = those of the first record.

    Raises:
      ValueError: a wrong setting, question types that the data lacks, no source, a global batch that the
        processes do not divide, or a record that does not fit the bucket, naming the record and the setting.
    """
    settings = config.source_configs
    if records is None:
        records = [storage.open_split(source.path, source.split) for source in settings]
        for number, (source, opened) in enumerate(zip(settings, records, strict=True)):
            _check_questions(source, opened.manifest["splits"][source.split]["question_types"], number)
    if len(records) != len(settings):
        raise ValueError(f"{len(records)} opened record sources for {len(settings)} config.data.sources.")
    check_splits(settings, records)
    members = [used_records(setting, opened) for setting, opened in zip(settings, records, strict=True)]
    views = [
        shown_views(setting, opened, config.views, number)[own]
        for number, (setting, opened, own) in enumerate(zip(settings, records, members, strict=True))
    ]
    for number, own in enumerate(members):
        if not len(own):
            raise ValueError(f"config.data.sources[{number}] ({settings[number].path}) has no usable record.")
    online = None
    if number := next((place for place, setting in enumerate(settings, 1) if setting.uses_teacher), 0):
        if teacher is None:
            raise ValueError(
                f"config.data.sources[{number - 1}] takes labels or features 'online', but there is no teacher: set config.online."
            )
        online = pictures_for(teacher, teacher_size, settings, records, members)
    choice = one_bucket(config, processor, members)
    if config.buckets > 1:
        kept = [lengths / f"{number}.npz" if lengths else None for number in range(len(settings))]
        needs = []
        for setting, opened, own, shown, place in zip(settings, records, members, views, kept, strict=True):
            lengths_of = (setting, opened, own, processor, config.question_tokens, config.threads)
            long, total, number = question_lengths(*lengths_of, place, process_index == 0).T
            sizes = [
                np.array([opened.rows[int(index)][side] for index in own], np.int64) for side in ("height", "width")
            ]
            # Questions without pictures count as one picture, so that every bucket has room for one.
            needs.append(Needs(np.maximum(shown, 1), *sizes, long, total, number))
        choice = choose_buckets(needs, config, processor)
    cache = BoundedCache(config.cache_mb)
    buckets = [
        (_in_bucket(config, bucket).sample_settings, at_size(processor, bucket.image_size)) for bucket in choice.buckets
    ]
    features = [None] * len(buckets) if vision is None else vision(choice, records, members)
    sources = [
        Source(setting, opened, buckets, cache, number, features, online)
        for number, (setting, opened) in enumerate(zip(settings, records, strict=True))
    ]
    return Loader(config, processor, sources, members, choice, process_index, process_count, features, online)


def _in_bucket(config: DataConfig, bucket: Bucket) -> DataConfig:
    """The settings with the shapes of one bucket."""
    return dataclasses.replace(
        config, views=bucket.views, label_size=bucket.label_size, question_tokens=bucket.question_tokens
    )


def _check_questions(config: SourceConfig, there: Mapping[str, Mapping[str, int]], number: int) -> None:
    """Refuses wanted questions that no record has: most often a misspelt type.

    Args:
      there: group -> type -> number of questions, of the split.
    """
    if not config.text or not there:
        return
    found = {type_ for group in config.groups for type_ in there.get(group, ())}
    missing = sorted(set(config.types) - found)
    if missing or not found:
        known = {group: sorted(types) for group, types in there.items()}
        wanted = f"types {missing}" if missing else f"groups {list(config.groups)}"
        raise ValueError(
            f"config.data.sources[{number}] asks for question {wanted}, of which '{config.split}' of {config.path} has "
            f"none. It has {known}."
        )
