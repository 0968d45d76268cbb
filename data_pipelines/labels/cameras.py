"""Which cameras of label files cannot be: the rules of sources, which read cameras of measured scans."""

from __future__ import annotations

import numpy as np


def impossible_camera(intrinsics: np.ndarray, camera_to_world: np.ndarray, size: tuple[int, int]) -> str:
    """Which field, and why, cannot be that of a camera whose map is (height, width); "" if both can."""
    from data_pipelines.sources.posed.cameras import check_pose, impossible  # here: its package imports all sources

    if problem := impossible(intrinsics, (size[1], size[0])):
        return f"'intrinsics': {problem}"
    problem = check_pose(camera_to_world).problem
    return f"'camera_to_world': {camera_to_world.tolist()} is {problem.replace('_', ' ')}" if problem else ""
