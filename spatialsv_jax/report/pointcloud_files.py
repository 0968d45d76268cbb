"""Point clouds as GLB and PLY files, written and read by trimesh.

PLY holds the points as they are: OpenCV axes of the first view, scene units. In the GLB the same
numbers hang under a node that turns them to glTF's axes (y up, z towards the viewer), so any
viewer shows the room upright; the cameras are small line frusta beside the cloud.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh

OPENCV_TO_GLTF = np.diag([1.0, -1.0, -1.0, 1.0])
CAMERA_COLOURS = {"predicted": (235, 110, 40, 255), "true": (60, 170, 110, 255)}


def frustum_lines(intrinsics: np.ndarray, camera_to_world: np.ndarray, height: int, width: int, depth: float):
    """The eight edges of a camera's viewing pyramid as float64[8,2,3] world segments; `depth` is its length along z."""
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
    local = depth * np.linalg.solve(np.asarray(intrinsics, np.float64), corners.T).T
    world = local @ camera_to_world[:3, :3].T + camera_to_world[:3, 3]
    centre = np.asarray(camera_to_world[:3, 3], np.float64)
    sides = [(centre, corner) for corner in world]
    return np.array(sides + [(world[i], world[(i + 1) % 4]) for i in range(4)])


def write_cloud(
    path: Path, points: np.ndarray, colours: np.ndarray, cameras: dict[str, np.ndarray] | None = None
) -> Path:
    """Writes one cloud as GLB or PLY, as the suffix of `path` says, and returns `path`.

    Args:
      path: in an existing folder.
      points: float[N,3], N >= 1.
      colours: uint8[N,3].
      cameras: name ("predicted", "true") -> segments float[M,2,3] of `frustum_lines`, for the GLB.

    Raises:
      ValueError: no point, or a point that is not finite.
    """
    if len(points) == 0 or not np.isfinite(points).all():
        raise ValueError(f"{path} would have {len(points)} points, of which some are not finite or none is left.")
    cloud = trimesh.PointCloud(np.asarray(points, np.float32), colors=colours)
    if path.suffix == ".ply":
        path.write_bytes(cloud.export(file_type="ply"))
        return path
    scene = trimesh.Scene()
    scene.add_geometry(cloud, node_name="points", geom_name="points", transform=OPENCV_TO_GLTF)
    for name, segments in (cameras or {}).items():
        if len(segments):
            lines = trimesh.load_path(np.asarray(segments, np.float64))
            lines.colors = np.tile(CAMERA_COLOURS[name], (len(lines.entities), 1))
            node = f"cameras_{name}"
            scene.add_geometry(lines, node_name=node, geom_name=node, transform=OPENCV_TO_GLTF)
    path.write_bytes(scene.export(file_type="glb"))
    return path
