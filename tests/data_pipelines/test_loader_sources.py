"""What the settings of a source do to its rows: views, controls, flags, masks, label files."""

from __future__ import annotations

import collections
import dataclasses

import loader_fakes as fakes
import numpy as np
import pytest
from loader_fakes import PROCESSOR, RECORDS, assert_same, decoded, one_source

from data_pipelines import storage
from data_pipelines.config import SourceConfig
from data_pipelines.labels.files import LabelError, LabelFile, images_hash, read_labels, write_labels
from data_pipelines.loader import make_loader
from spatialsv_jax import spec


def test_one_view_per_sample():
    loader = make_loader(one_source(shown=1, groups=("grounding",)), PROCESSOR, records=[RECORDS])
    shown = collections.defaultdict(list)
    for step in range(9):  # 36 rows = 6 passes
        batch = loader.batch(step)
        assert batch["view_valid"].sum(axis=1).tolist() == [1] * 4
        for row in range(4):
            record = RECORDS[batch["record_index"][row]]
            values = [PROCESSOR.pixels([image]).pixel_values[0] for image in decoded(record)]
            (view,) = [view for view, value in enumerate(values) if (value == batch["pixel_values"][row, 0]).all()]
            shown[record.id].append(view)
            wanted = {
                PROCESSOR.decode(PROCESSOR.encode_question(q.text.replace(f"in <view:{view}> ", "")).tokens)
                for q in record.questions
                if q.group == "grounding" and q.views == (view,)
            }
            asked = {
                PROCESSOR.decode(
                    batch["question_tokens"][row, slot][(batch["question_mask"] & ~batch["answer_mask"])[row, slot]]
                )
                for slot in np.flatnonzero(batch["question_valid"][row])
            }
            assert asked == wanted
            assert batch["has_text"][row] == bool(wanted)
            np.testing.assert_array_equal(batch["camera_to_world"][row, 0], np.eye(4))
    for record in RECORDS:
        count = collections.Counter(shown[record.id])
        assert sum(count.values()) == 6 and set(count.values()) == {6 // len(record.view_ids)}


def test_shuffled_geometry_is_anothers_and_all_else_is_kept():
    records = [fakes.Records(fakes.record(index, views=2 if index == 5 else 3) for index in range(6))]
    plain = make_loader(one_source(), PROCESSOR, records=records)
    shuffled = make_loader(one_source(shuffle3d=True), PROCESSOR, records=records)
    own = {index: plain.sources[0].sample(index, 0, np.random.default_rng(0)).labels for index in range(6)}
    partners = set()
    for step in range(6):
        batch, control = plain.batch(step), shuffled.batch(step)
        for name in ("pixel_values", "question_tokens", "record_index", "prefix_tokens", "view_valid", "covered"):
            np.testing.assert_array_equal(batch[name], control[name])
        for row in range(4):
            shown = control["view_valid"][row].sum()
            if shown == 2:  # views 0 and 1 of the partner, or others: no need to find out which
                continue
            depth = control["depth"][row, 0]
            (partner,) = [index for index, labels in own.items() if (labels.depth[0] == depth).all()]
            assert partner != control["record_index"][row]
            partners.add((int(control["record_index"][row]), partner))
            assert control["depth_valid"][row].sum() == (2 if partner == 5 else 3)
    assert len(partners) > 10  # drawn anew for every row
    assert_same(shuffled.batch(3), make_loader(one_source(shuffle3d=True), PROCESSOR, records=records).batch(3))


def test_shuffled_geometry_needs_another_scene():
    same = fakes.Records(fakes.record(index, scene="kitchen") for index in range(4))
    with pytest.raises(ValueError, match="records of two scenes or more; all are of .'kitchen'"):
        make_loader(one_source(shuffle3d=True), PROCESSOR, records=[same])


def test_a_source_without_text_and_geometry_shows_pictures_alone():
    blind = make_loader(one_source(geometry=False, text=False), PROCESSOR, records=[RECORDS]).batch(0)
    assert not blind["has_text"].any() and not blind["has_geometry"].any() and not blind["depth"].any()
    spec.check(blind)


def test_views_without_pose_or_depth_are_masked():
    pose_valid = np.array([False, True, True])
    depths = (*fakes.record(1).depths[:2], b"")
    part = fakes.record(1, depths=depths, pose_valid=pose_valid, camera_to_world=fakes.record(1).camera_to_world * pose_valid[:, None, None] + np.eye(4) * ~pose_valid[:, None, None])  # fmt: skip
    nothing = fakes.record(2, depths=(b"",) * 3)
    loader = make_loader(one_source(per_batch=2), PROCESSOR, records=[fakes.Records([part, nothing])])
    batch = loader.batch(0)
    row = batch["record_index"].tolist().index(0)
    assert batch["pose_valid"][row].tolist() == [False, True, True]
    assert batch["depth_valid"][row].tolist() == [True, True, False]
    assert batch["valid"][row].any(axis=(1, 2)).tolist() == [True, True, False]
    np.testing.assert_array_equal(batch["camera_to_world"][row, :2], np.tile(np.eye(4), (2, 1, 1)))
    assert batch["has_geometry"].tolist()[row] and not batch["has_geometry"].tolist()[1 - row]
    sampled = loader.describe(rows=2)["sampled"]
    assert sampled["rows_without_geometry"] == 1 and sampled["views_without_depth"] == 4
    assert sampled["views_without_pose"] == 4  # one, and three of the sample without geometry


def test_label_files_replace_measured_geometry(tmp_path):
    rng = np.random.default_rng(0)
    for record in RECORDS:
        count = len(record.view_ids)
        labels = LabelFile(
            depth=np.full((count, 8, 8), 2.0, np.float32),
            confidence=np.ones((count, 8, 8), np.float32),
            intrinsics=np.tile(np.array([[8.0, 0, 4], [0, 8.0, 4], [0, 0, 1]]), (count, 1, 1)),
            camera_to_world=np.tile(np.eye(4), (count, 1, 1)),
            features=rng.standard_normal((count, 4, 4, 6)).astype(np.float16),
            label_affine=np.tile(np.array([[2.0, 0, 0], [0, 2.0, 0]]), (count, 1, 1)),
            valid=np.ones((count, 8, 8), bool),
            view_ids=record.view_ids,
            teacher="fake",
            checkpoint="none",
            images_hash=images_hash(record.images),
        )
        write_labels(tmp_path, record.id, labels)
    loader = make_loader(one_source(labels=str(tmp_path)), PROCESSOR, records=[RECORDS])
    batch = loader.batch(0)
    assert spec.check(batch)["F"] == 6
    assert batch["has_features"].all() and batch["has_geometry"].all() and not batch["scene_scale_m"].any()
    shown = batch["view_valid"]
    depth = batch["depth"][shown]
    np.testing.assert_allclose(depth, depth[0, 0, 0], rtol=1e-6)
    assert not batch["teacher_features"][~shown].any()
    for row, index in enumerate(batch["record_index"]):
        features = read_labels(tmp_path, RECORDS[index].id).features.astype(np.float64)
        blocks = features.reshape(-1, 2, 2, 2, 2, 6).mean(axis=(2, 4)).reshape(-1, 4, 6)  # 4 x 4 cells to 2 x 2
        np.testing.assert_allclose(batch["teacher_features"][row, : len(features)], blocks, rtol=1e-5, atol=1e-6)
    measured = make_loader(one_source(features=str(tmp_path)), PROCESSOR, records=[RECORDS]).batch(0)
    np.testing.assert_array_equal(measured["teacher_features"], batch["teacher_features"])
    assert measured["scene_scale_m"].all()
    assert "teacher_features" not in make_loader(one_source(labels=str(tmp_path), features="none"), PROCESSOR, records=[RECORDS]).batch(0)  # fmt: skip
    other = dataclasses.replace(read_labels(tmp_path, RECORDS[1].id), teacher="second")
    write_labels(tmp_path, RECORDS[1].id, other)
    with pytest.raises(LabelError, match="teacher, checkpoint and feature width are.*'second'"):
        make_loader(one_source(labels=str(tmp_path)), PROCESSOR, records=[RECORDS])
    write_labels(tmp_path, RECORDS[1].id, dataclasses.replace(other, teacher="fake"))
    make_loader(one_source(labels=str(tmp_path)), PROCESSOR, records=[RECORDS])
    for index, record in enumerate(RECORDS):  # of exports of their own, all made in one way
        own = f'{{"export_sha256": "{index}", "resize": "crop"}}'
        write_labels(tmp_path, record.id, dataclasses.replace(read_labels(tmp_path, record.id), settings=own))
    make_loader(one_source(labels=str(tmp_path)), PROCESSOR, records=[RECORDS])
    imported = read_labels(tmp_path, RECORDS[1].id)
    for change in ({"metric": True}, {"settings": '{"resize": "pad"}'}, {"settings": ""}, {"settings": "[1]"}):
        write_labels(tmp_path, RECORDS[1].id, dataclasses.replace(imported, **change))
        with pytest.raises(LabelError, match="metric and settings are .*, of other files of this folder .*crop"):
            make_loader(one_source(labels=str(tmp_path)), PROCESSOR, records=[RECORDS])
    changed = [dataclasses.replace(record, images=record.images[::-1]) for record in RECORDS]
    with pytest.raises(LabelError, match="images_hash is"):
        make_loader(one_source(labels=str(tmp_path)), PROCESSOR, records=[fakes.Records(changed)])


def test_question_types_that_the_data_lacks_are_named(monkeypatch):
    records = fakes.Records(RECORDS)
    there = {"grounding": {"colour_at": 30}, "scan": {"names_along": 3}}
    records.manifest = {"splits": {"train": {"question_types": there}}}
    monkeypatch.setattr(storage, "open_split", lambda path, split: records)
    make_loader(one_source(types=("colour_at",), groups=("grounding",)), PROCESSOR)
    for wrong, message in (
        ({"types": ("colour_at", "color_of")}, r"types \['color_of'\], of which 'train' of a has none"),
        ({"types": ("names_along",)}, r"types \['names_along'\].*'scan': \['names_along'\]"),
        ({"groups": ("spatial",)}, r"groups \['spatial'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            make_loader(one_source(**wrong), PROCESSOR)
    make_loader(one_source(text=False, groups=("spatial",)), PROCESSOR)


def test_what_a_source_shows_in_words():
    show = lambda **changes: SourceConfig(path="a", **changes).shows
    assert show(types=("colour_at",)) == "colour_at; measured 3D"
    assert (
        show(views=1, geometry=False, groups=("scan",), text_share=0.5)
        == "scan of 50% of the scenes (seed 0); no 3D; 1 view a sample"
    )
    assert show(text=False, augment=True) == "no text; measured 3D; augmented"
    assert show(labels="t", shuffle3d=True) == "grounding, spatial; 3D of t of other scenes; features of t"
