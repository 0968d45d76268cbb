"""Slow, plain float64 geometry for tests of the room generator; shares no code with it."""

from __future__ import annotations

import numpy as np


def triangles(scene) -> tuple[np.ndarray, np.ndarray]:
    """All triangles float64[M,3,3] of a scene and their object index (-1 structure)."""
    corners = [scene.structure_vertices[scene.structure_faces]]
    owner = [np.full(len(scene.structure_faces), -1)]
    for item in scene.objects:
        corners.append(item.vertices[item.faces])
        owner.append(np.full(len(item.faces), item.index))
    return np.concatenate(corners).astype(np.float64), np.concatenate(owner)


def first_hit(origin: np.ndarray, direction: np.ndarray, corners: np.ndarray) -> tuple[float, int]:
    """Moeller-Trumbore over all triangles: ray parameter (inf if none) and triangle."""
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    cross = np.cross(direction, edge2)
    determinant = (edge1 * cross).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        start = origin - corners[:, 0]
        u = (start * cross).sum(1) / determinant
        side = np.cross(start, edge1)
        v = side @ direction / determinant
        t = (edge2 * side).sum(1) / determinant
        good = (np.abs(determinant) > 1e-14) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-6)
    t = np.where(good, t, np.inf)
    best = int(np.argmin(t))
    return float(t[best]), best


def own_frame(points: np.ndarray, item) -> np.ndarray:
    """World points in an object's own axes, from the middle of its box."""
    c, s = np.cos(item.yaw), np.sin(item.yaw)
    offset = points - item.centre
    return np.stack([c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0], offset[:, 2]], -1)


def box_points(item, steps: int = 9) -> np.ndarray:
    """A grid of points filling an object's oriented box, world."""
    axis = np.linspace(-0.5, 0.5, steps)
    own = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3) * item.size
    c, s = np.cos(item.yaw), np.sin(item.yaw)
    turned = np.stack([c * own[:, 0] - s * own[:, 1], s * own[:, 0] + c * own[:, 1], own[:, 2]], -1)
    return turned + item.centre


def slab_depth(size: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray, height: int, width: int) -> np.ndarray:
    """z-depth float64[H,W] of the inside of the box [0, size], closed form."""
    v, u = np.mgrid[0:height, 0:width] + 0.5
    pixels = np.stack([u, v, np.ones_like(u)], -1)
    rays = pixels @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        hits = np.where(rays > 0, (size - pose[:3, 3]) / rays, (0.0 - pose[:3, 3]) / rays)
    return hits.min(-1)
