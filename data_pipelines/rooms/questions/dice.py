"""Random choices made from one generator, cheap enough for hundreds of questions a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class Dice:
    """Uniform choices that depend on nothing but the generator's state. Numbers are drawn in blocks, for speed."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._block: list[float] = []

    def _random(self) -> float:
        if not self._block:
            self._block = self._rng.random(1024).tolist()
        return self._block.pop()

    def below(self, bound: int) -> int:
        """A whole number in [0, bound)."""
        return int(self._random() * bound)

    def coin(self, probability: float = 0.5) -> bool:
        """True with the given probability."""
        return self._random() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """One item, each equally likely."""
        return items[self.below(len(items))]

    def pop(self, items: list[Item]) -> Item:
        """One item, removed from the list (whose order is not kept)."""
        place = self.below(len(items))
        items[place], items[-1] = items[-1], items[place]
        return items.pop()

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Different items, at most as many as there are."""
        rest = list(items)
        return [self.pop(rest) for _ in range(min(count, len(rest)))]

    def weighted(self, items: Sequence[Item], weights: Sequence[float]) -> Item:
        """One item with probability proportional to its weight."""
        rest = self._random() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            rest -= weight
            if rest < 0:
                return item
        return items[-1]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """A new list in random order."""
        out = list(items)
        for last in range(len(out) - 1, 0, -1):
            other = self.below(last + 1)
            out[last], out[other] = out[other], out[last]
        return out
