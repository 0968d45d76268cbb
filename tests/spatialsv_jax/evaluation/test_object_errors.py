"""Things before a wall whose fate is made: flattened, moved, kept, hidden."""

from __future__ import annotations

import numpy as np
import pytest

from spatialsv_jax import geometry
from spatialsv_jax.evaluation.object_errors import Scene, describe, inspect, split_error, summarise

SIZE = 40
INTRINSICS = np.tile(np.array([[40.0, 0, 20], [0, 40, 20], [0, 0, 1]]), (2, 1, 1))


def _scene(change=lambda depth, things: depth, shift=(0, 0, 0), turned=0.6):
    """A wall 5 m away with thing 0, 2 m away in 10 x 10 pixels of view 0, thing 1 in 3 pixels, and a turned view 1."""
    pose = np.tile(np.eye(4), (2, 1, 1))
    c, s = np.cos(turned), np.sin(turned)
    pose[1, :3, :3], pose[1, :3, 3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]], [1, 0, 0]
    depth, things = np.full((2, SIZE, SIZE), 5.0), np.full((2, SIZE, SIZE), -1)
    depth[0, 5:15, 5:15], things[0, 5:15, 5:15] = 2.0, 0
    things[1, 0, :3] = 1
    predicted = change(depth.copy(), things)
    points = geometry.points_from_depth(depth, INTRINSICS, pose)
    guessed = geometry.points_from_depth(predicted, INTRINSICS, pose) + np.array(shift)
    return Scene(depth, predicted, points, guessed, np.ones(depth.shape, bool), pose, things)


def test_errors_inside_and_elsewhere():
    scene = _scene(lambda depth, things: np.where(things == 0, depth * 1.3, depth * 0.9))
    assert split_error(scene, [0]) == {"inside": pytest.approx(0.3), "elsewhere": pytest.approx(0.1), "pixels": 100}
    assert split_error(scene, [0, 1])["inside"] == pytest.approx((0.3 * 100 + 0.1 * 3) / 103)
    nothing = split_error(scene, [])
    assert nothing["inside"] is None and nothing["pixels"] == 0
    assert nothing["elsewhere"] == pytest.approx((0.3 * 100 + 0.1 * 3100) / 3200)


def test_a_thing_that_is_there():
    found = inspect(_scene(), 0)
    assert found["verdict"] == "fine" and found["step"] == pytest.approx(1.5) and found["step_left"] == pytest.approx(1)
    assert found["off_m"] == pytest.approx([0, 0, 0]) and found["pixels"] == 100 and found["view"] == 0
    # Its middle pixels are half a metre left and up of the axis, 2 m away.
    assert found["distance_m"] == pytest.approx(np.linalg.norm([-0.5, -0.5, 2]))
    assert describe("red chair", found) == "red chair: there: 100% of its step in depth, off by 0.00 m at 2.1 m."


def test_a_thing_that_the_wall_has_swallowed():
    found = inspect(_scene(lambda depth, things: np.full_like(depth, 5.0)), 0)
    assert found["verdict"] == "missing and misplaced" and found["step_left"] == pytest.approx(0)
    assert found["off_m"][2] == pytest.approx(3) and found["rest_off_m"] == pytest.approx([0, 0, 0])
    text = describe("chair", found)
    assert (
        "missing: 0% of its step in depth is left" in text
        and "3.00 m too far" in text
        and "rest of the view 0.00 m" in text
    )


def test_a_thing_at_the_wrong_place_that_stands_out():
    found = inspect(_scene(lambda depth, things: np.where(things == 0, 2.5, depth)), 0)
    assert found["verdict"] == "misplaced" and found["step_left"] == pytest.approx(2.5 / 3)
    moved = inspect(_scene(shift=(0.4, -0.1, 0)), 0)
    assert moved["verdict"] == "misplaced" and moved["off_m"] == pytest.approx([0.4, -0.1, 0])
    assert moved["rest_off_m"] == pytest.approx([0.4, -0.1, 0])  # the whole view moved
    assert "0.40 m to the right, 0.10 m too high" in describe("chair", moved)
    assert inspect(_scene(shift=(0.3, 0, 0)), 0)["verdict"] == "fine"  # 15 % of 2.1 m are more than that


def test_directions_are_those_of_the_view_that_shows_it():
    scene = _scene(shift=(0, 0, 1.0))
    things = scene.things.copy()
    things[:] = -1
    things[1, 10:20, 10:20] = 0
    found = inspect(Scene(**{**vars(scene), "things": things}), 0)
    # The world's z is forward cos(0.6) and left sin(0.6) of view 1.
    assert found["view"] == 1 and found["off_m"] == pytest.approx([-np.sin(0.6), 0, np.cos(0.6)])
    assert found["step_left"] is None and found["step"] == pytest.approx(0)
    assert "stands out too little" in describe("picture", found)


def test_too_few_pixels_say_nothing():
    found = inspect(_scene(), 1)
    assert found["verdict"] == "not visible" and found["off_m"] is None
    assert describe("lamp", found) == "lamp: not visible in these views (3 pixels)."
    assert inspect(_scene(), 7)["pixels"] == 0


def test_pixels_without_truth_are_not_read():
    scene = _scene(lambda depth, things: np.where(things == 0, np.nan, depth))
    masked = Scene(**{**vars(scene), "mask": scene.things != 0})
    assert inspect(masked, 0)["verdict"] == "not visible" and split_error(masked, [0])["elsewhere"] == pytest.approx(0)


def test_summary_of_right_and_wrong_answers():
    rng = np.random.default_rng(0)
    rows = []
    for number in range(200):
        inside, elsewhere = rng.random(2)
        rows.append(
            {"scene": str(number % 40), "question_type": "name", "views": 1, "form": "word", "score": float(inside < 0.5),
             "objects": {"inside": inside, "elsewhere": elsewhere, "verdicts": ["missing" if inside > 0.7 else "fine"]}}
        )  # fmt: skip
    rows += [{**rows[0], "objects": None}, {**rows[0], "form": "number"}]
    found = summarise(rows, 100)
    assert (found["questions"], found["left_out"]) == (200, 1)
    wrong = [row for row in rows[:200] if row["score"] == 0]
    assert found["wrong"]["inside"]["value"] == pytest.approx(np.mean([row["objects"]["inside"] for row in wrong]))
    assert found["right"]["missing"]["value"] == 0 and 0.4 < found["wrong"]["missing"]["value"] < 0.8
    assert found["correlation"]["inside"]["interval_95"][1] < -0.7
    low, high = found["correlation"]["elsewhere"]["interval_95"]
    assert low < 0 < high
    assert summarise([], 10)["right"]["inside"]["value"] is None
