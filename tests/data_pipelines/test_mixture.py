"""The plan of a run: counts, passes, purity, process slices."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from data_pipelines.config import SourceConfig
from data_pipelines.mixture import Mixture, RowPlans, SceneGroups


def mixture(seed=3):
    return Mixture((3, 1, 4), [np.arange(7), np.arange(5), np.array([2, 5, 8, 9, 11])], seed)


def test_counts_are_exact_in_every_batch():
    plan = mixture()
    for step in range(20):
        sources = collections.Counter(plan.row(step, slot).source for slot in range(plan.global_batch))
        assert sources == {0: 3, 1: 1, 2: 4}


def test_every_pass_shows_every_record_once_in_another_order():
    plan = mixture()
    shown = [plan.row(step, slot) for step in range(35) for slot in range(8)]
    for source, members in enumerate(plan.members):
        order = [row.record for row in shown if row.source == source]
        passes = [
            order[start : start + len(members)] for start in range(0, len(order) - len(members) + 1, len(members))
        ]
        assert all(sorted(one) == members.tolist() for one in passes)
        assert len({tuple(one) for one in passes}) > 1
        visits = [row.visit for row in shown if row.source == source]
        assert visits == [number // len(members) for number in range(len(order))]


def test_plan_is_pure_and_depends_on_the_seed():
    plan, again, other = mixture(), mixture(), mixture(seed=4)
    wanted = [plan.row(step, slot) for step in range(10) for slot in range(8)]
    backwards = [again.row(step, slot) for step in reversed(range(10)) for slot in reversed(range(8))]
    assert wanted == backwards[::-1]
    assert wanted != [other.row(step, slot) for step in range(10) for slot in range(8)]
    row = plan.row(5, 2)
    assert plan.generator(row).integers(1 << 30) == again.generator(row).integers(1 << 30)
    draws = {int(plan.generator(plan.row(step, slot)).integers(1 << 60)) for step in range(10) for slot in range(8)}
    assert len(draws) == 80


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_slices_of_the_processes_join_to_the_global_batch(count):
    plan = mixture()
    parts = [RowPlans(plan, index, count, steps=6) for index in range(count)]
    rows = 8 // count
    for step in range(6):
        joined = [part[step * rows + row] for part in parts for row in range(rows)]
        assert joined == [plan.row(step, slot) for slot in range(8)]


def test_sources_are_spread_over_the_processes():
    plan = Mixture((4, 4), [np.arange(9), np.arange(9)], 0)
    for index in range(4):
        part = RowPlans(plan, index, 4, steps=1)
        assert {part[0].source, part[1].source} == {0, 1}


def test_partner_is_any_record_of_another_scene():
    members, scenes = np.array([2, 4, 5, 7, 9]), ["a", "b", "a", "c", "b"]
    groups, plan = SceneGroups(members, scenes), Mixture((1,), [members], 1)
    chosen = collections.Counter()
    for step in range(3000):
        row = plan.row(step, 0)
        chosen[row.record, plan.partner(row, groups)] += 1
        assert plan.partner(row, groups) == plan.partner(row, groups)
    of = dict(zip(members.tolist(), scenes, strict=True))
    for record in of:  # each of the other scenes' records equally often, within 5 standard deviations
        others = [other for other in of if of[other] != of[record]]
        assert {other for own, other in chosen if own == record} == set(others)
        for other in others:
            share = 1 / len(others)
            assert abs(chosen[record, other] - 600 * share) < 5 * np.sqrt(600 * share * (1 - share))


def test_a_scene_of_nearly_all_records_still_has_partners():
    groups = SceneGroups(np.arange(1000), ["kitchen"] * 999 + ["bath"])
    rng = np.random.default_rng(0)
    assert {groups.another(record, rng) for record in range(999)} == {999}
    assert groups.another(999, rng) < 999


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="not divisible by 3 processes"):
        RowPlans(mixture(), 0, 3, 1)
    with pytest.raises(ValueError, match="process_index 2"):
        RowPlans(mixture(), 2, 2, 1)
    with pytest.raises(ValueError, match="no usable record"):
        Mixture((1,), [np.zeros(0, int)], 0)
    with pytest.raises(ValueError, match="two scenes or more"):
        SceneGroups(np.arange(2), ["kitchen", "kitchen"])
    with pytest.raises(ValueError, match="unknown question groups"):
        SourceConfig(path="x", groups=("grounded",))
    with pytest.raises(ValueError, match="text_share"):
        SourceConfig(path="x", text_share=1.5)
