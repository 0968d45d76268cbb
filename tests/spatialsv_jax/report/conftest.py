"""A textured box room seen by three cameras, in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from spatialsv_jax import geometry
from spatialsv_jax.report.figure import Geometry, SceneFigure


@pytest.fixture(scope="session")
def room():
    """Figure of a room whose prediction is 10 % too deep and whose last camera failed."""
    height, width, views = 24, 32, 3
    intrinsics = np.tile(np.array([[28.0, 0, 16], [0, 28, 12], [0, 0, 1]]), (views, 1, 1))
    poses = np.tile(np.eye(4), (views, 1, 1))
    for view, angle in enumerate((0.0, 0.3, 0.6)):
        poses[view, :3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        poses[view, 0, 3] = 0.2 * view
    ray = geometry.rays_from_camera(intrinsics, poses, height, width)
    origin, direction = ray[..., :3], ray[..., 3:]
    low, high = np.array([-1.2, -0.8, -0.5]), np.array([1.6, 0.7, 2.0])
    with np.errstate(divide="ignore"):
        depth = np.maximum((low - origin) / direction, (high - origin) / direction).min(-1)
    points = origin + depth[..., None] * direction
    shade = (80 + 120 * (np.floor(points * 4).sum(-1) % 2)).astype(np.uint8)
    pictures = np.stack([shade, 255 - shade, np.full_like(shade, 90)], -1)
    valid = np.ones(depth.shape, bool)
    valid[:, :2] = False
    true = Geometry(depth, valid, valid, intrinsics, poses, np.ones(views, bool), {"true": points})
    guess = geometry.points_from_depth(depth * 1.1, intrinsics, poses)
    predicted = Geometry(
        depth * 1.1, np.ones_like(valid), np.ones_like(valid), intrinsics, poses, np.array([True, True, False]),
        {"points head": guess}, 1 + 1 / depth, {"points head": 1 + 1 / depth},
    )  # fmt: skip
    questions = [
        {
            "question": "is there a <script>alert('x')</script> in view 1 ?",
            "question_type": 'presence"><img src=x onerror=alert(1)>',
            "prediction": "<b>yes</b>",
            "ground_truth": "no & never",
            "correct": False,
        }
    ]
    return SceneFigure(
        "room <7>", ("rooms", "walk"), "a note with <i>tags</i>", list(pictures), predicted, true, questions, 2.5, 0.1
    )
