"""From records to label files: what is there is kept, the rest is made in groups and checked, and all is counted."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from data_pipelines.labels.arrival import check_arrival
from data_pipelines.labels.files import LabelError, LabelFile, label_path, read_labels, write_labels
from data_pipelines.records import Record
from experiments.label_makers import Present

COUNTS = ("written", "kept", "views", "views_without_camera", "masked_for_disagreement")


@dataclasses.dataclass
class Written:
    """What came of some records.

    Attributes:
      counts: `COUNTS` and those of the maker.
      agreements: (record id, agreement of its views, whether they were masked for it) of all files that can be judged.
      kinds: (teacher, checkpoint) of the files.
    """

    counts: collections.Counter = dataclasses.field(
        default_factory=lambda: collections.Counter(dict.fromkeys(COUNTS, 0))
    )
    agreements: list[tuple[str, float, bool]] = dataclasses.field(default_factory=list)
    kinds: set[tuple[str, str]] = dataclasses.field(default_factory=set)

    def add(self, other: Written) -> None:
        """Takes another's counts and agreements in."""
        self.counts.update(other.counts)
        self.agreements += other.agreements
        self.kinds |= other.kinds

    def take(self, record_id: str, labels: LabelFile) -> None:
        """Takes in what a record's file says, new or old."""
        masked = labels.masked_depth is not None
        self.counts["masked_for_disagreement"] += masked
        self.counts["views"] += len(labels.view_ids)
        self.counts["views_without_camera"] += int((~labels.pose_valid).sum())
        self.kinds.add((labels.teacher, labels.checkpoint))
        if not math.isnan(labels.agreement):
            self.agreements.append((record_id, labels.agreement, masked))


def label_records(maker, out: Path, least: float, records: Iterator[Record]) -> Iterator[tuple[int, Written]]:
    """Writes the label files that are missing or were made otherwise, checks and masks all, also those that are there; says
    after every few records how many were done and what came of them.

    Args:
      maker: what makes them. `maker.group_of` tells records apart that one call cannot take together; groups are made
        by `maker.threads` threads at once where it has that field, so that pictures are read and files written beside the device.
      out: folder of the label files.
      least: agreement between its views below which a scene's depth is masked.
      records: which.
    """
    waiting: dict[Hashable, list[Record]] = {}

    def write(group: list[Record]) -> tuple[int, Written]:
        done = Written()
        for record, labels, counts in maker(group):
            done.counts.update(counts)
            if labels is None:
                continue
            labels = check_arrival(labels, least)
            write_labels(out, record.id, labels)
            done.counts.update(written=1)
            done.take(record.id, labels)
        return len(group), done

    def keep(record: Record, labels: LabelFile) -> tuple[int, Written]:
        done = Written(collections.Counter(kept=1))
        checked = check_arrival(labels, least)
        if labels.agreement is None or labels.min_agreement != least:
            write_labels(out, record.id, checked)
        done.take(record.id, checked)
        return 1, done

    threads = getattr(maker, "threads", 1)
    running: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        for record in records:
            if not record.view_ids:
                yield 1, Written(collections.Counter(without_pictures=1))
            elif (there := _there(maker, out, record)) is not None:
                yield keep(record, there)
            else:
                kind = maker.group_of(record)
                same = waiting.setdefault(kind, [])
                same.append(record)
                if len(same) == maker.rows:
                    running.append(pool.submit(write, waiting.pop(kind)))
                if len(running) >= threads:  # no more records are held than are worked on
                    yield running.popleft().result()
        running.extend(pool.submit(write, group) for group in waiting.values())
        for future in running:
            yield future.result()


def _there(maker, out: Path, record: Record) -> LabelFile | None:
    """The record's file, if there is a good one that the maker would make the same."""
    known = dict(view_ids=record.view_ids, images=record.images, teacher=maker.teacher, checkpoint=maker.checkpoint)
    try:
        return read_labels(out, record.id, **known, settings=maker.settings_of(record))
    except LabelError:
        if isinstance(maker, Present) and label_path(out, record.id).is_file():
            raise
        return None
