"""Which scenes keep their questions when only a share of the data is labelled with text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def labelled_scenes(scenes: Iterable[str], share: float, seed: int = 0) -> frozenset[str]:
    """The scenes with text: the first `share` of them in an order that the seed draws.

    Shares of one seed are nested: every scene of the 5 % is one of the 10 %. The order is that of a hash of (seed, name),
    so it depends on no machine, process or order of records. Exactly round(share * number) scenes are chosen (halves up),
    and at least one when the share is above 0.

    Args:
      scenes: names, repeated or not.
      share: 0..1.
      seed: of the order.
    """
    names = set(scenes)
    number = int(share * len(names) + 0.5) if share < 1 else len(names)
    if share > 0:
        number = max(number, 1)
    ordered = sorted(names, key=lambda name: (hashlib.sha256(f"{seed}/{name}".encode()).digest(), name))
    return frozenset(ordered[:number])
