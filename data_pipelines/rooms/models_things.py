"""Parametric lamps, plants, household things, and what hangs on walls."""

from __future__ import annotations

import numpy as np

from data_pipelines.rooms.meshes import Kit, turn


def _round(k: Kit, solid: str, slot: str, share: float, z) -> None:
    """A solid centred on the axis, `share` of the footprint wide."""
    x, y = share * k.w / 2, share * k.d / 2
    k.add(solid, slot, (-x, x), (-y, y), z)


def lamp(k: Kit, family: str) -> None:
    """Floor lamp: foot, pole, shade."""
    w, d, h = k.w / 2, k.d / 2, k.h
    if family == "arc":
        k.add("cylinder", "metal", (-w, -0.1 * w), (-0.5 * d, 0.5 * d), (0, 0.04))
        x = -0.55 * w
        k.add("rod", "metal", (x - 0.02, x + 0.02), (-0.02, 0.02), (0.04, h))
        k.add("rod", "metal", (x, 0.6 * w), (-0.02, 0.02), (h - 0.04, h), along="x")
        k.add("sphere", "main", (-0.1 * w, w), (-d, d), (h - 0.5, h - 0.08))
        return
    _round(k, "cylinder", "main", 0.75, (0, 0.04))
    k.add("rod", "metal", (-0.018, 0.018), (-0.018, 0.018), (0.04, h - 0.1))
    low = h - 0.36
    _round(k, "shade" if family == "cone" else "cylinder", "main", 1.0, (low, h))
    _round(k, "cylinder", "glow", 0.85, (low - 0.004, low + 0.01))


def plant(k: Kit, family: str) -> None:
    """A pot with leaves; the leaves have the object's colour."""
    pot = {"bush": 0.26, "palm": 0.17, "cactus": 0.22}[family] * k.h
    wide = 0.4 if family == "palm" else 0.5
    _round(k, "flare", "wood", wide, (0, pot))
    _round(k, "cylinder", "dark", 0.92 * wide, (pot - 0.01, pot + 0.005))
    if family == "cactus":
        _round(k, "sphere", "main", 0.42, (pot - 0.05, k.h))
        for side in (-1, 1):
            x = sorted((side * 0.12 * k.w, side * 0.5 * k.w))
            k.add("sphere", "main", x, (-0.5 * k.d, 0.5 * k.d), (0.5 * k.h, 0.72 * k.h))
            k.add(
                "sphere", "main", sorted((side * 0.32 * k.w, side * 0.5 * k.w)), (-0.09, 0.09), (0.5 * k.h, 0.9 * k.h)
            )
        return
    trunk = 0.6 * k.h if family == "palm" else pot + 0.1
    k.add("rod", "wood", (-0.025, 0.025), (-0.025, 0.025), (pot, trunk))
    if family == "bush":
        for number in range(14):
            angle, high = 2.4 * number, number / 13
            reach = 0.34 * (1 - 0.5 * high) * k.w
            x, y = reach * np.cos(angle) * (0.3 + 0.7 * (number % 3) / 2), reach * np.sin(angle)
            z, size = pot + (0.12 + 0.76 * high) * (k.h - pot), 0.2 * k.w
            k.add("leaf", "main", (x - size, x + size), (y - size, y + size), (z - 0.8 * size, z + 0.8 * size))
        return
    for number in range(12):
        tilt = turn("z", 30.0 * number) @ turn("y", -38 if number % 2 else 8)
        start, end = tilt @ np.array([0.02, 0, 0]), tilt @ np.array([0.55 * k.w, 0, 0])
        centre = (start + end) / 2 + np.array([0, 0, trunk])
        half = np.array([0.275 * k.w, 0.11 * k.w, 0.025])
        box = np.stack([centre - half, centre + half], -1)
        k.add("leaf", "main", *box, tilt=tilt)


def bin_(k: Kit, family: str) -> None:
    """Waste bin, open above (or with a lid and pedal)."""
    if family == "square":
        w, d, rim = k.w / 2, k.d / 2, 0.02
        for side in (-1, 1):
            k.box("main", sorted((side * w, side * (w - rim))), (-d, d), (0, k.h))
            k.box("main", (-w, w), sorted((side * d, side * (d - rim))), (0, k.h))
        k.box("dark", (-w + rim, w - rim), (-d + rim, d - rim), (0, 0.5 * k.h))
    elif family == "round":
        _round(k, "flare", "main", 0.98, (0, 0.94 * k.h))
        _round(k, "ring", "main", 1.0, (0.9 * k.h, k.h))
        _round(k, "cylinder", "dark", 0.8, (0.93 * k.h, 0.945 * k.h))
    else:
        _round(k, "cylinder", "main", 0.95, (0.03, 0.85 * k.h))
        _round(k, "cushion", "metal", 1.0, (0.8 * k.h, k.h))
        k.box("dark", (-0.05, 0.05), (-k.d / 2 - 0.03, -k.d / 2 + 0.04), (0, 0.03))


