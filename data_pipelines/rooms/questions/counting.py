"""Counting questions whose answers are spread out.

In most rooms colours differ and few categories repeat, so the count of one category or colour is
nearly always one. Questions therefore count the things of one, two or three labels at once ("red ,
blue or green objects"), some of them absent, and every wording comes with every number alike.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from data_pipelines.rooms.questions.dice import Dice
from data_pipelines.rooms.questions.forms import number_value

TRIES = 4  # label sets tried for each view (or record), number of labels and kind of label


def listed(labels: tuple[str, ...]) -> str:
    """ "red", "red or blue", "red , blue or green"."""
    if len(labels) == 1:
        return labels[0]
    return " , ".join(labels[:-1]) + f" or {labels[-1]}"


def offer_counts(
    pool: dict[str, list],
    labels: list[str],
    names: tuple[str, ...],
    seen: np.ndarray,
    unsure: np.ndarray,
    classes: tuple[str, ...],
    dice: Dice,
    rejected: Counter,
) -> None:
    """Adds (label set, number) to `pool` under the word of the number.

    Args:
        pool: answer -> keys, extended in place.
        labels: category or colour of each object.
        names: all categories or colours, from which absent ones are taken.
        seen: bool[n] things that count.
        unsure: bool[n] things of which too little is visible; their labels are left out.
        classes: number words that may be answers, consecutive.
        dice: chance.
        rejected: counts of reasons, extended in place.
    """
    doubtful = {labels[i] for i in np.flatnonzero(unsure)}
    present = Counter(labels[i] for i in np.flatnonzero(seen))
    rejected["too_few_pixels"] += len(doubtful)
    known = [label for label in present if label not in doubtful]
    if not known:
        return
    absent = [name for name in names if name not in present and name not in doubtful]
    several = [label for label in known if present[label] > 1]
    single = [label for label in known if present[label] == 1]
    # One label alone: as often one thing as more than one.
    sets = [(label,) for label in several] + [(label,) for label in dice.shuffled(single)[: len(several)]]
    for size in (2, 3):
        for _ in range(TRIES):
            inside = min(dice.below(size + 1), len(known))
            if size - inside <= len(absent):
                chosen = dice.sample(known, inside) + dice.sample(absent, size - inside)
                sets.append(tuple(dice.shuffled(chosen)))
    lowest, highest = number_value(classes[0]), number_value(classes[-1])
    for chosen in sets:
        number = sum(present[label] for label in chosen)
        if lowest <= number <= highest:
            pool.setdefault(classes[number - lowest], []).append((chosen, number))
        else:
            rejected["outside_classes"] += 1
