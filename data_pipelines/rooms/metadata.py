"""Facts of a scene in the field layout of VSI-Bench's generator (thinking-in-space, data/meta_info)."""

from __future__ import annotations

import collections

import numpy as np

from data_pipelines.rooms.scene import Scene, SceneObject


def _box(item: SceneObject) -> dict:
    c, s = np.cos(item.yaw), np.sin(item.yaw)
    corners = np.asarray(item.vertices, np.float64)
    return {
        "centroid": _numbers(item.centre),
        "axesLengths": _numbers(item.size),
        "normalizedAxes": _numbers([c, s, 0.0, -s, c, 0.0, 0.0, 0.0, 1.0]),
        "min": _numbers(corners.min(0)),
        "max": _numbers(corners.max(0)),
    }


def _numbers(values) -> list[float]:
    return [round(float(value), 5) + 0.0 for value in values]


def vsi_metadata(scene: Scene, video_path: str) -> dict:
    """video_path, room_size (m2), room_center (metres), object_counts, object_bbox, dataset; ours: object_colours.

    `object_bbox` is the text of a Python dict (read it with `ast.literal_eval`): per category a list
    of {centroid, axesLengths, normalizedAxes (three own axes in a row), min, max}; min and max are
    the corners of the axis-aligned box of the mesh. All in the world frame of `scene.Scene`. `object_colours` has the
    colours in the same order: questions tell things apart by them.
    """
    boxes: dict[str, list[dict]] = collections.defaultdict(list)
    colours: dict[str, list[str]] = collections.defaultdict(list)
    for item in scene.objects:
        boxes[item.category].append(_box(item))
        colours[item.category].append(item.colour)
    return {
        "video_path": video_path,
        "room_size": round(scene.area_m2, 4),
        "room_center": _numbers(scene.size / 2),
        "object_counts": {category: len(rows) for category, rows in sorted(boxes.items())},
        "object_bbox": repr(dict(sorted(boxes.items()))),
        "object_colours": dict(sorted(colours.items())),
        "dataset": "rooms",
    }
