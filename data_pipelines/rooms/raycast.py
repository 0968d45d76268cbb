"""Ray casting of scenes with Embree: colour, z-depth, instances, normals.

`embreex` is called directly: camera rays have z component 1 in the camera, so the hit parameter is
the z-depth itself. Light: an even sky term and two soft ceiling lights with shadow rays.
"""

from __future__ import annotations

import functools

import numpy as np
from embreex import rtcore, rtcore_scene
from embreex.mesh_construction import TriangleMesh

from data_pipelines.rooms import textures
from data_pipelines.rooms.scene import RenderedView, Scene

AMBIENT = 0.40  # share of light that comes from everywhere
LIGHT_COLOURS = np.array([[1.0, 0.96, 0.90], [0.93, 0.97, 1.0]], np.float32)
LIGHT_POWER = 0.80
LIGHT_RADIUS = 0.20  # half side of a lamp, metres: softness of shadows
LIGHT_REACH = 3.2  # metres at which a lamp has lost half of its power
_BIAS = 2e-3  # metres that shadow rays start off the surface


@functools.lru_cache(maxsize=1)
def _device() -> rtcore.EmbreeDevice:
    return rtcore.EmbreeDevice()


def camera_rays(
    intrinsics: np.ndarray,
    camera_to_world: np.ndarray,
    height: int,
    width: int,
    offset: tuple[float, float] = (0.5, 0.5),
) -> np.ndarray:
    """Ray directions float32[H*W,3] in the world with camera z component 1; pixel centres at +0.5."""
    u = (np.arange(width) + offset[0] - intrinsics[0, 2]) / intrinsics[0, 0]
    v = (np.arange(height) + offset[1] - intrinsics[1, 2]) / intrinsics[1, 1]
    rotation = np.asarray(camera_to_world, np.float64)[:3, :3]
    directions = u[None, :, None] * rotation[:, 0] + v[:, None, None] * rotation[:, 1] + rotation[:, 2]
    return directions.reshape(-1, 3).astype(np.float32)


