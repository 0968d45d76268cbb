"""Parametric chairs, sofas, beds, tables: one function per category, `family` picks the shape."""

from __future__ import annotations

from data_pipelines.rooms.meshes import Kit, turn


def _slab(k: Kit, slot: str, z, inset: float = 0.0) -> None:
    k.box(slot, (-k.w / 2 + inset, k.w / 2 - inset), (-k.d / 2 + inset, k.d / 2 - inset), z)


def _pedestal(k: Kit, slot: str, top: float, width: float) -> None:
    """A round foot and a column up to `top`."""
    k.add("cylinder", slot, (-0.4 * k.w, 0.4 * k.w), (-0.4 * k.d, 0.4 * k.d), (0, 0.03))
    k.add("cylinder", slot, (-width / 2, width / 2), (-width / 2, width / 2), (0.03, top))


def chair(k: Kit, family: str) -> None:
    """Seat, back and legs."""
    w, d, seat = k.w / 2, k.d / 2, 0.5 * k.h
    if family == "pedestal":
        _pedestal(k, "metal", seat - 0.06, 0.06)
        k.add("cylinder", "main", (-w, w), (-d, d), (seat - 0.06, seat))
        k.add("cylinder", "main", (-w, w), (d - 0.06, d), (seat + 0.04, k.h), along="y")
        k.surface((-0.5 * w, 0.5 * w), (-0.5 * d, 0.4 * d), seat)
        return
    k.legs("main" if family == "slats" else "wood", 0.045, seat - 0.05)
    k.box("main", (-w, w), (-d, d), (seat - 0.05, seat))
    k.surface((-w + 0.02, w - 0.02), (-d + 0.02, d - 0.06), seat)
    if family == "slats":
        k.box("main", (-w, w), (d - 0.04, d), (k.h - 0.09, k.h))
        for x in (-w, -w / 3 - 0.01, w / 3 - 0.04, w - 0.05):
            k.box("main", (x, x + 0.05), (d - 0.035, d - 0.005), (seat, k.h - 0.09))
    else:
        k.box("main", (-w, w), (d - 0.045, d), (seat + 0.1, k.h))
        for x in (-w, w - 0.045):
            k.box("wood", (x, x + 0.045), (d - 0.04, d - 0.005), (seat, seat + 0.1))


def _upholstered(k: Kit, family: str, seats: int) -> None:
    """Sofa and armchair: base, back, arms, seat cushions."""
    w, d, h = k.w / 2, k.d / 2, k.h
    arm, back, seat = 0.16 if seats > 1 else 0.13, 0.2, 0.47 * h
    foot = 0.06 if family == "block" else 0.14
    k.legs("dark" if family == "block" else "wood", 0.06, foot, 0.03, "rod" if family == "legs" else "box")
    if family == "tub":
        arm = 0.2
        k.add("cylinder", "main", (w - arm, w), (-d, d), (0.4 * h, 0.4 * h + arm), along="y")
        k.add("cylinder", "main", (-w, -w + arm), (-d, d), (0.4 * h, 0.4 * h + arm), along="y")
        k.add("cylinder", "main", (-w, w), (d - 0.28, d), (h - 0.28, h), along="x")
    arm_top = 0.4 * h + arm / 2 if family == "tub" else 0.66 * h
    k.box("main", (-w, w), (-d + 0.02, d), (foot, seat - 0.12))
    for side in (-1, 1):
        x = sorted((side * w, side * (w - arm)))
        k.box("main", x, (-d, d), (foot, arm_top))
    k.box("main", (-w, w), (d - back, d), (foot, h - 0.14 if family == "tub" else h))
    step = (2 * w - 2 * arm) / seats
    for number in range(seats):
        left = -w + arm + number * step
        k.box("main", (left + 0.008, left + step - 0.008), (-d - 0.01, d - back), (seat - 0.12, seat))
        if family != "tub":
            tilt = turn("x", -8)
            k.box("main", (left + 0.02, left + step - 0.02), (d - back - 0.1, d - back + 0.04), (seat, h - 0.06), tilt)
    front = -d + 0.03
    k.surface((-w + arm + 0.02, w - arm - 0.02), (front, d - back - 0.14), seat)


def armchair(k: Kit, family: str) -> None:
    """One seat between arms."""
    _upholstered(k, family, 1)


def sofa(k: Kit, family: str) -> None:
    """Two or three seats between arms."""
    _upholstered(k, family, 3 if k.w > 1.8 else 2)


def stool(k: Kit, family: str) -> None:
    """A seat without a back."""
    w, d = k.w / 2, k.d / 2
    if family == "square":
        k.legs("main", 0.05, k.h - 0.05)
        k.full("main", (k.h - 0.05, k.h))
    else:
        if family == "pedestal":
            _pedestal(k, "metal", k.h - 0.08, 0.06)
        else:
            for number in range(3):
                x, y = (0.62 * w, -0.31 * w, -0.31 * w)[number], (0, 0.54 * d, -0.54 * d)[number]
                k.add("rod", "main", (x - 0.025, x + 0.025), (y - 0.025, y + 0.025), (0, k.h - 0.06))
            k.add("ring", "main", (-0.75 * w, 0.75 * w), (-0.75 * d, 0.75 * d), (0.3 * k.h, 0.3 * k.h + 0.03))
        k.add("cylinder", "main", (-w, w), (-d, d), (k.h - 0.08, k.h))
    k.surface((-0.6 * w, 0.6 * w), (-0.6 * d, 0.6 * d), k.h)


