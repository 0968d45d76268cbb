"""Scores of all hosts arrive on the first in the order of the records, bit for bit."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from experiments import gathering, hosts
from spatialsv_jax.evaluation.predictions import Meter
from spatialsv_jax.evaluation.runner import Scored
from spatialsv_jax.metrics.camera import PairErrors


def _scored(index: int) -> Scored:
    """With everything that a row may hold."""
    draw = np.random.default_rng(index)
    pairs = PairErrors(draw.random(3), draw.random(3), np.array([True, False, True]), draw.random(3))
    confidence = (draw.random(5).astype(np.float32), draw.random(5))
    row = {
        "scene": f"s{index}", "abs_rel": 0.1 + index / 3, "depth_rmse": None, "camera": {"views": 3, "model": pairs},
        "confidence": {"depth": confidence}, "depth": {"model": {"none": {"rmse": np.float64(1 / 3), "n": 7}}},
    }  # fmt: skip
    return Scored(index, row, [({"id": f"q{index}", "views": ["a"], "correct": True}, {"blind": None})])


def _equal(one, other) -> None:
    assert type(one) is type(other) or {type(one), type(other)} == {float, np.float64}
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            _equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            _equal(left, right)
    else:
        assert one == other


@pytest.mark.parametrize("number", [1, 2, 7])  # with three hosts the last of one or two records has none
def test_records_of_three_hosts_come_together_in_order(number, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(hosts, "wait", lambda: None)
    seen = []
    for host in (2, 1, 0):  # the first is the last here, so that no one waits
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        places = gathering.own_places(number)
        seen += places
        meter = Meter(tokens=10 + host, seconds=float(host))
        found = gathering.gather([_scored(place) for place in places], meter, tmp_path / "out")
        assert (found is None) == (host > 0)
    assert sorted(seen) == list(range(number))
    assert (meter.tokens, meter.seconds) == (33, 2.0)
    for record, place in zip(found, range(number), strict=True):
        _equal(vars(record), vars(_scored(place)))
    assert not list((tmp_path / "out").iterdir())
