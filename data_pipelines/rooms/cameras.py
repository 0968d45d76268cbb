"""Where the pictures of a room are taken from: five view settings, and which views are refused.

- rotation: one place, the camera turns by a constant step about the vertical.
- among: the cameras stand between the objects (inside the convex hull of the floor things' centres,
  within 0.5 m of a common point); each looks at an object of its own.
- around: the cameras stand on a circle about a group of objects and look at its centre.
- walk: a bending path; successive views are at most 0.6 m and 40 degrees apart and overlap.
- free: independent places and directions.

All cameras are upright (no roll) with one pinhole per record: square pixels, principal point in the
middle, horizontal field of view drawn from `RoomsConfig.fov_deg`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.rooms import boxes as bx
from data_pipelines.rooms.config import SETTINGS, Distribution, RoomsConfig, distribution
from data_pipelines.rooms.raycast import Raycaster
from data_pipelines.rooms.scene import RenderedView, Scene

CLEAR_M = 0.35  # nearest allowed surface
MIN_OBJECTS = 2  # objects that a view must show
MIN_SHARE = 0.004  # of the picture that an object must fill to count as shown
MIN_OVERLAP = 0.3  # share of a walk view's pixels that the view before sees too
WALK_STEP_M = (0.20, 0.60)
WALK_BEND_DEG = 30.0  # turn per view that a path keeps up, at most, to either side
WALK_SWAY_DEG = 8.0  # what each turn may differ from it
WALK_DRIFT_DEG = 60.0  # between where a path leads and where it looks, at most: forward to sideways, not backwards
GROUP_REACH_M = 2.2  # a group's members are nearer than this to its first one
_FIXTURES_M = 0.07  # how far handles, frames and ceiling lamps stand out
_LOOK = 24  # side of the small picture that decides about a view
_SEQUENCES = 64  # candidate sequences drawn at once
_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Candidates:
    """N candidate sequences of V cameras."""

    centre: np.ndarray  # float64[N,V,3] metres
    yaw: np.ndarray  # float64[N,V] radians, heading about world z from +x
    pitch: np.ndarray  # float64[N,V] radians, positive looks down
    must_see: list  # per sequence and view a set of object indices (one must be visible), or empty


def camera_pose(centre: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
    """camera_to_world float64[4,4] of an upright camera (OpenCV axes)."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = centre
    return pose


def make_intrinsics(fov_deg: float, size: int) -> np.ndarray:
    """float64[3,3] of a square picture of `size` pixels with a horizontal field of view."""
    focal = size / 2 / np.tan(np.radians(fov_deg) / 2)
    return np.array([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])


def object_boxes(scene: Scene) -> bx.Boxes:
    """The oriented boxes of a scene's objects."""
    centre = np.array([item.centre for item in scene.objects]).reshape(-1, 3)
    half = np.array([item.size for item in scene.objects]).reshape(-1, 3) / 2
    yaw = np.array([item.yaw for item in scene.objects])
    return bx.Boxes(centre[:, :2], half[:, :2], yaw, centre[:, 2] - half[:, 2], centre[:, 2] + half[:, 2])


def is_clear(scene: Scene, points: np.ndarray, margin: float = CLEAR_M) -> np.ndarray:
    """bool[P]: are the places float64[P,3] inside the room and `margin` metres from everything in it?"""
    wall = margin + _FIXTURES_M
    inside = ((points >= wall) & (points <= scene.size - wall)).all(-1)
    if not scene.objects:
        return inside
    return inside & (bx.distance(points, object_boxes(scene)) >= margin).all(-1)


def _floor_things(scene: Scene) -> list:
    return [item for item in scene.objects if item.stands_on is None and item.centre[2] - item.size[2] / 2 < 0.05]


def _rotation(scene, count, dist, rng) -> Candidates:
    n = _SEQUENCES
    centre = np.repeat(_places(scene, n, dist, rng)[:, None], count, 1)
    step = np.radians(rng.uniform(30.0, min(80.0, 360.0 / count), n)) * rng.choice([-1.0, 1.0], n)
    yaw = rng.uniform(-np.pi, np.pi, n)[:, None] + step[:, None] * np.arange(count)
    pitch = np.repeat(np.radians(rng.uniform(6.0, 22.0, n))[:, None], count, 1)
    return Candidates(centre, yaw, pitch, [[set()] * count] * n)


def _free(scene, count, dist, rng) -> Candidates:
    n = _SEQUENCES
    centre = _places(scene, n * count, dist, rng).reshape(n, count, 3)
    yaw = rng.uniform(-np.pi, np.pi, (n, count))
    return Candidates(centre, yaw, np.radians(rng.uniform(4.0, 26.0, (n, count))), [[set()] * count] * n)


