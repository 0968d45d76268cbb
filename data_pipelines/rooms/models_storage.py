"""Parametric cupboards, kitchen and bath things, and other large furniture of the floor."""

from __future__ import annotations

import numpy as np

from data_pipelines.rooms.meshes import Kit, turn


def _body(k: Kit, foot: float = 0.04, slot: str = "main") -> None:
    """A closed body a little behind the front, on a plinth."""
    k.box("dark", (-k.w / 2 + 0.03, k.w / 2 - 0.03), (-k.d / 2 + 0.06, k.d / 2 - 0.02), (0, foot))
    k.box(slot, (-k.w / 2, k.w / 2), (-k.d / 2 + 0.02, k.d / 2), (foot, k.h))


def _knob(k: Kit, x: float, z: float, width: float = 0.03, height: float = 0.03) -> None:
    k.box("metal", (x - width / 2, x + width / 2), (-k.d / 2 - 0.02, -k.d / 2 + 0.02), (z - height / 2, z + height / 2))


def _drawers(k: Kit, columns: int, rows: int, low: float) -> None:
    width, height = (k.w - 0.02) / columns, (k.h - low - 0.03) / rows
    for column in range(columns):
        for row in range(rows):
            x, z = -k.w / 2 + 0.01 + column * width, low + row * height
            k.front("main", (x + 0.01, x + width - 0.01), (z + 0.01, z + height - 0.01), 0.022)
            _knob(k, x + width / 2, z + height / 2, 0.4 * width if columns == 1 else 0.12, 0.025)


def wardrobe(k: Kit, family: str) -> None:
    """A tall cupboard with doors."""
    w = k.w / 2
    if family == "curtain":
        for side in (-1, 1):
            k.box("wood", sorted((side * w, side * (w - 0.04))), (-k.d / 2, k.d / 2), (0, k.h))
        k.full("wood", (k.h - 0.05, k.h))
        k.full("wood", (0.04, 0.1))
        folds = 9
        step = (k.w - 0.1) / folds
        for number in range(folds):
            x = -w + 0.05 + number * step
            k.add("rod", "main", (x, x + step), (-k.d / 2 + 0.02, -k.d / 2 + 0.02 + step), (0.12, k.h - 0.06))
        k.box("main", (-w + 0.04, w - 0.04), (-k.d / 2 + 0.08, k.d / 2), (0.1, k.h - 0.05))
        k.top()
        return
    _body(k, 0.06)
    doors = 2 if k.w < 1.2 else 3
    width = k.w / doors
    for number in range(doors):
        x = -w + number * width
        k.front("main", (x + 0.008, x + width - 0.008), (0.08, k.h - 0.03), 0.022)
        if family == "panels":
            for low, high in ((0.16, 0.46 * k.h), (0.52 * k.h, k.h - 0.12)):
                k.box("wood", (x + 0.09, x + width - 0.09), (-k.d / 2 - 0.012, -k.d / 2), (low, high))
        _knob(k, x + (width - 0.05 if number % 2 == 0 else 0.05), 0.5 * k.h, 0.025, 0.2)
    k.top()


def bookshelf(k: Kit, family: str) -> None:
    """Shelves between two sides, with books or a few things on them."""
    w, d = k.w / 2, k.d / 2
    for side in (-1, 1):
        if family == "ladder":
            k.box("main", sorted((side * w, side * (w - 0.05))), (-d, -d + 0.05), (0, k.h))
            k.box("main", sorted((side * w, side * (w - 0.05))), (d - 0.05, d), (0, k.h))
        else:
            k.box("main", sorted((side * w, side * (w - 0.03))), (-d, d), (0, k.h))
    if family != "ladder":
        k.box("main", (-w, w), (d - 0.02, d), (0.02, k.h))
    shelves = max(3, round(k.h / 0.38))
    levels = np.linspace(0.06, k.h - 0.03, shelves + 1)
    gap = levels[1] - levels[0]
    for level in levels:
        k.box("main", (-w, w), (-d, d), (level, level + 0.03))
    share = 0.75 if family == "filled" else 0.3
    slots = ("paper", "light", "dark", "wood")
    for level in levels[:-1]:
        x = -w + 0.05
        while x < w - 0.12:
            width = k.rng.uniform(0.04, 0.11)
            if k.rng.random() < share:
                height = k.rng.uniform(0.55, 0.85) * (gap - 0.03)
                k.box(
                    slots[k.rng.integers(4)],
                    (x, x + width),
                    (-d + 0.05, d - 0.03),
                    (level + 0.03, level + 0.03 + height),
                )
            x += width + 0.004
    k.top()


