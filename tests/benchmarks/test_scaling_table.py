"""Rows of the scaling table that cannot be planned say why, and are not tried again."""

import json
import os
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
        scaling_table.make(name, True)
        row = json.loads((tmp_path / f"{name}.json").read_text())
        assert row["finished"] and {found["why_not"] for found in row["slices"].values()} >= {
            said.removeprefix("error: ")
        }
        assert f"| no: {said.removeprefix('error: ')} |" in scaling_table.table()
    else:
        with pytest.raises(RuntimeError):
            scaling_table.make(name, True)
        assert not list(tmp_path.iterdir())


def test_an_estimate_may_leave_open_whether_a_step_fits(tmp_path, monkeypatch):
    found = {
        "fits": None, "mesh": {"data": 1, "fsdp": 4}, "peak_bytes_per_device": 2**35, "estimated_peak_bytes_per_device": 2**35, "bytes_available_per_device": 2**36,
        "memory_source": "estimate", "settings": {}, "roofline": {"seconds": 0.5, "bound": "arithmetic", "mfu": 0.5},
    }  # fmt: skip
    monkeypatch.setattr(scaling_table, "plan", lambda *_: found)
    monkeypatch.setattr(scaling_table, "PLANS", tmp_path)
    scaling_table.make(f"{MODEL}-h100-b16", True)
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
    scaling_table.make(name, False)
    assert json.loads((tmp_path / f"{name}.json").read_text())["smallest"] == "v5e:2x4"
    scaling_table.make(name, False)
    assert asked[-1] == "v5e:2x4" and asked.count("v5e:2x4") == 1
    before = len(asked)
    scaling_table.make(name, True)
    assert asked[before:] == ["v5e:4x4"]
    row = json.loads((tmp_path / f"{name}.json").read_text())
    assert row["smallest"] == "v5e:2x4" and row["finished"] and [*row["slices"]][-1] == "v5e:4x4"


def test_a_slice_that_fits_nothing_shows_what_lacks_least_and_no_time(tmp_path, monkeypatch):
    """The second pass needs more than the first; times of steps that do not run mean nothing."""
    one = lambda peak, passes: {
        "fits": False, "mesh": {"fsdp": 4}, "peak_bytes_per_device": peak * 2**30, "bytes_available_per_device": 2**34,
        "memory_source": "compiler refused", "settings": {"training.microbatches": passes}, "roofline": {"seconds": 0.5, "bound": "arithmetic", "mfu": 0.5},
    }  # fmt: skip
    monkeypatch.setattr(scaling_table, "PLANS", tmp_path)
    row = {"model": MODEL, "chip": "v5e", "batch": 16, "slices": {"v5e:2x2": {"plans": [one(17, 1), one(21, 2), one(20, 4)], "why_not": "too large"}}}  # fmt: skip
    write = lambda: (tmp_path / f"{MODEL}-v5e-b16.json").write_text(json.dumps(row))
    write()
    assert "| 2x2 | fsdp 4 | 1 | **no**: 17.0 of 16.0 (refused) | | | |" in scaling_table.table()
    assert "without the next larger slice" not in scaling_table.table()  # its smallest is not known yet
    row["smallest"] = "v5e:2x2"
    row["slices"]["v5e:2x2"]["plans"].append(one(18, 8) | {"fits": None, "memory_source": "scheduled"})
    write()
    assert "| 2x2 | fsdp 4 | 8 | not known: 18.0 of 16.0 | | | |" in scaling_table.table()
    assert "Rows without the next larger slice yet: 1." in scaling_table.table()


def test_passes_are_tried_until_they_need_no_less(tmp_path, monkeypatch):
    """The second pass adds a sum of gradients, so it is not the one that tells."""
    asked = []
    needs = {1: 2**36, 2: 2**36 + 1, 4: 2**35, 8: 2**35 - 1}

    def plan(model, topology, batch, mesh, passes, estimate):
        asked.append((str(topology), passes, estimate))
        return {"fits": topology.devices >= 8, "estimated_peak_bytes_per_device": needs[passes]}

    monkeypatch.setattr(scaling_table, "plan", plan)
    monkeypatch.setattr(scaling_table, "PLANS", tmp_path)
    scaling_table.make(f"{MODEL}-v5e-b64", True)
    expected = [("v5e:2x2", passes, False) for passes in (1, 2, 4, 8)] + [
        (f"v5e:{n}", 1, False) for n in ("2x4", "4x4")
    ]
    assert asked == expected


def test_a_row_that_is_stopped_while_it_is_written_keeps_what_it_had(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling_table, "plan", lambda *_: {"fits": False, "estimated_peak_bytes_per_device": 2**40})
    monkeypatch.setattr(scaling_table, "PLANS", tmp_path)
    name, written = f"{MODEL}-v5e-b16", []

    def stopped(*_):
        written.append(json.loads((tmp_path / f"{name}.json").read_text()) if written else None)
        if len(written) > 1:
            raise KeyboardInterrupt

    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (stopped(), replace(*paths)))
    with pytest.raises(KeyboardInterrupt):
        scaling_table.make(name, False)
    assert len(written) == 2 and len(json.loads((tmp_path / f"{name}.json").read_text())["slices"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.json"]
