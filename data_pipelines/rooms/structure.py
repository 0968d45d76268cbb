"""The shell of a room: floor, ceiling, four walls, skirting, doors, windows, ceiling lights."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.rooms.meshes import solids
from data_pipelines.rooms.textures import Material

# Materials of the shell in this order at the start of Scene.materials.
SHELL = ("floor", "ceiling", "wall", "skirting", "door", "frame", "glass", "handle", "fixture")
DOOR_CLEARANCE = 0.9  # metres kept free in front of a door
PROUD = 0.045  # how far frames stand out of the wall at most, metres


@dataclasses.dataclass(frozen=True)
class Opening:
    """A door or window: wall number, span along it, heights. Metres."""

    kind: str  # "door" or "window"
    wall: int
    along: tuple[float, float]
    z: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Shell:
    """Geometry of the shell and what limits the furniture."""

    vertices: np.ndarray  # float32[N,3]
    faces: np.ndarray  # int32[M,3]
    material: np.ndarray  # int32[M], index into SHELL
    openings: tuple[Opening, ...]
    lights: np.ndarray  # float64[2,3]


def wall_frame(size: np.ndarray, wall: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Start corner, unit direction along, unit normal into the room (all float64[2]), and length of a wall.

    Walls are numbered 0 (y = 0), 1 (x = size x), 2 (y = size y), 3 (x = 0).
    """
    x, y = float(size[0]), float(size[1])
    corners = np.array([[0.0, 0.0], [x, 0.0], [x, y], [0.0, y]])
    along = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])[wall]
    return corners[wall], along, np.array([-along[1], along[0]]), (x, y)[wall % 2]


class _Builder:
    def __init__(self, size: np.ndarray):
        self.size = size
        self.vertices: list[np.ndarray] = []
        self.faces: list[np.ndarray] = []
        self.material: list[int] = []
        self.count = 0

    def _add(self, vertices: np.ndarray, faces: np.ndarray, material: str) -> None:
        self.vertices.append(vertices)
        self.faces.append(faces + self.count)
        self.material += [SHELL.index(material)] * len(faces)
        self.count += len(vertices)

    def quad(self, corners: np.ndarray, material: str) -> None:
        self._add(np.asarray(corners, np.float64), np.array([[0, 1, 2], [0, 2, 3]]), material)

    def box(self, low: np.ndarray, high: np.ndarray, material: str) -> None:
        unit, faces = solids()["box"]
        low, high = np.minimum(low, high), np.maximum(low, high)
        self._add(unit * (high - low) + (high + low) / 2, faces, material)

    def slab(self, wall: int, along, z, proud, material: str) -> None:
        """A box on a wall: span along it, heights, and from/to distance out of it."""
        start, direction, inward, _ = wall_frame(self.size, wall)
        ends = [start + direction * along[i] + inward * proud[i] for i in (0, 1)]
        self.box(np.array([*ends[0], z[0]]), np.array([*ends[1], z[1]]), material)


def bare_shell(size: np.ndarray) -> Shell:
    """Floor, ceiling and walls only: a box whose inside is [0, x] x [0, y] x [0, z]."""
    builder = _Builder(np.asarray(size, np.float64))
    _planes(builder)
    return _finish(builder, ())


def _planes(builder: _Builder) -> None:
    x, y, z = builder.size
    builder.quad([[0, 0, 0], [x, 0, 0], [x, y, 0], [0, y, 0]], "floor")
    builder.quad([[0, 0, z], [0, y, z], [x, y, z], [x, 0, z]], "ceiling")
    for wall in range(4):
        start, along, _, length = wall_frame(builder.size, wall)
        end = start + along * length
        builder.quad([[*end, 0], [*start, 0], [*start, z], [*end, z]], "wall")


def _finish(builder: _Builder, openings: tuple[Opening, ...]) -> Shell:
    x, y, z = builder.size
    lights = np.array([[0.3 * x, 0.35 * y, z - 0.14], [0.7 * x, 0.65 * y, z - 0.14]])
    return Shell(
        np.concatenate(builder.vertices).astype(np.float32),
        np.concatenate(builder.faces).astype(np.int32),
        np.array(builder.material, np.int32),
        openings,
        lights,
    )


def make_shell(size: np.ndarray, rng: np.random.Generator) -> Shell:
    """A shell with one or two doors, one or two windows, skirting boards and two ceiling lights."""
    size = np.asarray(size, np.float64)
    builder = _Builder(size)
    _planes(builder)
    walls = rng.permutation(4)
    doors = 1 + int(rng.random() < 0.25)
    openings = [_door(builder, int(wall), rng) for wall in walls[:doors]]
    openings += [_window(builder, int(wall), rng) for wall in walls[doors : doors + 1 + int(rng.random() < 0.5)]]
    for wall in range(4):
        length = wall_frame(size, wall)[3]
        gaps = sorted(opening.along for opening in openings if opening.wall == wall and opening.kind == "door")
        edges = [0.0, *(edge for gap in gaps for edge in (gap[0] - 0.07, gap[1] + 0.07)), length]
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            builder.slab(wall, (begin, end), (0.0, 0.09), (0.0, 0.015), "skirting")
    shell = _finish(builder, tuple(openings))
    for light in shell.lights:
        low = np.array([light[0] - 0.22, light[1] - 0.22, size[2] - 0.06])
        builder.box(low, low + np.array([0.44, 0.44, 0.06]), "fixture")
    return _finish(builder, tuple(openings))


