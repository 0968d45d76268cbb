"""Parametric meshes: a small kit of unit solids (made once by trimesh) placed, scaled and joined.

A model function gets a `Kit` with the wanted width, depth and height and adds parts to it in the
object's own frame (x width, y depth with the front at -y, z up from 0). `Kit.finish` joins the parts
and stretches the result so that its bounding box is exactly the wanted size.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import trimesh

SLOTS = ("main", "wood", "metal", "dark", "light", "paper", "glow")  # material slots; main = the object's colour


@dataclasses.dataclass(frozen=True)
class Surface:
    """A level rectangle of an object, own frame, metres, on which smaller things may stand."""

    x: tuple[float, float]
    y: tuple[float, float]
    z: float
    headroom: float = 1.0  # metres free above it


@dataclasses.dataclass(frozen=True)
class Model:
    """A mesh in its own frame: bounding box [-w/2, w/2] x [-d/2, d/2] x [0, h]."""

    vertices: np.ndarray  # float64[N,3]
    faces: np.ndarray  # int32[M,3]
    face_slot: np.ndarray  # int32[M], index into SLOTS (assets: into their own materials)
    surfaces: tuple[Surface, ...]


def _unit(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    """Vertices scaled to the cube [-1/2, 1/2]^3, and faces."""
    vertices = np.asarray(mesh.vertices, np.float64)
    low, high = vertices.min(0), vertices.max(0)
    return (vertices - (low + high) / 2) / (high - low), np.asarray(mesh.faces, np.int32)


def _tapered(top: float, sections: int) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = _unit(trimesh.creation.cylinder(radius=0.5, height=1.0, sections=sections))
    scale = np.where(vertices[:, 2] > 0, top, 1.0)
    return vertices * np.stack([scale, scale, np.ones_like(scale)], -1), faces


def _turned(profile: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    return _unit(trimesh.creation.revolve(np.array(profile, np.float64), sections=16))


def _soft() -> tuple[np.ndarray, np.ndarray]:
    """A rounded square cushion: a sphere drawn out towards its four upright edges."""
    vertices, faces = _unit(trimesh.creation.icosphere(subdivisions=2, radius=0.5))
    flat = np.sign(vertices[:, :2]) * np.abs(2 * vertices[:, :2]) ** 0.55
    return _unit(trimesh.Trimesh(np.concatenate([flat, vertices[:, 2:]], 1), faces, process=False))


@functools.lru_cache(maxsize=1)
def solids() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (vertices in the unit cube, faces) of every solid of the kit; round ones stand along z."""
    create = trimesh.creation
    prism = trimesh.Trimesh(
        [[-1, -1, 0], [1, -1, 0], [-1, 1, 0], [1, 1, 0], [0, -1, 1], [0, 1, 1]],
        [[0, 2, 3], [0, 3, 1], [0, 1, 4], [2, 5, 3], [0, 4, 5], [0, 5, 2], [1, 3, 5], [1, 5, 4]],
        process=False,
    )
    return {
        "box": _unit(create.box()),
        "cylinder": _tapered(1.0, 16),
        "rod": _tapered(1.0, 8),
        "taper": _tapered(0.7, 16),
        "flare": _unit(trimesh.Trimesh(*_flip(_tapered(0.7, 16)), process=False)),
        "shade": _tapered(0.45, 16),
        "cone": _unit(create.cone(radius=0.5, height=1.0, sections=12)),
        "sphere": _unit(create.icosphere(subdivisions=2, radius=0.5)),
        "ball": _unit(create.icosphere(subdivisions=1, radius=0.5)),
        "ring": _unit(create.annulus(r_min=0.40, r_max=0.5, height=1.0, sections=20)),
        "torus": _unit(create.torus(major_radius=0.4, minor_radius=0.1, major_sections=12, minor_sections=6)),
        "prism": _unit(prism),
        "bowl": _turned([(0, 0), (0.3, 0.02), (0.45, 0.35), (0.5, 1), (0.43, 1), (0.36, 0.4), (0, 0.15)]),
        "vase": _turned([(0, 0), (0.3, 0), (0.5, 0.35), (0.42, 0.62), (0.2, 0.82), (0.28, 1), (0, 0.97)]),
        "bottle": _turned([(0, 0), (0.5, 0.0), (0.5, 0.58), (0.18, 0.76), (0.18, 1), (0, 1)]),
        "goblet": _turned([(0, 0), (0.45, 0), (0.1, 0.1), (0.1, 0.42), (0.5, 0.65), (0.42, 1), (0.36, 1), (0, 0.6)]),
        "soft": _soft(),
        "cushion": _turned([(0, 0), (0.36, 0.08), (0.5, 0.5), (0.36, 0.92), (0, 1)]),
        "leaf": _unit(create.icosphere(subdivisions=1, radius=0.5)),
    }


