"""Buckets: the few shapes of batches that waste least on the data at hand.

Every batch has one bucket's shapes: size of the pictures and of their label maps, views, tokens of a question. Each
bucket is one compiled program. A token counts as used when a picture or a question needs it; a picture that is
stretched by a factor r along one axis carries 1 / r of its tokens' worth of detail.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.config import DataConfig

_ROUND = 8  # tokens of a question are rounded up to a multiple of this
MOST_SKEW = 1.5  # how much more often than another a record may be shown because of its bucket
LEAST_SHARE = 4 / 256  # of the rows: below, the schedule's blocks would show a bucket too often
_MOST_CELLS = 256  # kinds of records to begin with; above, lengths are rounded more coarsely


class Needs(NamedTuple):
    """What each record of a source needs, arrays of one length."""

    views: np.ndarray  # int[n] that are shown
    height: np.ndarray  # int[n] pixels; 0 = no pictures
    width: np.ndarray  # int[n]
    longest: np.ndarray  # int[n] tokens of the longest question with its answer; 0 = none
    total: np.ndarray  # int[n] tokens of all its questions
    questions: np.ndarray  # int[n] their number


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Shapes of a batch.

    Attributes:
      image_size: of the pictures as the processor states it.
      label_size: (H, W) of the label maps.
      views, question_tokens: V and T.
    """

    image_size: Any
    label_size: tuple[int, int]
    views: int
    question_tokens: int


@dataclasses.dataclass(frozen=True)
class Choice:
    """The buckets of a run and what they cost.

    Attributes:
      buckets: the shapes.
      owners: per source int[n], the bucket of each of its records.
      shares: share of the steps of each bucket.
      wasted: share of the tokens that carry nothing.
      wasted_in_one: the same if all records shared one bucket.
      skew: per source, how much more often than its others the records of one bucket are shown, at most.
    """

    buckets: tuple[Bucket, ...]
    owners: tuple[np.ndarray, ...]
    shares: tuple[float, ...]
    wasted: float | None = None
    wasted_in_one: float | None = None
    skew: tuple[float, ...] = ()


class _Cells(NamedTuple):
    """Kinds of records: arrays over the kinds."""

    views: np.ndarray
    size: np.ndarray  # index into the sizes
    room: np.ndarray  # tokens of a question, rounded up
    tokens: np.ndarray  # mean tokens of the questions of one row
    weight: np.ndarray  # share of the rows of the run
    members: np.ndarray  # int[cells, sources] number of records


def one_bucket(config: DataConfig, processor, members: Sequence[np.ndarray]) -> Choice:
    """The shapes that the config states, for all records."""
    bucket = Bucket(processor.image_size, config.sample_settings.label_size, config.views, config.question_tokens)
    return Choice((bucket,), tuple(np.zeros(len(indices), np.int64) for indices in members), (1.0,))


def choose_buckets(needs: Sequence[Needs], config: DataConfig, processor) -> Choice:
    """At most `config.buckets` buckets, each shown by every source about as often as by the others.

    Begins with one bucket for every kind of records and merges, again and again, the two whose union wastes least
    more. A merged bucket has the most views and the longest question of its parts, and the picture size of one of
    them. A source with fewer records of a bucket than its share of the steps lends records of other buckets that fit
    into it. Where that does not suffice, there are fewer buckets.

    Args:
      needs: per source, of its records in use.
      config: `views` and `question_tokens` are limits; `label_size` belongs to the processor's own picture size
        and is scaled with it.
      processor: of the model's family, at its largest picture size.
    """
    counts = np.array([source.per_batch for source in config.source_configs])
    cells, owners, sizes = _cells(needs, counts, processor, config.question_tokens, config.questions)
    cost = _Cost(cells, sizes, processor, config.questions)
    everything = tuple(range(len(cells.views)))
    for groups in _merges(cells, cost, config.buckets):
        shapes = [cost.shape(group) for group in groups]
        shares = np.array([cells.weight[list(group)].sum() for group in groups])
        placed = _lend(cells, cost, groups, shapes, shares)  # int[cells, sources, groups]
        per_source = placed.sum(0)  # int[sources, groups]
        with np.errstate(divide="ignore"):
            skew = (shares * per_source.sum(1, keepdims=True) / per_source).max(1)
        full = per_source >= np.minimum(counts, cells.members.sum(0))[:, None]
        if len(groups) == 1 or (skew.max() <= MOST_SKEW and full.all() and shares.min() >= LEAST_SHARE):
            break
    given, used = cost.of_placement(placed, shapes, shares, counts)
    whole = cost.tokens(everything, size=0)
    return Choice(
        buckets=tuple(
            Bucket(
                sizes[size], _scaled(config.sample_settings.label_size, sizes[size], processor.image_size), views, room
            )
            for size, views, room in shapes
        ),
        owners=tuple(_owners(own, placed[:, source]) for source, own in enumerate(owners)),
        shares=tuple(shares.tolist()),
        wasted=1 - used / given,
        wasted_in_one=1 - whole[1] / whole[0],
        skew=tuple(skew.tolist()),
    )


