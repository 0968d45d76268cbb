"""Every answer of many rooms is recomputed by other code from the scene alone."""

from __future__ import annotations

import dataclasses

import box_rooms
import numpy as np
import pytest
from question_oracle import Oracle, check

from data_pipelines.rooms.questions import TYPES, make_questions

WORDS = box_rooms.WORDS
ROOMS = [box_rooms.random_room(seed) for seed in range(40)]


@pytest.mark.parametrize("form", ["word", "letter", "number"])
def test_oracle_agrees_on_all_questions_of_box_rooms(form):
    asked = set()
    for seed, (scene, views) in enumerate(ROOMS):
        questions, _ = make_questions(scene, views, "rotation", np.random.default_rng(seed), form, words=WORDS)
        oracle = Oracle(scene, views)
        for question in questions:
            accepted = oracle.answers(question)
            assert check(question, accepted), f"{scene.id}: {question} but the oracle says {accepted}"
            asked.add(question.type)
    assert asked == set(TYPES)


def test_the_oracle_notices_a_moved_object_and_a_swapped_picture():
    """A test of the test: answers of another scene must not pass."""
    scene, views = ROOMS[3]
    questions, _ = make_questions(scene, views, "rotation", np.random.default_rng(0), words=WORDS)
    shift = np.array([[1.7, 0, 0], [0, 1.7, 0], [-1.3, 0.9, 0]])
    moved = [
        dataclasses.replace(thing, centre=thing.centre + shift[i % 3], vertices=thing.vertices + shift[i % 3])
        for i, thing in enumerate(scene.objects)
    ]
    for oracle, group in (
        (Oracle(dataclasses.replace(scene, objects=tuple(moved)), views), "spatial"),
        (Oracle(scene, views[1:] + views[:1]), "grounding"),
    ):
        wrong = 0
        for question in (question for question in questions if question.group == group):
            try:
                wrong += not check(question, oracle.answers(question))
            except (AssertionError, ValueError):
                wrong += 1
        assert wrong > 5
