"""Boxes behind each other, by closed form and by marching along rays."""

from __future__ import annotations

import numpy as np
import pytest

from spatialsv_jax import geometry
from spatialsv_jax.evaluation.scene_difficulty import difficulty, sight_of_boxes

INTRINSICS = np.array([[[20.0, 0, 20], [0, 20, 20], [0, 0, 1]]])


def _boxes(*rows):
    centres, sizes = (np.array(column, float) for column in zip(*rows, strict=True))
    return centres, np.tile(np.eye(3), (len(rows), 1, 1)), sizes


def test_a_box_half_behind_another():
    # The far box covers x in -1..1 of a plane at z = 4: 10 columns of 20 pixels / 4 * 2 m. The wall hides x < 0.
    boxes = _boxes(((0, 0, 4.5), (2, 2, 1)))
    depth = np.full((1, 40, 40), 4.0)
    depth[:, :, :20] = 2.0
    met, hidden = sight_of_boxes(depth, np.ones(depth.shape, bool), INTRINSICS, np.eye(4)[None], *boxes)
    assert met[0, 0] == 100 and hidden[0, 0] == 50
    assert difficulty(met, hidden, [0]) == {"object_count": 1, "occlusion": 0.5}
    met, hidden = sight_of_boxes(depth, depth > 3, INTRINSICS, np.eye(4)[None], *boxes)
    assert (met[0, 0], hidden[0, 0]) == (50, 0)  # pixels without depth say nothing


def test_out_of_sight_behind_and_around_the_camera():
    boxes = _boxes(((9, 0, 4), (1, 1, 1)), ((0, 0, -4), (1, 1, 1)), ((0, 0, 0), (6, 6, 6)))
    depth = np.full((1, 40, 40), 0.5)
    met, hidden = sight_of_boxes(depth, np.ones(depth.shape, bool), INTRINSICS, np.eye(4)[None], *boxes)
    assert met[:, 0].tolist() == [0, 0, 1600] and hidden[:, 0].tolist() == [0, 0, 0]
    assert difficulty(met[:2], hidden[:2], [0]) == {"object_count": 0, "occlusion": None}


def test_turned_boxes_by_marching():
    rng = np.random.default_rng(0)
    pose = np.eye(4)
    angle = 0.4
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = [0.3, -0.2, 0.1]
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0][None]
    centre, size = np.array([[1.2, 0.1, 3.0]]), np.array([[1.0, 0.7, 1.4]])
    depth = rng.uniform(1.0, 4.0, (1, 40, 40))
    met, hidden = sight_of_boxes(depth, np.ones(depth.shape, bool), INTRINSICS, pose[None], centre, axes, size)
    steps = np.arange(0.0, 8, 0.004)
    ray = geometry.rays_from_camera(INTRINSICS, pose[None], 40, 40)[0]
    points = ray[..., None, :3] + steps[:, None] * ray[..., None, 3:]
    inside = (np.abs((points - centre[0]) @ axes[0].T) <= size[0] / 2).all(-1)
    first = np.where(inside.any(-1), steps[inside.argmax(-1)], np.inf)
    assert met[0, 0] == pytest.approx(np.isfinite(first).sum(), abs=4)
    assert hidden[0, 0] == pytest.approx((np.isfinite(first) & (depth[0] < first - 0.03)).sum(), abs=4)
    assert 20 < hidden[0, 0] < met[0, 0]
