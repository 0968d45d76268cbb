"""Every answer of many rooms is recomputed by other code from the scene alone."""

from __future__ import annotations

import dataclasses
import itertools

import box_rooms
import numpy as np
import pytest
from question_oracle import check
from scan_oracle import ScanOracle as Oracle

from data_pipelines.rooms.cameras import make_intrinsics, sample_poses
from data_pipelines.rooms.config import SETTINGS, RoomsConfig, distribution
from data_pipelines.rooms.layout import make_scene
from data_pipelines.rooms.questions import TYPES, make_questions
from data_pipelines.rooms.raycast import Raycaster
from data_pipelines.rooms.scene import RenderedView

WORDS = box_rooms.WORDS
ROOMS = [box_rooms.random_room(seed) for seed in range(40)]


@pytest.mark.parametrize("form", ["word", "letter", "number"])
def test_oracle_agrees_on_all_questions_of_box_rooms(form):
    asked = set()
    for seed, (scene, views) in enumerate(ROOMS):
        questions, _ = make_questions(
            scene, views, "rotation", np.random.default_rng(seed), form, words=WORDS, scan=True
        )
        oracle = Oracle(scene, views)
        for question in questions:
            accepted = oracle.answers(question)
            assert check(question, accepted), f"{scene.id}: {question} but the oracle says {accepted}"
            asked.add(question.type)
    assert asked == set(TYPES)


def generated_rooms(split: str, count: int):
    """Real rooms and views as records have them, without shading."""
    config = RoomsConfig(size=48)
    for seed in range(count):
        rng = np.random.default_rng([7, seed])
        scene = make_scene(seed, split, config)
        caster = Raycaster(scene)
        setting = SETTINGS[seed % len(SETTINGS)]
        poses, _ = sample_poses(scene, caster, setting, 4, 68.0, rng, distribution(split))
        intrinsics = make_intrinsics(68.0, 48)
        looks = [(*caster.look(intrinsics, pose, 48, 48), pose) for pose in poses]
        views = [RenderedView(None, depth, instance, None, intrinsics, pose) for depth, instance, pose in looks]
        if views:
            yield scene, views, setting, rng


@pytest.mark.parametrize("split", ["train", "ood"])
def test_oracle_agrees_on_all_questions_of_generated_rooms(split):
    forms = itertools.cycle(["word", "letter", "number"])
    checked = 0
    for scene, views, setting, rng in generated_rooms(split, 20):
        questions, _ = make_questions(scene, views, setting, rng, next(forms), scan=True)
        oracle = Oracle(scene, views)
        for question in questions:
            accepted = oracle.answers(question)
            assert check(question, accepted), f"{scene.id}: {question} but the oracle says {accepted}"
        checked += len(questions)
    assert checked > 1000


def test_the_oracle_notices_a_moved_object_and_a_swapped_picture():
    """A test of the test: answers of another scene must not pass."""
    scene, views = ROOMS[3]
    questions, _ = make_questions(scene, views, "rotation", np.random.default_rng(0), words=WORDS, scan=True)
    shift = np.array([[1.7, 0, 0], [0, 1.7, 0], [-1.3, 0.9, 0]])
    moved = [
        dataclasses.replace(thing, centre=thing.centre + shift[i % 3], vertices=thing.vertices + shift[i % 3])
        for i, thing in enumerate(scene.objects)
    ]
    for oracle, group in (
        (Oracle(dataclasses.replace(scene, objects=tuple(moved)), views), "spatial"),
        (Oracle(scene, views[1:] + views[:1]), "grounding"),
        (Oracle(scene, views[1:] + views[:1]), "scan"),
    ):
        wrong = 0
        for question in (question for question in questions if question.group == group):
            try:
                wrong += not check(question, oracle.answers(question))
            except (AssertionError, ValueError):
                wrong += 1
        assert wrong > 5
