"""Which record stands in which row of which global batch: a pure function of (seed, step, row).

The mixture knows nothing of processes, threads or record contents. Every process computes the
same plan and loads its own rows only; the data position of a run is therefore one integer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

# Purposes of the generators, so that no two draws share a stream.
_ORDER, _ROW, _PARTNER, _BLOCK = 1, 2, 3, 4
_BLOCK_STEPS = 256  # in each block of steps every bucket has its share


@dataclasses.dataclass(frozen=True)
class RowPlan:
    """What one row of one global batch shows, before any record is read."""

    step: int
    slot: int  # row of the global batch
    source: int
    record: int  # index in the source
    visit: int  # how often the source (its records of this bucket) was passed before
    bucket: int = 0


class Mixture:
    """Fixed counts of every source per global batch, each source in a new order on every pass.

    Args:
      counts: rows per global batch, one per source.
      members: usable record indices, one int array per source.
      seed: seed of the data order, >= 0.

    Raises:
      ValueError: no source, a source without records, or a negative seed.
    """

    def __init__(self, counts: Sequence[int], members: Sequence[np.ndarray], seed: int):
        if not counts or len(counts) != len(members):
            raise ValueError(f"A mixture needs at least one source with its records; got {len(counts)} sources.")
        if seed < 0:
            raise ValueError(f"The data seed is {seed}, expected 0 or more.")
        for source, indices in enumerate(members):
            if not len(indices):
                raise ValueError(f"Source {source} has no usable record.")
        self.counts = tuple(int(count) for count in counts)
        self.members = tuple(np.asarray(indices, np.int64) for indices in members)
        self.seed = int(seed)
        self.rows = _interleave(self.counts)
        self._order = functools.lru_cache(maxsize=2 * len(counts))(self._permute)

    @property
    def global_batch(self) -> int:
        """Rows of a global batch."""
        return len(self.rows)

    def _permute(self, source: int, visit: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, _ORDER, source, visit))
        return self.members[source][rng.permutation(len(self.members[source]))]

    def row(self, step: int, slot: int) -> RowPlan:
        """The plan of row `slot` of global batch `step`."""
        source, place = self.rows[slot]
        visit, position = divmod(step * self.counts[source] + place, len(self.members[source]))
        return RowPlan(step, slot, source, int(self._order(source, visit)[position]), visit)

    def generator(self, row: RowPlan) -> np.random.Generator:
        """The generator of a row's random choices (views, questions)."""
        return np.random.default_rng((self.seed, _ROW, row.step, row.slot))

    def partner(self, row: RowPlan, groups: SceneGroups) -> int:
        """A record of another scene for the `shuffle3d` control, all of them equally likely."""
        return groups.another(row.record, np.random.default_rng((self.seed, _PARTNER, row.step, row.slot)))


