"""Shares of scenes with text, sources that divide the scenes, and the filters of teacher labels."""

from __future__ import annotations

import dataclasses

import loader_fakes as fakes
import numpy as np
import pytest
from loader_fakes import PROCESSOR, one_source, settings

from data_pipelines.config import SourceConfig
from data_pipelines.labels.files import LabelFile, images_hash, read_labels, write_labels
from data_pipelines.loader import make_loader
from data_pipelines.splits import labelled_scenes
from spatialsv_jax import spec

SCENES = [f"scene{number}" for number in range(40)]
MANY = fakes.Records(
    fakes.record(index, views=1, size=(8, 8), questions=3, scene=SCENES[index // 2]) for index in range(80)
)
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)


def test_shares_are_exact_nested_and_drawn_by_the_seed():
    chosen = [labelled_scenes(SCENES * 2, share, seed=3) for share in SHARES]
    assert [len(scenes) for scenes in chosen] == [2, 4, 10, 20, 40]
    for smaller, larger in zip(chosen, chosen[1:], strict=False):
        assert smaller < larger
    assert labelled_scenes(reversed(SCENES), 0.25, seed=3) == chosen[2]
    assert labelled_scenes(SCENES, 0.25, seed=4) != chosen[2]
    assert labelled_scenes(SCENES, 0.0) == frozenset() and len(labelled_scenes(SCENES, 0.001)) == 1
    # Over seeds every scene has the same chance.
    times = [sum(scene in labelled_scenes(SCENES, 0.25, seed) for seed in range(200)) for scene in SCENES]
    assert abs(np.mean(times) - 50) < 1e-9 and max(abs(np.array(times) - 50)) < 5 * np.sqrt(200 * 0.25 * 0.75)


@pytest.mark.parametrize("share", SHARES[:-1])
def test_two_sources_divide_the_scenes_with_fixed_rows_of_each(share):
    split = dict(path="a", text_share=share, text_seed=5)
    sources = (
        SourceConfig(per_batch=3, unlabelled="drop", **split),
        SourceConfig(per_batch=2, unlabelled="only", **split),
    )
    loader = make_loader(settings(sources=sources, views=1), PROCESSOR, records=[MANY, MANY])
    labelled = labelled_scenes(SCENES, share, 5)
    seen = {True: set(), False: set()}
    for step in range(40):
        batch = loader.batch(step)
        names = [MANY[index].scene for index in batch["record_index"]]
        assert batch["has_text"].tolist() == [name in labelled for name in names]
        assert batch["has_text"].sum() == 3 and batch["has_geometry"].all()
        assert not batch["question_valid"][~batch["has_text"]].any()
        for name, has_text in zip(names, batch["has_text"].tolist(), strict=True):
            seen[has_text].add(name)
    assert seen == {True: set(labelled), False: set(SCENES) - labelled}
    facts = loader.describe(rows=5)["sources"]
    number = round(40 * share)
    assert [(one["scenes"], one["scenes_with_text"], one["records_with_text"]) for one in facts] == [
        (number, number, 2 * number),
        (40 - number, 0, 0),
    ]


def test_kept_scenes_without_text_lose_their_questions_alone():
    loader = make_loader(one_source(text_share=0.5, views=1), PROCESSOR, records=[MANY])
    labelled = labelled_scenes(SCENES, 0.5)
    found = set()
    for step in range(20):
        batch = loader.batch(step)
        names = [MANY[index].scene for index in batch["record_index"]]
        assert batch["has_text"].tolist() == [name in labelled for name in names]
        assert batch["has_geometry"].all()
        found |= set(names)
    assert found == set(SCENES)


def test_shares_that_overlap_and_wrong_settings_are_refused():
    overlap = (
        SourceConfig(path="a", text_share=0.5, unlabelled="drop"),
        SourceConfig(path="a", text_share=0.25, unlabelled="only"),
    )
    with pytest.raises(ValueError, match=r"sources\[1\] shows scenes of a without text.*\(0.25, 0\) and \(0.5, 0\)"):
        make_loader(settings(sources=overlap), PROCESSOR, records=[MANY, MANY])
    with pytest.raises(ValueError, match="no usable record"):
        make_loader(one_source(unlabelled="only"), PROCESSOR, records=[MANY])
    for changes, message in (
        ({"unlabelled": "skip"}, "unlabelled is 'skip'"),
        ({"text_share": 1.5}, "text_share is 1.5"),
        ({"text_seed": -1}, "text_seed is -1"),
        ({"confidence_quantile": 0.2}, "measured labels state no confidence"),
        ({"confidence_weights": True}, "measured labels state no confidence"),
        ({"confidence_quantile": 1.0, "labels": "t"}, "confidence_quantile is 1.0"),
        ({"multi_view": "yes"}, "multi_view is 'yes'"),
        ({"multi_view": "agrees", "views": 1}, "compares the views"),
    ):
        with pytest.raises(ValueError, match=message):
            SourceConfig(path="x", **changes)


@pytest.mark.parametrize("first, second, both", [
    (dict(text_share=0.5), dict(text_share=0.5, text_seed=1), True),
    (dict(text_share=0.25), dict(text_share=0.5, unlabelled="drop"), True),
    (dict(text_share=0.25, unlabelled="only"), dict(text_share=0.5, unlabelled="drop", path="./b/../a/"), True),
    (dict(text_share=0.5), {}, True),
    (dict(text_share=0.25, unlabelled="drop"), dict(text_share=0.5, unlabelled="drop"), False),  # no scene without text
    (dict(text_share=0.5, unlabelled="only", text=False), dict(text_share=0.5, unlabelled="drop"), False),
    (dict(text=False), dict(text_share=0.5, unlabelled="drop"), False),  # without text on purpose
    (dict(text_share=0.25), dict(text_share=0.5, path="b"), False),
])  # fmt: skip
def test_no_scene_is_shown_both_with_and_without_text(first, second, both):
    for pair in ((first, second), (second, first)):
        sources = tuple(SourceConfig(**{"path": "a", "per_batch": 3, **changes}) for changes in pair)
        make = lambda sources=sources: make_loader(settings(sources=sources, views=1), PROCESSOR, records=[MANY, MANY])
        if both:
            with pytest.raises(ValueError, match="scenes would be both, e.g. 'scene"):
                make()
        else:
            make()


def test_data_sets_of_one_content_are_one():
    original, copy = fakes.Records(MANY), fakes.Records(MANY)
    original.manifest = copy.manifest = {"data_sha256": "1"}
    sources = (SourceConfig(path="a", text_share=0.25), SourceConfig(path="copy", text_share=0.5))
    with pytest.raises(ValueError, match="scenes would be both"):
        make_loader(settings(sources=sources, views=1), PROCESSOR, records=[original, copy])


def test_scenes_without_questions_are_neither_drawn_nor_counted():
    records = fakes.Records(
        fakes.record(index, views=1, size=(8, 8), questions=3 * (index < 8), scene=SCENES[index]) for index in range(40)
    )
    loader = make_loader(one_source(text_share=0.25, views=1), PROCESSOR, records=[records])
    facts = loader.describe(rows=80)["sources"][0]
    assert (facts["scenes"], facts["scenes_with_text"], facts["records_with_text"]) == (40, 2, 2)
    batches = [loader.batch(step) for step in range(20)]
    shown = {records[index].scene for batch in batches for index in batch["record_index"][batch["has_text"]]}
    assert shown == labelled_scenes(SCENES[:8], 0.25)
    only = make_loader(one_source(unlabelled="only", views=1), PROCESSOR, records=[records])
    assert only.describe(rows=4)["sources"][0]["scenes"] == 32


# Three cameras side by side look at the wall z = 4: a point of view 0 at column u lies at u - 2 of view 1 and u - 4 of 2.
SIZE, FOCAL, WALL = 24, 20.0, 4.0


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    """(record, folder of label files, the file's confidences): view 0 has a wrong patch and a doubtful row."""
    folder = tmp_path_factory.mktemp("labels")
    record = fakes.record(7, views=3, size=(SIZE, SIZE), scene="wall")
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = 2 * WALL / FOCAL * np.arange(3)
    depth = np.full((3, SIZE, SIZE), WALL, np.float32)
    depth[0, 10:14, 10:14] = 1.2 * WALL
    confidence = np.full(depth.shape, 2.0, np.float32)
    confidence[0, 20] = 1.0
    confidence[2] = 5.0
    labels = LabelFile(
        depth=depth,
        confidence=confidence,
        intrinsics=np.tile(np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]]), (3, 1, 1)),
        camera_to_world=poses,
        label_affine=np.tile(np.eye(3)[:2], (3, 1, 1)),
        valid=np.ones(depth.shape, bool),
        view_ids=record.view_ids,
        teacher="fake",
        checkpoint="none",
        images_hash=images_hash(record.images),
    )
    write_labels(folder, record.id, labels)
    return record, str(folder), confidence


