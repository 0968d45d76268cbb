"""Furnishes a room: which things, how big, what colour, where. Nothing touches anything it should not."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.rooms import boxes as bx
from data_pipelines.rooms import models, structure
from data_pipelines.rooms.assets import Asset, AssetLibrary, load_assets
from data_pipelines.rooms.config import Distribution, RoomsConfig, distribution
from data_pipelines.rooms.furniture import CATEGORIES, COLOURS, Category
from data_pipelines.rooms.meshes import Model, Surface
from data_pipelines.rooms.scene import Scene, SceneObject
from data_pipelines.rooms.textures import Material

CLEARANCE = 0.08  # metres between large things
SMALL_CLEARANCE = 0.02  # metres between things on the same support
_TRIES = 48  # poses tried at once for one thing


@dataclasses.dataclass(frozen=True)
class _Thing:
    """One thing before it is placed."""

    category: str
    colour: str
    shape: str
    size: np.ndarray
    placement: str
    stands_on: tuple[str, ...]
    bottom: float
    model: Model
    materials: tuple[Material, ...]  # for the model's slots


class _Room:
    """Things placed so far and everything needed to place more."""

    def __init__(self, size: np.ndarray, shell: structure.Shell, materials: tuple[Material, ...]):
        self.size, self.shell, self.materials = size, shell, list(materials)
        self.blocked = _openings(size, shell.openings)
        self.placed = bx.empty()
        self.objects: list[SceneObject] = []
        self.surfaces: list[tuple[Surface, ...]] = []

    def free(self, poses: bx.Boxes, margin: float, ignore: int | None = None) -> np.ndarray:
        """bool[N]: which poses hit neither openings nor other things (but `ignore`)."""
        hit = bx.overlap(poses, self.placed, margin)
        if ignore is not None:
            hit[:, ignore] = False
        return ~hit.any(1) & ~bx.overlap(poses, self.blocked).any(1)

    def put(self, thing: _Thing, pose: bx.Boxes, stands_on: int | None = None) -> None:
        """Adds a thing at a pose (one box)."""
        yaw, centre, low = float(pose.yaw[0]), pose.centre[0], float(pose.low[0])
        c, s = np.cos(yaw), np.sin(yaw)
        turned = thing.model.vertices @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        base, slot = len(self.materials), thing.model.face_slot
        if thing.shape == "parametric":  # parts other than "main" share the scene's accent materials
            material = np.where(slot == 0, base, len(structure.SHELL) - 1 + slot)
        else:
            material = base + slot
        self.materials += thing.materials
        self.objects.append(
            SceneObject(
                index=len(self.objects),
                category=thing.category,
                colour=thing.colour,
                shape=thing.shape,
                size=thing.size,
                centre=np.array([*centre, low + thing.size[2] / 2]),
                yaw=yaw,
                stands_on=stands_on,
                vertices=(turned + np.array([*centre, low])).astype(np.float32),
                faces=thing.model.faces,
                face_material=material.astype(np.int32),
            )
        )
        self.surfaces.append(thing.model.surfaces)
        self.placed = bx.join(self.placed, pose)


def _openings(size: np.ndarray, openings: tuple[structure.Opening, ...]) -> bx.Boxes:
    """Space that must stay free: in front of doors, and a hand's breadth before windows."""
    rows = []
    for opening in openings:
        start, along, inward, _ = structure.wall_frame(size, opening.wall)
        reach = structure.DOOR_CLEARANCE if opening.kind == "door" else 0.15
        centre = start + along * sum(opening.along) / 2 + inward * reach / 2
        half = ((opening.along[1] - opening.along[0]) / 2, reach / 2)
        rows.append((centre, half, np.arctan2(along[1], along[0]), *opening.z))
    if not rows:
        return bx.empty()
    return bx.Boxes(*(np.array(column, np.float64) for column in zip(*rows, strict=True)))


def _poses(thing: _Thing, centre: np.ndarray, yaw: np.ndarray, low) -> bx.Boxes:
    count = len(yaw)
    half = np.tile(thing.size[:2] / 2, (count, 1))
    low = np.broadcast_to(np.asarray(low, np.float64), (count,)).copy()
    return bx.Boxes(centre, half, yaw, low, low + thing.size[2])


