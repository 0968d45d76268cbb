"""The loader as a whole: purity, processes, threads, resume, controls, evaluation batches."""

from __future__ import annotations

import collections
import dataclasses
import json
import threading

import loader_fakes as fakes
import numpy as np
import pytest

from data_pipelines.labels.files import LabelFile, read_labels, write_labels
from data_pipelines.loader import DataConfig, SourceConfig, make_loader
from data_pipelines.mixture import scene_has_text
from data_pipelines.samples import BoundedCache
from data_pipelines.transforms.decode import decode_image
from spatialsv_jax import spec

PROCESSOR = fakes.processor()
RECORDS = fakes.Records(fakes.record(index, views=2 + index % 2, questions=7) for index in range(6))
MORE = fakes.Records(fakes.record(100 + index, views=1, size=(20, 12), questions=3) for index in range(5))


def settings(**changes) -> DataConfig:
    values = dict(
        sources=(SourceConfig(path="a", per_batch=5), SourceConfig(path="b", per_batch=3)),
        questions=4, question_tokens=16, answer_tokens=3, views=3, label_size=(12, 12), seed=11, threads=0,
    )  # fmt: skip
    return DataConfig(**{**values, **changes})


def one_source(**changes) -> DataConfig:
    data = {name: changes.pop(name) for name in list(changes) if name in DataConfig.__dataclass_fields__}
    shown = {"views": changes.pop("shown")} if "shown" in changes else {}
    return settings(sources=(SourceConfig(**{"path": "a", "per_batch": 4, **changes, **shown}),), **data)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        assert first[name].dtype == second[name].dtype


def both(config=None, **changes):
    return make_loader(config or settings(), PROCESSOR, records=[RECORDS, MORE], **changes)


def test_batches_meet_the_table():
    loader = both()
    sizes = spec.check(loader.batch(0))
    assert sizes == {"B": 8, "S": len(PROCESSOR.encode_prefix(3).tokens), "K": 1, "Q": 4, "T": 16, "A": 3, "V": 3, "P": 4, "H": 12, "W": 12}  # fmt: skip
    counts = collections.Counter()
    for step in range(6):
        batch = loader.batch(step)
        counts.update(batch["source_index"].tolist())
        names = [
            (RECORDS, MORE)[source][index].id
            for source, index in zip(batch["source_index"], batch["record_index"], strict=True)
        ]
        assert names == loader.record_ids(step)
    assert counts == {0: 30, 1: 18}


def test_rows_hold_what_their_records_say():
    batch = both().batch(3)
    for row in range(8):
        record = (RECORDS, MORE)[batch["source_index"][row]][batch["record_index"][row]]
        shown = len(record.view_ids)
        assert batch["view_valid"][row].tolist() == [view < shown for view in range(3)]
        for name in ("pose_valid", "depth_valid"):
            assert batch[name][row].tolist() == batch["view_valid"][row].tolist()
        assert batch["prefix_mask"][row].sum() == len(PROCESSOR.encode_prefix(shown).tokens)
        assert batch["has_text"][row] and batch["has_geometry"][row] and not batch["has_features"][row]
        images = decoded(record)
        np.testing.assert_array_equal(batch["pixel_values"][row, :shown], PROCESSOR.pixels(images).pixel_values)
        named = [q.text.replace("in <view:0> ", "") if shown == 1 else q.text for q in record.questions]
        texts = {
            PROCESSOR.decode(PROCESSOR.encode_question(text).tokens): question.answer
            for text, question in zip(named, record.questions, strict=True)
        }
        asked = set()
        for slot in np.flatnonzero(batch["question_valid"][row]):
            tokens, mask = batch["question_tokens"][row, slot], batch["question_mask"][row, slot]
            answer = batch["answer_mask"][row, slot]
            text = PROCESSOR.decode(tokens[mask & ~answer])
            assert texts[text] == PROCESSOR.decode(tokens[answer])
            asked.add(text)
        assert len(asked) == min(4, len(record.questions))
        # Padded views: nothing valid, cameras harmless.
        for name in ("valid", "covered", "depth", "pixel_values", "image_token_index"):
            assert not batch[name][row, shown:].any(), name
        np.testing.assert_array_equal(batch["camera_to_world"][row, shown:], np.tile(np.eye(4), (3 - shown, 1, 1)))
        assert (np.linalg.det(batch["intrinsics"][row]) > 0).all()
        assert not batch["depth"][row][~batch["valid"][row]].any()


def decoded(record):
    return [decode_image(data, "test") for data in record.images]


def test_batch_is_pure_whatever_was_read_before():
    loader = both()
    first = loader.batch(2)
    for step in (9, 0, 2, 5):
        loader.batch(step)
    assert_same(first, loader.batch(2))
    assert_same(first, both().batch(2))
    assert_same(first, both(settings(cache_mb=0.0, verify=0)).batch(2))
    assert_same(first, both(settings(cache_mb=0.02)).batch(2))
    other = both(settings(seed=12)).batch(2)
    assert any((first[name] != other[name]).any() for name in ("record_index", "question_tokens"))


@pytest.mark.parametrize("count", [2, 4, 8])
def test_processes_join_to_the_batch_of_one(count):
    whole = both()
    parts = [both(process_index=index, process_count=count) for index in range(count)]
    for step in (0, 7):
        pieces = [part.batch(step) for part in parts]
        assert all(len(piece["depth"]) == 8 // count for piece in pieces)
        assert_same(whole.batch(step), {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]})
        assert len({tuple(part.record_ids(step)) for part in [whole, *parts]}) == 1