def batch_of(wall, **changes):
    record, folder, _ = wall
    config = one_source(labels=folder, per_batch=1, label_size=(SIZE, SIZE), **changes)
    return make_loader(config, fakes.processor(SIZE), records=[fakes.Records([record])]).batch(0)


def test_least_confident_pixels_of_a_file_are_masked(wall):
    _, _, confidence = wall
    batch = batch_of(wall, confidence_quantile=0.02)
    cut = np.quantile(confidence, 0.02)
    np.testing.assert_array_equal(batch["valid"][0], confidence >= cut)
    assert (~batch["valid"][0]).sum() == SIZE  # the doubtful row
    assert batch_of(wall)["valid"].all()
    # Of equal confidences none is less confident than the others: the rest of views 0 and 1 stays as a whole.
    np.testing.assert_array_equal(batch_of(wall, confidence_quantile=0.6)["valid"], batch["valid"])
    assert batch_of(wall, confidence_quantile=0.7)["valid"].sum() == SIZE * SIZE  # view 2


def test_least_confidence_shared_by_many_is_masked_as_a_whole(wall):
    _, _, confidence = wall
    batch = batch_of(wall, confidence_quantile=0.005)  # 8 pixels, but 24 share the least confidence
    np.testing.assert_array_equal(batch["valid"][0], confidence > 1)


