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
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.config import DataConfig

_ROUND = 8  # tokens of a question are rounded up to a multiple of this
_MOST_CELLS = 256  # kinds of records to begin with; above, lengths are rounded more coarsely


class Needs(NamedTuple):
    """What each record of a source needs, arrays of one length."""

    views: np.ndarray  # int[n] that are shown
    height: np.ndarray  # int[n] pixels
    width: np.ndarray  # int[n]
    question_tokens: np.ndarray  # int[n] of the longest question with its answer; 0 = none


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
      wasted: share of the tokens that carry nothing, of a record's longest question in each slot.
      wasted_in_one: the same if all records shared one bucket.
    """

    buckets: tuple[Bucket, ...]
    owners: tuple[np.ndarray, ...]
    shares: tuple[float, ...]
    wasted: float | None = None
    wasted_in_one: float | None = None


class _Cells(NamedTuple):
    """Kinds of records: arrays over the kinds."""

    views: np.ndarray
    size: np.ndarray  # index into the sizes
    room: np.ndarray  # tokens of a question, rounded up
    tokens: np.ndarray  # mean tokens of the longest question
    weight: np.ndarray  # share of the rows of the run
    members: np.ndarray  # int[cells, sources] number of records


def one_bucket(config: DataConfig, processor, members: Sequence[np.ndarray]) -> Choice:
    """The shapes that the config states, for all records."""
    bucket = Bucket(processor.image_size, config.sample_settings.label_size, config.views, config.question_tokens)
    return Choice((bucket,), tuple(np.zeros(len(indices), np.int64) for indices in members), (1.0,))


def choose_buckets(needs: Sequence[Needs], config: DataConfig, processor) -> Choice:
    """At most `config.buckets` buckets, each with records of every source.

    Begins with one bucket for every kind of records and merges, again and again, the two whose union wastes least
    more. A merged bucket has the most views and the longest question of its parts, and the picture size of one of
    them.

    Args:
      needs: per source, of its records in use.
      config: `views` and `question_tokens` are limits; `label_size` belongs to the processor's own picture size
        and is scaled with it.
      processor: of the model's family, at its largest picture size.

    Raises:
      ValueError: a question longer than `config.question_tokens`.
    """
    longest = max(int(need.question_tokens.max(initial=0)) for need in needs)
    if longest > config.question_tokens:
        raise ValueError(
            f"A question needs {longest} tokens with its answer, but config.data.question_tokens is {config.question_tokens}; raise it."
        )
    counts = [source.per_batch for source in config.source_configs]
    cells, owners, sizes = _cells(needs, counts, processor, config.question_tokens)
    cost = _Cost(cells, sizes, processor, config.questions)
    groups = _merge(cells, cost, counts, config.buckets)
    chosen = [cost.best(group) for group in groups]
    buckets, place_of = [], np.empty(len(cells.views), np.int64)
    for place, (group, (size, _)) in enumerate(zip(groups, chosen, strict=True)):
        cell = list(group)
        place_of[cell] = place
        label_size = _scaled(config.sample_settings.label_size, sizes[size], processor.image_size)
        buckets.append(Bucket(sizes[size], label_size, int(cells.views[cell].max()), int(cells.room[cell].max())))
    return Choice(
        buckets=tuple(buckets),
        owners=tuple(place_of[owner] for owner in owners),
        shares=tuple(float(cells.weight[list(group)].sum()) for group in groups),
        wasted=_wasted([cost.tokens(group, size) for group, (size, _) in zip(groups, chosen, strict=True)]),
        wasted_in_one=_wasted([cost.tokens(tuple(range(len(cells.views))), size=0)]),
    )


def _cells(needs: Sequence[Needs], counts: Sequence[int], processor, limit: int):
    """(cells, per source the cell of each record, sizes; sizes[0] is the processor's own)."""
    sizes: dict = {processor.image_size: 0}
    fitting = functools.cache(processor.fitting_size)
    picture = [
        np.array([sizes.setdefault(fitting(int(h), int(w)), len(sizes)) for h, w in zip(need.height, need.width, strict=True)])
        for need in needs
    ]  # fmt: skip
    step = _ROUND
    while True:
        rooms = [np.minimum(np.maximum(-(-need.question_tokens // step), 1) * step, limit) for need in needs]
        keys = np.concatenate(
            [np.stack([n.views, size, room], 1) for n, size, room in zip(needs, picture, rooms, strict=True)]
        )
        kinds, place = np.unique(keys, axis=0, return_inverse=True)
        if len(kinds) <= _MOST_CELLS or step >= limit:
            break
        step *= 2
    owners = np.split(place.reshape(-1), np.cumsum([len(need.views) for need in needs])[:-1])
    members = np.stack([np.bincount(owner, minlength=len(kinds)) for owner in owners], 1)
    per_source = np.asarray(counts) / sum(counts) / np.maximum(members.sum(0), 1)
    weight = members @ per_source
    tokens = sum(
        np.bincount(owner, need.question_tokens, len(kinds)) * share
        for owner, need, share in zip(owners, needs, per_source, strict=True)
    )
    return _Cells(kinds[:, 0], kinds[:, 1], kinds[:, 2], tokens / weight, weight, members), owners, list(sizes)


class _Cost:
    """Tokens that groups of cells need and are given."""

    def __init__(self, cells: _Cells, sizes: list, processor, questions: int):
        self._cells, self._questions = cells, questions
        self._tokens = np.array([_tokens_of_view(processor.resized(size)) for size in sizes], float)
        aspect = np.array([math.log(w / h) for h, w in map(_height_width, sizes)])
        self._fit = np.exp(-np.abs(aspect[:, None] - aspect[None, :]))  # [size, size of the picture]
        self.best = functools.cache(self._best)

    def tokens(self, group: tuple[int, ...], size: int) -> tuple[float, float, float]:
        """(given, used, detail of pictures that is lost), in tokens per row of the run."""
        cells, cell = self._cells, list(group)
        views, weight, own = cells.views[cell], cells.weight[cell], cells.size[cell]
        whole = self._tokens[own]
        seen = np.minimum(self._tokens[size] * self._fit[size, own], whole)
        given = views.max() * self._tokens[size] + self._questions * cells.room[cell].max()
        used = views * seen + self._questions * cells.tokens[cell]
        return given * weight.sum(), float(used @ weight), float((views * (whole - seen)) @ weight)

    def _best(self, group: tuple[int, ...]) -> tuple[int, float]:
        """(size, cost) of the picture size that costs a group least."""
        sizes = sorted(set(self._cells.size[list(group)].tolist()))
        costs = []
        for candidate in sizes:
            given, used, lost = self.tokens(group, candidate)
            costs.append(given - used + lost)
        best = int(np.argmin(costs))
        return sizes[best], costs[best]


def _merge(cells: _Cells, cost: _Cost, counts: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """Groups of cells. A group must fill a batch from every source (or hold all of a source's records)."""
    groups = [(cell,) for cell in range(len(cells.views))]
    enough = np.minimum(counts, cells.members.sum(0))
    extra = {}

    def increase(first, second) -> float:
        if (first, second) not in extra:
            union = tuple(sorted(first + second))
            extra[first, second] = cost.best(union)[1] - cost.best(first)[1] - cost.best(second)[1]
        return extra[first, second]

    while len(groups) > 1:
        poor = {group for group in groups if (cells.members[list(group)].sum(0) < enough).any()}
        if len(groups) <= most and not poor:
            break
        pairs = [pair for pair in itertools.combinations(groups, 2) if not poor or poor & set(pair)]
        first, second = min(pairs, key=lambda pair: (increase(*pair), pair))
        groups = [group for group in groups if group not in (first, second)]
        groups.append(tuple(sorted(first + second)))
    return sorted(groups)


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


def _wasted(tokens: Sequence[tuple[float, float, float]]) -> float:
    given, used, _ = (sum(values) for values in zip(*tokens, strict=True))
    return 1 - used / given