def ladder(k: Kit, family: str) -> None:
    """Step ladder (two legs apart) or a straight one leaning back."""
    w, d, h = k.w / 2, k.d / 2, k.h
    lean = np.degrees(np.arctan2(k.d - 0.05, h)) if family == "straight" else np.degrees(np.arctan2(d - 0.03, h))
    middle = 0.0 if family == "straight" else -d / 2
    for side in (-1, 1):
        x = sorted((side * w, side * (w - 0.05)))
        k.box("main", x, (middle - 0.03, middle + 0.03), (0, h), turn("x", -lean))
        if family == "step":
            k.box("metal", x, (d / 2 - 0.02, d / 2 + 0.02), (0, h), turn("x", lean))
    for step in range(1, 6):
        z = step * h / 6
        y = middle + np.tan(np.radians(lean)) * (z - h / 2)
        k.box("main", (-w, w), (y - 0.06, y + 0.05), (z - 0.02, z + 0.02))
    if family == "step":
        k.box("main", (-w, w), (-0.09, 0.09), (h - 0.04, h))


def television(k: Kit, family: str) -> None:
    """A screen on a foot; the lit screen shows the object's colour."""
    w, d, h = k.w / 2, k.d / 2, k.h
    if family == "tube":
        k.box("main", (-w, w), (-d, -d + 0.06), (0, h))
        k.box("main", (-0.7 * w, 0.7 * w), (-d + 0.06, d), (0.08 * h, 0.85 * h))
        k.box("dark", (-0.84 * w, 0.6 * w), (-d - 0.006, -d), (0.12 * h, 0.9 * h))
        return
    k.box("dark", (-0.35 * w, 0.35 * w), (-d, d), (0, 0.025))
    k.box("dark", (-0.06 * w, 0.06 * w), (0, 0.04), (0.02, 0.3 * h))
    k.box("dark", (-w, w), (-0.03, 0.012), (0.14 * h, h))
    k.box("main", (-w + 0.025, w - 0.025), (-0.036, -0.02), (0.14 * h + 0.025, h - 0.025))
    k.box("main", (-w + 0.01, w - 0.01), (0, 0.03), (0.18 * h, h - 0.01))


def laptop(k: Kit, family: str) -> None:
    """Keyboard half and screen half, open or set up like a tent."""
    w, d = k.w / 2, k.d / 2
    if family == "tent":
        lean = np.degrees(np.arctan2(d, k.h))
        for side in (-1, 1):
            y = side * d / 2
            k.box("main", (-w, w), (y - 0.01, y + 0.01), (0, k.h), turn("x", side * lean))
        k.box("glow", (-0.9 * w, 0.9 * w), (-d / 2 - 0.016, -d / 2 - 0.01), (0.08 * k.h, 0.9 * k.h), turn("x", -lean))
        return
    k.box("main", (-w, w), (-d, 0.6 * d), (0, 0.02))
    k.box("dark", (-0.85 * w, 0.85 * w), (-0.5 * d, 0.5 * d), (0.02, 0.024))
    k.box("main", (-w, w), (0.75 * d, 0.75 * d + 0.02), (0.01, k.h), turn("x", -18))
    k.box("glow", (-0.9 * w, 0.9 * w), (0.75 * d - 0.004, 0.75 * d), (0.03, k.h - 0.02), turn("x", -18))


def printer(k: Kit, family: str) -> None:
    """A box with a paper tray."""
    w, d, h = k.w / 2, k.d / 2, k.h
    k.box("main", (-w, w), (-0.6 * d, d), (0, 0.8 * h if family == "tray" else h))
    k.box("dark", (-0.8 * w, 0.8 * w), (-0.62 * d, -0.6 * d), (0.2 * h, 0.42 * h))
    k.box("paper", (-0.6 * w, 0.6 * w), (-d, -0.6 * d), (0.2 * h, 0.24 * h))
    if family == "tray":
        k.box("main", (-0.7 * w, 0.7 * w), (0.6 * d, 0.66 * d), (0.7 * h, h), turn("x", -15))
        k.box("paper", (-0.6 * w, 0.6 * w), (0.5 * d, 0.56 * d), (0.7 * h, 0.98 * h), turn("x", -15))


def microwave(k: Kit, family: str) -> None:
    """A box with a dark window and a strip of keys."""
    w, d, h = k.w / 2, k.d / 2, k.h
    k.box("main", (-w, w), (-d + 0.012, d), (0.015, h))
    k.legs("dark", 0.03, 0.02, 0.02)
    if family == "door":
        k.front("dark", (-0.82 * w, 0.45 * w), (0.25 * h, 0.8 * h), 0.014)
        k.front("metal", (0.68 * w, 0.92 * w), (0.7 * h, 0.85 * h), 0.014)
    else:
        k.add("cylinder", "dark", (-0.7 * w, 0.3 * w), (-d, -d + 0.02), (0.12 * h, 0.9 * h), along="y")
    k.box("metal", (0.5 * w, 0.56 * w), (-d - 0.02, -d + 0.012), (0.2 * h, 0.85 * h))


