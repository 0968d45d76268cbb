"""The view settings' definitions, the refusals, and the cameras' conventions."""

import itertools

import numpy as np
import pytest
from scipy.spatial import Delaunay

from data_pipelines.rooms import cameras
from data_pipelines.rooms.config import DEFAULT, OOD, SETTINGS, RoomsConfig
from data_pipelines.rooms.layout import make_scene
from data_pipelines.rooms.raycast import Raycaster

CONFIG = RoomsConfig(size=48)


@pytest.fixture(scope="module")
def rooms():
    made = []
    for seed in range(5):
        scene = make_scene(seed, "train", CONFIG)
        made.append((scene, Raycaster(scene)))
    return made


def _sequences(rooms, setting, count=4):
    found = []
    for number, (scene, raycaster) in enumerate(rooms):
        rng = np.random.default_rng(number)
        poses, rejected = cameras.sample_poses(scene, raycaster, setting, count, 68.0, rng, DEFAULT)
        refused = rejected["close"] + rejected["empty"] + rejected["apart"]
        assert rejected["tried"] >= len(poses) + refused
        if poses:
            assert len(poses) == count
            found.append((scene, np.stack(poses)))
    assert len(found) >= 3, f"{setting}: only {len(found)} of {len(rooms)} rooms"
    return found


def _angle_deg(first, second):
    return np.degrees(np.arccos(np.clip((np.trace(first.T @ second) - 1) / 2, -1, 1)))


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_view_is_upright_clear_and_shows_objects(rooms, setting):
    scene, raycaster = rooms[1]
    rng = np.random.default_rng(7)
    views, _ = cameras.sample_views(scene, raycaster, setting, 3, 48, rng, CONFIG)
    assert len(views) == 3
    for view in views:
        rotation, centre = view.camera_to_world[:3, :3], view.camera_to_world[:3, 3]
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(rotation), 1.0)
        assert abs(rotation[2, 0]) < 1e-12 and rotation[2, 1] < 0, "x level, y down"
        corners = np.concatenate([item.vertices for item in scene.objects])
        assert np.linalg.norm(corners - centre, axis=1).min() >= 0.35
        assert ((centre > 0.35) & (centre < scene.size - 0.35)).all()
        focal = view.intrinsics[0, 0]
        fov = 2 * np.degrees(np.arctan(24 / focal))
        assert 60 <= fov <= 75 and view.intrinsics[1, 1] == focal and (view.intrinsics[:2, 2] == 24).all()
        v, u = np.mgrid[0:48, 0:48] + 0.5
        reach = np.sqrt(((u - 24) / focal) ** 2 + ((v - 24) / focal) ** 2 + 1) * view.depth
        assert reach.min() >= 0.35
        shown, pixels = np.unique(view.instance[view.instance >= 0], return_counts=True)
        assert (pixels >= 4).sum() >= 2
    assert len({view.intrinsics[0, 0] for view in views}) == 1, "one camera per record"


@pytest.mark.parametrize("setting", SETTINGS)
def test_one_view_is_a_sequence_too(rooms, setting):
    _sequences(rooms, setting, count=1)


def test_rotation_turns_on_the_spot(rooms):
    for _, poses in _sequences(rooms, "rotation"):
        assert np.ptp(poses[:, :3, 3], axis=0).max() == 0
        headings = np.unwrap(np.arctan2(poses[:, 1, 2], poses[:, 0, 2]))
        steps = np.degrees(np.diff(headings))
        np.testing.assert_allclose(steps, steps[0], atol=1e-9)
        assert 29.9 <= abs(steps[0]) <= 80.1
        np.testing.assert_allclose(poses[:, 2, 2], poses[0, 2, 2], atol=1e-12)


def test_walks_never_go_backwards(rooms):
    for _, poses in _sequences(rooms, "walk"):
        for before, after in itertools.pairwise(poses):
            step, heading = (after[:3, 3] - before[:3, 3])[:2], after[:2, 2]
            cosine = step @ heading / np.linalg.norm(step) / np.linalg.norm(heading)
            assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) <= 60 + 1e-6


def test_walk_steps_and_turns_are_bounded_and_overlap(rooms):
    for _, poses in _sequences(rooms, "walk"):
        for first, second in itertools.pairwise(poses):
            assert 0.2 - 1e-9 <= np.linalg.norm(first[:3, 3] - second[:3, 3]) <= 0.6 + 1e-9
            assert _angle_deg(first[:3, :3], second[:3, :3]) <= 40.0
        assert np.ptp(poses[:, 2, 3]) == 0


