"""Shapes chosen from the data: what they hold and waste, which step has which, and the loader over them."""

from __future__ import annotations

import collections
import dataclasses
import math

import loader_fakes as fakes
import numpy as np
import pytest
from loader_fakes import assert_same

from data_pipelines.buckets import Needs, choose_buckets
from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.loader import make_loader
from data_pipelines.mixture import Schedule
from spatialsv_jax import spec
from spatialsv_jax.backbones.qwen2_5_vl.model import VisionConfig
from spatialsv_jax.processing.qwen2_5_vl import Qwen25VLProcessor


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """Sixteen tokens of 8 x 8 pixels a picture; any proportions."""
    vision = VisionConfig(image_size=(32, 32), patch_size=4, merge=2)
    return Qwen25VLProcessor.from_scratch(tmp_path_factory.mktemp("processor"), vision)


def needs(views, heights, widths, tokens, questions=2) -> Needs:
    """Every record has so many questions, of equal length."""
    tokens = np.asarray(tokens, np.int64)
    sides = (np.asarray(values, np.int64) for values in (views, heights, widths))
    return Needs(*sides, tokens, tokens * questions, np.full(len(tokens), questions))


def config(buckets, per_batch=(4,), **changes) -> DataConfig:
    sources = tuple(SourceConfig(path=str(number), per_batch=rows) for number, rows in enumerate(per_batch))
    values = dict(sources=sources, questions=2, question_tokens=64, views=4, label_size=(16, 16), buckets=buckets)
    return DataConfig(**{**values, **changes})


def waste_by_hand(choice, one: Needs, processor, questions: int) -> float:
    """The definition, record by record: the tokens given, and those that a picture or a question needs."""
    given = used = 0.0
    overhead = len(processor.encode_prefix(2).tokens) - len(processor.encode_prefix(1).tokens) - 16
    for record, owner in enumerate(choice.owners[0]):
        bucket = choice.buckets[owner]
        of = lambda size: size[0] * size[1] / 64 + overhead
        own = processor.fitting_size(one.height[record], one.width[record])
        stretch = abs(math.log(bucket.image_size[1] / bucket.image_size[0]) - math.log(own[1] / own[0]))
        seen = min(of(bucket.image_size) * math.exp(-stretch), of(own))
        given += bucket.views * of(bucket.image_size) + questions * bucket.question_tokens
        asked = one.total[record] / one.questions[record] * min(questions, one.questions[record])
        used += one.views[record] * seen + asked
    return 1 - used / given


def test_sizes_follow_proportions_within_the_budget(processor):
    assert processor.fitting_size(100, 100) == (32, 32)
    assert processor.fitting_size(90, 160) == (24, 40)  # 3 x 5 tokens; 16 : 9 is 1.78, 5 : 3 is 1.67
    assert processor.fitting_size(400, 100) == (64, 16)
    for height, width in ((48, 64), (1080, 1920), (7, 1000), (500, 333)):
        size = processor.fitting_size(height, width)
        assert size[0] * size[1] <= 32 * 32 and size[0] % 8 == size[1] % 8 == 0


def test_records_of_different_kinds_part_and_waste_is_counted_as_defined(processor):
    views = [1] * 20 + [4] * 20
    one = needs(views, [32] * 20 + [16] * 20, [32] * 20 + [64] * 20, [10] * 20 + [50] * 20)
    choice = choose_buckets([one], config(2), processor)
    assert {(b.image_size, b.label_size, b.views, b.question_tokens) for b in choice.buckets} == {
        ((32, 32), (16, 16), 1, 16), ((16, 64), (8, 32), 4, 56)
    }  # fmt: skip
    assert choice.shares == (0.5, 0.5)
    assert len(set(choice.owners[0][:20])) == len(set(choice.owners[0][20:])) == 1
    assert choice.wasted == pytest.approx(waste_by_hand(choice, one, processor, 2))
    single = choose_buckets([one], config(1), processor)
    assert single.buckets[0].views == 4 and single.buckets[0].question_tokens == 56
    assert choice.wasted_in_one > 4 * choice.wasted


