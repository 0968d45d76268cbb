"""What a source of records is: settings -> plan -> records, counted."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from data_pipelines.manifest import fingerprint, sha256_of
from data_pipelines.records import Record


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that decides a data set, made once in the main process and sent to the workers.

    An *item* is the smallest piece that a source makes on its own: a room, a stretch of a
    recording. Items are numbered from 0 in each split. A *step* is what the progress bar counts.
    """

    source: str  # key of SOURCES
    version: str  # of the generator or converter; other versions may make other records
    code: str  # `code_fingerprint` of the generator or converter
    arguments: Mapping[str, object]  # JSON-able; the same arguments give the same bytes
    origin: Mapping[str, object]  # JSON-able facts for the reader of the manifest (paths)
    items: Mapping[str, int]  # split -> number of items
    items_per_shard: int
    steps: int  # of all items together
    unit: str  # what a step is, "room" or "frame"
    state: object = None  # picklable, for `make`
    scenes_shared: bool = False  # True if splits may share scenes (stated in the report)
    vocabulary: tuple[str, ...] = ()  # words of questions that the generator's own language lacks
    copies: tuple = ()  # `raw_copies.Copy` of each remote folder that items are made of


class Tally:
    """Counts what happened while items were made, and what was left out and why."""

    def __init__(self, on_step: Callable[[int], None] | None = None):
        self.counts: collections.Counter[str] = collections.Counter()
        self.skipped: list[dict[str, str]] = []
        self.steps = 0
        self._on_step = on_step

    def add(self, counts: Mapping, prefix: str = "") -> None:
        """Adds counts; nested mappings get names joined by '/', texts count as `name/text`."""
        for name, value in counts.items():
            if isinstance(value, Mapping):
                self.add(value, f"{prefix}{name}/")
            elif isinstance(value, str):
                self.counts[f"{prefix}{name}/{value}"] += 1
            else:
                self.counts[f"{prefix}{name}"] += value

    def skip(self, record_id: str, reason: str, count: str, number: int = 1) -> None:
        """Notes that a record or view (or `number` of them in a row) was left out, under the count named `count`."""
        self.skipped.append({"id": record_id, "reason": reason})
        self.counts[count] += number

    def step(self, number: int = 1) -> None:
        """Moves the progress bar on; raises when the preparation was stopped."""
        self.steps += number
        if self._on_step is not None:
            self._on_step(number)


@dataclasses.dataclass(frozen=True)
class Source:
    """One entry of SOURCES.

    `settings` is a frozen dataclass whose fields (with `metadata={"help": ...}`) become the
    command's flags; `plan(settings)` checks them and looks at the input; `make(plan, split,
    index, tally)` yields the records of one item and depends on nothing else;
    `summary(counts, records)` gives lines for the end of the run; `look(plan)` says for a dry run, line by line,
    what was found and what is missing.
    """

    settings: type
    plan: Callable[[object], Plan]
    make: Callable[[Plan, str, int, Tally], Iterator[Record]]
    summary: Callable[[Mapping[str, float], int], list[str]]
    look: Callable[[Plan], Iterator[str]] = lambda plan: iter(())
    layout: object | None = None  # of posed frames, for questions that want their geometry


def code_fingerprint(*places: Path) -> str:
    """Hex SHA-256 over the Python files given, and those in the folders given."""
    files = [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    return fingerprint([f"{file.name} {sha256_of(file)}" for file in files])


def shard_items(items: int, least: int) -> int:
    """Items per shard: about 128 shards for a split, each with at least `least` and at most 512 items."""
    return max(least, min(512, -(-items // 128)))
