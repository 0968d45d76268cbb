"""What a room is: the data that the generator makes, the renderer draws and questions are asked of.

World frame of a scene: metres, z up, floor at z = 0, the room's corner nearest the origin at
(0, 0). Cameras are OpenCV (x right, y down, z forward), `camera_to_world` maps camera to world.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One piece of furniture or household thing, placed in the world."""

    index: int  # position in Scene.objects; the instance map holds this number
    category: str  # one English word, lower case
    colour: str  # one of furniture.COLOURS; the colour of most of its surface
    shape: str  # mesh family: "parametric" or the asset's name
    size: np.ndarray  # float64[3] metres: width (own x), depth (own y), height (own z)
    centre: np.ndarray  # float64[3] metres, centre of its oriented box in the world
    yaw: float  # radians about world z; own x axis = (cos yaw, sin yaw, 0)
    stands_on: int | None  # index of the supporting object, None = floor (or wall)
    vertices: np.ndarray  # float32[N,3] world
    faces: np.ndarray  # int32[M,3]
    face_material: np.ndarray  # int32[M], index into Scene.materials


@dataclasses.dataclass(frozen=True)
class Scene:
    """A furnished room. Walls, floor, ceiling, doors and windows are `structure`."""

    id: str
    seed: int
    size: np.ndarray  # float64[3] metres: inner extent in x, y, z
    objects: tuple[SceneObject, ...]
    structure_vertices: np.ndarray  # float32[N,3]
    structure_faces: np.ndarray  # int32[M,3]
    structure_material: np.ndarray  # int32[M]
    materials: tuple  # of textures.Material
    lights: np.ndarray  # float64[L,3] world positions

    @property
    def area_m2(self) -> float:
        """Floor area in square metres."""
        return float(self.size[0] * self.size[1])


@dataclasses.dataclass(frozen=True)
class RenderedView:
    """One ray-cast picture with its exact geometry. H x W pixels."""

    rgb: np.ndarray  # uint8[H,W,3]
    depth: np.ndarray  # float32[H,W] z-depth in metres, 0 where no surface
    instance: np.ndarray  # int32[H,W]: object index, -1 structure or nothing
    normal: np.ndarray  # float32[H,W,3] world, facing the camera
    intrinsics: np.ndarray  # float64[3,3] pixels, centres at +0.5
    camera_to_world: np.ndarray  # float64[4,4]
