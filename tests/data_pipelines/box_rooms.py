"""Rooms of plain boxes and a slow, simple ray caster: scenes for tests of questions, known by construction."""

from __future__ import annotations

import numpy as np

from data_pipelines.rooms.questions import Words
from data_pipelines.rooms.scene import RenderedView, Scene, SceneObject

CATEGORIES = ("chair", "table", "lamp", "sofa", "bed", "box", "plant", "bin", "desk", "stool")
COLOURS = ("red", "green", "blue", "yellow", "white", "orange")
WORDS = Words(CATEGORIES, COLOURS)


def box_object(index, category, colour, size, centre, yaw, stands_on=None) -> SceneObject:
    size, centre = np.asarray(size, float), np.asarray(centre, float)
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    vertices = (signs * size / 2) @ turn.T + centre
    faces = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]], np.int32)
    return SceneObject(
        index=index,
        category=category,
        colour=colour,
        shape="parametric",
        size=size,
        centre=centre,
        yaw=float(yaw),
        stands_on=stands_on,
        vertices=vertices.astype(np.float32),
        faces=faces,
        face_material=np.zeros(len(faces), np.int32),
    )


def scene_of(objects, size=(5.0, 4.0, 2.6), seed=0) -> Scene:
    return Scene(
        id=f"boxes-{seed}",
        seed=seed,
        size=np.asarray(size, float),
        objects=tuple(objects),
        structure_vertices=np.zeros((0, 3), np.float32),
        structure_faces=np.zeros((0, 3), np.int32),
        structure_material=np.zeros(0, np.int32),
        materials=(),
        lights=np.zeros((0, 3)),
    )


def look_at(eye, target) -> np.ndarray:
    """OpenCV camera_to_world with z up in the world."""
    forward = np.asarray(target, float) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def cast(scene: Scene, pose: np.ndarray, pixels: int = 48, focal: float = 0.8) -> RenderedView:
    """Every pixel's first hit among the oriented boxes and the room's own box; rays have camera z = 1."""
    intrinsics = np.array([[focal * pixels, 0, pixels / 2], [0, focal * pixels, pixels / 2], [0, 0, 1.0]])
    u, v = np.meshgrid(np.arange(pixels) + 0.5, np.arange(pixels) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    eye = pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        walls = np.where(rays > 0, (scene.size - eye) / rays, (0.0 - eye) / rays)
        depth = np.nanmin(walls, axis=-1)
        instance = np.full(depth.shape, -1, np.int32)
        for thing in scene.objects:
            cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
            turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
            start, way, half = turn @ (eye - thing.centre), rays @ turn.T, thing.size / 2
            low, high = (-half - start) / way, (half - start) / way
            enter = np.minimum(low, high).max(-1)
            hit = (enter > 1e-6) & (enter <= np.maximum(low, high).min(-1)) & (enter < depth)
            depth[hit], instance[hit] = enter[hit], thing.index
    return RenderedView(
        rgb=np.zeros((pixels, pixels, 3), np.uint8),
        depth=depth.astype(np.float32),
        instance=instance,
        normal=np.zeros((pixels, pixels, 3), np.float32),
        intrinsics=intrinsics,
        camera_to_world=pose,
    )


def random_room(seed: int, views: int = 4, pixels: int = 48) -> tuple[Scene, list[RenderedView]]:
    """A room of 6 to 11 boxes (colour and category may repeat) and a camera that turns at one of two places."""
    rng = np.random.default_rng(seed)
    size = np.array([rng.uniform(3.5, 6.5), rng.uniform(3.5, 6.5), 2.6])
    objects = []
    while len(objects) < 6 + seed % 6:
        extent = rng.uniform([0.25, 0.25, 0.3], [1.4, 0.9, 1.3])
        spot = rng.uniform([0.5, 0.5], size[:2] - 0.5)
        if all(np.linalg.norm(spot - other.centre[:2]) > 0.6 for other in objects):
            kind, colour = rng.choice(CATEGORIES), rng.choice(COLOURS)
            centre = [*spot, extent[2] / 2]
            objects.append(box_object(len(objects), str(kind), str(colour), extent, centre, rng.uniform(0, 6.28)))
    scene = scene_of(objects, size, seed)
    eyes = [np.array([0.3, 0.3, 1.5]), np.array([size[0] - 0.3, 0.3, 1.5])]
    middle = np.array([size[0] / 2, size[1] / 2, 0.5])
    pictures = []
    for k in range(views):
        eye = eyes[k % 2] if seed % 2 else eyes[0]
        aim = middle + rng.uniform(-1.5, 1.5, 3) * [1, 1, 0.3]
        pictures.append(cast(scene, look_at(eye, aim), pixels))
    return scene, pictures