class Raycaster:
    """The meshes of one scene, ready for rays. Not thread-safe; make one per process."""

    def __init__(self, scene: Scene):
        parts = [(scene.structure_vertices, scene.structure_faces, scene.structure_material, -1, 0.0)]
        parts += [(item.vertices, item.faces, item.face_material, item.index, item.yaw) for item in scene.objects]
        counts = [len(part[0]) for part in parts]
        shift = np.concatenate([[0], np.cumsum(counts)[:-1]])
        vertices = np.ascontiguousarray(np.concatenate([part[0] for part in parts]), np.float32)
        faces = np.concatenate([part[1] + start for part, start in zip(parts, shift, strict=True)])
        self._faces = np.ascontiguousarray(faces, np.int32)
        self._vertices = vertices
        numbers = [len(part[1]) for part in parts]
        self.face_instance = np.repeat(np.array([part[3] for part in parts], np.int32), numbers)
        material = np.concatenate([part[2] for part in parts])
        self._table = self._face_table(material, np.repeat([part[4] for part in parts], numbers), scene)
        self._lights = np.asarray(scene.lights, np.float32)
        self._scene = rtcore_scene.EmbreeScene(_device(), robust=True)
        self._mesh = TriangleMesh(self._scene, vertices, self._faces)

    def _face_table(self, material: np.ndarray, yaw: np.ndarray, scene: Scene) -> np.ndarray:
        """Per face, float32[M,20]: normal 3, texture u axis 3, v axis 3, colour 3, span 3, emission, first texel, 1/scale, key, 0.

        Texture axes are the two own axes of the object that lie most nearly in the face, so that
        patterns stay on the object.
        """
        corners = self._vertices[self._faces].astype(np.float64)
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        normal = np.where(length > 0, normal / np.maximum(length, 1e-30), np.array([0.0, 0.0, 1.0]))
        c, s, zero, one = np.cos(yaw), np.sin(yaw), np.zeros(len(yaw)), np.ones(len(yaw))
        own = np.stack([np.stack([c, s, zero], -1), np.stack([-s, c, zero], -1), np.stack([zero, zero, one], -1)], 1)
        axis = np.argmax(np.abs(np.einsum("mij,mj->mi", own, normal)), 1)
        rows = np.arange(len(axis))
        table = textures.material_table(scene.materials)
        scale = 1.0 / table.scale_m[material]
        u_axis = own[rows, np.array([1, 0, 0])[axis]] * scale[:, None]
        v_axis = own[rows, np.array([2, 2, 1])[axis]] * scale[:, None]
        key = self.face_instance * 64 + np.round(normal @ np.array([7.0, 13.0, 29.0]) / 2.0)
        columns = (normal, u_axis, v_axis, table.low[material], table.span[material])
        single = (table.emission[material], table.first_texel[material], scale, key, zero)
        return np.concatenate([*columns, np.stack(single, -1)], 1).astype(np.float32)

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First hits: parameter along the ray float32[n] (0 where none) and face int32[n] (-1 where none)."""
        origins = np.ascontiguousarray(np.broadcast_to(np.asarray(origin, np.float32), directions.shape))
        hit = self._scene.run(origins, directions, output=True)
        face = hit["primID"]
        return np.where(face >= 0, hit["tfar"], np.float32(0.0)), face

    def look(
        self, intrinsics: np.ndarray, camera_to_world: np.ndarray, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """z-depth float32[H,W] and instance int32[H,W] (-1 structure or nothing), without shading."""
        rays = camera_rays(intrinsics, camera_to_world, height, width)
        depth, face = self.cast(camera_to_world[:3, 3], rays)
        instance = np.where(face >= 0, self.face_instance[face], -1)
        return depth.reshape(height, width), instance.reshape(height, width)

    def render(
        self, intrinsics: np.ndarray, camera_to_world: np.ndarray, height: int, width: int, antialias: bool = True
    ) -> RenderedView:
        """One view with exact geometry at the pixel centres.

        Args:
          intrinsics: float64[3,3], pixels.
          camera_to_world: float64[4,4], OpenCV axes, metres.
          height, width: pixels.
          antialias: average four rays per pixel in RGB where two surfaces meet.
        """
        intrinsics = np.asarray(intrinsics, np.float64)
        camera_to_world = np.asarray(camera_to_world, np.float64)
        centre = camera_to_world[:3, 3].astype(np.float32)
        rays = camera_rays(intrinsics, camera_to_world, height, width)
        depth, face = self.cast(centre, rays)
        pixel = np.float32(1.0 / intrinsics[0, 0])
        rows = self._table[face]
        points, albedo, normal = self._surface(centre, rays, depth, rows, pixel)
        near = np.arange(height)[:, None] % 2 * 2 + np.arange(width)[None] % 2
        key = rows[:, 18].reshape(height, width)
        light = self._light(points, normal, near.ravel(), key)
        colour = albedo * light + albedo * rows[:, 15:16]
        if antialias:
            edge = _edges(key, depth.reshape(height, width)).ravel()
            colour[edge] = self._fine(intrinsics, camera_to_world, height, width, edge, light[edge], colour[edge], key)
        colour[face < 0] = 0.0
        code = (np.clip(colour, 0.0, 1.0) * np.float32(4095.0)).astype(np.int16)
        return RenderedView(
            rgb=textures.srgb_table()[code].reshape(height, width, 3),
            depth=depth.reshape(height, width),
            instance=np.where(face >= 0, self.face_instance[face], -1).reshape(height, width),
            normal=np.where((face >= 0)[:, None], normal, 0.0).astype(np.float32).reshape(height, width, 3),
            intrinsics=intrinsics,
            camera_to_world=camera_to_world,
        )

    def _surface(self, centre, rays, depth, rows, pixel):
        """Hit points, textured colour in linear light, normals facing the camera."""
        points = centre + rays * depth[:, None]
        normal = rows[:, 0:3]
        facing = np.einsum("ij,ij->i", normal, rays)
        normal = normal * np.where(facing > 0, np.float32(-1.0), np.float32(1.0))[:, None]
        uv = np.stack([np.einsum("ij,ij->i", points, rows[:, 3:6]), np.einsum("ij,ij->i", points, rows[:, 6:9])], -1)
        slant = np.maximum(np.abs(facing), np.float32(0.25))
        texels = depth * pixel * rows[:, 17] / slant * np.float32(textures.TILE)
        level = np.clip(np.log2(np.maximum(texels, np.float32(1e-6))) + 0.5, 0, textures.LEVELS - 1).astype(np.int64)
        value = textures.sample(rows[:, 16].astype(np.int64), uv, level)
        return points, rows[:, 9:12] + rows[:, 12:15] * value[:, None], normal

    def _light(self, points, normal, choice, key=None):
        """Light float32[n,3] at points; each point tests one of 4 places on a lamp, neighbours are then averaged."""
        total = np.empty_like(points)
        total[:] = (AMBIENT + np.float32(0.08) * normal[:, 2])[:, None]
        origins = points + normal * np.float32(_BIAS)
        places = np.zeros((4, 3), np.float32)
        places[:, :2] = np.array([[-1, -1], [1, 1], [1, -1], [-1, 1]]) * (LIGHT_RADIUS / 1.5)
        powers, seen = [], np.zeros((len(self._lights), len(points)), np.float32)
        for number, light in enumerate(self._lights):
            towards = light - origins
            squared = np.einsum("ij,ij->i", towards, towards)
            cosine = np.einsum("ij,ij->i", towards, normal) / np.sqrt(squared)
            lit = np.flatnonzero(cosine > 0)
            reach = np.full(len(lit), 0.999, np.float32)
            shadow_rays = towards[lit] + places[choice[lit]]
            seen[number, lit] = self._scene.run(origins[lit], shadow_rays, query="OCCLUDED", dists=reach) == -1
            powers.append(LIGHT_POWER * np.maximum(cosine, 0.0) / (1.0 + squared / np.float32(LIGHT_REACH**2)))
        if key is not None:
            seen = _smooth(seen.reshape(-1, *key.shape), key).reshape(seen.shape)
        for power, visible, colour in zip(powers, seen, LIGHT_COLOURS, strict=True):
            total += (power * visible)[:, None] * colour
        return total

    def _fine(self, intrinsics, camera_to_world, height, width, edge, light, colour, key):
        """Colour of edge pixels as the mean over four rays; a ray on the pixel's own surface keeps its light."""
        pixels = np.flatnonzero(edge)
        centre = camera_to_world[:3, 3].astype(np.float32)
        spots = np.array([[0.375, 0.125], [0.875, 0.375], [0.125, 0.625], [0.625, 0.875]])
        columns = (pixels % width + spots[:, :1]).ravel()
        lines = (pixels // width + spots[:, 1:]).ravel()
        u = (columns - intrinsics[0, 2]) / intrinsics[0, 0]
        v = (lines - intrinsics[1, 2]) / intrinsics[1, 1]
        rays = np.stack([u, v, np.ones_like(u)], -1) @ camera_to_world[:3, :3].T
        rays = np.ascontiguousarray(rays, np.float32)
        depth, face = self.cast(centre, rays)
        rows = self._table[face]
        points, albedo, normal = self._surface(centre, rays, depth, rows, np.float32(0.5 / intrinsics[0, 0]))
        lights = np.tile(light, (4, 1))
        other = np.flatnonzero(rows[:, 18] != np.tile(key.ravel()[pixels], 4))
        lights[other] = self._light(points[other], normal[other], other // len(pixels))
        fine = (albedo * lights + albedo * rows[:, 15:16]) * (face >= 0)[:, None]
        return fine.reshape(4, -1, 3).mean(0)


def _edges(key: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """bool[H,W]: pixels beside one of another surface, or beside a jump in depth."""
    edge = np.zeros(key.shape, bool)
    for axis in (0, 1):
        first, second = (slice(None, -1), slice(1, None))
        a, b = (
            ((first, slice(None)), (second, slice(None)))
            if axis == 0
            else ((slice(None), first), (slice(None), second))
        )
        differs = (key[a] != key[b]) | (np.abs(depth[a] - depth[b]) > 0.1 * np.minimum(depth[a], depth[b]))
        edge[a] |= differs
        edge[b] |= differs
    return edge


def _smooth(seen: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Binomial 3 x 3 mean of float32[L,H,W] over neighbours on the same surface; weighs the four lamp places alike."""
    height, width = key.shape
    padded = np.pad(seen, ((0, 0), (1, 1), (1, 1)))
    keys = np.pad(key, 1, constant_values=np.float32(-1e9))
    total = np.float32(4.0) * seen
    weight = np.full(key.shape, np.float32(4.0))
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            if dy == dx == 1:
                continue
            same = (keys[dy : dy + height, dx : dx + width] == key) * np.float32(2.0 if 1 in (dy, dx) else 1.0)
            total += same * padded[:, dy : dy + height, dx : dx + width]
            weight += same
    return total / weight
