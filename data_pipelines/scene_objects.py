"""The things in a scene: their boxes from a record's metadata, the pixels that show them, the questions that name them."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.records import Record

MARGIN_M = 0.02  # metres by which a point may lie outside a box: depth is stored in steps


@dataclasses.dataclass(frozen=True)
class ObjectBox:
    """One thing, in the world frame of the record's cameras, metres."""

    category: str
    colour: str  # "" = not known
    centre: np.ndarray  # float64[3]
    axes: np.ndarray  # float64[3,3], its own axes in rows
    size: np.ndarray  # float64[3], lengths along the axes

    @property
    def name(self) -> str:
        """What questions call it."""
        return f"{self.colour} {self.category}".strip()


def object_boxes(record: Record) -> tuple[ObjectBox, ...]:
    """The boxes of metadata `object_bbox` (VSI-Bench's layout) with the colours of `object_colours`; () without them.

    Raises:
      ValueError: boxes that cannot be read, naming record, field and category.
    """
    text = record.metadata.get("object_bbox")
    if not text:
        return ()
    where = f"Record '{record.id}': metadata.object_bbox"
    try:
        table = ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{where} is no dict as text ({error}). Prepare the data again.") from error
    colours = record.metadata.get("object_colours", {})
    found = []
    for category, rows in table.items():
        shades = colours.get(category, [""] * len(rows))
        for row, colour in zip(rows, shades, strict=True):
            try:
                box = ObjectBox(
                    category,
                    colour,
                    np.array(row["centroid"], np.float64).reshape(3),
                    np.array(row["normalizedAxes"], np.float64).reshape(3, 3),
                    np.array(row["axesLengths"], np.float64).reshape(3),
                )
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{where}, category '{category}': expected centroid, normalizedAxes and axesLengths ({error!r})."
                ) from error
            found.append(box)
    return tuple(found)


def instances(points: np.ndarray, boxes: Sequence[ObjectBox]) -> np.ndarray:
    """int16[...]: the box that each point lies in, the smallest of several; -1 = in none, or not finite.

    Args:
      points: float[...,3] in the boxes' frame, metres.
      boxes: up to 32767.
    """
    found = np.full(points.shape[:-1], -1, np.int16)
    for place in np.argsort([-np.prod(box.size) for box in boxes], kind="stable"):  # smaller ones overwrite larger ones
        box = boxes[place]
        own = np.abs((points - box.centre) @ box.axes.T)
        found[(own <= box.size / 2 + MARGIN_M).all(-1)] = place
    return found


def named_objects(text: str, boxes: Sequence[ObjectBox]) -> list[int]:
    """Places of the boxes that a text names: "the red chair" the red ones, "chair" every one, "red objects" all red things.

    Names count as whole words, also in the plural with s; a longer category beats a shorter one within it. Where the
    colour of some thing stands before a category and no thing is both, nothing is meant.
    """
    words, found = text.lower(), set()
    colours = {box.colour for box in boxes} - {""}
    shade = "|".join(map(re.escape, sorted(colours, key=len, reverse=True)))
    for category in sorted({box.category for box in boxes}, key=len, reverse=True):
        before = rf"(?:\b({shade})\s+)?" if shade else "()"
        pattern = re.compile(rf"{before}\b{re.escape(category.lower())}s?\b")
        for match in pattern.finditer(words):
            found |= {
                i for i, box in enumerate(boxes) if box.category == category and match[1] in (None, "", box.colour)
            }
        words = pattern.sub(lambda match: "#" * len(match[0]), words)
    if not found and re.search(r"\bobjects?\b|\bthings?\b", words):
        asked = {colour for colour in colours if re.search(rf"\b{re.escape(colour)}\b", words)}
        found = {i for i, box in enumerate(boxes) if box.colour in asked}
    return sorted(found)