def test_processes_read_their_own_records_only():
    class Watching(fakes.Records):
        def __init__(self, items):
            super().__init__(items)
            self.read = []

        def __getitem__(self, index):
            self.read.append(index)
            return super().__getitem__(index)

    sources = [Watching(RECORDS), Watching(MORE)]
    loader = make_loader(settings(verify=0), PROCESSOR, 1, 4, records=sources)
    assert sources[0].read == sources[1].read == []
    batch = loader.batch(0)
    for number, source in enumerate(sources):
        assert sorted(source.read) == sorted(batch["record_index"][batch["source_index"] == number].tolist())


def test_threads_give_the_same_batches_and_resume_gives_the_same_ids():
    plain = both()
    with both(settings(threads=2, buffer=3)).iterate(0) as batches:
        for step in range(5):
            number, batch = next(batches)
            assert number == step
            assert_same(batch, plain.batch(step))
    with plain.iterate(3) as batches:
        for step in (3, 4):
            number, batch = next(batches)
            assert number == step
            assert_same(batch, plain.batch(step))
    with pytest.raises(ValueError, match="start_step"):
        plain.iterate(-1)


def test_closing_ends_the_threads():
    before = {thread.name for thread in threading.enumerate()}
    loader = both(settings(threads=2))
    batches = loader.iterate(0)
    next(batches)
    loader.close()
    assert next(batches, None) is None
    for thread in threading.enumerate():
        if thread.name not in before and "grain" in thread.name:
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_errors_of_threads_reach_the_caller():
    broken = dataclasses.replace(RECORDS[2], images=(b"",) * len(RECORDS[2].images))
    records = fakes.Records([*RECORDS[:2], broken, *RECORDS[3:]])
    loader = make_loader(one_source(threads=2, verify=0), PROCESSOR, records=[records])
    with loader.iterate(0) as batches, pytest.raises(ValueError, match="Record 'r2', view 0"):
        for _ in range(3):
            next(batches)


def test_wrong_sizes_are_found_at_construction():
    with pytest.raises(ValueError, match="Record 'r1' shows 3 views, but config.data.views is 2"):
        make_loader(one_source(views=2), PROCESSOR, records=[RECORDS])
    with pytest.raises(ValueError, match="config.data.question_tokens is 9"):
        make_loader(one_source(question_tokens=9), PROCESSOR, records=[RECORDS])
    with pytest.raises(ValueError, match=r"sources\[0\].per_match is not a setting"):
        make_loader(settings(sources=({"path": "a", "per_match": 3},)), PROCESSOR, records=[RECORDS])
    with pytest.raises(ValueError, match="2 opened record sources for 1"):
        make_loader(one_source(), PROCESSOR, records=[RECORDS, MORE])
    with pytest.raises(ValueError, match="config.data.questions is 0"):
        settings(questions=0)


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
    loader = make_loader(one_source(shuffle3d=True), PROCESSOR, records=[same])
    with pytest.raises(ValueError, match="no record of another scene than 'kitchen'"):
        loader.batch(0)


def test_flags_of_the_sources():
    share = 0.5
    labelled = {record.id: scene_has_text(record.scene, share) for record in RECORDS}
    assert len(set(labelled.values())) == 2
    loader = make_loader(one_source(text_share=share), PROCESSOR, records=[RECORDS])
    for step in range(3):
        batch = loader.batch(step)
        assert batch["has_text"].tolist() == [labelled[name] for name in loader.record_ids(step)]
        assert batch["has_geometry"].all()
        assert not batch["question_valid"][~batch["has_text"]].any()
    dropped = make_loader(one_source(text_share=share, unlabelled="drop", per_batch=3), PROCESSOR, records=[RECORDS])
    ids = {name for step in range(6) for name in dropped.record_ids(step)}
    assert ids == {name for name, kept in labelled.items() if kept}
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


def test_cache_keeps_to_its_budget():
    loader = both(settings(cache_mb=0.05))
    for step in range(6):
        loader.batch(step)
    cache = loader.sources[0]._cache
    assert 0 < cache.nbytes <= 0.05 * 2**20
    kept, number = cache.nbytes, len(cache)
    for step in range(6):
        loader.batch(step)
    assert (cache.nbytes, len(cache)) == (kept, number)
    nothing = BoundedCache(0)
    nothing.get("a", lambda: loader.sources[0].sample(0, 0, np.random.default_rng(0)))
    assert len(nothing) == 0


def test_description_counts():
    facts = both().describe(rows=16)
    assert facts["global_batch"] == facts["rows_per_process"] == 8
    assert [source["records"] for source in facts["sources"]] == [6, 5]
    assert facts["sources"][0]["steps_per_pass"] == 6 / 5
    batches = [both().batch(step) for step in range(2)]
    mean = np.mean([batch["prefix_mask"].sum(axis=1) for batch in batches])
    np.testing.assert_allclose(facts["sampled"]["prefix_tokens"], mean)
    share = 1 - np.mean([batch["question_mask"].mean() for batch in batches])
    np.testing.assert_allclose(facts["sampled"]["question_padding_share"], share)
    assert facts["sampled"]["longest_question_tokens"] == max(
        batch["question_mask"].sum(axis=-1).max() for batch in batches
    )
    assert facts["buckets"][0]["views"] == 3
    json.dumps(facts)


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