def box(k: Kit, family: str) -> None:
    """A carton: closed, with open flaps, or with a lid."""
    w, d, h = k.w / 2, k.d / 2, k.h
    if family == "open":
        for side in (-1, 1):
            k.box("main", sorted((side * 0.9 * w, side * (0.9 * w - 0.012))), (-0.9 * d, 0.9 * d), (0, h))
            k.box("main", (-0.9 * w, 0.9 * w), sorted((side * 0.9 * d, side * (0.9 * d - 0.012))), (0, h))
            flap = sorted((side * 0.86 * w, side * w))
            k.box("main", flap, (-0.9 * d, 0.9 * d), (0.86 * h, 0.88 * h), turn("y", side * 25))
        k.box("main", (-0.9 * w, 0.9 * w), (-0.9 * d, 0.9 * d), (0, 0.3 * h))
        return
    k.full("main", (0, h))
    if family == "closed":
        k.box("paper", (-w - 0.002, w + 0.002), (-0.03, 0.03), (0.55 * h, h + 0.003))
    else:
        k.box("main", (-w - 0.012, w + 0.012), (-d - 0.012, d + 0.012), (0.72 * h, h + 0.004))


def vase(k: Kit, family: str) -> None:
    """A turned vase or a square one."""
    if family == "round":
        _round(k, "vase", "main", 1.0, (0, k.h))
    elif family == "slim":
        _round(k, "goblet", "main", 1.0, (0.0, k.h))
        _round(k, "taper", "main", 0.8, (0.0, 0.5 * k.h))
    else:
        k.full("main", (0, 0.85 * k.h))
        k.box("main", (-0.3 * k.w, 0.3 * k.w), (-0.3 * k.d, 0.3 * k.d), (0.85 * k.h, k.h))


def bottle(k: Kit, family: str) -> None:
    """A bottle with a stopper."""
    if family == "wine":
        _round(k, "bottle", "main", 1.0, (0, 0.95 * k.h))
    else:
        _round(k, "cone", "main", 1.0, (0, 0.8 * k.h))
        _round(k, "rod", "main", 0.35, (0.5 * k.h, 0.95 * k.h))
    _round(k, "rod", "light", 0.34, (0.9 * k.h, k.h))


def cup(k: Kit, family: str) -> None:
    """A mug with a handle, or a goblet."""
    if family == "goblet":
        _round(k, "goblet", "main", 1.0, (0, k.h))
        return
    x = (-0.5 * k.w, 0.26 * k.w)
    k.add("ring", "main", x, (-k.d / 2, k.d / 2), (0, k.h))
    k.add("cylinder", "main", (-0.48 * k.w, 0.24 * k.w), (-0.46 * k.d, 0.46 * k.d), (0, 0.7 * k.h))
    k.add("torus", "main", (0.1 * k.w, 0.5 * k.w), (-0.02, 0.02), (0.2 * k.h, 0.85 * k.h), along="y")


def bowl(k: Kit, family: str) -> None:
    """An open bowl."""
    if family == "round":
        _round(k, "bowl", "main", 1.0, (0, k.h))
        return
    w, d, rim = k.w / 2, k.d / 2, 0.02
    for side in (-1, 1):
        k.box("main", sorted((side * w, side * (w - rim))), (-d, d), (0, k.h))
        k.box("main", (-w, w), sorted((side * d, side * (d - rim))), (0, k.h))
    k.full("main", (0, 0.2 * k.h))


def book(k: Kit, family: str) -> None:
    """A pile of two books, or a thick one."""
    w, d = k.w / 2, k.d / 2
    volumes = ((0.0, 1.0, 0.0),) if family == "thick" else ((0.0, 0.48, 0.0), (0.52, 1.0, 0.04))
    for low, high, shift in volumes:
        x, y = (-w + shift, w - 0.5 * shift), (-d + 0.5 * shift, d - shift)
        cover = 0.08 * k.h
        k.box("main", x, y, (low * k.h, low * k.h + cover))
        k.box("main", x, y, (high * k.h - cover, high * k.h))
        k.box("paper", (x[0] + 0.01, x[1] - 0.01), (y[0] + 0.01, y[1] - 0.01), (low * k.h + cover, high * k.h - cover))
        k.box("main", (x[0], x[0] + 0.014), y, (low * k.h + cover, high * k.h - cover))


