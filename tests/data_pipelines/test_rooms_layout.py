"""Furnished rooms: sizes, collisions, supports, colours, distributions."""

import dataclasses

import numpy as np
import pytest
import room_checks
from scipy.optimize import linprog, lsq_linear

from data_pipelines.rooms import boxes as bx
from data_pipelines.rooms import config as rooms_config
from data_pipelines.rooms import models
from data_pipelines.rooms.config import RoomsConfig
from data_pipelines.rooms.furniture import CATEGORIES, COLOURS
from data_pipelines.rooms.layout import make_scene
from data_pipelines.rooms.meshes import SLOTS

CONFIG = RoomsConfig()


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(seed, "train", CONFIG) for seed in range(14)] + [
        make_scene(seed, "ood", CONFIG) for seed in range(14, 20)
    ]


def test_vocabulary():
    assert len(COLOURS) >= 8 and len(CATEGORIES) >= 24
    for name, spec in CATEGORIES.items():
        assert name.isalpha() and name.islower()
        assert set(spec.stands_on) <= set(CATEGORIES)
        assert all(0 < low <= high for low, high in zip(spec.low, spec.high, strict=True))
        assert not set(spec.families) & set(spec.ood_families)
    assert sum(spec.small for spec in CATEGORIES.values()) >= 8