class Schedule:
    """Which bucket each step has: in every block of steps each its share, in an order drawn by the seed.

    Args:
      shares: share of the steps of each bucket, > 0.
      seed: seed of the data order.
    """

    def __init__(self, shares: Sequence[float], seed: int):
        exact = np.asarray(shares, float) / sum(shares) * _BLOCK_STEPS
        counts = np.maximum(exact.astype(int), 1)
        while counts.sum() != _BLOCK_STEPS:  # largest remainders
            error = exact - counts
            more = counts.sum() < _BLOCK_STEPS
            counts[np.argmax(error) if more else np.argmin(np.where(counts > 1, error, np.inf))] += 1 if more else -1
        self.counts, self.seed = counts, seed
        self._block = functools.lru_cache(maxsize=4)(self._draw)

    def _draw(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, _BLOCK, block))
        order = rng.permutation(np.repeat(np.arange(len(self.counts)), self.counts))
        before = (order[:, None] == np.arange(len(self.counts))).cumsum(0)
        return order, before[np.arange(_BLOCK_STEPS), order] - 1

    def at(self, step: int) -> tuple[int, int]:
        """(bucket, how many steps of that bucket came before)."""
        if len(self.counts) == 1:
            return 0, step
        block, place = divmod(step, _BLOCK_STEPS)
        order, before = self._block(block)
        bucket = int(order[place])
        return bucket, int(block * self.counts[bucket] + before[place])

    def steps(self, bucket: int, count: int) -> list[int]:
        """The first `count` steps of a bucket."""
        if len(self.counts) == 1:
            return list(range(count))
        found, block = [], 0
        while len(found) < count:
            found += (block * _BLOCK_STEPS + np.flatnonzero(self._block(block)[0] == bucket)).tolist()
            block += 1
        return found[:count]

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the steps of each bucket."""
        return tuple((self.counts / _BLOCK_STEPS).tolist())


class BucketedMixture:
    """A mixture of every bucket's records, and which bucket's turn it is.

    Args:
      mixtures: one for each bucket, of equal counts.
      schedule: bucket of each step.
    """

    def __init__(self, mixtures: Sequence[Mixture], schedule: Schedule):
        self.mixtures, self.schedule = tuple(mixtures), schedule
        self.global_batch = self.mixtures[0].global_batch

    def row(self, step: int, slot: int) -> RowPlan:
        """The plan of row `slot` of global batch `step`."""
        bucket, local = self.schedule.at(step)
        return dataclasses.replace(self.mixtures[bucket].row(local, slot), step=step, bucket=bucket)

    def generator(self, row: RowPlan) -> np.random.Generator:
        """The generator of a row's random choices (views, questions)."""
        return self.mixtures[row.bucket].generator(row)

    def partner(self, row: RowPlan, groups: SceneGroups) -> int:
        """A record of another scene for the `shuffle3d` control, all of them equally likely."""
        return self.mixtures[row.bucket].partner(row, groups)


class SceneGroups:
    """Records by scene, to draw one of another scene.

    Args:
      members: record indices.
      scenes: the scene of each.

    Raises:
      ValueError: fewer than two scenes.
    """

    def __init__(self, members: np.ndarray, scenes: Sequence[str]):
        names, codes = np.unique(list(scenes), return_inverse=True)
        if len(names) < 2:
            raise ValueError(f"shuffle3d needs records of two scenes or more; all are of {names.tolist()}.")
        order = np.argsort(codes, kind="stable")
        self._members = np.asarray(members)[order]
        edges = np.searchsorted(codes[order], np.arange(len(names) + 1))
        self._range = {
            int(record): (int(edges[code]), int(edges[code + 1])) for record, code in zip(members, codes, strict=True)
        }

    def another(self, record: int, rng: np.random.Generator) -> int:
        """A record of another scene than `record`, uniformly."""
        first, last = self._range[record]
        place = int(rng.integers(len(self._members) - (last - first)))
        return int(self._members[place if place < first else place + last - first])


def _interleave(counts: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(source, place within the source) of every row, sources spread evenly over the batch.

    Even spreading gives every process about the same mix when it takes a contiguous slice.
    """
    keyed = [((place + 0.5) / count, source, place) for source, count in enumerate(counts) for place in range(count)]
    return tuple((source, place) for _, source, place in sorted(keyed))


class RowPlans:
    """Random-access sequence of this process's row plans, step after step (a Grain source).

    Args:
      mixture: the mixture, of one bucket or several.
      process_index: this process.
      process_count: processes; must divide the global batch.
      steps: length in steps.
    """

    def __init__(self, mixture: Mixture | BucketedMixture, process_index: int, process_count: int, steps: int):
        if process_count < 1 or not 0 <= process_index < process_count:
            raise ValueError(f"process_index {process_index} does not lie in 0..{process_count - 1}.")
        if mixture.global_batch % process_count:
            raise ValueError(
                f"The global batch of {mixture.global_batch} rows (sum of per_batch over the sources) is not "
                f"divisible by {process_count} processes."
            )
        self.mixture = mixture
        self.local_rows = mixture.global_batch // process_count
        self.first = process_index * self.local_rows
        self.steps = steps

    def __len__(self) -> int:
        return self.steps * self.local_rows

    def __getitem__(self, index: int) -> RowPlan:
        step, row = divmod(int(index), self.local_rows)
        return self.mixture.row(step, self.first + row)

    def __repr__(self) -> str:  # Grain shows sources in its messages
        return f"RowPlans(local_rows={self.local_rows}, first={self.first})"