def test_more_buckets_waste_no_more_and_all_records_fit(processor):
    rng = np.random.default_rng(0)
    number = 300
    one = needs(
        rng.integers(1, 5, number), rng.choice([24, 32, 48, 90], number), rng.choice([24, 32, 64, 160], number),
        rng.integers(5, 60, number),
    )  # fmt: skip
    wasted = []
    for count in (1, 2, 4, 8, 16):
        choice = choose_buckets([one], config(count), processor)
        assert len(choice.buckets) <= count and sum(choice.shares) == pytest.approx(1)
        for bucket, shape in enumerate(choice.buckets):
            own = choice.owners[0] == bucket
            assert own.sum() >= 4 and own.mean() == pytest.approx(choice.shares[bucket])
            assert one.views[own].max() <= shape.views
            assert one.longest[own].max() <= shape.question_tokens
        assert choice.wasted == pytest.approx(waste_by_hand(choice, one, processor, 2))
        wasted.append(choice.wasted)
    assert all(later < earlier for earlier, later in zip(wasted, wasted[1:], strict=False))


def shown_how_often(choice) -> list[np.ndarray]:
    """Per source, how often each record is shown beside the source's mean."""
    found = []
    for owner in choice.owners:
        own = np.bincount(owner, minlength=len(choice.buckets))
        found.append((np.array(choice.shares) / np.maximum(own, 1) * len(owner))[owner])
    return found


def test_sources_that_differ_lend_records_so_that_none_is_shown_more_often(processor):
    """Two sources of opposite kinds: short records fit into long buckets, long ones not into short ones."""
    few, many = [1] * 900 + [4] * 100, [1] * 100 + [4] * 900
    sources = [needs(views, [32] * 1000, [32] * 1000, [8] * 1000) for views in (few, many)]
    choice = choose_buckets(sources, config(2, (4, 4)), processor)
    for often in shown_how_often(choice):
        assert often.max() <= 1.5 and often.min() > 0.5
    assert max(choice.skew) <= 1.5
    # A source of short records alone fills its part of both buckets.
    short = needs([1] * 1000, [32] * 1000, [32] * 1000, [8] * 1000)
    choice = choose_buckets([sources[0], short], config(2, (5, 3)), processor)
    assert len(choice.buckets) == 2 and {bucket.views for bucket in choice.buckets} == {1, 4}
    assert max(often.max() for often in shown_how_often(choice)) < 1.1
    # One of long records alone cannot fill short buckets: there is one for all.
    choice = choose_buckets([short, needs([4] * 50, [32] * 50, [32] * 50, [8] * 50)], config(4, (4, 4)), processor)
    assert len(choice.buckets) == 1 and choice.buckets[0].views == 4


def test_a_handful_of_odd_records_gets_no_bucket(processor):
    one = needs([1] * 5000 + [4] * 4, [32] * 5004, [32] * 5004, [8] * 5004)
    assert len(choose_buckets([one], config(2), processor).buckets) == 1


def test_few_questions_in_many_slots_are_waste(processor):
    one = needs([1] * 50, [32] * 50, [32] * 50, [16] * 50, questions=1)
    choice = choose_buckets([one], config(1, questions=8), processor)
    picture = len(processor.encode_prefix(2).tokens) - len(processor.encode_prefix(1).tokens)
    assert choice.wasted == pytest.approx(7 * 16 / (picture + 8 * 16))


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.3, 0.2), (0.998, 0.001, 0.001), (0.25,) * 4])
def test_schedule_gives_each_bucket_its_share_and_counts_its_steps(shares):
    schedule, again = Schedule(shares, 7), Schedule(shares, 7)
    seen = collections.Counter()
    for step in range(1024):
        bucket, local = schedule.at(step)
        assert local == seen[bucket]
        seen[bucket] += 1
    assert [seen[bucket] / 1024 for bucket in range(len(shares))] == pytest.approx(shares, abs=(len(shares) - 1) / 256)
    assert all(seen[bucket] for bucket in range(len(shares)))
    assert [again.at(step) for step in reversed(range(600))] == [schedule.at(step) for step in reversed(range(600))]
    for bucket in range(len(shares)):
        assert [schedule.at(step) for step in schedule.steps(bucket, 5)] == [(bucket, local) for local in range(5)]
    if len(shares) > 1:
        assert [schedule.at(step)[0] for step in range(256)] != [schedule.at(step)[0] for step in range(256, 512)]


class Records(fakes.Records):
    """With the sizes that an opened split's index has."""

    def __init__(self, items, sizes):
        super().__init__(items)
        self.sizes, self.read = sizes, 0

    def __getitem__(self, index):
        self.read += 1
        return super().__getitem__(index)

    @property
    def rows(self):
        return [{**row, "height": h, "width": w} for row, (h, w) in zip(super().rows, self.sizes, strict=True)]


