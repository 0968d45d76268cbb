"""Settings of the room generator, and what its splits draw from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

SPLITS = ("train", "validation", "test", "ood")
SETTINGS = ("rotation", "among", "around", "walk", "free")
DEFAULT_MIX = (("walk", 0.6), ("rotation", 0.2), ("around", 0.15), ("free", 0.05))
FORMS = ("word", "letter", "number")


def parse_mix(mix: str | Mapping | tuple) -> tuple[tuple[str, float], ...]:
    """Shares of view settings from "walk=.4,rotation=.6", a mapping or pairs; they are scaled to sum 1.

    The order of `SETTINGS` and nine decimals, so that equal mixes are equal arguments however written.

    Raises:
      ValueError: an unknown setting, a share that is no number or negative, or all shares 0.
    """
    if isinstance(mix, str):
        pairs = [tuple(part.split("=", 1)) if "=" in part else (part, "1") for part in mix.split(",") if part]
    else:
        pairs = list(mix.items()) if isinstance(mix, Mapping) else [tuple(pair) for pair in mix]
    shares: dict[str, float] = {}
    for name, share in pairs:
        name = str(name).strip()
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if name not in SETTINGS or not 0 <= value < float("inf") or name in shares:
            raise ValueError(
                f"mix: '{name}={share}' is not a setting's share (each once, >= 0): {', '.join(SETTINGS)}."
            )
        shares[name] = value
    total = sum(shares.values())
    if total <= 0:
        raise ValueError(f"mix {mix!r} has no positive share. Settings: {', '.join(SETTINGS)}.")
    return tuple((name, round(shares[name] / total, 9)) for name in SETTINGS if shares.get(name, 0) > 0)


@dataclasses.dataclass(frozen=True)
class RoomsConfig:
    """Arguments of the generator. A record is a pure function of them, the split and its index."""

    seed: int = 0
    views: int = 4  # views of a record, 1 to 8
    size: int = 64  # side of the square pictures, pixels
    mix: tuple = DEFAULT_MIX  # shares of view settings; also "walk=.4,free=.6" or a mapping
    questions_per_view: int = 24  # grounding questions tried per view
    spatial_questions: int = 16  # spatial questions tried per record
    scans: bool = False  # also ask what, of which colour and how far things are along each picture row (training only)
    form: str = "word"  # "word", "letter" or "number"
    objects: tuple = (5, 8)  # large things in a room, lowest and highest number
    small_objects: tuple = (3, 6)  # things on others or on walls
    categories: tuple = ()  # categories to draw from; () = all
    distinct_colours: float = 0.85  # share of rooms whose large things all differ in colour
    fov_deg: tuple = (60.0, 75.0)  # horizontal field of view, one per record
    antialias: bool = True  # average sub-pixel rays where surfaces meet (RGB only)
    assets: str = ""  # folder with catalog.json, "" = parametric meshes only
    asset_share: float = 0.5  # share of things shown by an asset where one of the category exists

    def __post_init__(self):
        object.__setattr__(self, "mix", parse_mix(self.mix))
        for name in ("objects", "small_objects", "fov_deg", "categories"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        checks = (
            (1 <= self.views <= 8, "views", "1 to 8"),
            (self.size >= 16, "size", "at least 16 pixels"),
            (self.form in FORMS, "form", f"one of {', '.join(FORMS)}"),
            (len(self.objects) == 2 and 2 <= self.objects[0] <= self.objects[1] <= 12, "objects", "low, high in 2..12"),
            (
                len(self.small_objects) == 2 and 0 <= self.small_objects[0] <= self.small_objects[1] <= 16,
                "small_objects",
                "low, high in 0..16",
            ),
            (0.0 <= self.distinct_colours <= 1.0, "distinct_colours", "0 to 1"),
            (0.0 <= self.asset_share <= 1.0, "asset_share", "0 to 1"),
            (
                len(self.fov_deg) == 2 and 30 <= self.fov_deg[0] <= self.fov_deg[1] <= 110,
                "fov_deg",
                "low, high in 30..110",
            ),
            (self.seed >= 0, "seed", "not negative"),
            (self.questions_per_view >= 0 and self.spatial_questions >= 0, "questions_per_view", "not negative"),
        )
        for good, name, wanted in checks:
            if not good:
                raise ValueError(f"RoomsConfig.{name} is {getattr(self, name)!r}; expected {wanted}.")


@dataclasses.dataclass(frozen=True)
class Distribution:
    """What a split draws rooms from. Lengths in metres."""

    room_side: tuple[float, float]
    room_height: tuple[float, float]
    ood_shapes: bool  # mesh families of `Category.ood_families`
    wall_patterns: tuple[str, ...]
    floor_patterns: tuple[str, ...]
    object_patterns: tuple[str, ...]
    contrast: float  # how much darker the second colour of an object's pattern is
    circle_radius: tuple[float, float]  # of the "around" setting
    camera_height: tuple[float, float]


DEFAULT = Distribution(
    room_side=(3.8, 6.2),
    room_height=(2.4, 2.9),
    ood_shapes=False,
    wall_patterns=("plaster", "plaster", "stripes", "brick", "fabric"),
    floor_patterns=("planks", "parquet", "tiles", "carpet"),
    object_patterns=("plain", "fabric", "wood", "brushed", "dots"),
    contrast=0.25,
    circle_radius=(1.5, 2.4),
    camera_height=(1.2, 1.7),
)
OOD = Distribution(
    room_side=(6.3, 8.4),
    room_height=(3.0, 3.6),
    ood_shapes=True,
    wall_patterns=("waves", "diamonds", "terrazzo"),
    floor_patterns=("checker", "zigzag", "terrazzo", "marble"),
    object_patterns=("zigzag", "diamonds", "waves", "checker"),
    contrast=0.4,
    circle_radius=(2.5, 3.3),
    camera_height=(0.9, 1.2),
)


def distribution(split: str) -> Distribution:
    """The distribution of a split. Raises ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"Split '{split}' unknown. Splits: {', '.join(SPLITS)}.")
    return OOD if split == "ood" else DEFAULT
