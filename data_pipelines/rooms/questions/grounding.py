"""Questions that one view answers.

Every type is a pair of functions. `pool` lists what can be asked of a view, by answer, and counts
what it rejects and why; `draft` words one entry. `<view:K>` names the view.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from data_pipelines.rooms.questions.counting import listed, offer_counts
from data_pipelines.rooms.questions.dice import Dice
from data_pipelines.rooms.questions.facts import GRID, Facts, ViewFacts
from data_pipelines.rooms.questions.forms import (
    COLUMNS,
    COUNTS,
    HALF_METRE,
    HALF_METRES,
    ROWS,
    SIDES,
    Draft,
    measure_word,
)

# Margins. Shares are of the picture's width or height, or of a grid cell's pixels.
CELL_SHARE = 0.20  # a thing names a cell when it covers at least this share of the cell
CELL_RIVAL = 0.5  # and the next category (colour) covers at most this part of what it covers
LEFT_RIGHT_SHARE = 0.06  # of the width between two mean positions
WHERE_SHARE = 0.03  # of the side between a mean position and the next cell border
NEARER_SHARE = 0.10  # of the nearer mean depth
NEARER_M = 0.20  # metres between mean depths
CELL_DEPTH_SPREAD = 0.25  # of a cell's median depth: the middle half of its depths lies within

Pool = dict[str, list]


def article(word: str) -> str:
    """ "an" before a vowel letter, else "a"."""
    return "an" if word[0] in "aeiou" else "a"


def _start(view: ViewFacts) -> str:
    return f"in <view:{view.index}>"


def _presence_pool(facts: Facts, view: ViewFacts, dice: Dice, rejected: Counter) -> Pool:
    """Keys (colour or None, category). As many "no" as "yes" of each wording, so that wording tells nothing."""
    seen = np.flatnonzero(view.seen)
    visible = np.flatnonzero(~view.absent)
    rejected["too_few_pixels"] += len(visible) - len(seen)
    kinds = list(dict.fromkeys(facts.category[i] for i in seen))
    names = list(dict.fromkeys((facts.colour[i], facts.category[i]) for i in seen))
    here = {facts.category[i] for i in visible}
    elsewhere = [
        kind for kind in dict.fromkeys(facts.category[i] for i in np.flatnonzero(facts.seen)) if kind not in here
    ]
    strangers = [kind for kind in facts.words.categories if kind not in here and kind not in elsewhere]
    # Things of the other views first: a language model cannot tell them from what is here.
    absent = (dice.shuffled(elsewhere) + dice.shuffled(strangers))[: len(kinds)]
    taken = {(facts.colour[i], facts.category[i]) for i in visible}
    swaps = [(colour, kind) for kind in kinds for colour in {c: 0 for c, _ in names} if (colour, kind) not in taken]
    if len(swaps) < len(names):
        others = [(colour, kind) for kind in kinds for colour in facts.words.colours if (colour, kind) not in taken]
        swaps += [key for key in dice.shuffled(others) if key not in swaps]
    return {
        "yes": [(None, kind) for kind in kinds] + names,
        "no": [(None, kind) for kind in absent] + dice.shuffled(swaps)[: len(names)],
    }


def _presence_draft(facts: Facts, view: ViewFacts, dice: Dice, answer: str, key) -> Draft:
    colour, kind = key
    thing = kind if colour is None else f"{colour} {kind}"
    text = f"{_start(view)} is there {article(thing)} {thing} ?"
    return Draft("presence", text, answer, (view.index,), (("yes", "no"),))


def _at_pool(labels: list[str], view: ViewFacts, rejected: Counter) -> Pool:
    """Answer -> cells (row-major) that things of this label dominate."""
    kinds = list(dict.fromkeys(labels))
    member = np.array([[label == kind for kind in kinds] for label in labels], float).reshape(len(labels), len(kinds))
    share = view.cell_share @ member
    if not share.size:
        return {}
    ordered = np.sort(share, axis=1)
    best = ordered[:, -1]
    rival = ordered[:, -2] if share.shape[1] > 1 else np.zeros(len(best))
    pool: Pool = defaultdict(list)
    for cell, winner in enumerate(share.argmax(axis=1)):
        if best[cell] < CELL_SHARE:
            rejected["cell_not_covered"] += 1
        elif rival[cell] > CELL_RIVAL * best[cell]:
            rejected["near_tie"] += 1
        else:
            pool[kinds[winner]].append(cell)
    return pool


def _cell_words(cell: int) -> str:
    row, column = divmod(cell, GRID)
    return f"{ROWS[row]} {COLUMNS[column]}"


def _name_at_pool(facts: Facts, view: ViewFacts, dice: Dice, rejected: Counter) -> Pool:
    return _at_pool(facts.category, view, rejected)


def _name_at_draft(facts: Facts, view: ViewFacts, dice: Dice, answer: str, key) -> Draft:
    near = tuple(facts.category[i] for i in np.flatnonzero(view.seen))
    text = f"{_start(view)} what is at {_cell_words(key)} ?"
    return Draft("name_at", text, answer, (view.index,), (near, facts.words.categories))


def _colour_at_pool(facts: Facts, view: ViewFacts, dice: Dice, rejected: Counter) -> Pool:
    return _at_pool(facts.colour, view, rejected)


def _colour_at_draft(facts: Facts, view: ViewFacts, dice: Dice, answer: str, key) -> Draft:
    near = tuple(facts.colour[i] for i in np.flatnonzero(view.seen))
    text = f"{_start(view)} what colour is at {_cell_words(key)} ?"
    return Draft("colour_at", text, answer, (view.index,), (near, facts.words.colours))


def _colour_of_pool(facts: Facts, view: ViewFacts, dice: Dice, rejected: Counter) -> Pool:
    """Keys: objects that are the only visible one of their category."""
    many = Counter(facts.category[i] for i in np.flatnonzero(~view.absent))
    pool: Pool = defaultdict(list)
    for i in np.flatnonzero(view.seen):
        if many[facts.category[i]] > 1:
            rejected["not_unique"] += 1
        else:
            pool[facts.colour[i]].append(i)
    return pool


def _colour_of_draft(facts: Facts, view: ViewFacts, dice: Dice, answer: str, key) -> Draft:
    near = tuple(facts.colour[i] for i in np.flatnonzero(view.seen))
    text = f"{_start(view)} what colour is the {facts.category[key]} ?"
    return Draft("colour_of", text, answer, (view.index,), (near, facts.words.colours))


def _count_pool(facts: Facts, view: ViewFacts, dice: Dice, rejected: Counter) -> Pool:
    """Keys (labels, number) of one to three categories or two to three colours."""
    unsure = ~view.seen & ~view.absent
    pool: Pool = defaultdict(list)
    for labels, names in ((facts.category, facts.words.categories), (facts.colour, facts.words.colours)):
        offer_counts(pool, labels, names, view.seen, unsure, COUNTS, dice, rejected)
    return pool


def _count_draft(facts: Facts, view: ViewFacts, dice: Dice, answer: str, key) -> Draft:
    labels, number = key
    text = f"{_start(view)} how many {listed(labels)} objects are there ?"
    return Draft("count", text, answer, (view.index,), scale=COUNTS, number=(text, str(number)))


def _pairs(pool: Pool, first: np.ndarray, second: np.ndarray, answers: tuple[str, str]) -> Pool:
    """Both ways of asking about each pair; `first` has the relation answers[0] to `second`."""
    forward = list(zip(first.tolist(), second.tolist(), strict=True))
    pool[answers[0]] = forward
    pool[answers[1]] = [(b, a) for a, b in forward]
    return pool


def _left_right_pool(facts: Facts, view: ViewFacts, dice: Dice, rejected: Counter) -> Pool:
    """Pairs that stay in order however far a thing goes on outside the picture."""
    ids = np.flatnonzero(view.referents)
    rejected["not_unique"] += int(view.seen.sum()) - len(ids)
    x = view.x[ids]
    ahead = (x[:, None] < x[None]) if len(ids) else np.zeros((0, 0), bool)
    far = x[None] - x[:, None] >= LEFT_RIGHT_SHARE
    whole = ~view.cut_right[ids][:, None] & ~view.cut_left[ids][None]
    rejected["near_tie"] += int((ahead & ~far).sum())
    rejected["cut_by_border"] += int((far & ~whole).sum())
    left, right = np.nonzero(far & whole)
    return _pairs({}, ids[left], ids[right], SIDES)


def _left_right_draft(facts: Facts, view: ViewFacts, dice: Dice, answer: str, key) -> Draft:
    a, b = key
    text = f"{_start(view)} is the {facts.name[a]} left or right of the {facts.name[b]} ?"
    return Draft("left_right", text, answer, (view.index,), (SIDES,))


def _nearer_pool(facts: Facts, view: ViewFacts, dice: Dice, rejected: Counter) -> Pool:
    """Pairs whose mean depths differ clearly and whose nearest pixels have the same order."""
    ids = np.flatnonzero(view.referents)
    rejected["not_unique"] += int(view.seen.sum()) - len(ids)
    mean, least = view.depth_mean[ids], view.depth_min[ids]
    step = mean[None] - mean[:, None]
    far = step >= np.maximum(NEARER_M, NEARER_SHARE * mean)[:, None]
    agree = least[:, None] < least[None]
    rejected["near_tie"] += int(((step > 0) & ~(far & agree)).sum())
    near, away = np.nonzero(far & agree)
    return _pairs({}, ids[near], ids[away], ("nearer", "farther"))


def _nearer_draft(facts: Facts, view: ViewFacts, dice: Dice, answer: str, key) -> Draft:
    a, b = key
    text = f"{_start(view)} is the {facts.name[a]} nearer or farther than the {facts.name[b]} ?"
    return Draft("nearer", text, answer, (view.index,), (("nearer", "farther"),))


def _where_pool(facts: Facts, view: ViewFacts, dice: Dice, rejected: Counter) -> Pool:
    """Keys (object, axis). A thing cut by a border is asked about only if the rest cannot change the answer."""
    pool: Pool = defaultdict(list)
    axes = (
        (COLUMNS, view.x, view.cut_left, view.cut_right),
        (ROWS, view.y, view.cut_top, view.cut_bottom),
    )
    for i in np.flatnonzero(view.referents).tolist():
        for axis, (names, position, cut_low, cut_high) in enumerate(axes):
            place = float(position[i]) * GRID
            cell = min(int(place), GRID - 1)
            inner = [abs(place - border) for border in range(1, GRID)]
            if min(inner) < WHERE_SHARE * GRID:
                rejected["near_tie"] += 1
            elif (cut_low[i] and cell > 0) or (cut_high[i] and cell < GRID - 1):
                rejected["cut_by_border"] += 1
            else:
                pool[names[cell]].append((i, axis))
    return pool


def _where_draft(facts: Facts, view: ViewFacts, dice: Dice, answer: str, key) -> Draft:
    i, axis = key
    line = ("column", "row")[axis]
    text = f"{_start(view)} in which {line} is the {facts.name[i]} ?"
    return Draft("where", text, answer, (view.index,), ((COLUMNS, ROWS)[axis],))


def _depth_at_pool(facts: Facts, view: ViewFacts, dice: Dice, rejected: Counter) -> Pool:
    """Answer -> cells whose depths lie close together, whatever is seen there, walls too."""
    pool: Pool = defaultdict(list)
    for cell, (low, middle, high) in enumerate(view.cell_depth):
        word = measure_word(float(middle), HALF_METRE, HALF_METRES)
        if high - low > CELL_DEPTH_SPREAD * middle:
            rejected["uneven_depth"] += 1
        elif word is None:
            rejected["near_class_border"] += 1
        else:
            pool[word].append(cell)
    return pool


def _depth_at_draft(facts: Facts, view: ViewFacts, dice: Dice, answer: str, key) -> Draft:
    rest = f"metres away is {_cell_words(key)} ?"
    value = f"{view.cell_depth[key, 1]:.1f}"
    text, number = (f"{_start(view)} how many {unit}{rest}" for unit in ("half ", ""))
    return Draft("depth_at", text, answer, (view.index,), scale=HALF_METRES, number=(number, value))


BUILDERS = {
    "presence": (_presence_pool, _presence_draft),
    "name_at": (_name_at_pool, _name_at_draft),
    "colour_at": (_colour_at_pool, _colour_at_draft),
    "colour_of": (_colour_of_pool, _colour_of_draft),
    "count": (_count_pool, _count_draft),
    "left_right": (_left_right_pool, _left_right_draft),
    "nearer": (_nearer_pool, _nearer_draft),
    "where": (_where_pool, _where_draft),
    "depth_at": (_depth_at_pool, _depth_at_draft),
}