@pytest.fixture()
def mixed():
    sizes = [(16, 16) if index % 2 else (12, 32) for index in range(12)]
    made = [fakes.record(index, views=1 + 2 * (index % 2), size=size, questions=3) for index, size in enumerate(sizes)]
    return Records(made, sizes)


def bucketed(records, processor, **changes):
    settings = dict(question_tokens=120, answer_tokens=8, views=3, label_size=(16, 16), threads=0, verify=2)
    sources = (SourceConfig(path="a", per_batch=4),)
    make = {name: changes.pop(name) for name in ("process_index", "process_count", "lengths") if name in changes}
    return make_loader(config(2, **{**settings, "sources": sources, **changes}), processor, records=[records], **make)


def test_loader_shows_every_record_in_its_bucket(mixed, processor):
    loader = bucketed(mixed, processor)
    shapes, seen = set(), collections.Counter()
    for step in range(24):
        batch = loader.batch(step)
        spec.check(batch)
        shapes.add((batch["pixel_values"].shape, batch["depth"].shape, batch["prefix_tokens"].shape[1]))
        for row, index in enumerate(batch["record_index"]):
            height, width = mixed.sizes[index]
            assert batch["pixel_values"].shape[2:4] == processor.fitting_size(height, width)
            assert batch["view_valid"][row].all()  # the buckets part the records by their views
            seen[int(index)] += 1
    assert len(shapes) == 2
    assert set(seen) == set(range(12)) and max(seen.values()) - min(seen.values()) <= 2
    facts = loader.describe()
    assert [bucket["share"] for bucket in facts["buckets"]] == [0.5, 0.5]
    assert facts["wasted_share"] < facts["wasted_share_in_one_bucket"]
    assert [one["pixel_values"].shape for one in loader.examples()] == [
        (4, bucket["views"], *bucket["image_size"], 3) for bucket in facts["buckets"]
    ]


def test_buckets_are_pure_and_processes_join(mixed, processor):
    whole = bucketed(mixed, processor)
    parts = [bucketed(mixed, processor, process_index=index, process_count=2) for index in range(2)]
    for step in (0, 5, 300):
        pieces = [part.batch(step) for part in parts]
        assert_same(whole.batch(step), {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]})
    with whole.iterate(3) as batches:
        for step in (3, 4):
            assert_same(next(batches)[1], whole.batch(step))


def test_a_picture_and_its_depth_stay_aligned_in_a_bucket_of_other_proportions(mixed, processor):
    batch = next(b for b in bucketed(mixed, processor).examples() if b["pixel_values"].shape[2:4] != (32, 32))
    record = mixed[int(batch["record_index"][0])]
    height, width = batch["depth"].shape[-2:]
    assert (height, width) == (
        round(16 * batch["pixel_values"].shape[2] / 32),
        round(16 * batch["pixel_values"].shape[3] / 32),
    )
    # The whole picture is stretched: its intrinsics scale with the map's sides.
    own = record.intrinsics[0]
    np.testing.assert_allclose(batch["intrinsics"][0, 0, 0], own[0] * width / 32, rtol=1e-5)
    np.testing.assert_allclose(batch["intrinsics"][0, 0, 1], own[1] * height / 12, rtol=1e-5)


def test_a_question_beyond_the_limit_is_named(mixed, processor):
    with pytest.raises(
        ValueError, match=r"Record 'r0', question 'r0q0' needs \d+ tokens.*question_tokens is 20; raise it"
    ):
        bucketed(mixed, processor, question_tokens=20)


def test_families_of_one_size_have_buckets_too(mixed):
    loader = bucketed(mixed, fakes.PROCESSOR, question_tokens=16)
    assert {bucket.views for bucket in loader.choice.buckets} == {1, 3}


def test_lengths_are_kept_and_made_again_for_other_questions(mixed, processor, tmp_path):
    mixed.manifest = {"data_sha256": "x"}
    bucketed(mixed, processor, lengths=tmp_path, verify=0)
    assert mixed.read == 12
    bucketed(mixed, processor, lengths=tmp_path, verify=0)
    assert mixed.read == 12
    other = dataclasses.replace(SourceConfig(path="a", per_batch=4), groups=("grounding",))
    bucketed(mixed, processor, lengths=tmp_path, verify=0, sources=(other,))
    assert mixed.read == 24
