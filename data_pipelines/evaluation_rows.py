"""Batches for evaluation: all records in order, every question once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np

from data_pipelines.collate import collate, empty_row
from data_pipelines.config import GROUPS, DataConfig, SourceConfig
from data_pipelines.records import Question, Record
from data_pipelines.rows import RowBuilder
from data_pipelines.samples import SampleMaker


class EvaluationRow(NamedTuple):
    """What one row of an evaluation batch shows."""

    record: Record
    questions: list[Question]  # in slot order
    first: bool  # the record's first row: geometry is measured here only
    index: int  # of the record in its source


def first_turns(record: Record) -> Record:
    """The record with the first question of every conversation: later ones would need the answers before them."""
    if not any(question.turns for question in record.questions):
        return record
    questions = tuple(dataclasses.replace(question, turns=()) for question in record.questions)
    return dataclasses.replace(record, questions=questions)


def evaluation_batches(
    config: DataConfig,
    processor,
    records,
    batch_size: int,
    max_records: int | None = None,
    groups: tuple[str, ...] = GROUPS,
    seed: int = 0,
    labels: str = "measured",
) -> Iterator[tuple[dict[str, np.ndarray], list[EvaluationRow | None]]]:
    """All records in order with all their views, every question once; of conversations the first.

    A record with more than Q questions takes several rows that repeat its pictures and geometry;
    one without questions takes one row. The last batch is filled with empty rows.

    Args:
      config: shapes of the bucket, and `threads` that read ahead; `sources` are not read.
      processor: the model family's processor.
      records: random access to records.
      batch_size: rows of every batch.
      max_records: evaluate a random choice of that many records, in order; None = all.
      groups: question groups to ask.
      seed: seed of that choice.
      labels: "measured" or a folder of label files.

    Yields:
      (batch, rows): fields of spec.BATCH without `teacher_features`, and for every row an
      `EvaluationRow`, None for an empty row.
    """
    setting = SourceConfig(path="evaluation", groups=tuple(groups), labels=labels, features="none")
    maker = SampleMaker(setting, config.sample_settings, processor)
    builder = RowBuilder(config, processor)
    chosen = np.arange(len(records))
    if max_records is not None and max_records < len(records):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(records))[:max_records])
    rows, owners = [], []

    def load(index):
        record = first_turns(records[int(index)])
        return int(index), record, maker.prepare(record, tuple(range(len(record.view_ids))))

    reading = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=16 if config.threads else 0)
    for index, record, sample in grain.MapDataset.source(chosen).map(load).to_iter_dataset(reading):
        questions = [question for question in record.questions if question.group in groups]
        for start in range(0, max(len(questions), 1), config.questions):
            choice = np.arange(start, min(start + config.questions, len(questions)))
            rows.append(builder.row(sample, choice, sample, index, 0))
            owners.append(EvaluationRow(record, [questions[place] for place in choice], start == 0, index))
            if len(rows) == batch_size:
                yield collate(rows, len(rows)), owners
                rows, owners = [], []
    if rows:
        missing = batch_size - len(rows)
        blank = empty_row(rows[0], processor.pad_id)
        yield collate(rows + [blank] * missing, len(rows) + missing), owners + [None] * missing
