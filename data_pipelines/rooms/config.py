"""Settings of the room generator, and what its splits draw from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from data_pipelines.flags import flag

SPLITS = ("train", "validation", "test", "ood")
SETTINGS = ("rotation", "among", "around", "walk", "free")
DEFAULT_MIX = (("walk", 0.6), ("rotation", 0.2), ("around", 0.15), ("free", 0.05))
FORMS = ("word", "letter", "number")


def parse_mix(mix: str | Mapping | tuple) -> tuple[tuple[str, float], ...]:
    """Shares of view settings from "walk=.4,rotation=.6", names, a mapping or pairs; they are scaled to sum 1.

    The order of `SETTINGS` and nine decimals, so that equal mixes are equal arguments however written.

    Raises:
      ValueError: an unknown setting, a share that is no number or negative, or all shares 0.
    """
    if isinstance(mix, tuple) and not any(isinstance(part, (tuple, list)) for part in mix):
        mix = ",".join(map(str, mix))
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

    seed: int = flag(0, "of the rooms; other seeds share none")
    views: int = flag(4, "pictures of a room, 1 to 8")
    size: int = flag(64, "side of the square pictures, pixels")
    mix: tuple = flag(DEFAULT_MIX, 'shares of view settings, like "walk=.6,rotation=.4"; one alone by its name')
    questions_per_view: int = flag(24, "grounding questions tried per view")
    spatial_questions: int = flag(16, "spatial questions tried per room")
    scans: bool = flag(
        False, "also ask what, of which colour and how far things are along picture rows (training only)"
    )
    form: str = flag("word", "of the answers: word, letter (shuffled choices) or number (with a unit)")
    objects: tuple = flag((5, 8), "large things in a room, lowest,highest number")
    small_objects: tuple = flag((3, 6), "things on others or on walls, lowest,highest number")
    categories: tuple = flag((), "categories to draw from, like table,chair,lamp; none = all")
    distinct_colours: float = flag(0.85, "share of rooms whose large things all differ in colour")
    fov_deg: tuple = flag((60.0, 75.0), "horizontal field of view, one per room, lowest,highest degrees")
    antialias: bool = flag(True, "average sub-pixel rays where surfaces meet (RGB only)")
    assets: str = flag("", "folder of your own meshes with catalog.json (docs/rooms.md); none = parametric ones alone")
    asset_share: float = flag(0.5, "share of things shown by such a mesh where one of the category exists")

    def __post_init__(self):
        object.__setattr__(self, "mix", parse_mix(self.mix))
        for name in ("objects", "small_objects", "fov_deg", "categories"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        checks = (
            (1 <= self.views <= 8, "views", "1 to 8"),
            (self.size >= 16, "size", "at least 16 pixels"),
            (self.form in FORMS, "form", f"one of {', '.join(FORMS)}"),
            (_ordered(self.objects, int, 2, 12), "objects", "lowest,highest in 2..12"),
            (_ordered(self.small_objects, int, 0, 16), "small_objects", "lowest,highest in 0..16"),
            (_ordered(self.fov_deg, (int, float), 30, 110), "fov_deg", "lowest,highest in 30..110"),
            (all(isinstance(name, str) for name in self.categories), "categories", "words"),
            (0.0 <= self.distinct_colours <= 1.0, "distinct_colours", "0 to 1"),
            (0.0 <= self.asset_share <= 1.0, "asset_share", "0 to 1"),
            (self.seed >= 0, "seed", "0 or more"),
            (self.questions_per_view >= 0, "questions_per_view", "0 or more"),
            (self.spatial_questions >= 0, "spatial_questions", "0 or more"),
        )
        for good, name, wanted in checks:
            if not good:
                raise ValueError(f"--{name} is {getattr(self, name)!r}; expected {wanted}.")


def _ordered(pair: tuple, kind, least: float, most: float) -> bool:
    """Whether it is two numbers, the lower first, within limits."""
    return len(pair) == 2 and all(isinstance(n, kind) for n in pair) and least <= pair[0] <= pair[1] <= most


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
