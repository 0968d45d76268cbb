"""Coloured points and boxes that a question names and that must be drawn onto its pictures (SPAR-7M)."""

from __future__ import annotations

import dataclasses

from PIL import Image, ImageDraw

from data_pipelines.sources.qa.problems import RowError

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
FIELDS = (  # of rows, that say where marks are
    *(f"{colour}_{kind}" for colour in COLOURS for kind in ("point", "bbox")), "point_img_idx", "bbox_img_idx",
)  # fmt: skip
SIZE = 20  # pixels: a point's radius and a box's stroke, on the full-size picture


@dataclasses.dataclass(frozen=True)
class Mark:
    """A point (x, y) or a box (x1, y1, x2, y2) on one picture, in thousandths of its sides."""

    picture: int  # index among the row's pictures
    colour: str
    place: tuple[float, ...]


def marks_of(fields: dict, pictures: int) -> tuple[Mark, ...]:
    """The marks of SPAR's fields: `red_point` [[x, y], ...] and so on, with `point_img_idx` [[picture, ...]].

    `point_img_idx` lists the pictures of red, blue and green points one after the other, `bbox_img_idx` those of
    boxes in the order red, blue, green, yellow; without them all marks are on the first picture.

    Raises:
      RowError: another form, or a picture that the row does not have.
    """
    found = []
    for kind, names, width in (
        ("point", ("red", "blue", "green"), 2),
        ("bbox", ("red", "blue", "green", "yellow"), 4),
    ):
        places = [(name, place) for name in names for place in _places(fields, f"{name}_{kind}", width)]
        index = fields.get(f"{kind}_img_idx")
        flat = (
            [0] * len(places)
            if index is None
            else index[0]
            if isinstance(index, list) and index and isinstance(index[0], list)
            else index
        )
        if not isinstance(flat, list) or len(flat) < len(places):
            raise RowError(
                f"{kind}_img_idx", f"is {index!r}, expected the pictures of {len(places)} marks", "bad_marks"
            )
        for (name, place), picture in zip(places, flat, strict=False):
            if not isinstance(picture, int) or not 0 <= picture < pictures:
                raise RowError(f"{kind}_img_idx", f"names picture {picture!r} of {pictures}", "bad_marks")
            found.append(Mark(picture, name, place))
    return tuple(found)


def _places(fields: dict, name: str, width: int) -> list[tuple[float, ...]]:
    value = fields.get(name) or []
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = [value]
    good = isinstance(value, list) and all(
        isinstance(one, list) and len(one) == width and all(isinstance(v, int | float) and 0 <= v <= 1000 for v in one)
        for one in value
    )
    if not good:
        raise RowError(name, f"is {value!r}, expected lists of {width} numbers from 0 to 1000", "bad_marks")
    return [tuple(float(v) for v in one) for one in value]


def draw(picture: Image.Image, marks: list[Mark]) -> Image.Image:
    """The picture with its marks."""
    if not marks:
        return picture
    picture = picture.copy()
    pen, (width, height) = ImageDraw.Draw(picture), picture.size
    for mark in marks:
        place = [value * side / 1000 for value, side in zip(mark.place, (width, height) * 2, strict=False)]
        if len(place) == 2:
            x, y = place
            pen.ellipse([x - SIZE, y - SIZE, x + SIZE, y + SIZE], fill=COLOURS[mark.colour])
        else:
            x1, y1, x2, y2 = (
                min(place[0], place[2]),
                min(place[1], place[3]),
                max(place[0], place[2]),
                max(place[1], place[3]),
            )
            pen.rectangle([x1, y1, x2, y2], outline=COLOURS[mark.colour], width=SIZE)
    return picture
