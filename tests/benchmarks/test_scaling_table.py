"""Rows of the scaling table that cannot be planned say why, and are not tried again."""

import json
import subprocess

import pytest

from benchmarks import scaling_table
from spatialsv_jax.planning.chips import parse_topology

MODEL = "qwen2_5_vl_3b"


def test_a_batch_of_fewer_rows_than_hosts_says_so():
    found = scaling_table.try_slice(MODEL, parse_topology("v5e:16x16"), 16, False)
    assert found["plans"] == [] and "16 rows cannot be split over 256 devices of 64 hosts" in found["why_not"]


@pytest.mark.parametrize("said, recorded", [
    ("error: config.mesh {} cannot be laid along the links", True),
    ("Traceback\nMemoryError", False),
    ("error: [Errno 28] No space left on device", False),
])  # fmt: skip
def test_a_refused_plan_is_a_row_with_its_reason(tmp_path, monkeypatch, said, recorded):
    ended = subprocess.CompletedProcess([], 1, "", f"warning: something\n{said}\n")
    monkeypatch.setattr(scaling_table.subprocess, "run", lambda *_, **__: ended)
    monkeypatch.setattr(scaling_table, "PLANS", tmp_path)
    name = f"{MODEL}-v5p-b16"
    if recorded:
        scaling_table.make(name, True, False)
        row = json.loads((tmp_path / f"{name}.json").read_text())
        assert row["finished"] and {found["why_not"] for found in row["slices"].values()} >= {
            said.removeprefix("error: ")
        }
        assert f"| no: {said.removeprefix('error: ')} |" in scaling_table.table()
    else:
        with pytest.raises(RuntimeError):
            scaling_table.make(name, True, False)
        assert not list(tmp_path.iterdir())


def test_an_estimate_may_leave_open_whether_a_step_fits(tmp_path, monkeypatch):
    found = {
        "fits": None, "mesh": {"data": 1, "fsdp": 4}, "peak_bytes_per_device": 2**35, "estimated_peak_bytes_per_device": 2**35, "bytes_available_per_device": 2**36,
        "memory_source": "estimate", "settings": {}, "roofline": {"seconds": 0.5, "bound": "arithmetic", "mfu": 0.5},
    }  # fmt: skip
    monkeypatch.setattr(scaling_table, "plan", lambda *_: found)
    monkeypatch.setattr(scaling_table, "PLANS", tmp_path)
    scaling_table.make(f"{MODEL}-h100-b16", True, False)
    row = json.loads((tmp_path / f"{MODEL}-h100-b16.json").read_text())
    assert "smallest" not in row and {one["why_not"] for one in row["slices"].values()} == {""}
    assert "| not known: 32.0 of 64.0 (estimate) |" in scaling_table.table()


def test_the_next_larger_slice_is_added_to_a_row_that_has_its_smallest(tmp_path, monkeypatch):
    """No plan is made twice, and a row stops at the slice behind the first that fits."""
    asked = []

    def plan(model, topology, batch, mesh, passes, estimate):
        asked.append(str(topology))
        return {"fits": topology.devices >= 8, "estimated_peak_bytes_per_device": 2**40 / passes}

    monkeypatch.setattr(scaling_table, "plan", plan)
    monkeypatch.setattr(scaling_table, "PLANS", tmp_path)
    name = f"{MODEL}-v5e-b16"
    scaling_table.make(name, False, False)
    scaling_table.make(name, False, False)
    assert asked[-1] == "v5e:2x4" and asked.count("v5e:2x4") == 1
    before = len(asked)
    scaling_table.make(name, True, False)
    assert asked[before:] == ["v5e:4x4"]
    row = json.loads((tmp_path / f"{name}.json").read_text())
    assert row["smallest"] == "v5e:2x4" and row["finished"] and [*row["slices"]][-1] == "v5e:4x4"


def test_an_estimated_row_is_made_again_by_compiling(tmp_path, monkeypatch):
    asked = []

    def plan(model, topology, batch, mesh, passes, estimate):
        asked.append((str(topology), passes, estimate))
        peak = 2**36 if topology.devices < 8 else 2**33
        return {"fits": None if peak > 2**34 else True, "estimated_peak_bytes_per_device": peak}

    monkeypatch.setattr(scaling_table, "plan", plan)
    monkeypatch.setattr(scaling_table, "PLANS", tmp_path)
    name = f"{MODEL}-v5e-b16"
    scaling_table.make(name, True, True)
    # Twice the passes need no less: the next slice is tried, without four and more.
    assert asked == [("v5e:2x2", 1, True), ("v5e:2x2", 2, True), ("v5e:2x4", 1, True), ("v5e:4x4", 1, True)]
    assert json.loads((tmp_path / f"{name}.json").read_text())["estimated"]
    scaling_table.make(name, True, True)
    assert len(asked) == 4
    scaling_table.make(name, True, False)
    assert not any(estimate for *_, estimate in asked[4:]) and len(asked) > 4
    assert not json.loads((tmp_path / f"{name}.json").read_text())["estimated"]
    before = len(asked)
    scaling_table.make(name, True, True)  # what was compiled stays
    assert len(asked) == before