def _wall_poses(room: _Room, thing: _Thing, rng: np.random.Generator) -> bx.Boxes:
    """Back to a wall, front into the room."""
    frames = [structure.wall_frame(room.size, wall) for wall in range(4)]
    start, along, inward = (np.stack([frame[k] for frame in frames]) for k in range(3))
    wall, hung = rng.integers(0, 4, _TRIES), thing.placement == "hung"
    edge = thing.size[0] / 2 + 0.05
    room_along = np.array([frame[3] for frame in frames])[wall] - 2 * edge
    reach = edge + np.maximum(room_along, 0.0) * rng.random(_TRIES)  # too short a wall fails the room test
    gap = np.full(_TRIES, 0.001) if hung else structure.PROUD + rng.uniform(0.005, 0.04, _TRIES)
    centre = start[wall] + along[wall] * reach[:, None] + inward[wall] * (gap + thing.size[1] / 2)[:, None]
    yaw = np.arctan2(-along[wall, 1], -along[wall, 0])
    return _poses(thing, centre, yaw, thing.bottom if hung else 0.0)


def _free_poses(room: _Room, thing: _Thing, rng: np.random.Generator) -> bx.Boxes:
    """Anywhere on the floor, turned anyhow; half of the time square to the walls."""
    yaw = rng.uniform(-np.pi, np.pi, _TRIES)
    square = rng.random(_TRIES) < 0.5
    yaw = np.where(square, np.round(yaw / (np.pi / 2)) * (np.pi / 2), yaw)
    return _poses(thing, rng.uniform(0.3, room.size[:2] - 0.3, (_TRIES, 2)), yaw, 0.0)


def _seat_poses(room: _Room, thing: _Thing, table: SceneObject, rng: np.random.Generator) -> bx.Boxes:
    """Around a table, front towards it."""
    side = rng.integers(0, 4, _TRIES)
    axis, sign = side % 2, np.where(side < 2, 1.0, -1.0)
    away = table.size[axis] / 2 + thing.size[1] / 2 + rng.uniform(CLEARANCE + 0.01, 0.25, _TRIES)
    slide = rng.uniform(-0.3, 0.3, _TRIES) * table.size[1 - axis]
    own = np.where((axis == 0)[:, None], np.stack([sign * away, slide], -1), np.stack([slide, sign * away], -1))
    c, s = np.cos(table.yaw), np.sin(table.yaw)
    centre = table.centre[:2] + own @ np.array([[c, s], [-s, c]])
    outward = np.where(axis == 0, np.where(sign > 0, 0.0, np.pi), sign * np.pi / 2) + table.yaw
    return _poses(thing, centre, outward - np.pi / 2 + rng.normal(0, 0.12, _TRIES), 0.0)


def _place(room: _Room, thing: _Thing, rng: np.random.Generator) -> bool:
    """Puts a thing at the first pose that fits."""
    placement = thing.placement
    if placement == "top":
        return _place_on_top(room, thing, rng)
    if placement == "any":
        placement = "wall" if rng.random() < 0.4 else "free"
    tables = [item for item in room.objects if item.category in ("table", "desk")]
    if thing.category in ("chair", "stool") and tables and rng.random() < 0.6:
        poses = _seat_poses(room, thing, tables[int(rng.integers(len(tables)))], rng)
    else:
        poses = (_free_poses if placement == "free" else _wall_poses)(room, thing, rng)
    margin = 0.0 if placement in ("wall", "hung") else 0.12
    good = bx.inside_room(poses, room.size, margin) & room.free(poses, CLEARANCE)
    good &= poses.high < room.size[2] - 0.05
    if not good.any():
        return False
    room.put(thing, poses.take([int(np.argmax(good))]))
    return True


