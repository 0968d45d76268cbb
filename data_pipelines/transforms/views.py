"""Which views of a record a sample shows, and what that does to its questions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from data_pipelines.records import Question

VIEW_NAME = re.compile(r"<view:(\d+)>")
IN_VIEW = re.compile(r"\bin <view:\d+> ")


def choose_views(available: int, count: int, record: int, visit: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Chooses the views of one sample, in the record's order.

    With one view, visit n shows view (record + n) modulo the number of views, so that every view
    is shown equally often and a pass over the data mixes view positions. With more, a random subset.

    Args:
      available: views of the record.
      count: views wanted; 0, or not fewer than `available`, = all.
      record: index of the record in its source.
      visit: how often the source has been passed before.
      rng: generator of this sample; drawn from only for random subsets.
    """
    if count == 0 or count >= available:
        return tuple(range(available))
    if count == 1:
        return ((record + visit) % available,)
    return tuple(sorted(int(view) for view in rng.choice(available, count, replace=False)))


def mentioned_views(text: str) -> set[int]:
    """The views that a question's text names as `<view:K>`."""
    return {int(number) for number in VIEW_NAME.findall(text)}


def rename_views(text: str, views: tuple[int, ...]) -> str:
    """Rewrites `<view:K>` (K in the record) to the place of view K among `views`.

    "in <view:K> " is left out when one view is shown: it would tell nothing.
    """
    if len(views) == 1:
        text = IN_VIEW.sub("", text)
    places = {view: place for place, view in enumerate(views)}
    return VIEW_NAME.sub(lambda match: f"<view:{places[int(match.group(1))]}>", text)


def applicable_questions(
    questions: Iterable[Question],
    views: tuple[int, ...],
    available: int,
    groups: tuple[str, ...],
    types: tuple[str, ...] = (),
) -> list[Question]:
    """The questions of the wanted groups and types that the chosen views can answer.

    A question needs the views it lists (none listed = all views of the record) and those that
    its text names. Everything comes back with the views renamed to their place in the sample.

    Args:
      questions: questions of a record.
      views: the chosen views.
      available: views of the record.
      groups: wanted groups.
      types: wanted types; () = all.
    """
    shown, complete = set(views), len(views) == available
    result = []
    for question in questions:
        if question.group not in groups or (types and question.type not in types):
            continue
        if complete and len(views) > 1:  # nothing to rename
            result.append(question)
            continue
        later = [part for turn in question.turns for part in turn]
        needed = {
            *question.views,
            *mentioned_views(" ".join([question.text, question.answer, *question.options, *later])),
        }
        if shown.issuperset(needed) and (complete or question.views):
            renamed = {
                "text": rename_views(question.text, views),
                "answer": rename_views(question.answer, views),
                "options": tuple(rename_views(option, views) for option in question.options),
                "views": tuple(views.index(view) for view in question.views),
                "turns": tuple(tuple(rename_views(part, views) for part in turn) for turn in question.turns),
            }
            result.append(dataclasses.replace(question, **renamed))
    return result