def clock(k: Kit, family: str) -> None:
    """A standing clock with a pale face and two hands."""
    w, d, h = k.w / 2, k.d / 2, k.h
    if family == "round":
        k.add("cylinder", "main", (-w, w), (-d, d), (0.06 * h, h), along="y")
        k.add("cylinder", "light", (-0.68 * w, 0.68 * w), (-d - 0.004, -d + 0.004), (0.21 * h, 0.85 * h), along="y")
        k.box("main", (-0.6 * w, 0.6 * w), (-d, d), (0, 0.12 * h))
    else:
        k.full("main", (0, h))
        k.box("light", (-0.66 * w, 0.66 * w), (-d - 0.004, -d), (0.2 * h, 0.85 * h))
    k.box("dark", (-0.012, 0.012), (-d - 0.012, -d), (0.52 * h, 0.78 * h))
    k.box("dark", (0.0, 0.4 * w), (-d - 0.012, -d), (0.5 * h, 0.55 * h))


def kettle(k: Kit, family: str) -> None:
    """A kettle with a spout and a handle."""
    w, d, h = k.w / 2, k.d / 2, k.h
    body = (-0.6 * w, 0.6 * w)
    k.add("sphere" if family == "round" else "taper", "main", body, (-d, d), (0, 0.72 * h))
    k.add("taper", "main", (-0.4 * w, 0.4 * w), (-0.6 * d, 0.6 * d), (0, 0.2 * h))
    k.add("rod", "metal", (0.4 * w, w), (-0.03, 0.03), (0.42 * h, 0.54 * h), along="x", tilt=turn("y", -25))
    k.add("ball", "dark", (-0.03, 0.03), (-0.03, 0.03), (0.68 * h, 0.78 * h))
    k.add("torus", "dark", (-0.7 * w, 0.7 * w), (-0.02, 0.02), (0.45 * h, h), along="y")
    k.box("metal", (-w, -0.55 * w), (-0.015, 0.015), (0.5 * h, 0.54 * h))


def pillow(k: Kit, family: str) -> None:
    """A cushion or a bolster."""
    if family == "roll":
        k.add("cylinder", "main", (-k.w / 2, k.w / 2), (-k.d / 2, k.d / 2), (0, k.h), along="x")
    else:
        _round(k, "soft", "main", 1.0, (0, k.h))


def bag(k: Kit, family: str) -> None:
    """A bag with two handles, or a small case."""
    w, d, h = k.w / 2, k.d / 2, k.h
    body = 0.68 * h if family == "tote" else 0.82 * h
    k.box("main", (-w, w), (-d, d), (0, 0.5 * body))
    k.box("main", (-0.92 * w, 0.92 * w), (-0.8 * d, 0.8 * d), (0.5 * body, body))
    for y in (-0.45 * d, 0.45 * d) if family == "tote" else (0.0,):
        k.add("torus", "main", (-0.5 * w, 0.5 * w), (y - 0.015, y + 0.015), (body - 0.4 * (h - body), h), along="y")
    if family == "case":
        k.box("metal", (-0.06, 0.06), (-d - 0.006, -d), (0.4 * h, 0.5 * h))


def painting(k: Kit, family: str) -> None:
    """A framed canvas, or two side by side."""
    w, d = k.w / 2, k.d / 2
    spans = ((-w, w),) if family == "frame" else ((-w, -0.04), (0.04, w))
    for left, right in spans:
        k.box("main", (left + 0.01, right - 0.01), (-0.6 * d, d), (0.01, k.h - 0.01))
        for edge in (left, right - 0.035):
            k.box("wood", (edge, edge + 0.035), (-d, d), (0, k.h))
        for low in (0.0, k.h - 0.035):
            k.box("wood", (left, right), (-d, d), (low, low + 0.035))


def radiator(k: Kit, family: str) -> None:
    """Heating ribs between two pipes."""
    w, d = k.w / 2, k.d / 2
    if family == "panel":
        k.full("main", (0, k.h))
        return
    ribs = max(6, round(k.w / 0.085))
    step = k.w / ribs
    for number in range(ribs):
        x = -w + number * step
        k.box("main", (x + 0.08 * step, x + 0.92 * step), (-d, d), (0, k.h))
    for low in (0.08 * k.h, 0.86 * k.h):
        k.add("rod", "main", (-w, w), (-0.03, 0.03), (low, low + 0.05), along="x")


MODELS = {
    "lamp": lamp,
    "plant": plant,
    "bin": bin_,
    "ladder": ladder,
    "television": television,
    "monitor": television,
    "laptop": laptop,
    "printer": printer,
    "microwave": microwave,
    "box": box,
    "vase": vase,
    "bottle": bottle,
    "cup": cup,
    "bowl": bowl,
    "book": book,
    "clock": clock,
    "kettle": kettle,
    "pillow": pillow,
    "bag": bag,
    "painting": painting,
    "radiator": radiator,
}