def _flip(solid: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = solid
    return vertices * np.array([1.0, 1.0, -1.0]), faces[:, ::-1]


_AXES = {
    "z": np.eye(3),
    "x": np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]),  # solid's z -> x
    "y": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),  # solid's z -> y
}


def turn(axis: str, degrees: float) -> np.ndarray:
    """float64[3,3] rotation about an axis of the object's frame."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


class Kit:
    """Collects the parts of one object of size w x d x h metres."""

    def __init__(self, size: np.ndarray, rng: np.random.Generator):
        self.w, self.d, self.h = (float(value) for value in size)
        self.rng = rng
        self._parts: dict[str, list] = {}
        self._surfaces: list[Surface] = []

    def add(self, solid: str, slot: str, x, y, z, along: str = "z", tilt: np.ndarray | None = None) -> None:
        """Puts `solid` into the box x, y, z (pairs of metres), its own axis `along`, then turns it by `tilt`."""
        box = np.array([x, y, z], np.float64)
        axes = _AXES[along]
        size = np.abs(axes.T @ (box[:, 1] - box[:, 0]))
        matrix = axes * size
        if tilt is not None:
            matrix = tilt @ matrix
        self._parts.setdefault(solid, []).append((matrix, box.mean(1), SLOTS.index(slot)))

    def box(self, slot: str, x, y, z, tilt: np.ndarray | None = None) -> None:
        """A box."""
        self.add("box", slot, x, y, z, tilt=tilt)

    def full(self, slot: str, z) -> None:
        """A box over the whole footprint."""
        self.box(slot, (-self.w / 2, self.w / 2), (-self.d / 2, self.d / 2), z)

    def legs(self, slot: str, thick: float, top: float, inset: float = 0.0, solid: str = "box") -> None:
        """Four legs of side `thick` from the floor to `top`, `inset` from the footprint's edge."""
        for sx in (-1, 1):
            for sy in (-1, 1):
                x, y = sx * (self.w / 2 - inset - thick / 2), sy * (self.d / 2 - inset - thick / 2)
                self.add(solid, slot, (x - thick / 2, x + thick / 2), (y - thick / 2, y + thick / 2), (0, top))

    def front(self, slot: str, x, z, thick: float = 0.012) -> None:
        """A panel standing a little proud of the front (y = -d/2); keep bodies `thick` behind it."""
        self.box(slot, x, (-self.d / 2, -self.d / 2 + thick), z)

    def surface(self, x, y, z: float, headroom: float = 1.0) -> None:
        """Declares where smaller things may stand."""
        self._surfaces.append(Surface(tuple(x), tuple(y), float(z), headroom))

    def top(self, margin: float = 0.03) -> None:
        """The whole upper side carries smaller things."""
        x, y = self.w / 2 - margin, self.d / 2 - margin
        self.surface((-x, x), (-y, y), self.h)

    def finish(self) -> Model:
        """Joins the parts; the bounding box becomes exactly the wanted size."""
        vertices, faces, slots, count = [], [], [], 0
        for name, parts in self._parts.items():
            unit, triangles = solids()[name]
            matrices = np.stack([part[0] for part in parts])
            moved = unit @ matrices.transpose(0, 2, 1) + np.stack([part[1] for part in parts])[:, None]
            shift = count + len(unit) * np.arange(len(parts))
            vertices.append(moved.reshape(-1, 3))
            faces.append((triangles + shift[:, None, None]).reshape(-1, 3))
            slots.append(np.repeat([part[2] for part in parts], len(triangles)))
            count += moved.shape[0] * moved.shape[1]
        points = np.concatenate(vertices)
        low, high = points.min(0), points.max(0)
        scale = np.array([self.w, self.d, self.h]) / (high - low)
        shift = np.array([-self.w / 2, -self.d / 2, 0.0]) - low * scale
        return Model(
            points * scale + shift,
            np.concatenate(faces).astype(np.int32),
            np.concatenate(slots).astype(np.int32),
            tuple(_moved(surface, scale, shift) for surface in self._surfaces),
        )


def _moved(surface: Surface, scale: np.ndarray, shift: np.ndarray) -> Surface:
    return Surface(
        (surface.x[0] * scale[0] + shift[0], surface.x[1] * scale[0] + shift[0]),
        (surface.y[0] * scale[1] + shift[1], surface.y[1] * scale[1] + shift[1]),
        surface.z * scale[2] + shift[2],
        surface.headroom * scale[2],
    )