def _door(builder: _Builder, wall: int, rng: np.random.Generator) -> Opening:
    length = wall_frame(builder.size, wall)[3]
    width, height = rng.uniform(0.8, 0.95), rng.uniform(1.98, 2.1)
    begin = rng.uniform(0.35, length - width - 0.35)
    end = begin + width
    builder.slab(wall, (begin, end), (0.0, height), (0.0, 0.025), "door")
    for low, high in ((0.15, 0.42), (0.52, 0.93)):
        builder.slab(wall, (begin + 0.14, end - 0.14), (low * height, high * height), (0.0, 0.034), "door")
    for edge in (begin - 0.07, end):
        builder.slab(wall, (edge, edge + 0.07), (0.0, height + 0.07), (0.0, PROUD - 0.01), "frame")
    builder.slab(wall, (begin, end), (height, height + 0.07), (0.0, PROUD - 0.01), "frame")
    handle = begin + 0.07 if rng.random() < 0.5 else end - 0.17
    builder.slab(wall, (handle, handle + 0.10), (0.98, 1.01), (0.03, PROUD + 0.02), "handle")
    return Opening("door", wall, (begin - 0.07, end + 0.07), (0.0, height + 0.07))


def _window(builder: _Builder, wall: int, rng: np.random.Generator) -> Opening:
    length = wall_frame(builder.size, wall)[3]
    width = rng.uniform(1.0, min(1.9, length - 1.0))
    sill, top = rng.uniform(0.85, 1.0), rng.uniform(1.95, 2.15)
    begin = rng.uniform(0.4, length - width - 0.4)
    end = begin + width
    builder.slab(wall, (begin, end), (sill, top), (0.0, 0.012), "glass")
    middle, bar = (begin + end) / 2, 0.05
    for edge in (begin, middle - bar / 2, end - bar):
        builder.slab(wall, (edge, edge + bar), (sill, top), (0.0, PROUD - 0.01), "frame")
    for low in (sill, top - bar):
        builder.slab(wall, (begin, end), (low, low + bar), (0.0, PROUD - 0.01), "frame")
    builder.slab(wall, (begin - 0.06, end + 0.06), (sill - 0.04, sill), (0.0, 0.09), "frame")
    return Opening("window", wall, (begin - 0.06, end + 0.06), (sill - 0.04, top))


# Pale, greyish tints: an object's own colour should stand out from them.
_WALLS = ((222, 214, 198), (206, 212, 216), (214, 220, 206), (226, 208, 198), (212, 206, 220), (200, 196, 188))
_FLOORS = {
    "planks": ((112, 78, 50), (150, 108, 70), (178, 142, 102)),
    "parquet": ((128, 90, 56), (160, 120, 82)),
    "tiles": ((168, 164, 156), (142, 146, 150), (186, 172, 150)),
    "carpet": ((146, 136, 124), (120, 124, 132), (152, 128, 112)),
}


def shell_materials(rng: np.random.Generator, wall_patterns, floor_patterns) -> tuple[Material, ...]:
    """Materials in the order of SHELL, drawn from the given pattern kinds."""

    def pick(options):
        return options[int(rng.integers(len(options)))]

    def shade(colour, factor):
        return tuple(float(np.clip(channel * factor, 0, 255)) for channel in colour)

    floor_kind, wall_kind = pick(floor_patterns), pick(wall_patterns)
    floor = shade(pick(_FLOORS.get(floor_kind, _FLOORS["tiles"] + _FLOORS["planks"])), rng.uniform(0.85, 1.1))
    wall = shade(pick(_WALLS), rng.uniform(0.92, 1.02))
    wood = pick(((236, 232, 224), (134, 96, 62), (176, 140, 100)))
    variant = int(rng.integers(3))
    floor_scale = {"carpet": 0.8, "planks": 1.6, "tiles": 1.0}.get(floor_kind, 1.3)
    contrast = {"plaster": 0.94, "brick": 0.8}.get(wall_kind, 0.9)
    return (
        Material("floor", floor_kind, variant, shade(floor, 0.62), floor, floor_scale),
        Material("ceiling", "plaster", variant, (232, 232, 228), (242, 242, 240), 1.5),
        Material("wall", wall_kind, variant, shade(wall, contrast), wall, rng.uniform(0.9, 1.6)),
        Material("skirting", "plain", 0, wood, wood),
        Material("door", "wood", variant, shade(wood, 0.85), wood, 1.2),
        Material("frame", "plain", 0, shade(wood, 0.92), shade(wood, 0.92)),
        Material("glass", "plaster", variant, (176, 206, 232), (206, 226, 242), 1.8, 0.5),
        Material("handle", "brushed", 0, (140, 140, 144), (190, 190, 194), 0.2),
        Material("fixture", "plain", 0, (255, 250, 240), (255, 250, 240), 1.0, 1.0),
    )
