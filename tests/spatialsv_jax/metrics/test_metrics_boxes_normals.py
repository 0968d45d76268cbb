"""Box overlap against SciPy's half-space intersection and closed forms; normals against loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import ConvexHull, HalfspaceIntersection
from scipy.spatial.transform import Rotation

from spatialsv_jax import metrics
from spatialsv_jax.metrics import Boxes


def halfspaces(centre, size, rotation) -> np.ndarray:
    """[6, 4] rows (normal, offset) with normal . x + offset <= 0 inside."""
    normals = np.concatenate([rotation.T, -rotation.T])
    return np.column_stack([normals, -normals @ centre - np.tile(size / 2, 2)])


def scipy_iou(first, second) -> float:
    """By Qhull; an interior point is sought among many random ones of the first box."""
    planes = np.concatenate([halfspaces(*first), halfspaces(*second)])
    rng = np.random.default_rng(0)
    inside = first[0] + (first[2] @ (first[1] * (rng.random((20_000, 3)) - 0.5)).T).T
    depth = (inside @ planes[:, :3].T + planes[:, 3]).max(-1)
    if depth.min() > -1e-4:
        return np.nan  # nothing, or too little for this way of seeking
    corners = HalfspaceIntersection(planes, inside[depth.argmin()]).intersections
    shared = ConvexHull(corners).volume
    return shared / (np.prod(first[1]) + np.prod(second[1]) - shared)


def boxes(number: int, seed: int, spread: float = 0.5) -> Boxes:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(number, random_state=seed).as_matrix()
    return Boxes(spread * rng.normal(size=(number, 3)), rng.uniform(0.3, 2, (number, 3)), rotation)


def aligned(centre, size, angle: float = 0.0) -> Boxes:
    turn = Rotation.from_euler("z", angle, degrees=True).as_matrix()
    return Boxes(np.array([centre], float), np.array([size], float), turn[None])


def test_random_boxes_against_scipy():
    first, second = boxes(12, 1), boxes(9, 2)
    result = metrics.box_iou(first, second)
    assert result.shape == (12, 9)
    compared = 0
    for i, a in enumerate(zip(*first, strict=True)):
        for j, b in enumerate(zip(*second, strict=True)):
            expected = scipy_iou(a, b)
            if not np.isnan(expected):
                assert result[i, j] == pytest.approx(expected, rel=1e-7), (i, j)
                compared += 1
            else:
                assert result[i, j] < 1e-3
    assert compared > 60 and result.max() > 0.2
    np.testing.assert_allclose(result, metrics.box_iou(second, first).T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (aligned((0, 0, 0), (2, 2, 2)), aligned((0, 0, 0), (2, 2, 2)), 1.0),
        (aligned((0, 0, 0), (2, 2, 2)), aligned((1, 0, 0), (2, 2, 2)), 1 / 3),  # four coplanar faces
        (aligned((0, 0, 0), (2, 2, 2)), aligned((0, 0, 0), (1, 1, 1)), 1 / 8),
        (aligned((0, 0, 0), (2, 2, 2)), aligned((0.5, 0.5, 0.5), (1, 1, 1)), 1 / 8),  # inside, in a corner
        (aligned((0, 0, 0), (2, 2, 2)), aligned((2, 0, 0), (2, 2, 2)), 0.0),  # a face in common
        (aligned((0, 0, 0), (2, 2, 2)), aligned((2, 2, 2), (2, 2, 2)), 0.0),  # a corner in common
        (aligned((0, 0, 0), (2, 2, 2)), aligned((9, 0, 0), (2, 2, 2)), 0.0),
        (aligned((0, 0, 0), (2, 2, 2)), aligned((0, 0, 0), (2, 2, 2), 90), 1.0),
        # Two equal squares turned by 45 degrees share an octagon of 8 (sqrt 2 - 1) r^2, r = 1.
        (aligned((0, 0, 0), (2, 2, 1)), aligned((0, 0, 0), (2, 2, 1), 45), 8 * (2**0.5 - 1) / (8 - 8 * (2**0.5 - 1))),
        # A square of diagonal 2 within the other: its corners lie on the other's sides.
        (aligned((0, 0, 0), (2, 2, 2)), aligned((0, 0, 0), (2**0.5, 2**0.5, 2), 45), 1 / 2),
        # Cut along a diagonal: the half-space of the second passes through two edges of the first.
        (aligned((0, 0, 0), (2, 2, 2)), aligned((2, 2, 0), (4 * 2**0.5, 4 * 2**0.5, 4), 45), 4 / (8 + 128 - 4)),
        (aligned((0, 0, 0), (2, 2, 0)), aligned((0, 0, 0), (2, 2, 2)), 0.0),  # flat
        (aligned((0, 0, 0), (0, 0, 0)), aligned((0, 0, 0), (0, 0, 0)), 0.0),
    ],
)  # fmt: skip
def test_boxes_whose_overlap_is_known(first, second, expected):
    assert metrics.box_iou(first, second)[0, 0] == pytest.approx(expected, abs=1e-9)
    for shift, turn in ((np.zeros(3), 5), (np.full(3, 1e4), 6)):
        common = Rotation.random(random_state=turn).as_matrix()
        moved = [Boxes(box.centre @ common.T + shift, box.size, common @ box.rotation) for box in (first, second)]
        assert metrics.box_iou(*moved)[0, 0] == pytest.approx(expected, abs=1e-7)


def test_a_long_box_by_counting_points():
    first, second = aligned((0, 0, 0), (40, 0.01, 3), 0), aligned((0.2, 0, 0.5), (30, 0.01, 3), 0.005)
    points = np.random.default_rng(0).random((400_000, 3)) - 0.5
    local = (points * first.size[0] - second.centre[0]) @ second.rotation[0]
    shared = np.mean((np.abs(local) <= second.size[0] / 2).all(-1)) * 1.2
    assert metrics.box_iou(first, second)[0, 0] == pytest.approx(shared / (1.2 + 0.9 - shared), rel=0.01)


def test_mistakes_and_empty_lists_of_boxes():
    good = boxes(2, 0)
    assert metrics.box_iou(good, boxes(0, 0)).shape == (2, 0)
    for change, message in (
        ({"size": -good.size}, r"'second.size' of box 0 is \[-"),
        ({"rotation": 2 * good.rotation}, "not orthonormal"),
        ({"centre": np.full((2, 3), np.nan)}, "'second.centre' is not finite for box 0 of 2"),
        ({"size": good.size[:, :2]}, "'second.size' has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.box_iou(good, good._replace(**change))


def test_normals_by_loops():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(3, 6, 7, 3))
    prediction = target + 0.4 * rng.normal(size=target.shape)
    prediction[0, 0, 0], target[0, 0, 1], prediction[0, 0, 2] = 0, 0, -target[0, 0, 2]
    mask = rng.random(target.shape[:-1]) < 0.6
    mask[0, 0, :3] = True
    angles = []
    for d, g in zip(prediction[mask], target[mask], strict=True):
        if g.any():
            length = np.linalg.norm(d) * np.linalg.norm(g)
            angles.append(np.degrees(np.arccos(np.clip(d @ g / length, -1, 1))) if length else 90.0)
    prediction[~mask] = np.nan
    expected = {
        "angle_mean_deg": np.mean(angles),
        "angle_median_deg": np.median(angles),
        "angle_rmse_deg": np.sqrt(np.mean(np.square(angles))),
        **{f"within_{t}": np.mean([a < t for a in angles]) for t in (11.25, 22.5, 30)},
        "n": mask.sum() - 1,
    }
    assert metrics.normal_metrics(prediction, target, mask) == pytest.approx(expected)
    assert max(angles) == pytest.approx(180)


def test_normals_at_the_limits():
    up, mask = np.array([[0.0, 0, 1]]), np.ones(1, bool)
    for angle, shares in ((11.25, (0, 1, 1)), (11.0, (1, 1, 1)), (29.9, (0, 0, 1)), (30.1, (0, 0, 0))):
        turned = np.array([[np.sin(np.radians(angle)), 0, np.cos(np.radians(angle))]])
        result = metrics.normal_metrics(3e200 * turned, 1e-200 * up, mask)
        assert result["angle_mean_deg"] == pytest.approx(angle, abs=1e-10)
        if angle != 11.25:  # which rounding may put on either side
            assert tuple(result[f"within_{t}"] for t in ("11.25", "22.5", "30")) == shares
    for empty in (metrics.normal_metrics(up, up, ~mask), metrics.normal_metrics(up, 0 * up, mask)):
        assert empty.pop("n") == 0 and set(empty.values()) == {None}
    with pytest.raises(ValueError, match="'mask' must be bool"):
        metrics.normal_metrics(up, up, np.ones(1))
    with pytest.raises(ValueError, match="'target' has shape"):
        metrics.normal_metrics(up, up[0], mask)
    with pytest.raises(ValueError, match="'prediction' is not finite at 1 of 1"):
        metrics.normal_metrics(np.nan * up, up, mask)
