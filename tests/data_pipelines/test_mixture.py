"""The plan of a run: counts, passes, purity, process slices."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from data_pipelines.config import SourceConfig
from data_pipelines.mixture import Mixture, RowPlans, scene_has_text


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


def test_partner_is_never_the_record_itself():
    plan = Mixture((1, 1), [np.array([4, 9]), np.arange(6)], 1)
    chosen = collections.Counter()
    for step in range(60):
        for slot in range(2):
            row = plan.row(step, slot)
            partners = plan.partners(row)
            assert row.record not in partners
            assert set(partners) <= set(plan.members[row.source].tolist())
            assert partners == plan.partners(row)
            chosen[row.source, partners[0]] += 1
    assert len(chosen) == 8


def test_text_share_is_nested_and_about_right():
    scenes = [f"scene{number}" for number in range(4000)]
    half = {scene for scene in scenes if scene_has_text(scene, 0.5)}
    quarter = {scene for scene in scenes if scene_has_text(scene, 0.25)}
    assert quarter < half
    assert abs(len(half) - 2000) < 130 and abs(len(quarter) - 1000) < 110  # 4 standard deviations
    assert all(scene_has_text(scene, 1.0) for scene in scenes)
    assert not any(scene_has_text(scene, 0.0) for scene in scenes)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="not divisible by 3 processes"):
        RowPlans(mixture(), 0, 3, 1)
    with pytest.raises(ValueError, match="process_index 2"):
        RowPlans(mixture(), 2, 2, 1)
    with pytest.raises(ValueError, match="no usable record"):
        Mixture((1,), [np.zeros(0, int)], 0)
    with pytest.raises(ValueError, match="two records"):
        plan = Mixture((1,), [np.arange(1)], 0)
        plan.partners(plan.row(0, 0))
    with pytest.raises(ValueError, match="unknown question groups"):
        SourceConfig(path="x", groups=("grounded",))
    with pytest.raises(ValueError, match="text_share"):
        SourceConfig(path="x", text_share=1.5)
