"""Labelling as a Beam pipeline: a step labels a few consecutive records and notes what came of them.

The notes, in OUT/.labelling, are the mark of a finished step: see `data_pipelines.beam.pipeline`. A step also notes, before
it makes anything, which files were there: those that a worker made before it died are new ones, whoever counts them.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.beam import pipeline
from data_pipelines.labels.files import UNFINISHED, label_path
from data_pipelines.manifest import write_atomically
from data_pipelines.paths import as_path, remove_tree
from data_pipelines.storage import open_split
from experiments.label_records import Written, label_records

_NOTES = ".labelling"
_RECORDS = 16  # of a step, at least


class _Label(pipeline.Step):
    """(split, first, behind) -> label files of these records of the split, and a note."""

    def __init__(self, maker, data: str, out: str, least: float):
        self._maker, self._data, self._out, self._least = maker, data, out, least
        self._sources: dict = {}

    def do(self, task: tuple[str, int, int]) -> None:
        """Labels the records of one step."""
        split, first, behind = task
        if split not in self._sources:
            self._sources[split] = open_split(self._data, split)
        source, total, out = self._sources[split], Written(), as_path(self._out)
        there = {name for name in source.ids[first:behind] if label_path(out, name).is_file()}
        begun = _note(out, task).with_suffix(".begun")
        if begun.exists():
            of_dead_workers = len(there - set(json.loads(begun.read_text())))
        else:
            of_dead_workers = 0
            write_atomically(begun, json.dumps(sorted(there)).encode())
        for _, done in label_records(self._maker, out, self._least, (source[index] for index in range(first, behind))):
            total.add(done)
        of_dead_workers = min(of_dead_workers, total.counts["kept"])
        total.counts.update(written=of_dead_workers, kept=-of_dead_workers)
        note = {"counts": dict(total.counts), "agreements": total.agreements, "kinds": sorted(total.kinds)}
        write_atomically(_note(out, task), json.dumps(note).encode())


def _note(out: Path, task: tuple[str, int, int]) -> Path:
    split, first, behind = task
    return out / _NOTES / f"{split}-{first:09d}-{behind:09d}.json"


def label(maker, data: Path | str, out: Path, splits: Sequence[str], least: float, options: Sequence[str]) -> Written:
    """Labels every record of `splits`; arguments as of `label.label_data`.

    Raises:
      PrepareError: a broken export or record, or steps that are still missing after several attempts.
    """
    tasks = [
        (split, first, min(first + max(_RECORDS, maker.rows), number))
        for split in splits
        for number in (len(open_split(data, split)),)
        for first in range(0, number, max(_RECORDS, maker.rows))
    ]
    notes = out / _NOTES
    remove_tree(notes)  # of a run before: label files say what is there
    notes.mkdir(parents=True, exist_ok=True)
    step = _Label(dataclasses.replace(maker), str(data), str(out), least)  # without weights that were loaded here
    pipeline.do_all(lambda: [task for task in tasks if not _note(out, task).exists()], step, notes, options, "steps")
    total = Written()
    for note in _read(out, tasks):
        total.add(note)
    for leftover in out.glob(UNFINISHED):  # of workers that died
        leftover.unlink(missing_ok=True)
    remove_tree(notes)
    return total


def _read(out: Path, tasks: Sequence[tuple[str, int, int]]) -> Iterator[Written]:
    for task in tasks:
        note = json.loads(_note(out, task).read_text())
        agreements, kinds = ([tuple(found) for found in note[name]] for name in ("agreements", "kinds"))
        yield Written(collections.Counter(note["counts"]), agreements, set(kinds))
