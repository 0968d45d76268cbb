"""What can stand in a room: colours, categories, plausible sizes, and where each thing stands.

An object's own frame: x = width, y = depth, z = up, origin in the middle of its underside. The
front (of a sofa, a wardrobe, a screen) looks along own -y, the back along own +y. The mesh families
named here are built in `models_*.py`.
"""

from __future__ import annotations

import dataclasses

# Main colours of objects, sRGB. Brown and grey are left to floors, walls, wood and metal.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 32),
    "orange": (255, 130, 16),
    "yellow": (246, 216, 40),
    "green": (34, 150, 52),
    "cyan": (40, 200, 208),
    "blue": (32, 64, 204),
    "purple": (122, 40, 168),
    "pink": (250, 138, 190),
    "white": (244, 244, 240),
    "black": (28, 28, 32),
}


@dataclasses.dataclass(frozen=True)
class Category:
    """How big a thing of one kind is and where it goes.

    `low` and `high` bound width, depth and height in metres (each drawn uniformly). `families` are
    the mesh families of the default splits, `ood_families` those of the out-of-distribution split.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    families: tuple[str, ...]
    ood_families: tuple[str, ...]
    placement: str = "wall"  # "wall" (back to a wall), "free", "any", "hung" (on a wall), "top" (on another thing)
    stands_on: tuple[str, ...] = ()  # categories it may stand on when placement is "top"
    weight: float = 1.0  # relative frequency among things of its kind (large, top, hung)
    bottom: tuple[float, float] = (0.0, 0.0)  # height of the underside above the floor, metres, when "hung"

    @property
    def small(self) -> bool:
        """Stands on a larger thing or hangs on a wall."""
        return self.placement in ("top", "hung")


def _large(low, high, families, ood_families, placement="wall", weight=1.0) -> Category:
    return Category(low, high, families, ood_families, placement, (), weight)


def _top(low, high, families, ood_families, stands_on, weight=1.0) -> Category:
    return Category(low, high, families, ood_families, "top", stands_on, weight)


_TABLES = ("table", "desk")
_CHESTS = ("dresser", "nightstand", "bookshelf", "piano")
_KITCHEN = ("table", "stove", "refrigerator", "dresser")
_SEATS = ("sofa", "armchair", "bed", "bench")

CATEGORIES: dict[str, Category] = {
    # Large things, on the floor.
    "chair": _large((0.42, 0.44, 0.80), (0.54, 0.56, 1.02), ("legs", "slats"), ("pedestal",), "any", 2.0),
    "armchair": _large((0.72, 0.72, 0.78), (0.95, 0.92, 1.02), ("block", "legs"), ("tub",), "any", 1.3),
    "stool": _large((0.32, 0.32, 0.42), (0.44, 0.44, 0.70), ("round", "square"), ("pedestal",), "free", 1.0),
    "bench": _large((1.00, 0.34, 0.40), (1.60, 0.46, 0.50), ("legs", "slats"), ("panels",), "any", 0.8),
    "sofa": _large((1.50, 0.78, 0.72), (2.20, 0.98, 0.92), ("block", "legs"), ("tub",), "wall", 1.5),
    "bed": _large((0.95, 1.90, 0.75), (1.80, 2.15, 1.15), ("headboard", "frame"), ("bunk",), "wall", 1.5),
    "table": _large((0.95, 0.70, 0.70), (1.70, 1.00, 0.78), ("legs", "round"), ("pedestal",), "free", 1.8),
    "desk": _large((1.00, 0.55, 0.72), (1.60, 0.75, 0.78), ("drawers", "panels"), ("trestle",), "wall", 1.3),
    "wardrobe": _large((0.85, 0.52, 1.75), (1.50, 0.65, 2.15), ("doors", "panels"), ("curtain",), "wall", 1.2),
    "bookshelf": _large((0.65, 0.26, 1.40), (1.25, 0.38, 2.05), ("filled", "open"), ("ladder",), "wall", 1.4),
    "dresser": _large((0.80, 0.42, 0.72), (1.40, 0.52, 1.00), ("drawers", "doors"), ("legs",), "wall", 1.2),
    "nightstand": _large((0.38, 0.36, 0.42), (0.54, 0.46, 0.62), ("drawers", "open"), ("legs",), "wall", 0.8),
    "refrigerator": _large((0.58, 0.58, 1.45), (0.82, 0.70, 1.90), ("two", "three"), ("double",), "wall", 1.0),
    "stove": _large((0.55, 0.56, 0.84), (0.70, 0.66, 0.94), ("oven",), ("hood",), "wall", 0.8),
    "piano": _large((1.35, 0.55, 1.10), (1.55, 0.66, 1.30), ("upright",), ("spinet",), "wall", 0.7),
    "bathtub": _large((1.50, 0.70, 0.52), (1.80, 0.82, 0.64), ("box", "round"), ("feet",), "wall", 0.7),
    "toilet": _large((0.38, 0.62, 0.74), (0.46, 0.74, 0.86), ("tank",), ("box",), "wall", 0.8),
    "lamp": _large((0.34, 0.34, 1.35), (0.52, 0.52, 1.80), ("cone", "drum"), ("arc",), "any", 1.2),
    "plant": _large((0.45, 0.45, 0.75), (0.85, 0.85, 1.60), ("bush", "palm"), ("cactus",), "any", 1.3),
    "bin": _large((0.26, 0.26, 0.34), (0.42, 0.42, 0.62), ("round", "square"), ("pedal",), "any", 1.0),
    "ladder": _large((0.48, 0.75, 1.35), (0.62, 1.00, 1.85), ("step",), ("straight",), "any", 0.6),
    # Small things that stand on larger ones.
    "television": _top(
        (0.75, 0.16, 0.48), (1.25, 0.24, 0.76), ("flat",), ("tube",), ("dresser", "bench", "table"), 1.2
    ),
    "monitor": _top((0.46, 0.16, 0.38), (0.64, 0.22, 0.52), ("flat",), ("tube",), ("desk",), 1.0),
    "laptop": _top((0.32, 0.30, 0.22), (0.40, 0.36, 0.28), ("open",), ("tent",), ("desk", "table", "bed"), 0.9),
    "printer": _top((0.38, 0.34, 0.20), (0.48, 0.42, 0.30), ("tray",), ("tower",), ("desk", "dresser"), 0.8),
    "microwave": _top((0.44, 0.34, 0.26), (0.56, 0.42, 0.34), ("door",), ("round",), _KITCHEN, 0.8),
    "box": _top(
        (0.26, 0.22, 0.18), (0.46, 0.38, 0.34), ("closed", "open"), ("lid",), _TABLES + _CHESTS + ("wardrobe",), 1.0
    ),
    "vase": _top((0.16, 0.16, 0.28), (0.24, 0.24, 0.46), ("round", "slim"), ("square",), _TABLES + _CHESTS, 1.0),
    "bottle": _top((0.09, 0.09, 0.26), (0.13, 0.13, 0.38), ("wine",), ("flask",), _TABLES + _KITCHEN, 0.7),
    "cup": _top((0.11, 0.09, 0.10), (0.16, 0.13, 0.15), ("mug",), ("goblet",), _TABLES + ("nightstand",), 0.7),
    "bowl": _top((0.24, 0.24, 0.10), (0.36, 0.36, 0.16), ("round",), ("square",), _KITCHEN, 0.8),
    "book": _top((0.20, 0.26, 0.05), (0.30, 0.36, 0.14), ("stack",), ("thick",), _TABLES + _CHESTS + ("bed",), 0.8),
    "clock": _top((0.20, 0.09, 0.22), (0.30, 0.13, 0.32), ("round",), ("square",), _CHESTS + ("desk",), 0.7),
    "kettle": _top((0.24, 0.18, 0.22), (0.30, 0.22, 0.30), ("round",), ("jug",), ("stove", "table"), 0.7),
    "pillow": _top((0.40, 0.30, 0.14), (0.56, 0.42, 0.20), ("soft",), ("roll",), _SEATS, 1.2),
    "bag": _top((0.30, 0.16, 0.30), (0.44, 0.24, 0.44), ("tote",), ("case",), _SEATS + ("table",), 0.8),
    # Flat things on a wall.
    "painting": Category((0.55, 0.04, 0.42), (1.10, 0.06, 0.85), ("frame",), ("pair",), "hung", (), 1.0, (1.20, 1.50)),
    "radiator": Category((0.60, 0.10, 0.50), (1.20, 0.14, 0.65), ("ribs",), ("panel",), "hung", (), 0.7, (0.10, 0.14)),
}
