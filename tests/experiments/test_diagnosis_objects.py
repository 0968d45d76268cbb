"""Things of real rooms in reconstructions that are right, flat or too deep; cards and their safe HTML."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_pipelines.loader import DataConfig, evaluation_batches
from data_pipelines.records import Question
from data_pipelines.rooms import generate
from data_pipelines.rooms.questions import vocabulary
from experiments import diagnosis_objects, diagnosis_rows
from spatialsv_jax import geometry
from spatialsv_jax.evaluation.predictions import Engine, outcomes
from spatialsv_jax.processing.tiny import TinyProcessor, build_tokenizer
from spatialsv_jax.report import diagnosis_cards

SIZE = 40


@pytest.fixture(scope="module")
def rooms():
    config = generate.RoomsConfig(size=SIZE, views=2, mix="walk=1")
    return [generate.make_record(config, "test", index)[0] for index in range(3)]


@pytest.fixture(scope="module")
def processor():
    return TinyProcessor(build_tokenizer(sorted(set(vocabulary()))), image_size=SIZE, patch_size=4, merge=2)


def _found(rooms, processor, change=lambda depth, batch: depth, heads=("depth", "ray", "points")):
    """(outcomes, findings) of a model that reads the labels and changes the depth; it answers 'no' to everything."""

    def lift(batch):
        truth = np.where(batch["valid"], batch["depth"], 1.0)
        depth = change(truth, batch)
        ray = geometry.rays_from_camera(
            batch["intrinsics"].astype(np.float64), batch["camera_to_world"].astype(np.float64), SIZE, SIZE
        )
        maps = {"depth": depth, "ray": ray, "points": geometry.points_from_rays(ray, depth)}
        maps = {name: maps[name].astype(np.float32) for name in heads}
        return maps | {f"{name}_confidence": np.ones(depth.shape, np.float32) for name in maps}

    no = processor.tokenizer.token_to_id("no")
    answer = lambda batch: np.full((*batch["question_valid"].shape, 1), no, np.int32)
    engine = Engine(lift, answer, processor.decode, lambda views: None)
    config = DataConfig(questions=64, question_tokens=48, answer_tokens=4, views=2, label_size=(SIZE, SIZE), threads=0)
    made = list(outcomes(engine, evaluation_batches(config, processor, rooms, 2), blind=False))
    return made, diagnosis_rows.collect(made, len(made), "test")


def _things(found):
    rows = [row for row in found.questions if row["objects"]]
    return [thing for row in rows for thing in row["objects"]["things"] if thing["pixels"] >= 6]


def test_a_perfect_reconstruction_has_nothing_missing(rooms, processor):
    _, found = _found(rooms, processor)
    things = _things(found)
    assert len(things) > 30 and {thing["verdict"] for thing in things} == {"fine"}
    assert max(np.linalg.norm(thing["off_m"]) for thing in things) < 1e-3
    assert all(
        row["objects"]["inside"] < 1e-5 for row in found.questions if row["objects"] and row["objects"]["pixels"]
    )


@pytest.mark.parametrize("heads", [("depth", "ray", "points"), ("depth", "ray"), ("depth",)])
def test_too_deep_a_room_is_misplaced_but_not_missing(rooms, processor, heads):
    _, found = _found(rooms, processor, lambda depth, batch: 1.5 * depth, heads)
    things = _things(found)
    assert {thing["verdict"] for thing in things} == {"misplaced"}
    for thing in things:
        # Half of the way from the camera to the thing, away from the camera.
        assert np.linalg.norm(thing["off_m"]) == pytest.approx(0.5 * thing["distance_m"], rel=0.15)
        assert thing["off_m"][2] > 0 and "too far" in thing["text"]
    inside = [row["objects"]["inside"] for row in found.questions if row["objects"] and row["objects"]["pixels"]]
    assert inside == pytest.approx([0.5] * len(inside), abs=1e-4)


def test_in_a_flat_picture_things_that_stand_out_are_missing(rooms, processor):
    _, found = _found(rooms, processor, lambda depth, batch: np.ones_like(depth))
    stand_out = [thing for thing in _things(found) if thing["step"] is not None and abs(thing["step"]) >= 0.05]
    assert len(stand_out) > 20 and all("missing" in thing["verdict"] for thing in stand_out)


def test_one_swallowed_thing_alone_is_found(rooms, processor):
    made, _ = _found(rooms[:1], processor)
    things = diagnosis_rows.things_of(made[0])
    whole = things.scene(range(2))
    place, view = max(
        ((p, v) for p in range(len(things.boxes)) for v in range(2)),
        key=lambda k: ((whole.things == k[0]) & whole.mask)[k[1]].sum(),
    )
    flat = np.where((whole.things == place), 9.0, whole.predicted_depth)
    changed = dataclasses.replace(made[0], maps={"depth": (flat / made[0].labels["scene_scale_m"]).astype(np.float32)})
    name = things.boxes[place].name
    found = diagnosis_rows.things_of(changed).about(
        Question("q", "t", "spatial", "word", f"where is the {name} ?", "x"), (view,)
    )
    assert found["named"] == [name] and found["inside"] > 0.5 and found["elsewhere"] < 1e-5
    assert "misplaced" in found["verdicts"][0] and name in found["things"][0]["text"]
    assert (
        diagnosis_rows.things_of(changed).about(Question("q", "t", "spatial", "word", "where am i ?", "x"), (0,))
        is None
    )


def test_cards_show_the_worst_wrong_answers_safely(rooms, processor):
    made, found = _found(rooms, processor, lambda depth, batch: np.ones_like(depth))
    cards = diagnosis_objects.choose_cards(found.questions, 4)
    assert len(cards) == 4 and all(row["score"] < 1 for row in cards)
    assert max(sum(row["record"] == n for row in cards) for n in range(3)) <= 2
    pictures = diagnosis_objects.card_pictures(
        made[cards[0]["record"]], diagnosis_rows.things_of(made[cards[0]["record"]]), cards[0]
    )
    assert [picture.shape for _, picture in pictures] == [(168, 168, 3)] * 4
    outline = (pictures[1][1] == diagnosis_objects.OUTLINE).all(-1)
    assert outline.any() and (outline == (pictures[2][1] == diagnosis_objects.OUTLINE).all(-1)).all()
    evil = "<script>x</script>"
    row = {**cards[0], "question": evil, "prediction": evil, "ground_truth": evil, "id": evil, "question_type": evil}
    row["objects"] = {**row["objects"], "named": [evil], "outside": [evil], "things": [{"text": evil}]}
    from spatialsv_jax.evaluation import object_errors

    html = diagnosis_cards.objects_section(
        object_errors.summarise(found.questions, 10), [(row, [(evil, pictures[0][1])])]
    )
    assert "<script" not in html and html.count("&lt;script") >= 8
    assert "No question names" in diagnosis_cards.objects_section(None, [])
    assert diagnosis_objects.choose_cards([], 3) == []


def test_records_without_boxes_or_cameras_have_no_things(rooms, processor):
    bare = [dataclasses.replace(room, metadata={}) for room in rooms[:1]]
    lost = [dataclasses.replace(room, pose_valid=np.zeros(2, bool)) for room in rooms[:1]]
    for records in (bare, lost):
        _, found = _found(records, processor)
        assert all(row["objects"] is None and row["occlusion"] is None for row in found.questions)