def _walk(scene, count, dist, rng) -> Candidates:
    n = _SEQUENCES
    start = _places(scene, n, dist, rng)
    bend, sway = (np.radians(limit) for limit in (WALK_BEND_DEG, WALK_SWAY_DEG))
    turn = rng.uniform(-bend, bend, n)[:, None] + rng.uniform(-sway, sway, (n, count))
    turn[:, 0] = rng.uniform(-np.pi, np.pi, n)
    yaw = np.cumsum(turn, 1)
    drift = np.radians(rng.uniform(-WALK_DRIFT_DEG, WALK_DRIFT_DEG, n))
    length = rng.uniform(*WALK_STEP_M, (n, count))
    length[:, 0] = 0.0
    step = length[..., None] * np.stack([np.cos(yaw + drift[:, None]), np.sin(yaw + drift[:, None])], -1)
    centre = np.repeat(start[:, None], count, 1)
    centre[..., :2] += np.cumsum(step, 1)
    pitch = np.radians(rng.uniform(6.0, 20.0, n)[:, None] + rng.uniform(-3.0, 3.0, (n, count)))
    return Candidates(centre, yaw, pitch, [[set()] * count] * n)


def _around(scene, count, dist, rng) -> Candidates | None:
    things = _floor_things(scene)
    if len(things) < 2:
        return None
    n = _SEQUENCES
    plan = np.array([item.centre[:2] for item in things])
    centre, yaw, pitch = np.zeros((n, count, 3)), np.zeros((n, count)), np.zeros((n, count))
    groups = []
    for number in range(n):
        first = int(rng.integers(len(things)))
        gaps = np.linalg.norm(plan - plan[first], axis=1)
        near = [int(k) for k in np.argsort(gaps, kind="stable")[: int(rng.integers(2, 5))] if gaps[k] < GROUP_REACH_M]
        middle = np.array([*plan[near].mean(0), rng.uniform(0.4, 0.7)])
        step = np.radians(rng.uniform(18.0, min(50.0, 360.0 / count))) * rng.choice([-1.0, 1.0])
        angle = rng.uniform(-np.pi, np.pi) + step * np.arange(count)
        radius, height = rng.uniform(*dist.circle_radius), rng.uniform(*dist.camera_height)
        centre[number] = middle
        centre[number, :, :2] += radius * np.stack([np.cos(angle), np.sin(angle)], -1)
        centre[number, :, 2] = height
        yaw[number], pitch[number] = angle + np.pi, np.arctan2(height - middle[2], radius)
        groups.append([{things[k].index for k in near}] * count)
    return Candidates(centre, yaw, pitch, groups)


def _among(scene, count, dist, rng) -> Candidates | None:
    things = _floor_things(scene)
    if len(things) < 3:
        return None
    n = _SEQUENCES
    plan = np.array([item.centre for item in things])
    centre, yaw, pitch, targets = np.zeros((n, count, 3)), np.zeros((n, count)), np.zeros((n, count)), []
    for number in range(n):
        common = rng.dirichlet(np.ones(len(things))) @ plan[:, :2]
        others = rng.dirichlet(np.ones(len(things)), count) @ plan[:, :2] - common
        away = np.linalg.norm(others, axis=1, keepdims=True)
        places = common + others * np.minimum(1.0, rng.uniform(0.1, 0.5, (count, 1)) / np.maximum(away, 1e-9))
        chosen = rng.permutation(len(things))[:count]
        chosen = np.resize(chosen, count)  # fewer things than views: some are looked at twice
        aim = plan[chosen] - np.concatenate([places, np.full((count, 1), rng.uniform(*dist.camera_height))], 1)
        centre[number, :, :2] = places
        centre[number, :, 2] = plan[chosen, 2] - aim[:, 2]
        yaw[number] = np.arctan2(aim[:, 1], aim[:, 0])
        pitch[number] = np.clip(np.arctan2(-aim[:, 2], np.linalg.norm(aim[:, :2], axis=1)), 0.0, np.radians(30.0))
        targets.append([{things[int(k)].index} for k in chosen])
    return Candidates(centre, yaw, pitch, targets)


def _places(scene: Scene, count: int, dist: Distribution, rng) -> np.ndarray:
    """float64[count,3] places over the floor at camera height."""
    low = np.array([CLEAR_M, CLEAR_M, dist.camera_height[0]])
    high = np.array([*(scene.size[:2] - CLEAR_M), dist.camera_height[1]])
    return rng.uniform(low, high, (count, 3))


_MAKERS = {"rotation": _rotation, "among": _among, "around": _around, "walk": _walk, "free": _free}


