"""What is said about depth and cameras that do not belong together."""

from __future__ import annotations

import dataclasses
import re
import shutil

import numpy as np
import pytest
from posed_scenes import camera, plane_depth
from raw_layouts import LAYOUTS, made

from data_pipelines.sources import SOURCES
from data_pipelines.sources.posed.agreement import agreement_of_frames
from data_pipelines.sources.posed.pictures import Frame, encode_steps
from data_pipelines.sources.posed.scene import View


def agreement(source, raw, **settings):
    """(share that a dry run states, whether it gives a hint, what the summary says)."""
    plan = SOURCES[source].plan(SOURCES[source].settings(raw=str(raw), **settings))
    (line,) = [line for line in SOURCES[source].look(plan) if "agree on" in line]
    _, counts, _ = made(source, raw, **settings)
    assert counts["records_compared"] == 1
    said = "\n".join(SOURCES[source].summary(counts, 1))
    assert ("1 of 1 records whose views were compared" in said) == (counts["records_that_disagree"] == 1)
    return int(re.search(r"(\d+)%", line)[1]), "camera-to-world" in line, "do not fit" in said


def test_poses_the_wrong_way_round_are_noticed(tmp_path):
    raw = shutil.copytree(LAYOUTS / "sevenscenes", tmp_path / "raw")
    share, hint, said = agreement("sevenscenes", raw)
    assert share > 95 and not hint and not said
    for file in raw.rglob("*.pose.txt"):
        np.savetxt(file, np.linalg.inv(np.loadtxt(file)))
    share, hint, said = agreement("sevenscenes", raw)
    assert share < 80 and hint and said


@pytest.mark.parametrize("settings", [{"metric": True}, {}, {"max_size": 32}])
def test_depth_in_another_unit_than_the_poses_is_noticed(settings):
    share, hint, said = agreement("nerfstudio", LAYOUTS / "nerfstudio", **settings)
    assert share > 90 and not hint and not said
    share, hint, said = agreement("nerfstudio", LAYOUTS / "nerfstudio", depth_step=0.002, **settings)
    assert share < 80 and hint and said


def test_large_maps_are_shrunk_with_their_cameras():
    """Views of a plane in closed form, wider than what is compared."""
    width, height, focal = 400, 300, 500.0
    frames = []
    for number in (0, 4, 8):
        cosine, sine = np.cos(0.3 * number), np.sin(0.3 * number)  # rolled: a principal point of another size shows
        pose = camera(number) @ [[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        depth = encode_steps(np.round(plane_depth(pose, width, height, focal) * 500).astype(np.uint16))
        matrix = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        frames.append(Frame(View(number, str(number)), b"", depth, matrix, pose, True))
    assert agreement_of_frames(frames, 0.002) > 0.99
    lost = [frame if frame.view.number else dataclasses.replace(frame, pose_valid=False) for frame in frames[:2]]
    assert agreement_of_frames(lost, 0.002) is None


def test_views_that_cannot_be_compared_say_nothing():
    raw = LAYOUTS / "nerfstudio"
    plan = SOURCES["nerfstudio"].plan(SOURCES["nerfstudio"].settings(raw=str(raw), views=1))
    assert not [line for line in SOURCES["nerfstudio"].look(plan) if "agree on" in line]
    counts = made("nerfstudio", raw, views=1)[1]
    assert not counts["records_compared"] and not counts["records_that_disagree"]