def _place_on_top(room: _Room, thing: _Thing, rng: np.random.Generator) -> bool:
    """Puts a small thing on a supporting surface that is wide, strong and free enough."""
    hosts = [item.index for item in room.objects if item.category in thing.stands_on and room.surfaces[item.index]]
    for host in rng.permutation(hosts).astype(int):
        support = room.objects[host]
        surfaces = room.surfaces[host]
        surface = surfaces[int(rng.integers(len(surfaces)))]
        turn = rng.normal(0.0, 0.2, _TRIES).clip(-0.4, 0.4)
        c, s = np.abs(np.cos(turn)), np.abs(np.sin(turn))
        reach = np.stack([c * thing.size[0] + s * thing.size[1], s * thing.size[0] + c * thing.size[1]], -1) / 2
        low = np.array([surface.x[0], surface.y[0]]) + reach
        high = np.array([surface.x[1], surface.y[1]]) - reach
        own = low + (high - low) * rng.random((_TRIES, 2))
        c, s = np.cos(support.yaw), np.sin(support.yaw)
        centre = support.centre[:2] + own @ np.array([[c, s], [-s, c]])
        base = support.centre[2] - support.size[2] / 2 + surface.z
        poses = _poses(thing, centre, support.yaw + turn, base)
        good = (high >= low).all(1) & room.free(poses, SMALL_CLEARANCE, ignore=host)
        good &= (thing.size[2] < surface.headroom) & (poses.high < room.size[2] - 0.05)
        if good.any():
            room.put(thing, poses.take([int(np.argmax(good))]), stands_on=int(host))
            return True
    return False


def category_table(config: RoomsConfig, library: AssetLibrary, ood: bool | None = None) -> dict[str, Category]:
    """The categories that rooms of this config draw from, of all splits or of ood or the others alone.

    Raises:
      ValueError: `config.categories` names an unknown one, or none that stands on the floor.
    """
    table = {**library.categories(), **CATEGORIES}
    if unknown := sorted(set(config.categories) - set(table)):
        raise ValueError(f"categories {unknown} unknown. Known: {', '.join(sorted(table))}.")
    own = {asset.category for asset in library.assets if ood in (None, asset.ood)}
    wanted = config.categories or table
    table = {name: table[name] for name in wanted if name in CATEGORIES or name in own}
    if not any(not spec.small for spec in table.values()):
        raise ValueError("categories: none of them stands on the floor; add a large one such as 'table'.")
    return table


class _Drawer:
    """Draws things: category, shape, size, colour, materials."""

    def __init__(self, config: RoomsConfig, dist: Distribution, library: AssetLibrary, rng: np.random.Generator):
        self.config, self.dist, self.rng = config, dist, rng
        self.assets = [asset for asset in library.assets if asset.ood == dist.ood_shapes]
        self.table = category_table(config, library, dist.ood_shapes)
        self.palette = [str(name) for name in rng.permutation(list(COLOURS))]
        self.distinct = rng.random() < config.distinct_colours
        self.drawn = 0
        self.used: set[tuple[str, str]] = set()

    def category(self, small: bool, present: set[str] = frozenset()) -> str | None:
        """A category by weight; small ones only if something that carries them is present."""
        names = [
            name
            for name, spec in self.table.items()
            if spec.small == small and (not spec.stands_on or present & set(spec.stands_on))
        ]
        if not names:
            return None
        weights = np.array([self.table[name].weight for name in names])
        return names[int(self.rng.choice(len(names), p=weights / weights.sum()))]

    def colour(self, category: str) -> str:
        """The next unused colour in most rooms, else any; never twice the same for one category."""
        self.drawn += 1
        if self.distinct and self.drawn <= len(self.palette):
            return self.palette[self.drawn - 1]
        names = list(COLOURS)
        fresh = [name for name in names if (category, name) not in self.used] if self.distinct else names
        return str(self.rng.choice(fresh or names))

    def thing(self, category: str) -> _Thing:
        """One thing of the category: an asset where there is one and chance wants it, else parametric."""
        spec, rng = self.table[category], self.rng
        assets = [asset for asset in self.assets if asset.category == category]
        if assets and (not spec.families or rng.random() < self.config.asset_share):
            return self._from_asset(assets[int(rng.integers(len(assets)))], spec)
        families = spec.ood_families if self.dist.ood_shapes else spec.families
        size = rng.uniform(spec.low, spec.high)
        if abs(spec.low[0] - spec.low[1]) < 1e-9 and abs(spec.high[0] - spec.high[1]) < 1e-9:
            size[1] = size[0]  # round things stay round
        family = families[int(rng.integers(len(families)))]
        model = models.build(category, family, size, rng)
        colour = self.colour(category)
        self.used.add((category, colour))
        materials = (self._paint(category, colour),)
        return _Thing(
            category,
            colour,
            "parametric",
            size,
            spec.placement,
            spec.stands_on,
            rng.uniform(*spec.bottom),
            model,
            materials,
        )

    def _from_asset(self, asset: Asset, spec: Category) -> _Thing:
        self.used.add((asset.category, asset.colour))
        stands_on = asset.stands_on if asset.placement == "top" else ()
        bottom = self.rng.uniform(1.2, 1.5) if asset.placement == "hung" else 0.0
        return _Thing(
            asset.category,
            asset.colour,
            asset.name,
            asset.size,
            asset.placement,
            stands_on,
            bottom,
            asset.model,
            asset.materials,
        )

    def _paint(self, category: str, colour: str) -> Material:
        rgb = np.array(COLOURS[colour], np.float64)
        rng = self.rng
        pattern = self.dist.object_patterns[int(rng.integers(len(self.dist.object_patterns)))]
        contrast = self.dist.contrast
        if category == "painting":
            pattern, contrast = "picture", 0.5
        high = np.clip(rgb * rng.uniform(0.94, 1.04), 0, 255)
        low = np.clip(rgb * (1 - contrast * rng.uniform(0.5, 1.0)), 0, 255)
        scale = rng.uniform(0.35, 0.9) if category != "painting" else 1.0
        return Material(f"{colour} {pattern}", pattern, int(rng.integers(3)), tuple(low), tuple(high), scale)


