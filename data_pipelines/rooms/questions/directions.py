"""Questions of direction: seen from an object, on a route, and from where a camera stands.

Angles are measured on the floor plan between box centres (or from the camera), 0 straight ahead and
positive to the left. Same pairs of functions as in `spatial`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from data_pipelines.rooms.questions.dice import Dice
from data_pipelines.rooms.questions.facts import Facts
from data_pipelines.rooms.questions.forms import QUARTERS, SIDES, SIDES_BEHIND, TURNS, Draft
from data_pipelines.rooms.questions.spatial import one_of, two_kinds

# Margins, degrees and metres.
STAND_M = 0.60  # between the place of standing and what is faced or looked for
LEG_M = 0.80  # least length of each leg of a route
CAMERA_M = 0.50  # between a camera and what is looked for
AHEAD_DEG = 20.0  # a thing nearer than this to straight ahead (or, if "behind" is no answer, behind) has no side
BEHIND_DEG = 135.0  # one would have to turn at least so far to face a thing behind
PERSPECTIVE_DEG = 45.0  # from the viewing direction of a camera: nearer is in front
MARGIN_DEG = 10.0  # from 135 and 45 degrees and from the four axes of the quarters
TURN_DEG = 30.0  # a smaller change of direction is no turn

Pool = dict[str, list]


def _sides(angle: np.ndarray, least: float, most: float) -> tuple[np.ndarray, np.ndarray]:
    return (angle >= least) & (angle <= most), (angle <= -least) & (angle >= -most)


def side_classes(angle: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of clear left and right."""
    return dict(zip(SIDES, _sides(angle, AHEAD_DEG, 180 - AHEAD_DEG), strict=True))


def side_behind_classes(angle: np.ndarray, least: float = AHEAD_DEG) -> dict[str, np.ndarray]:
    """Masks of clear left, right and behind."""
    left, right = _sides(angle, least, BEHIND_DEG - MARGIN_DEG)
    return {"left": left, "right": right, "behind": np.abs(angle) >= BEHIND_DEG + MARGIN_DEG}


