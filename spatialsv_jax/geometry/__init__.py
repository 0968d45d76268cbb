"""Cameras, rotations, point maps and alignment. NumPy in, NumPy out; jax in, jax out."""

from spatialsv_jax.geometry.alignment import MIN_VALID_PIXELS, NormalizedScene, normalize_scene, umeyama
from spatialsv_jax.geometry.cameras import (
    CameraFit,
    camera_from_rays,
    points_from_depth,
    points_from_rays,
    project,
    rays_from_camera,
    solve_camera,
)
from spatialsv_jax.geometry.plausible import possible_cameras
from spatialsv_jax.geometry.pointmaps import area_pool, multi_view_filter, neighbour_normals, surface_normals
from spatialsv_jax.geometry.rotations import (
    invert_pose,
    nearest_rotation,
    pose_matrix,
    quaternion_of,
    rotation_angle_deg,
)

__all__ = [
    "MIN_VALID_PIXELS",
    "CameraFit",
    "NormalizedScene",
    "area_pool",
    "camera_from_rays",
    "invert_pose",
    "multi_view_filter",
    "nearest_rotation",
    "neighbour_normals",
    "normalize_scene",
    "points_from_depth",
    "points_from_rays",
    "possible_cameras",
    "pose_matrix",
    "project",
    "quaternion_of",
    "rays_from_camera",
    "rotation_angle_deg",
    "solve_camera",
    "surface_normals",
    "umeyama",
]