def dresser(k: Kit, family: str) -> None:
    """A broad chest of drawers or a sideboard."""
    if family == "drawers":
        _body(k)
        _drawers(k, 2 if k.w > 1.0 else 1, 3, 0.06)
    elif family == "doors":
        _body(k, 0.08)
        for side in (-1, 1):
            k.front("main", sorted((side * 0.01, side * (k.w / 2 - 0.015))), (0.1, k.h - 0.05), 0.022)
            _knob(k, side * 0.06, 0.55 * k.h, 0.03, 0.12)
    else:
        k.legs("wood", 0.06, 0.3 * k.h, 0.02)
        k.box("main", (-k.w / 2, k.w / 2), (-k.d / 2 + 0.02, k.d / 2), (0.3 * k.h, k.h))
        _drawers(k, 3, 1, 0.32 * k.h)
    k.top()


def nightstand(k: Kit, family: str) -> None:
    """A bedside chest."""
    if family == "drawers":
        _body(k)
        _drawers(k, 1, 2, 0.06)
    elif family == "open":
        for side in (-1, 1):
            k.box("main", sorted((side * k.w / 2, side * (k.w / 2 - 0.03))), (-k.d / 2, k.d / 2), (0, k.h))
        k.box("main", (-k.w / 2, k.w / 2), (k.d / 2 - 0.02, k.d / 2), (0, k.h))
        for low in (0.05, 0.45 * k.h, k.h - 0.04):
            k.full("main", (low, low + 0.04))
    else:
        k.legs("wood", 0.05, 0.5 * k.h)
        k.box("main", (-k.w / 2, k.w / 2), (-k.d / 2 + 0.02, k.d / 2), (0.5 * k.h, k.h))
        _drawers(k, 1, 1, 0.52 * k.h)
    k.top()


def refrigerator(k: Kit, family: str) -> None:
    """A tall body with doors and long handles."""
    w = k.w / 2
    _body(k, 0.05)
    if family == "double":
        for side in (-1, 1):
            k.front("main", sorted((side * 0.008, side * w)), (0.06, k.h), 0.025)
            _knob(k, side * 0.05, 0.55 * k.h, 0.03, 0.7)
    else:
        cuts = (0.06, 0.66 * k.h, k.h) if family == "two" else (0.06, 0.3 * k.h, 0.55 * k.h, k.h)
        for low, high in zip(cuts[:-1], cuts[1:], strict=True):
            k.front("main", (-w, w), (low, high - 0.015), 0.025)
            _knob(k, w - 0.06, (low + high) / 2, 0.03, 0.7 * (high - low))
    k.top()


def stove(k: Kit, family: str) -> None:
    """Oven with a hob of four rings."""
    w, d = k.w / 2, k.d / 2
    top = k.h if family == "oven" else 0.84 * k.h
    k.box("main", (-w, w), (-d + 0.02, d), (0, top - 0.02))
    k.front("dark", (-w + 0.08, w - 0.08), (0.25 * top, 0.62 * top), 0.022)
    k.box("metal", (-w + 0.07, w - 0.07), (-d - 0.02, -d), (0.68 * top, 0.71 * top))
    for number in range(4):
        x = -0.6 * w + number * 0.4 * w
        k.add(
            "rod", "dark", (x - 0.022, x + 0.022), (-d - 0.01, -d + 0.03), (0.84 * top, 0.84 * top + 0.044), along="y"
        )
    k.box("dark", (-w, w), (-d + 0.02, d), (top - 0.02, top - 0.002))
    for sx in (-1, 1):
        for sy in (-1, 1):
            x, y = sx * 0.45 * w, 0.01 + sy * 0.45 * d
            k.add("ring", "metal", (x - 0.09, x + 0.09), (y - 0.09, y + 0.09), (top - 0.002, top))
    k.surface((-w + 0.03, w - 0.03), (-d + 0.08, d - 0.06), top)
    if family == "hood":
        k.box("main", (-w, w), (d - 0.03, d), (top, k.h))


