"""Questions about the room: counts, measures, relative distance, order of appearance.

Same pairs of functions as in `grounding`, over all views of a record. Referents are things seen in
some view, with no second visible thing of their colour and category. Distances are between closest
points of oriented boxes.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from data_pipelines.rooms.questions.counting import listed, offer_counts
from data_pipelines.rooms.questions.dice import Dice
from data_pipelines.rooms.questions.facts import Facts
from data_pipelines.rooms.questions.forms import (
    FIVES,
    HALF_METRE,
    HALF_METRES,
    QUARTER_METRES,
    ROOM_COUNTS,
    Draft,
    measure_word,
)

# Margins.
MIN_GAP_M = 0.30  # metres; nearer things touch or stand on each other
REL_DISTANCE_M = 0.25  # metres by which the closest thing beats the others
REL_DISTANCE_SHARE = 0.15  # of the closest distance, likewise
ROOM_SPAN_SHARE = 0.75  # of each side of the room that the views must extend over
QUARTER_METRE, FIVE_SQUARE_METRES = 0.25, 5.0

Pool = dict[str, list]


def _measured(pool: Pool, rejected: Counter, key, value: float, unit: float, scale: tuple[str, ...]) -> None:
    word = measure_word(value, unit, scale)
    if word is None:
        rejected["near_class_border"] += 1
    else:
        pool[word].append(key)


def _object_count_pool(facts: Facts, dice: Dice, rejected: Counter) -> Pool:
    """Keys (categories, number); things that no view shows do not count."""
    pool: Pool = defaultdict(list)
    names = facts.words.categories
    offer_counts(pool, facts.category, names, facts.seen, facts.glimpsed, ROOM_COUNTS, dice, rejected)
    return pool


def _object_count_draft(facts: Facts, dice: Dice, answer: str, key) -> Draft:
    labels, number = key
    text = f"how many {listed(labels)} objects do the views show ?"
    return Draft("object_count", text, answer, scale=ROOM_COUNTS, number=(text, str(number)))


def _object_abs_distance_pool(facts: Facts, dice: Dice, rejected: Counter) -> Pool:
    pool: Pool = defaultdict(list)
    ids = facts.referent_ids.tolist()
    for place, a in enumerate(ids):
        for b in ids[place + 1 :]:
            gap = float(facts.gap[a, b])
            if gap < MIN_GAP_M:
                rejected["too_close"] += 1
            else:
                _measured(pool, rejected, (a, b), gap, HALF_METRE, HALF_METRES)
    return pool


def _object_abs_distance_draft(facts: Facts, dice: Dice, answer: str, key) -> Draft:
    a, b = dice.shuffled(key)
    rest = f"metres apart are the {facts.name[a]} and the {facts.name[b]} ?"
    value = f"{facts.gap[a, b]:.1f}"
    return Draft(
        "object_abs_distance", f"how many half {rest}", answer, scale=HALF_METRES, number=(f"how many {rest}", value)
    )


def _camera_distance_pool(facts: Facts, dice: Dice, rejected: Counter) -> Pool:
    """Keys (view, object): whole in the picture, so that its closest point is in sight."""
    pool: Pool = defaultdict(list)
    for view in facts.views:
        whole = ~(view.cut_left | view.cut_right | view.cut_top | view.cut_bottom)
        rejected["cut_by_border"] += int((view.seen & facts.referents & ~whole).sum())
        for i in np.flatnonzero(view.seen & facts.referents & whole).tolist():
            gap = float(facts.view_gap[view.index, i])
            if gap < MIN_GAP_M:
                rejected["too_close"] += 1
            else:
                _measured(pool, rejected, (view.index, i), gap, HALF_METRE, HALF_METRES)
    return pool


def _camera_distance_draft(facts: Facts, dice: Dice, answer: str, key) -> Draft:
    view, i = key
    rest = f"metres from <view:{view}> is the {facts.name[i]} ?"
    value = f"{facts.view_gap[view, i]:.1f}"
    return Draft(
        "camera_distance",
        f"how many half {rest}",
        answer,
        (view,),
        scale=HALF_METRES,
        number=(f"how many {rest}", value),
    )


def _object_size_pool(facts: Facts, dice: Dice, rejected: Counter) -> Pool:
    pool: Pool = defaultdict(list)
    for i in facts.referent_ids.tolist():
        _measured(pool, rejected, i, max(facts.scene.objects[i].size), QUARTER_METRE, QUARTER_METRES)
    return pool


def _object_size_draft(facts: Facts, dice: Dice, answer: str, key) -> Draft:
    rest = f"metres long is the longest side of the {facts.name[key]} ?"
    value = f"{10 * float(max(facts.scene.objects[key].size)):.1f}"
    return Draft(
        "object_size",
        f"how many quarter {rest}",
        answer,
        scale=QUARTER_METRES,
        number=(f"how many deci{rest}", value),
    )


def _room_size_pool(facts: Facts, dice: Dice, rejected: Counter) -> Pool:
    if facts.span_share < ROOM_SPAN_SHARE:
        rejected["hidden"] += 1
        return {}
    word = measure_word(facts.scene.area_m2, FIVE_SQUARE_METRES, FIVES, step=5)
    if word is None:
        rejected["near_class_border"] += 1
        return {}
    return {word: [None]}


def _room_size_draft(facts: Facts, dice: Dice, answer: str, key) -> Draft:
    rest = "how many square metres is the floor of the room ?"
    number = (rest, f"{facts.scene.area_m2:.1f}")
    return Draft("room_size", f"to the nearest five {rest}", answer, scale=FIVES, number=number)


_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def _farther(facts: Facts, anchor: int, closest: int) -> list[int]:
    """Referents of other categories that are clearly farther from the anchor than `closest` is."""
    limit = facts.gap[anchor, closest]
    limit = max(limit + REL_DISTANCE_M, limit * (1 + REL_DISTANCE_SHARE))
    return [
        i
        for i in facts.referent_ids.tolist()
        if facts.gap[anchor, i] >= limit and i != anchor and facts.category[i] != facts.category[closest]
    ]


def two_kinds(facts: Facts, things: list[int], dice: Dice) -> tuple[int, int]:
    """Two of `things` of different categories (there must be two)."""
    first = dice.pick(things)
    return first, dice.pick([i for i in things if facts.category[i] != facts.category[first]])


def number_of_kinds(facts: Facts, things: list[int]) -> int:
    """How many categories `things` have."""
    return len({facts.category[i] for i in things})


def one_of(facts: Facts, things: list[int]) -> str:
    """The end of a question that offers three things: "the red chair , the blue table or the green lamp ?"."""
    first, second, third = (f"the {facts.name[i]}" for i in things)
    return f"{first} , {second} or {third} ?"


def _object_rel_distance_pool(facts: Facts, dice: Dice, rejected: Counter) -> Pool:
    """Keys (anchor, closest) with two clearly farther things of other categories."""
    pool: Pool = defaultdict(list)
    ids = facts.referent_ids.tolist()
    for anchor in ids:
        for closest in ids:
            if closest == anchor:
                continue
            if facts.gap[anchor, closest] < MIN_GAP_M:
                rejected["too_close"] += 1
            elif number_of_kinds(facts, _farther(facts, anchor, closest)) < 2:
                rejected["near_tie"] += 1
            else:
                pool[facts.category[closest]].append((anchor, closest))
    return pool


def _object_rel_distance_draft(facts: Facts, dice: Dice, answer: str, key) -> Draft:
    anchor, closest = key
    things = dice.shuffled([closest, *two_kinds(facts, _farther(facts, anchor, closest), dice)])
    text = f"which is closest to the {facts.name[anchor]} : {one_of(facts, things)}"
    return Draft("object_rel_distance", text, answer, wrong=(tuple(facts.category[i] for i in things),))


def _first_views(facts: Facts) -> np.ndarray:
    """int[n]: the view in which a referent first appears, -1 for others and for those glimpsed before."""
    seen = np.stack([view.seen for view in facts.views])
    visible = ~np.stack([view.absent for view in facts.views])
    first = seen.argmax(axis=0)
    return np.where(facts.referents & (first == visible.argmax(axis=0)), first, -1)


def _object_appearance_order_pool(facts: Facts, dice: Dice, rejected: Counter) -> Pool:
    """Keys: a thing that appears before two things of other categories."""
    pool: Pool = defaultdict(list)
    first = _first_views(facts)
    rejected["too_few_pixels"] += int((facts.referents & (first < 0)).sum())
    for i in np.flatnonzero(first >= 0).tolist():
        if number_of_kinds(facts, _later(facts, first, i)) < 2:
            rejected["near_tie"] += 1
        else:
            pool[facts.category[i]].append(i)
    return pool


def _later(facts: Facts, first: np.ndarray, i: int) -> list[int]:
    return [j for j in np.flatnonzero(first > first[i]).tolist() if facts.category[j] != facts.category[i]]


def _object_appearance_order_draft(facts: Facts, dice: Dice, answer: str, key) -> Draft:
    first = _first_views(facts)
    things = [key, *two_kinds(facts, _later(facts, first, key), dice)]
    shown = dice.shuffled(things)
    letter = None
    if len({int(first[i]) for i in things}) == 3:
        ordered = sorted(things, key=lambda i: first[i])
        orders = [tuple(facts.category[shown[i]] for i in order) for order in _ORDERS]
        right = tuple(facts.category[i] for i in ordered)
        wrong = dice.shuffled([order for order in orders if order != right])[:3]
        text = f"in which order do the things first appear : {one_of(facts, shown)}"
        letter = (text.replace(" or ", " and "), " , ".join(right), tuple(" , ".join(order) for order in wrong))
    return Draft(
        "object_appearance_order",
        f"which appears first : {one_of(facts, shown)}",
        answer,
        wrong=(tuple(facts.category[i] for i in things),),
        letter=letter,
    )


BUILDERS = {
    "object_count": (_object_count_pool, _object_count_draft),
    "object_abs_distance": (_object_abs_distance_pool, _object_abs_distance_draft),
    "camera_distance": (_camera_distance_pool, _camera_distance_draft),
    "object_size": (_object_size_pool, _object_size_draft),
    "room_size": (_room_size_pool, _room_size_draft),
    "object_rel_distance": (_object_rel_distance_pool, _object_rel_distance_draft),
    "object_appearance_order": (_object_appearance_order_pool, _object_appearance_order_draft),
}
