"""Drawing questions so that each type's answers come out balanced over many records.

Turn by turn over the types of a group, in shuffled order: the answer is chosen first, each class of
the type equally likely, and then a question that has it. If the record offers none the turn is lost;
after `LOST_TURNS` of them, or when a class has been used up while another holds more, the type is
closed for the record, so that frequent answers do not take the place of rare ones. Types whose classes are many and seldom all
on offer (`OFFERED_WEIGHTS`, names and colours) choose among the answers on offer instead, with
weights. A record's questions depend on nothing but its scene, views and generator.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.records import Question
from data_pipelines.rooms.questions import directions, grounding, scans, spatial
from data_pipelines.rooms.questions.dice import Dice
from data_pipelines.rooms.questions.facts import Facts
from data_pipelines.rooms.questions.forms import FORMS, TYPES, Draft, Words, default_words, finish
from data_pipelines.rooms.scene import RenderedView, Scene

TURNS_PER_QUESTION = 6  # lost turns included; afterwards the record stays with fewer questions
LOST_TURNS = 2  # of a type, before it is closed for the record
MOST_OF_A_TYPE = 4  # a type gets at most this part of the questions, so that no type becomes a filler
SEQUENCES = ("rotation", "around", "walk")  # view settings whose views follow one another


# Relative chances among the answers on offer; measured on 400 default rooms so that none dominates.
OFFERED_WEIGHTS: dict[str, dict[str, float]] = {
    "where": {"top": 4.0, "upper": 1.3, "lower": 0.6, "bottom": 0.8, "left": 1.2, "right": 1.2},
    "object_abs_distance": {"one": 0.5, "two": 0.5, "three": 0.7, "four": 0.7, "seven": 2.0, "eight": 2.0}
    | dict.fromkeys(("nine", "ten", "eleven", "twelve"), 5.0),
    "camera_distance": {"one": 5.0, "two": 1.5, "three": 0.8, "four": 0.5, "five": 0.6, "six": 0.8, "eight": 2.0}
    | dict.fromkeys(("nine", "ten", "eleven", "twelve"), 5.0),
    "object_size": {"two": 0.6, "four": 0.6, "five": 1.5, "six": 0.8, "nine": 5.0, "ten": 5.0},
    "room_size": {},
    "depth_at": {"one": 4.0, "three": 0.8, "four": 0.6, "five": 0.6, "seven": 1.5, "eight": 2.0}
    | dict.fromkeys(("nine", "ten", "eleven", "twelve"), 4.0),
}


class _Source:
    """What one type offers on one record or view: answers, and questions that have them."""

    def __init__(self, kind: str, pool: dict[str, list], draft: Callable):
        self.kind = kind
        self.pool = {answer: keys for answer, keys in pool.items() if keys}
        self.draft = draft
        self.made = 0
        self.lost = 0
        # Classes of one size run out together; others would leave the larger class over.
        self.closes = bool(TYPES[kind].classes) and kind not in OFFERED_WEIGHTS
        self.closes &= len({len(keys) for keys in self.pool.values()}) > 1

    def target(self, dice: Dice) -> str:
        """An answer to ask for; of closed classes it may be one that is not on offer."""
        kind = TYPES[self.kind]
        if self.kind in OFFERED_WEIGHTS:
            weights = OFFERED_WEIGHTS[self.kind]
            return dice.weighted(tuple(self.pool), [weights.get(answer, 1.0) for answer in self.pool])
        if not kind.classes:  # what fills one place only is asked for rather than what fills many
            return dice.weighted(tuple(self.pool), [1.0 / len(keys) for keys in self.pool.values()])
        return dice.pick(kind.classes)


class _Maker:
    """Collects the questions of one record."""

    def __init__(self, form: str, dice: Dice):
        self.form = form
        self.dice = dice
        self.questions: list[Question] = []
        self.texts: set[str] = set()
        self.stats: Counter = Counter()

    def source(self, kind: str, pool: Callable, draft: Callable, *facts) -> _Source:
        """The questions of one type; `facts` are the first arguments of its two functions."""
        rejected: Counter = Counter()
        offered = pool(*facts, self.dice, rejected)
        self.stats.update({f"rejected/{kind}/{reason}": number for reason, number in rejected.items()})
        return _Source(kind, offered, functools.partial(draft, *facts, self.dice))

    def draw(self, sources: list[_Source], count: int) -> None:
        """Up to `count` more questions, turn by turn over the types."""
        sources = self.dice.shuffled([source for source in sources if source.pool])
        goal = len(self.questions) + count
        turns = TURNS_PER_QUESTION * count
        most = -(-count // MOST_OF_A_TYPE)
        while sources and turns > 0 and len(self.questions) < goal:
            for source in list(sources):
                turns -= 1
                if len(self.questions) == goal or turns < 0:
                    break
                self._turn(source)
                if not source.pool or source.made == most:
                    sources.remove(source)

    def _turn(self, source: _Source) -> None:
        answer = source.target(self.dice)
        keys = source.pool.get(answer)
        if not keys:
            self.stats[f"rejected/{source.kind}/answer_not_offered"] += 1
            source.lost += 1
            if source.lost == LOST_TURNS:
                source.pool.clear()
            return
        draft = source.draft(answer, self.dice.pop(keys))
        if not keys:
            del source.pool[answer]
            if source.closes:
                source.pool.clear()
        source.made += self.add(draft, self.form)

    def add(self, draft: Draft, form: str) -> bool:
        """One more question, unless it was asked before."""
        question = finish(draft, form, f"{draft.type}-{len(self.questions):03d}", self.dice)
        if question.text in self.texts:
            self.stats[f"rejected/{draft.type}/asked_before"] += 1
            return False
        self.texts.add(question.text)
        self.questions.append(question)
        self.stats[f"made/{draft.type}"] += 1
        return True


def make_questions(
    scene: Scene,
    views: Sequence[RenderedView],
    setting: str,
    rng: np.random.Generator,
    form: str = "word",
    grounding_per_view: int = 24,
    spatial_count: int = 24,
    words: Words | None = None,
    scan: bool = False,
) -> tuple[tuple[Question, ...], dict[str, int]]:
    """Questions with exact answers about the views of a room. Source: ours (types after VSI-Bench and MindCube).

    Args:
        scene: the room.
        views: its pictures in prompt order; `<view:K>` in a text counts them from 0.
        setting: how the views were chosen; the order of first appearance is asked only where the
            views follow one another ("rotation", "around", "walk").
        rng: the only source of chance: equal arguments and generator state give equal questions.
        form: "word", "letter" or "number" (see `forms`).
        grounding_per_view: upper bound of questions about each single view.
        spatial_count: upper bound of questions about the room.
        words: categories and colours for wrong options and absent things; default those of `furniture`.
        scan: also make the scans of every view (see `scans`), always in words.

    Returns:
        The questions, ids unique in the record, and counts "made/TYPE" and "rejected/TYPE/REASON".

    Raises:
        ValueError: unknown form, negative counts, no views, views of another scene.
    """
    if form not in FORMS:
        raise ValueError(f"Answer form '{form}' is unknown; choose one of {', '.join(FORMS)}.")
    if grounding_per_view < 0 or spatial_count < 0:
        raise ValueError(
            f"Scene '{scene.id}': grounding_per_view={grounding_per_view} and spatial_count={spatial_count} "
            "are upper bounds of question counts and must not be negative."
        )
    facts = Facts(scene, views, words or default_words())
    maker = _Maker(form, Dice(rng))
    if grounding_per_view:
        for view in facts.views:
            table = grounding.BUILDERS.items()
            sources = [maker.source(kind, pool, draft, facts, view) for kind, (pool, draft) in table]
            maker.draw(sources, grounding_per_view)
    if scan:
        for draft in (draft for view in facts.views for draft in scans.scans(facts, view)):
            maker.add(draft, "word")
    if spatial_count:
        table = dict(spatial.BUILDERS | directions.BUILDERS)
        if setting not in SEQUENCES:
            del table["object_appearance_order"]
        maker.draw([maker.source(kind, pool, draft, facts) for kind, (pool, draft) in table.items()], spatial_count)
    return tuple(maker.questions), dict(maker.stats)
