"""Boxes from metadata against the renderer's own instance maps, and words against things."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_pipelines.rooms import generate
from data_pipelines.rooms.layout import make_scene
from data_pipelines.rooms.raycast import Raycaster
from data_pipelines.scene_objects import ObjectBox, instances, named_objects, object_boxes
from spatialsv_jax import geometry


def _box(name, centre=(0, 0, 0), size=(1, 1, 1)):
    colour, category = name.rsplit(" ", 1) if " " in name else ("", name)
    return ObjectBox(category, colour, np.array(centre, float), np.eye(3), np.array(size, float))


def test_pixels_of_a_room_are_those_of_the_renderer():
    config = generate.RoomsConfig(size=48, views=2)
    record, _ = generate.make_record(config, "test", 1)
    scene = make_scene(int(record.metadata["scene_seed"]), "test", config)
    boxes = object_boxes(record)
    order = sorted(range(len(boxes)), key=lambda i: tuple(boxes[i].centre))
    own = sorted(range(len(scene.objects)), key=lambda i: tuple(np.round(scene.objects[i].centre, 5)))
    assert len(order) == len(own)
    same = dict(zip(own, order, strict=True))  # place in the scene -> place among the boxes
    for there, here in same.items():
        assert (scene.objects[there].category, scene.objects[there].colour) == (
            boxes[here].category,
            boxes[here].colour,
        )
    for view in range(2):
        pose, camera = record.camera_to_world[view], record.intrinsics[view]
        depth, truth = Raycaster(scene).look(camera, pose, 48, 48)
        points = geometry.points_from_depth(depth[None].astype(np.float64), camera[None], pose[None])[0]
        found = instances(np.where(depth[..., None] > 0, points, np.nan), boxes)
        expected = np.vectorize(lambda i: same.get(i, -1))(truth)
        shown = expected >= 0
        assert shown.sum() > 100
        assert (found == expected)[shown].mean() > 0.97  # a box holds its thing; another may reach into it
        assert (found == expected).mean() > 0.9  # and a strip of wall or floor at its border


def test_the_smaller_box_wins_and_what_is_not_finite_is_in_none():
    boxes = [_box("lamp", size=(0.2, 0.2, 0.2)), _box("table", size=(2, 2, 2)), _box("rug", (5, 0, 0))]
    points = np.array([[0, 0, 0.1], [0.9, 0, 0], [5, 0.51, 0], [5, 0.53, 0], [np.nan, 0, 0]])
    np.testing.assert_array_equal(instances(points, boxes), [0, 1, 2, -1, -1])


@pytest.mark.parametrize(
    "text, names",
    [
        ("is the red chair left or right of the blue table ?", ["red chair", "blue table"]),
        ("in view 1 what colour is the chair ?", ["red chair", "blue chair"]),
        ("how many chairs or lamps do the views show ?", ["red chair", "blue chair", "red lamp"]),
        ("how many red or green objects are there ?", ["red chair", "red lamp"]),
        ("is the green chair there ?", ["red chair", "blue chair"]),
        ("where is the office chair ?", ["office chair"]),
        ("what is at upper left ?", []),
        ("the armchair", []),
    ],
)
def test_questions_name_things(text, names):
    boxes = [_box(name) for name in ("red chair", "blue chair", "blue table", "red lamp")]
    boxes.append(dataclasses.replace(_box("x"), category="office chair"))
    assert [boxes[place].name for place in named_objects(text, boxes)] == names


def test_records_without_or_with_broken_boxes():
    record, _ = generate.make_record(generate.RoomsConfig(size=16, views=1, mix="free=1"), "test", 0)
    assert object_boxes(dataclasses.replace(record, metadata={})) == ()
    broken = {"object_bbox": repr({"chair": [{"centroid": [0, 0]}]})}
    with pytest.raises(ValueError, match=rf"{record.id}.*object_bbox, category 'chair'"):
        object_boxes(dataclasses.replace(record, metadata=broken))
    with pytest.raises(ValueError, match="is no dict as text"):
        object_boxes(dataclasses.replace(record, metadata={"object_bbox": "f()"}))