def quarter_classes(angle: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of the four quarters, away from the axes between them."""
    front = _sides(angle, MARGIN_DEG, 90 - MARGIN_DEG)
    back = _sides(angle, 90 + MARGIN_DEG, 180 - MARGIN_DEG)
    return dict(zip(QUARTERS, (*front, *back), strict=True))


def _triples(facts: Facts, least: float, apart: tuple[tuple[int, int], ...]) -> np.ndarray:
    """bool[m,m,m] over the referents: the named pairs of the triple are at least so many metres apart."""
    separation = facts.separation[np.ix_(facts.referent_ids, facts.referent_ids)]
    clear = separation >= least
    distinct = ~np.eye(len(separation), dtype=bool)
    valid = distinct[:, :, None] & distinct[:, None, :] & distinct[None]
    for first, second in apart:
        missing = ({0, 1, 2} - {first, second}).pop()
        valid &= np.expand_dims(clear, missing)
    return valid


def _collect(valid: np.ndarray, classes: dict[str, np.ndarray], rejected: Counter) -> Pool:
    """Answer -> flat indices of valid triples."""
    pool = {answer: np.flatnonzero(valid & mask).tolist() for answer, mask in classes.items()}
    rejected["too_close"] += int(valid.size - valid.sum())
    rejected["near_tie"] += int(valid.sum()) - sum(map(len, pool.values()))
    return pool


def _unflatten(facts: Facts, key: int) -> tuple[int, int, int]:
    count = len(facts.referent_ids)
    a, rest = divmod(key, count * count)
    b, c = divmod(rest, count)
    return tuple(int(facts.referent_ids[i]) for i in (a, b, c))


def _direction_pool(classes_of):
    def pool(facts: Facts, dice: Dice, rejected: Counter) -> Pool:
        """Keys: flat (stand, face, target)."""
        ids = facts.referent_ids
        valid = _triples(facts, STAND_M, ((0, 1), (0, 2)))
        return _collect(valid, classes_of(facts.bearing[np.ix_(ids, ids, ids)]), rejected)

    return pool


def _direction_draft(kind: str, ending: str, answers: tuple[str, ...]):
    def draft(facts: Facts, dice: Dice, answer: str, key: int) -> Draft:
        stand, face, target = (facts.name[i] for i in _unflatten(facts, key))
        text = f"you stand at the {stand} and face the {face} . {ending.format(target=target)} ?"
        return Draft(kind, text, answer, wrong=(answers,))

    return draft


def _route_planning_pool(facts: Facts, dice: Dice, rejected: Counter) -> Pool:
    """Keys: flat (from, turning point, to)."""
    ids = facts.referent_ids
    turn = facts.turn[np.ix_(ids, ids, ids)]
    left, right = _sides(turn, TURN_DEG, BEHIND_DEG - MARGIN_DEG)
    classes = {"left": left, "right": right, "back": np.abs(turn) >= BEHIND_DEG + MARGIN_DEG}
    return _collect(_triples(facts, LEG_M, ((0, 1), (1, 2))), classes, rejected)


def turn_word(angle: float) -> str | None:
    """The turn of a clear change of direction (degrees, left positive), else None."""
    if abs(angle) >= BEHIND_DEG + MARGIN_DEG:
        return "back"
    if TURN_DEG <= abs(angle) <= BEHIND_DEG - MARGIN_DEG:
        return "left" if angle > 0 else "right"
    return None


def _route_planning_draft(facts: Facts, dice: Dice, answer: str, key: int) -> Draft:
    """Half of the routes have a leg before; where that turn is clear too, the letter form asks for both."""
    a, b, c = _unflatten(facts, key)
    starts = [i for i in facts.referent_ids.tolist() if i not in (a, b, c) and facts.separation[i, a] >= LEG_M]
    letter = None
    if starts and dice.coin():
        start = dice.pick(starts)
        way = f"the {facts.name[start]} to the {facts.name[a]} , the {facts.name[b]} and the {facts.name[c]} ."
        first = turn_word(facts.turn[start, a, b])
        if first is not None:
            both = tuple(f"{x} then {y}" for x in TURNS for y in TURNS)
            right = f"{first} then {answer}"
            wrong = tuple(dice.shuffled([option for option in both if option != right])[:3])
            letter = (f"you walk from {way} which turns do you make on the way ?", right, wrong)
    else:
        way = f"the {facts.name[a]} to the {facts.name[b]} and the {facts.name[c]} ."
    text = f"you walk from {way} which way do you turn at the {facts.name[b]} ?"
    return Draft("route_planning", text, answer, wrong=(TURNS,), letter=letter)


def _perspective(facts: Facts) -> dict[str, np.ndarray]:
    """Answer -> bool[V,n]: referents that a view does not show and that lie clearly in that direction."""
    hidden = np.stack([view.absent for view in facts.views]) & facts.referents[None]
    hidden &= facts.view_separation >= CAMERA_M
    classes = side_behind_classes(facts.view_bearing, PERSPECTIVE_DEG + MARGIN_DEG)
    return {answer: mask & hidden for answer, mask in classes.items()}


def _view_perspective_pool(facts: Facts, dice: Dice, rejected: Counter) -> Pool:
    """Keys (view, object)."""
    masks = _perspective(facts)
    hidden = np.stack([view.absent for view in facts.views]) & facts.referents[None]
    rejected["in_sight"] += int((facts.referents[None] & ~hidden).sum())
    rejected["near_tie"] += int(hidden.sum() - sum(mask.sum() for mask in masks.values()))
    return {answer: [tuple(key) for key in np.argwhere(mask).tolist()] for answer, mask in masks.items()}


def _view_perspective_draft(facts: Facts, dice: Dice, answer: str, key: tuple[int, int]) -> Draft:
    """Half ask for the direction of a thing; half, where others allow it, which of three lies in a direction."""
    view, target = key
    start = f"you stand at <view:{view}> and face as it does ."
    masks = _perspective(facts)
    others = [
        i
        for word, mask in masks.items()
        if word != answer
        for i in np.flatnonzero(mask[view]).tolist()
        if facts.category[i] != facts.category[target]
    ]
    kinds = {facts.category[i] for i in others}
    if len(kinds) < 2 or dice.coin():
        text = f"{start} where is the {facts.name[target]} ?"
        return Draft("view_perspective", text, answer, wrong=(SIDES_BEHIND,))
    things = dice.shuffled([target, *two_kinds(facts, others, dice)])
    place = "behind you" if answer == "behind" else f"to your {answer}"
    text = f"{start} which is {place} : {one_of(facts, things)}"
    options = tuple(facts.category[i] for i in things)
    return Draft("view_perspective", text, facts.category[target], wrong=(options,))


BUILDERS = {
    "object_rel_direction_easy": (
        _direction_pool(side_classes),
        _direction_draft("object_rel_direction_easy", "is the {target} to your left or right", SIDES),
    ),
    "object_rel_direction_medium": (
        _direction_pool(side_behind_classes),
        _direction_draft("object_rel_direction_medium", "is the {target} left , right or behind", SIDES_BEHIND),
    ),
    "object_rel_direction_hard": (
        _direction_pool(quarter_classes),
        _direction_draft("object_rel_direction_hard", "in which quarter is the {target}", QUARTERS),
    ),
    "route_planning": (_route_planning_pool, _route_planning_draft),
    "view_perspective": (_view_perspective_pool, _view_perspective_draft),
}