def make_scene(seed: int, split: str, config: RoomsConfig) -> Scene:
    """A furnished room, a pure function of the arguments (and of the assets' files).

    The room has the wanted number of large things (`config.objects`) unless they do not fit in 8
    attempts; then the best attempt is taken, which has at least 2.

    Args:
      seed: any non-negative whole number; different seeds give different rooms.
      split: one of config.SPLITS; only its distribution matters here.
      config: generator settings.

    Raises:
      ValueError: an unknown split or category.
    """
    dist = distribution(split)
    library = load_assets(config.assets)
    best, most = None, -1
    for attempt in range(8):
        rng = np.random.default_rng([1, seed, attempt])
        room, placed, wanted = _furnish(rng, dist, config, library)
        if placed > most:
            best, most = room, placed
        if placed == wanted:
            break
    return Scene(
        id=f"room-{seed}",
        seed=seed,
        size=best.size,
        objects=tuple(best.objects),
        structure_vertices=best.shell.vertices,
        structure_faces=best.shell.faces,
        structure_material=best.shell.material,
        materials=tuple(best.materials),
        lights=best.shell.lights,
    )


def _furnish(rng, dist: Distribution, config: RoomsConfig, library: AssetLibrary) -> tuple[_Room, int, int]:
    """One attempt at a room; how many large things it has and should have."""
    size = np.array([*rng.uniform(*dist.room_side, 2), rng.uniform(*dist.room_height)])
    shell = structure.make_shell(size, rng)
    materials = structure.shell_materials(rng, dist.wall_patterns, dist.floor_patterns)
    room = _Room(size, shell, materials + models.accent_materials(rng))
    drawer = _Drawer(config, dist, library, rng)
    wanted = int(rng.integers(config.objects[0], config.objects[1] + 1))
    names = [drawer.category(small=False) for _ in range(wanted)]
    if rng.random() < 0.35:  # repeated things give counts above one
        repeats = min(int(rng.integers(2, 4)), wanted)
        names[:repeats] = [names[0]] * repeats
    things = sorted((drawer.thing(name) for name in names), key=lambda thing: -thing.size[0] * thing.size[1])
    placed = sum(any(_place(room, thing, rng) for _ in range(3)) for thing in things)
    for _ in range(int(rng.integers(config.small_objects[0], config.small_objects[1] + 1))):
        present = {item.category for item in room.objects if room.surfaces[item.index]}
        name = drawer.category(small=True, present=present)
        if name is not None:
            _place(room, drawer.thing(name), rng)
    return room, placed, wanted