@pytest.mark.parametrize("category", sorted(CATEGORIES))
def test_models_fill_their_box_and_show_their_colour(category):
    spec = CATEGORIES[category]
    rng = np.random.default_rng(0)
    for family in spec.families + spec.ood_families:
        size = rng.uniform(spec.low, spec.high)
        model = models.build(category, family, size, rng)
        np.testing.assert_allclose(model.vertices.min(0), [-size[0] / 2, -size[1] / 2, 0], atol=1e-9)
        np.testing.assert_allclose(model.vertices.max(0), [size[0] / 2, size[1] / 2, size[2]], atol=1e-9)
        corners = model.vertices[model.faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        share = np.bincount(model.face_slot, area, len(SLOTS))
        assert share.argmax() == 0, (family, share / share.sum())


def test_models_name_their_errors():
    with pytest.raises(ValueError, match="Category 'chiar' unknown"):
        models.build("chiar", "legs", np.ones(3), np.random.default_rng(0))
    with pytest.raises(ValueError, match="no family 'doors'.*legs"):
        models.build("chair", "doors", np.ones(3), np.random.default_rng(0))


def test_nothing_leaves_the_room_and_boxes_are_exact(scenes):
    for scene in scenes:
        for item in scene.objects:
            assert (item.vertices >= -1e-5).all() and (item.vertices <= scene.size + 1e-5).all()
            own = room_checks.own_frame(item.vertices.astype(np.float64), item)
            np.testing.assert_allclose(own.max(0), item.size / 2, atol=1e-5)
            np.testing.assert_allclose(own.min(0), -item.size / 2, atol=1e-5)
            assert item.faces.max() < len(item.vertices) and item.face_material.max() < len(scene.materials)


def test_objects_keep_apart(scenes):
    """Neither grid points of a box nor vertices of a mesh lie in the box of another thing."""
    pairs = 0
    for scene in scenes:
        for first in scene.objects:
            points = np.concatenate([room_checks.box_points(first), first.vertices.astype(np.float64)])
            for second in scene.objects:
                if first.index == second.index or second.index == first.stands_on or first.index == second.stands_on:
                    continue
                inside = (np.abs(room_checks.own_frame(points, second)) < second.size / 2 - 1e-4).all(1)
                assert not inside.any(), (scene.id, first.category, second.category)
                pairs += 1
    assert pairs > 500


def test_objects_keep_out_of_walls_doors_and_windows(scenes):
    for scene in scenes:
        corners, owner = room_checks.triangles(scene)
        shell = corners[owner == -1].reshape(-1, 3)
        for item in scene.objects:
            inside = (np.abs(room_checks.own_frame(shell, item)) < item.size / 2 - 1e-4).all(1)
            assert not inside.any(), (scene.id, item.category)


def test_small_things_stand_on_their_support(scenes):
    checked = 0
    for scene in scenes:
        for item in scene.objects:
            if item.stands_on is None:
                continue
            host = scene.objects[item.stands_on]
            assert host.category in CATEGORIES[item.category].stands_on
            corners = host.vertices[host.faces].astype(np.float64)
            bottom = item.centre[2] - item.size[2] / 2
            spots = room_checks.box_points(item, 3)
            spots = np.unique(np.round(spots[:, :2], 9), axis=0)
            gaps = [
                room_checks.first_hit(np.array([*spot, bottom + 0.3]), np.array([0.0, 0.0, -1.0]), corners)[0] - 0.3
                for spot in spots
            ]
            assert min(gaps) > -3e-3, (host.category, host.shape, item.category, gaps)  # nothing of the host above
            assert np.sum(np.abs(gaps) < 3e-3) >= 6, (host.category, item.category, gaps)  # gaps between cushions
            checked += 1
    assert checked >= 20


def test_floor_things_touch_the_floor(scenes):
    for scene in scenes:
        for item in scene.objects:
            if item.stands_on is None and CATEGORIES[item.category].placement != "hung":
                assert abs(item.vertices[:, 2].min()) < 1e-5


def test_numbers_and_colours():
    scenes = [make_scene(seed, "train", CONFIG) for seed in range(100, 140)]
    large = [[item for item in scene.objects if not CATEGORIES[item.category].small] for scene in scenes]
    assert all(5 <= len(things) <= 8 for things in large)
    distinct = np.mean([len({item.colour for item in things}) == len(things) for things in large])
    assert distinct >= 0.7
    assert np.mean([len(scene.objects) - len(things) for scene, things in zip(scenes, large, strict=True)]) >= 2
    seen = {item.category for scene in scenes for item in scene.objects}
    assert len(seen) >= 30
    repeated = [len({item.category for item in things}) < len(things) for things in large]
    assert 0.3 < np.mean(repeated) < 1.0


def test_same_seed_same_room_other_seed_other_room():
    first, again, other = (make_scene(seed, "train", CONFIG) for seed in (5, 5, 6))
    for left, right in zip(first.objects, again.objects, strict=True):
        np.testing.assert_array_equal(left.vertices, right.vertices)
        assert (left.category, left.colour) == (right.category, right.colour)
    assert first.materials == again.materials
    assert not np.array_equal(first.size, other.size)


def test_out_of_distribution_differs_in_all_promised_ways(scenes):
    default, ood = rooms_config.DEFAULT, rooms_config.OOD
    assert default.room_side[1] < ood.room_side[0] and default.circle_radius[1] < ood.circle_radius[0]
    for name in ("wall_patterns", "object_patterns", "floor_patterns"):
        assert not set(getattr(default, name)) & set(getattr(ood, name))
    shown = [scene for scene in scenes[14:]]
    assert all((scene.size[:2] >= ood.room_side[0]).all() for scene in shown)
    assert all((scene.size[:2] <= default.room_side[1]).all() for scene in scenes[:14])


def test_chosen_categories_and_errors():
    chosen = dataclasses.replace(CONFIG, categories=("table", "chair", "vase"))
    scene = make_scene(3, "train", chosen)
    assert {item.category for item in scene.objects} <= {"table", "chair", "vase"}
    with pytest.raises(ValueError, match="tabel.*Known"):
        make_scene(0, "train", dataclasses.replace(CONFIG, categories=("tabel",)))
    with pytest.raises(ValueError, match="none of them stands on the floor"):
        make_scene(0, "train", dataclasses.replace(CONFIG, categories=("vase",)))
    with pytest.raises(ValueError, match="Split 'dev' unknown"):
        make_scene(0, "dev", CONFIG)


def _random_boxes(rng, count) -> bx.Boxes:
    low = rng.uniform(0, 1, count)
    return bx.Boxes(
        rng.uniform(0, 3, (count, 2)),
        rng.uniform(0.1, 0.9, (count, 2)),
        rng.uniform(-np.pi, np.pi, count),
        low,
        low + rng.uniform(0.1, 0.8, count),
    )


def test_overlap_agrees_with_linear_programming():
    """Two rectangles meet if own coordinates exist, each within its half sizes, of one common point."""
    rng = np.random.default_rng(0)
    a, b = _random_boxes(rng, 14), _random_boxes(rng, 14)
    found = bx.overlap(a, b)
    for i in range(14):
        for j in range(14):
            axes = [np.array([[np.cos(y), -np.sin(y)], [np.sin(y), np.cos(y)]]) for y in (a.yaw[i], b.yaw[j])]
            limits = [(-h, h) for h in (*a.half[i], *b.half[j])]
            meeting = linprog(
                np.zeros(4), A_eq=np.hstack([axes[0], -axes[1]]), b_eq=b.centre[j] - a.centre[i], bounds=limits
            )
            level = a.low[i] < b.high[j] and b.low[j] < a.high[i]
            assert found[i, j] == ((meeting.status == 0) and level)
    assert 20 < found.sum() < 150


def test_distance_agrees_with_bounded_least_squares():
    rng = np.random.default_rng(1)
    boxes, points = _random_boxes(rng, 8), rng.uniform(-1, 4, (8, 3))
    found = bx.distance(points, boxes)
    for i in range(8):
        for j in range(8):
            c, s = np.cos(boxes.yaw[j]), np.sin(boxes.yaw[j])
            half = np.array([*boxes.half[j], (boxes.high[j] - boxes.low[j]) / 2])
            middle = np.array([*boxes.centre[j], (boxes.high[j] + boxes.low[j]) / 2])
            turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            nearest = lsq_linear(turn, points[i] - middle, bounds=(-half, half), tol=1e-14)
            np.testing.assert_allclose(found[i, j], np.sqrt(2 * nearest.cost), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 9}, "views is 9; expected 1 to 8"),
        ({"form": "prose"}, "form is 'prose'"),
        ({"objects": (8, 5)}, "objects"),
        ({"mix": "walk=.5,fly=.5"}, "fly=.5.*rotation"),
        ({"mix": "walk=0"}, "no positive share"),
        ({"mix": {"walk": -1}}, "walk=-1"),
        ({"fov_deg": (10, 20)}, "fov_deg"),
    ],
)
def test_config_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        RoomsConfig(**changes)


def test_mix_forms_agree():
    wanted = (("walk", 0.25), ("free", 0.75))
    for mix in ("walk=1,free=3", {"walk": 1, "free": 3}, [("walk", 0.25), ("free", 0.75)], wanted):
        assert RoomsConfig(mix=mix).mix == wanted