def test_around_is_a_circle_that_looks_at_its_centre(rooms):
    for _, poses in _sequences(rooms, "around"):
        centres, forward = poses[:, :3, 3], poses[:, :3, 2]
        # Point nearest to all optical axes, least squares.
        project = np.eye(3) - forward[:, :, None] * forward[:, None, :]
        middle = np.linalg.solve(project.sum(0), np.einsum("vij,vj->i", project, centres))
        away = np.einsum("vij,vj->vi", project, middle - centres)
        assert np.abs(away).max() < 1e-9
        radius = np.linalg.norm((middle - centres)[:, :2], axis=1)
        np.testing.assert_allclose(radius, radius[0], atol=1e-9)
        assert DEFAULT.circle_radius[0] <= radius[0] <= DEFAULT.circle_radius[1]
        assert (np.einsum("vi,vi->v", middle - centres, forward) > 0).all()


def test_among_stands_between_things_and_looks_at_one_each(rooms):
    for scene, poses in _sequences(rooms, "among"):
        things = [item for item in scene.objects if item.stands_on is None and item.vertices[:, 2].min() < 0.05]
        plan = np.array([item.centre for item in things])
        places = poses[:, :2, 3]
        assert (Delaunay(plan[:, :2]).find_simplex(places, tol=1e-9) >= 0).all()
        assert max(np.linalg.norm(a - b) for a in places for b in places) <= 1.0 + 1e-9
        looked_at = set()
        for pose in poses:
            own = (plan - pose[:3, 3]) @ pose[:3, :3]
            ahead = np.flatnonzero((np.abs(own[:, 0]) < 1e-9) & (own[:, 2] > 0))
            assert len(ahead) >= 1
            looked_at.add(int(ahead[0]))
        assert len(looked_at) == min(len(poses), len(things))


def test_free_views_have_their_own_places(rooms):
    for _, poses in _sequences(rooms, "free"):
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(poses[:, :3, 3], 2)) > 1e-3


def test_refusals_are_counted(rooms):
    """Views that stare at a wall or stand in a cupboard are refused for that reason."""
    scene, raycaster = rooms[0]
    intrinsics = cameras.make_intrinsics(68.0, 24)
    wall = cameras.camera_pose([0.5, scene.size[1] / 2, 2.2], np.pi, -0.2)
    assert cameras._refuse(raycaster, intrinsics, wall, set()) in ("close", "empty")
    up = cameras.camera_pose(scene.size / 2, 0.0, -1.4)
    assert cameras._refuse(raycaster, intrinsics, up, set()) == "empty"
    tall = max(scene.objects, key=lambda item: item.size[2])
    assert not cameras.is_clear(scene, tall.centre[None])[0]
    assert not cameras.is_clear(scene, np.array([[0.3, 1.0, 1.5]]))[0]
    totals = {name: 0 for name in ("tried", "close", "empty", "apart")}
    for seed in range(3):
        _, rejected = cameras.sample_poses(scene, raycaster, "free", 6, 68.0, np.random.default_rng(seed), DEFAULT)
        totals = {name: totals[name] + rejected[name] for name in totals}
    assert totals["close"] > 0 and totals["tried"] == 18 + totals["close"] + totals["empty"] + totals["apart"]


def test_other_radii_out_of_distribution():
    scene = make_scene(2, "ood", CONFIG)
    candidates = cameras._around(scene, 4, OOD, np.random.default_rng(0))
    middle = candidates.centre.copy()
    forward = np.stack([np.cos(candidates.yaw), np.sin(candidates.yaw)], -1)
    flat = np.array([np.linalg.norm(row[0] - row[2]) for row in middle[..., :2]])
    assert forward.shape == (64, 4, 2) and flat.max() > 2 * DEFAULT.circle_radius[1] * np.sin(np.radians(18))
    assert (candidates.centre[..., 2] <= OOD.camera_height[1]).all()


def test_unknown_setting_is_named(rooms):
    scene, raycaster = rooms[0]
    with pytest.raises(ValueError, match="'orbit' unknown.*rotation"):
        cameras.sample_poses(scene, raycaster, "orbit", 2, 68.0, np.random.default_rng(0), DEFAULT)