def bench(k: Kit, family: str) -> None:
    """A long seat without a back."""
    w, d = k.w / 2, k.d / 2
    if family == "panels":
        for side in (-1, 1):
            k.box("main", sorted((side * (w - 0.08), side * (w - 0.16))), (-d, d), (0, k.h - 0.07))
        k.full("main", (k.h - 0.07, k.h))
    else:
        k.legs("wood" if family == "legs" else "main", 0.06, k.h - 0.04, 0.03)
        if family == "legs":
            k.full("main", (k.h - 0.06, k.h))
        else:
            width = k.d / 4
            for number in range(4):
                y = -d + number * width
                k.box("main", (-w, w), (y, y + 0.85 * width), (k.h - 0.04, k.h))
    k.top()


def bed(k: Kit, family: str) -> None:
    """Mattress with cover and pillow end at the back (+y)."""
    w, d, h = k.w / 2, k.d / 2, k.h
    if family == "bunk":
        low, high, post = 0.3 * h, 0.72 * h, 0.07
        for sx in (-1, 1):
            for sy in (-1, 1):
                k.box("wood", sorted((sx * w, sx * (w - post))), sorted((sy * d, sy * (d - post))), (0, h))
        for z in (low, high):
            k.box("main", (-w + 0.02, w - 0.02), (-d + 0.03, d - 0.03), (z - 0.2, z))
        k.box("wood", (-w, w), (d - post, d), (h - 0.1, h))
        k.surface((-w + 0.08, w - 0.08), (-d + 0.08, d - 0.1), high)
        return
    top = 0.52 * h
    board = h if family == "headboard" else 0.8 * h
    if family == "frame":
        k.legs("wood", 0.08, h, 0.0)
        k.box("wood", (-w, w), (-d, -d + 0.05), (0.25 * h, 0.45 * h))
        board = 0.9 * h
    else:
        k.legs("dark", 0.08, 0.12, 0.02)
    k.box("main", (-w, w), (d - 0.07, d), (0.1, board))
    k.box("main" if family == "headboard" else "wood", (-w, w), (-d + 0.01, d), (0.12, 0.3 * h))
    k.box("light", (-w + 0.03, w - 0.03), (d - 0.6, d - 0.07), (0.3 * h, top - 0.02))
    k.box("main", (-w + 0.01, w - 0.01), (-d + 0.02, d - 0.55), (0.22 * h, top))
    k.box("main", (-w + 0.01, w - 0.01), (d - 0.62, d - 0.55), (0.22 * h, top + 0.02))
    number = 2 if k.w > 1.3 else 1
    step = (2 * w - 0.1) / number
    for index in range(number):
        left = -w + 0.05 + index * step
        k.add("soft", "light", (left + 0.02, left + step - 0.02), (d - 0.5, d - 0.1), (top - 0.03, top + 0.11))
    k.surface((-w + 0.05, w - 0.05), (-d + 0.06, d - 0.65), top)


def table(k: Kit, family: str) -> None:
    """A plate on legs or a column."""
    w, d = k.w / 2, k.d / 2
    if family == "legs":
        k.legs("main", 0.07, k.h - 0.05, 0.02)
        k.box("main", (-w + 0.05, w - 0.05), (-d + 0.05, d - 0.05), (k.h - 0.12, k.h - 0.05))
        k.full("main", (k.h - 0.05, k.h))
        k.top(0.04)
        return
    if family == "round":
        for sx, sy in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            x, y = sx * 0.52 * w, sy * 0.52 * d
            k.add("rod", "main", (x - 0.035, x + 0.035), (y - 0.035, y + 0.035), (0, k.h - 0.05))
    else:
        _pedestal(k, "main", k.h - 0.06, 0.16)
    k.add("cylinder", "main", (-w, w), (-d, d), (k.h - 0.06, k.h))
    k.surface((-0.66 * w, 0.66 * w), (-0.66 * d, 0.66 * d), k.h)


def desk(k: Kit, family: str) -> None:
    """A working table: plate with drawers, side panels or trestles."""
    w, d, h = k.w / 2, k.d / 2, k.h
    k.full("main", (h - 0.04, h))
    if family == "trestle":
        for side in (-1, 1):
            x = side * (w - 0.2)
            for sign in (-1, 1):
                y = sorted((sign * (d - 0.04), sign * (d - 0.09)))
                k.box("wood", (x - 0.03, x + 0.03), y, (0, h - 0.04), turn("x", -sign * 8))
            k.box("wood", (x - 0.025, x + 0.025), (-d + 0.1, d - 0.1), (0.35 * h, 0.42 * h))
    else:
        k.box("main", (-w, -w + 0.04), (-d + 0.02, d), (0, h - 0.04))
        k.box("main", (-w, w), (d - 0.03, d), (0.35 * h, h - 0.04))
        if family == "drawers":
            k.box("main", (w - 0.42, w), (-d + 0.02, d), (0.05, h - 0.04))
            height = (h - 0.13) / 3
            for number in range(3):
                low = 0.07 + number * height
                k.front("main", (w - 0.41, w - 0.01), (low, low + height - 0.02), 0.02)
                middle = low + 0.5 * height
                k.box("metal", (w - 0.27, w - 0.15), (-d - 0.015, -d), (middle - 0.02, middle))
        else:
            k.box("main", (w - 0.04, w), (-d + 0.02, d), (0, h - 0.04))
    k.top(0.04)


MODELS = {
    "chair": chair,
    "armchair": armchair,
    "stool": stool,
    "bench": bench,
    "sofa": sofa,
    "bed": bed,
    "table": table,
    "desk": desk,
}
