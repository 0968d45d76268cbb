"""Scans: all places of a picture row in one question, answered by one word for each.

A model that starts from nothing learns what stands where, and how far away, from several times as
many answers per token of text as single questions give it. They are material for training: nothing
is balanced, a place without a clear answer is "unclear", and no evaluation scores them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_pipelines.rooms.questions.facts import GRID, Facts, ViewFacts
from data_pipelines.rooms.questions.forms import HALF_METRE, HALF_METRES, ROWS, Draft
from data_pipelines.rooms.questions.grounding import CELL_RIVAL, CELL_SHARE
from spatialsv_jax.geometry import points_from_depth

UNCLEAR, BARE = "unclear", "bare"
SURFACES = ("floor", "ceiling", "wall")  # "wall": all that is upright, doors and windows too
BARE_SHARE = 0.05  # of a cell: below this nothing stands there
SURFACE_SHARE = 0.65  # of a cell's bare pixels that one surface must have
SURFACE_M = 0.03  # metres from the plane of floor or ceiling
DEPTH_SPREAD = 0.4  # of a cell's median depth: the middle half of its depths lies within


def scans(facts: Facts, view: ViewFacts) -> Iterator[Draft]:
    """A scan of things, of colours and of depths along each row of a view; ours.

    Depths are medians of the cells to the nearest half metre, from one to twelve, without a margin.
    """
    surfaces = _surfaces(facts, view)
    answers = {
        "names_along": ("things", _labels(view, facts.category, surfaces)),
        "colours_along": ("colours", _labels(view, facts.colour, [BARE] * GRID**2)),
        "depths_along": ("half metres", [_depth(*quartiles) for quartiles in view.cell_depth]),
    }
    for kind, (asked, words) in answers.items():
        for row, name in enumerate(ROWS):
            text = f"in <view:{view.index}> {asked} along {name} row ?"
            yield Draft(kind, text, " ".join(words[row * GRID : (row + 1) * GRID]), (view.index,))


def _labels(view: ViewFacts, labels: list[str], bare: list[str]) -> list[str]:
    """The word of each cell: the label that dominates as in `name_at`, or `bare` where nothing stands."""
    kinds = list(dict.fromkeys(labels))
    if not kinds:
        return list(bare)
    member = np.array([[label == kind for kind in kinds] for label in labels], float)
    share = view.cell_share @ member
    words = []
    for cell, row in enumerate(share):
        best, *others = np.sort(row)[::-1]
        if view.cell_share[cell].sum() < BARE_SHARE:
            words.append(bare[cell])
        elif best >= CELL_SHARE and (not others or others[0] <= CELL_RIVAL * best):
            words.append(kinds[int(row.argmax())])
        else:
            words.append(UNCLEAR)
    return words


def _surfaces(facts: Facts, view: ViewFacts) -> list[str]:
    """What most of the bare pixels of each cell show, by their height above the floor."""
    rendered = facts.rendered[view.index]
    height, width = rendered.instance.shape
    z = points_from_depth(rendered.depth.astype(float), rendered.intrinsics, rendered.camera_to_world)[..., 2]
    surface = np.select([z < SURFACE_M, z > facts.scene.size[2] - SURFACE_M], [0, 1], 2)
    cell = np.add.outer(np.arange(height) * GRID // height * GRID, np.arange(width) * GRID // width)
    bare = rendered.instance < 0
    count = np.bincount(cell[bare] * 3 + surface[bare], minlength=3 * GRID**2).reshape(-1, 3)
    clear = count.max(1) >= SURFACE_SHARE * np.maximum(count.sum(1), 1)
    return [SURFACES[best] if good else UNCLEAR for best, good in zip(count.argmax(1), clear, strict=True)]


def _depth(low: float, middle: float, high: float) -> str:
    if high - low > DEPTH_SPREAD * middle:
        return UNCLEAR
    return HALF_METRES[int(np.clip(round(middle / HALF_METRE), 1, len(HALF_METRES))) - 1]