def piano(k: Kit, family: str) -> None:
    """Upright piano: body, key bed with white keys and black ones."""
    w, d, h = k.w / 2, k.d / 2, k.h
    key = 0.62 * h if family == "upright" else 0.72 * h
    back = -0.05 if family == "upright" else 0.08
    k.box("main", (-w, w), (back, d), (0, h))
    k.box("main", (-w, w), (-d, back), (key - 0.14, key - 0.03))
    k.box("light", (-w + 0.06, w - 0.06), (-d + 0.03, back - 0.04), (key - 0.03, key - 0.01))
    for x in np.arange(-w + 0.1, w - 0.1, 0.09):
        k.box("dark", (x, x + 0.03), (-d + 0.1, back - 0.04), (key - 0.01, key + 0.005))
    for side in (-1, 1):
        k.box("main", sorted((side * w, side * (w - 0.06))), (-d, back), (key - 0.14, key + 0.02))
        k.box("main", sorted((side * w, side * (w - 0.08))), (-d + 0.02, -d + 0.1), (0, key - 0.14))
    k.box("wood", (-0.35, 0.35), (back - 0.03, back), (key + 0.08, 0.95 * h), turn("x", -6))
    k.surface((-w + 0.03, w - 0.03), (back + 0.02, d - 0.02), h)


def bathtub(k: Kit, family: str) -> None:
    """A tub that is hollow inside."""
    w, d, h = k.w / 2, k.d / 2, k.h
    foot = 0.12 if family == "feet" else 0.0
    if family == "box":
        rim = 0.07
        for side in (-1, 1):
            k.box("main", sorted((side * w, side * (w - rim))), (-d, d), (0, h))
            k.box("main", (-w, w), sorted((side * d, side * (d - rim))), (0, h))
        k.box("main", (-w, w), (-d, d), (0, 0.25 * h))
    else:
        k.add("bowl", "main", (-w, w), (-d, d), (foot, h))
        if family == "round":
            k.add("cylinder", "main", (-0.8 * w, 0.8 * w), (-0.8 * d, 0.8 * d), (0, 0.3 * h))
        else:
            k.legs("metal", 0.07, 0.35 * h, 0.22 * k.d)
    x = 0.86 * w
    k.add("rod", "metal", (x - 0.02, x + 0.02), (-0.02, 0.02), (0.8 * h, h + 0.1))
    k.add("rod", "metal", (x - 0.16, x + 0.01), (-0.02, 0.02), (h + 0.06, h + 0.1), along="x")


def toilet(k: Kit, family: str) -> None:
    """Bowl with seat, cistern at the back."""
    w, d, h = k.w / 2, k.d / 2, k.h
    seat = 0.52 * h
    if family == "tank":
        k.add("taper", "main", (-0.6 * w, 0.6 * w), (-0.5 * d, 0.55 * d), (0, 0.55 * seat))
        k.add("flare", "main", (-0.9 * w, 0.9 * w), (-d, 0.5 * d), (0.25 * seat, seat - 0.03))
        k.add("cylinder", "main", (-0.95 * w, 0.95 * w), (-d, 0.5 * d), (seat - 0.03, seat))
    else:
        k.box("main", (-0.85 * w, 0.85 * w), (-d, 0.5 * d), (0.12 * h, seat - 0.04))
        k.box("main", (-0.9 * w, 0.9 * w), (-d, 0.5 * d), (seat - 0.03, seat))
    k.box("main", (-w, w), (0.45 * d, d), (0.3 * h, h - 0.04))
    k.box("light", (-w, w), (0.44 * d, d), (h - 0.04, h))
    k.surface((-0.85 * w, 0.85 * w), (0.48 * d, 0.96 * d), h)


MODELS = {
    "wardrobe": wardrobe,
    "bookshelf": bookshelf,
    "dresser": dresser,
    "nightstand": nightstand,
    "refrigerator": refrigerator,
    "stove": stove,
    "piano": piano,
    "bathtub": bathtub,
    "toilet": toilet,
}
