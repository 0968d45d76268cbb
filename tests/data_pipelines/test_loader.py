"""The loader as a whole: purity, processes, threads, resume, errors, description."""

from __future__ import annotations

import collections
import dataclasses
import gc
import json
import os
import sys
import threading
import weakref

import loader_fakes as fakes
import numpy as np
import pytest
from loader_fakes import MORE, PROCESSOR, RECORDS, assert_same, both, decoded, one_source, settings

from data_pipelines.collate import collate
from data_pipelines.loader import make_loader
from data_pipelines.source import BoundedCache
from spatialsv_jax import spec


def test_batches_meet_the_table():
    loader = both()
    sizes = spec.check(loader.batch(0))
    assert sizes == {"B": 8, "S": len(PROCESSOR.encode_prefix(3).tokens), "K": 1, "Q": 4, "T": 16, "A": 3, "X": 3, "V": 3, "P": 4, "H": 12, "W": 12}  # fmt: skip
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


def test_pictures_of_a_new_record_are_prepared_once_where_the_batch_holds_them(monkeypatch):
    shown, processor = [], fakes.processor()  # its own: threads of other tests may still read ahead
    pixels = processor.pixels

    def watched(images, size, out=None):
        if images[0].any():  # blank ones tell shapes
            shown.append(out is not None)
        return pixels(images, size, out)

    monkeypatch.setattr(processor, "pixels", watched)
    for cache_mb in (0.0, 8.0):
        loader = make_loader(one_source(cache_mb=cache_mb, verify=0), processor, records=[RECORDS])
        shown.clear()
        first = loader.batch(0)
        assert shown == [False, True, True, True]  # the first row tells the batch's shapes
        rows = [loader.row(loader.mixture.row(0, slot)) for slot in range(4)]
        np.testing.assert_array_equal(first["pixel_values"], np.stack([row["pixel_values"] for row in rows]))
        assert_same(first, loader.batch(0))
        assert len(shown) == 12  # small pictures are remembered as bytes, and prepared again


def test_a_batch_holds_one_row_beside_it_and_refuses_other_rows():
    alive = []

    def rows(shapes):
        for shape in shapes:
            gc.collect()
            assert not alive or alive[-1]() is None  # the row before is gone
            array = np.full(shape, len(alive), np.float32)
            alive.append(weakref.ref(array))
            yield {"depth": array}
            del array

    np.testing.assert_array_equal(collate(rows([(2,)] * 3), 3)["depth"], [[0, 0], [1, 1], [2, 2]])
    with pytest.raises(ValueError, match=r"'depth' differs .* \(\(2,\), .* in the first, \(\(3,\), .* in row 1"):
        collate(iter([{"depth": np.zeros(2)}, {"depth": np.zeros(3)}]), 2)
    with pytest.raises(ValueError, match="'valid' differs"):
        collate([{"depth": np.zeros(2)}, {"depth": np.zeros(2), "valid": np.zeros(1)}], 2)
    with pytest.raises(ValueError, match="'valid' differs"):
        collate([{"depth": np.zeros(2), "valid": np.zeros(1)}, {"depth": np.zeros(2)}], 2)
    with pytest.raises(ValueError, match="'depth' differs .*float64.* in the first, .*float32.* in row 1"):
        collate([{"depth": np.zeros(2)}, {"depth": np.zeros(2, np.float32)}], 2)
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"batch of {count} rows was given 2"):
            collate([{"depth": np.zeros(2)}] * 2, count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stands_still_over_many_records():
    """Samples of 1,600 records are some 120 MB; 4 may be remembered, and what a batch needs is given back."""
    few = [fakes.record(index, views=2, size=(64, 64)) for index in range(4)]
    config = one_source(views=2, label_size=(64, 64), cache_mb=4.0, threads=2, verify=0)
    loader = make_loader(config, fakes.processor(64), records=[fakes.Records(few * 400)])
    resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    with loader.iterate() as batches:
        for _ in range(60):
            next(batches)
        before = resident()
        for _ in range(340):
            next(batches)
    assert 0 < loader.sources[0]._cache.nbytes <= 4 * 2**20
    assert resident() - before < 30


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