def _overlap(raycaster: Raycaster, intrinsics: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Share of the second view's pixels whose surface the first view sees too."""
    depth, _ = raycaster.look(intrinsics, second, _LOOK, _LOOK)
    before, _ = raycaster.look(intrinsics, first, _LOOK, _LOOK)
    v, u = np.mgrid[0:_LOOK, 0:_LOOK] + 0.5
    pixels = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3)
    points = (pixels @ np.linalg.inv(intrinsics).T) * depth.reshape(-1, 1) @ second[:3, :3].T + second[:3, 3]
    seen = (points - first[:3, 3]) @ first[:3, :3] @ intrinsics.T
    z = np.maximum(seen[:, 2], 1e-6)
    column, line = np.floor(seen[:, 0] / z).astype(int), np.floor(seen[:, 1] / z).astype(int)
    inside = (seen[:, 2] > 0.1) & (column >= 0) & (column < _LOOK) & (line >= 0) & (line < _LOOK)
    known = before[np.clip(line, 0, _LOOK - 1), np.clip(column, 0, _LOOK - 1)]
    return float((inside & (z < 1.15 * known + 0.1)).mean())


def _refuse(raycaster: Raycaster, intrinsics: np.ndarray, pose: np.ndarray, must_see: set) -> str:
    """Why a view is no good: "close", "empty", or "" if it is good."""
    depth, instance = raycaster.look(intrinsics, pose, _LOOK, _LOOK)
    if depth.min() < CLEAR_M or np.median(depth) < 2 * CLEAR_M:
        return "close"
    found, pixels = np.unique(instance[instance >= 0], return_counts=True)
    found = found[pixels >= MIN_SHARE * _LOOK * _LOOK]
    if len(found) < MIN_OBJECTS or (must_see and not must_see & set(found.tolist())):
        return "empty"
    return ""


def sample_poses(
    scene: Scene, raycaster: Raycaster, setting: str, count: int, fov_deg: float, rng, dist: Distribution
) -> tuple[list[np.ndarray], dict[str, int]]:
    """Camera poses of one record, and how many views were looked at and refused.

    Returns:
      `count` matrices camera_to_world float64[4,4] (an empty list when nothing fits this room), and
      the numbers of views `tried`, refused as `close` (a surface too near), `empty` (too few objects,
      or not the wanted one) or `apart` (a walk that does not overlap). A sequence is refused at its
      first bad view.

    Raises:
      ValueError: unknown setting.
    """
    if setting not in _MAKERS:
        raise ValueError(f"View setting '{setting}' unknown. Settings: {', '.join(SETTINGS)}.")
    rejected = {"tried": 0, "close": 0, "empty": 0, "apart": 0}
    small = make_intrinsics(fov_deg, _LOOK)
    length = 1 if setting == "free" else count  # free views are independent: refuse them one by one
    poses: list[np.ndarray] = []
    for _ in range(_ROUNDS):
        candidates = _MAKERS[setting](scene, length, dist, rng)
        if candidates is None:
            break
        clear = is_clear(scene, candidates.centre.reshape(-1, 3)).reshape(-1, length)
        if setting == "walk" and length > 1:
            between = (candidates.centre[:, 1:] + candidates.centre[:, :-1]) / 2
            clear[:, 1:] &= is_clear(scene, between.reshape(-1, 3), 0.2).reshape(-1, length - 1)
        for number in range(_SEQUENCES):
            sequence = _try(raycaster, small, candidates, number, clear[number], setting, rejected)
            poses += sequence
            if len(poses) == count:
                return poses, rejected
    return [], rejected


def _try(raycaster, intrinsics, candidates: Candidates, number: int, clear, setting: str, rejected) -> list[np.ndarray]:
    """The poses of one candidate sequence if every view is good, else none."""
    if not clear.all():
        rejected["tried"] += int(np.argmin(clear)) + 1
        rejected["close"] += 1
        return []
    poses: list[np.ndarray] = []
    for view in range(len(clear)):
        pose = camera_pose(
            candidates.centre[number, view], candidates.yaw[number, view], candidates.pitch[number, view]
        )
        rejected["tried"] += 1
        reason = _refuse(raycaster, intrinsics, pose, candidates.must_see[number][view])
        if not reason and setting == "walk" and poses:
            reason = "apart" if _overlap(raycaster, intrinsics, poses[-1], pose) < MIN_OVERLAP else ""
        if reason:
            rejected[reason] += 1
            return []
        poses.append(pose)
    return poses


def sample_views(
    scene: Scene,
    raycaster: Raycaster,
    setting: str,
    count: int,
    size: int,
    rng,
    config: RoomsConfig,
    split: str = "train",
) -> tuple[list[RenderedView], dict[str, int]]:
    """`count` rendered views of size x size pixels in one setting, and the counts of `sample_poses`."""
    fov_deg = float(rng.uniform(*config.fov_deg))
    poses, rejected = sample_poses(scene, raycaster, setting, count, fov_deg, rng, distribution(split))
    intrinsics = make_intrinsics(fov_deg, size)
    return [raycaster.render(intrinsics, pose, size, size, config.antialias) for pose in poses], rejected