def test_equal_confidences_mask_nothing(wall, tmp_path):
    record, folder, _ = wall
    labels = read_labels(folder, record.id)
    write_labels(tmp_path, record.id, dataclasses.replace(labels, confidence=np.full(labels.depth.shape, 3.0)))
    assert batch_of((record, str(tmp_path), None), confidence_quantile=0.5)["valid"].all()


@pytest.mark.parametrize("features", ["none", "auto"])
def test_records_without_a_label_file_have_no_geometry(tmp_path, features):
    records = fakes.Records(fakes.record(index, views=2, size=(16, 16), questions=2) for index in range(12))
    poses = dict(intrinsics=records[0].intrinsics, camera_to_world=records[0].camera_to_world)
    for record in records[1:]:
        if record.id == "r7":
            continue
        labels = LabelFile(
            depth=np.ones((2, 16, 16)), confidence=np.ones((2, 16, 16)), valid=np.ones((2, 16, 16), bool), **poses,
            label_affine=np.tile(np.eye(3)[:2], (2, 1, 1)), view_ids=record.view_ids, teacher="t", checkpoint="c",
            images_hash=images_hash(record.images), features=np.ones((2, 2, 2, 3)),
        )  # fmt: skip
        write_labels(tmp_path, record.id, labels)
    loader = make_loader(one_source(labels=str(tmp_path), features=features), PROCESSOR, records=[records])
    seen = set()
    for step in range(6):
        batch = loader.batch(step)
        there = ~np.isin(batch["record_index"], [0, 7])
        assert batch["has_geometry"].tolist() == there.tolist() and batch["has_text"].all()
        if features == "auto":
            assert batch["has_features"].tolist() == there.tolist()
            assert (batch["teacher_features"][~there] == 0).all()
        seen |= set(batch["record_index"].tolist())
    assert {0, 7} <= seen
    assert loader.describe(rows=4)["sources"][0]["records_without_labels"] == 2
    with pytest.raises(ValueError, match="holds labels of none of the 12 records in use, e.g. no r0.npz"):
        make_loader(one_source(labels=str(tmp_path / "other"), features=features), PROCESSOR, records=[records])


def test_pixels_that_other_views_deny_or_do_not_confirm_are_masked(wall):
    patch = np.zeros((SIZE, SIZE), bool)
    patch[10:14, 10:14] = True
    denied = batch_of(wall, multi_view="contradicts")["valid"][0]
    np.testing.assert_array_equal(denied[0], ~patch)
    confirmed = batch_of(wall, multi_view="agrees")["valid"][0]
    unseen = np.zeros((SIZE, SIZE), bool)
    unseen[:, :2] = True  # left edge of view 0: outside of both others
    np.testing.assert_array_equal(confirmed[0], ~patch & ~unseen)
    # In the other views the wall behind the wrong patch is confirmed by a third view, or seen by none.
    assert denied[1:].all()
    assert confirmed[1, :, : SIZE - 2].all()
    # The scale is that of the pixels that are left.
    assert batch_of(wall, multi_view="agrees")["scene_scale_m"] == 0
    assert not np.allclose(
        batch_of(wall)["depth"][0, 1, 0, 5], batch_of(wall, multi_view="agrees")["depth"][0, 1, 0, 5]
    )


def test_confidences_become_weights_of_mean_one(wall):
    _, _, confidence = wall
    batch = batch_of(wall, confidence_weights=True, confidence_quantile=0.02)
    spec.check(batch)
    valid = batch["valid"][0]
    expected = np.where(valid, confidence / confidence[valid].astype(np.float64).mean(), 0)
    np.testing.assert_allclose(batch["label_weight"][0], expected, rtol=1e-6)
    assert "label_weight" not in batch_of(wall)
    both = settings(
        sources=(SourceConfig(path="a", labels=wall[1], confidence_weights=True), SourceConfig(path="b")),
        label_size=(SIZE, SIZE),
    )  # a source beside it whose labels are measured: 1 on its valid pixels
    loader = make_loader(both, fakes.processor(SIZE), records=[fakes.Records([wall[0]]), fakes.RECORDS])
    row = loader.batch(0)["source_index"].tolist().index(1)
    np.testing.assert_array_equal(loader.batch(0)["label_weight"][row], loader.batch(0)["valid"][row])