def _cells(needs: Sequence[Needs], counts: np.ndarray, processor, limit: int, slots: int):
    """(cells, per source the cell of each record, sizes; sizes[0] is the processor's own)."""
    sizes: dict = {processor.image_size: 0}
    fitting = functools.cache(lambda h, w: processor.fitting_size(h, w) if h else processor.image_size)
    picture = [
        np.array([sizes.setdefault(fitting(int(h), int(w)), len(sizes)) for h, w in zip(need.height, need.width, strict=True)])
        for need in needs
    ]  # fmt: skip
    step = _ROUND
    while True:
        rooms = [np.minimum(np.maximum(-(-need.longest // step), 1) * step, limit) for need in needs]
        keys = np.concatenate(
            [np.stack([n.views, size, room], 1) for n, size, room in zip(needs, picture, rooms, strict=True)]
        )
        kinds, place = np.unique(keys, axis=0, return_inverse=True)
        if len(kinds) <= _MOST_CELLS or step >= limit:
            break
        step *= 2
    owners = np.split(place.reshape(-1), np.cumsum([len(need.views) for need in needs])[:-1])
    members = np.stack([np.bincount(owner, minlength=len(kinds)) for owner in owners], 1)
    per_source = counts / counts.sum() / np.maximum(members.sum(0), 1)
    weight = members @ per_source
    asked = [need.total * np.minimum(need.questions, slots) / np.maximum(need.questions, 1) for need in needs]
    tokens = sum(
        np.bincount(owner, own, len(kinds)) * share for owner, own, share in zip(owners, asked, per_source, strict=True)
    )
    return _Cells(kinds[:, 0], kinds[:, 1], kinds[:, 2], tokens / weight, weight, members), owners, list(sizes)


class _Cost:
    """Tokens that groups of cells need and are given."""

    def __init__(self, cells: _Cells, sizes: list, processor, questions: int):
        self._cells, self._questions = cells, questions
        self._tokens = np.array([_tokens_of_view(at_size(processor, size)) for size in sizes], float)
        aspect = np.array([math.log(w / h) for h, w in map(_height_width, sizes)])
        self._fit = np.exp(-np.abs(aspect[:, None] - aspect[None, :]))  # [size, size of the picture]
        self.best = functools.cache(self._best)

    def tokens(self, group: tuple[int, ...], size: int) -> tuple[float, float, float]:
        """(given, used, detail of pictures that is lost), in tokens per row of the run."""
        cell = list(group)
        weight = self._cells.weight[cell]
        views, room = self._cells.views[cell].max(), self._cells.room[cell].max()
        used, lost = self.in_bucket(cell, size)
        given = views * self._tokens[size] + self._questions * room
        return given * weight.sum(), float(used @ weight), float(lost @ weight)

    def in_bucket(self, cell: list[int], size: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens that a record of each cell uses in a bucket of a picture size, detail that it loses there)."""
        views, own = self._cells.views[cell], self._cells.size[cell]
        whole = self._tokens[own]
        seen = np.minimum(self._tokens[size] * self._fit[size, own], whole)
        return views * seen + self._cells.tokens[cell], views * (whole - seen)

    def shape(self, group: tuple[int, ...]) -> tuple[int, int, int]:
        """(picture size, views, room of a question) of a group's bucket."""
        cell = list(group)
        return self.best(group)[0], int(self._cells.views[cell].max()), int(self._cells.room[cell].max())

    def of_placement(self, placed: np.ndarray, shapes, shares: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
        """(given, used) tokens per row of the run, where each source shows its records of a bucket in its steps."""
        given = used = 0.0
        for group, ((size, views, room), share) in enumerate(zip(shapes, shares, strict=True)):
            given += share * (views * self._tokens[size] + self._questions * room)
            own = self.in_bucket(list(range(len(placed))), size)[0]
            mean = own @ placed[:, :, group] / np.maximum(placed[:, :, group].sum(0), 1)
            used += share * float(mean @ counts / counts.sum())
        return given, used

    def _best(self, group: tuple[int, ...]) -> tuple[int, float]:
        """(size, cost) of the picture size that costs a group least."""
        sizes = sorted(set(self._cells.size[list(group)].tolist()))
        costs = []
        for candidate in sizes:
            given, used, lost = self.tokens(group, candidate)
            costs.append(given - used + lost)
        best = int(np.argmin(costs))
        return sizes[best], costs[best]


def _merges(cells: _Cells, cost: _Cost, most: int) -> Iterator[list[tuple[int, ...]]]:
    """Groups of cells, at first at most `most`, then one fewer each time, down to one."""
    groups = [(cell,) for cell in range(len(cells.views))]
    extra = {}

    def increase(first, second) -> float:
        if (first, second) not in extra:
            union = tuple(sorted(first + second))
            extra[first, second] = cost.best(union)[1] - cost.best(first)[1] - cost.best(second)[1]
        return extra[first, second]

    while True:
        if len(groups) <= most:
            yield sorted(groups)
        if len(groups) == 1:
            return
        rare = {group for group in groups if cells.weight[list(group)].sum() < LEAST_SHARE}
        pairs = [pair for pair in itertools.combinations(groups, 2) if not rare or rare & set(pair)]
        first, second = min(pairs, key=lambda pair: (increase(*pair), pair))
        groups = [group for group in groups if group not in (first, second)]
        groups.append(tuple(sorted(first + second)))


def _lend(cells: _Cells, cost: _Cost, groups, shapes, shares: np.ndarray) -> np.ndarray:
    """int[cells, sources, groups]: records of each kind in each bucket.

    A source that has fewer records of a bucket than `shares` asks for gives it records of buckets of which it has more,
    those that fit, the cheapest first.
    """
    number, sources = cells.members.shape
    placed = np.zeros((number, sources, len(groups)), np.int64)
    for place, group in enumerate(groups):
        placed[list(group), :, place] = cells.members[list(group)]
    for source in range(sources):
        wanted = shares * cells.members[:, source].sum()
        for to in range(len(groups)):
            size, views, room = shapes[to]
            fits = np.flatnonzero((cells.views <= views) & (cells.room <= room))
            lost = cost.in_bucket(list(range(number)), size)[1]
            for cell in fits[np.argsort(lost[fits], kind="stable")]:
                for place in range(len(groups)):
                    have = placed[:, source].sum(0)
                    missing, spare = int(np.floor(wanted[to] - have[to])), int(np.floor(have[place] - wanted[place]))
                    moved = min(missing, spare, int(placed[cell, source, place]))
                    if place != to and moved > 0:
                        placed[cell, source, place] -= moved
                        placed[cell, source, to] += moved
    return placed


def _owners(cells_of_records: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """The bucket of each record: of a kind that is in several, the records in order take one after the other."""
    owner = np.empty(len(cells_of_records), np.int64)
    for cell in np.unique(cells_of_records):
        owner[cells_of_records == cell] = np.repeat(np.arange(placed.shape[1]), placed[cell])
    return owner


def at_size(processor, image_size):
    """The processor at a picture size; families of one size have no `resized` of their own."""
    return processor if image_size == processor.image_size else processor.resized(image_size)


def _tokens_of_view(processor) -> int:
    return len(processor.encode_prefix(2).tokens) - len(processor.encode_prefix(1).tokens)


def _height_width(size) -> tuple[int, int]:
    """Height and width of a processor's picture size: a pair, one side of a square, or () for one fixed form."""
    if isinstance(size, int):
        return size, size
    return tuple(size) or (1, 1)


def _scaled(label_size: tuple[int, int], size, own) -> tuple[int, int]:
    if size == own:
        return label_size
    return tuple(
        max(1, round(side * new / old))
        for side, new, old in zip(label_size, _height_width(size), _height_width(own), strict=True)
    )
