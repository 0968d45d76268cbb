"""Records of probes joined by id: nothing is paired that is not the same record."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import probe_records
from spatialsv_jax.evaluation import comparison
from spatialsv_jax.report import probe_page


def _record(name: str, rmse: float, pixels: int = 100, depth: float = 1.5) -> dict:
    return {
        "scene": f"scene of {name}",
        "rmse": rmse,
        "abs_rel": rmse / 2,
        "constant": 1.0,
        "pixels": pixels,
        "depth": depth,
    }


def _probe(errors: dict[str, float], **other) -> dict[str, dict]:
    return {name: _record(name, rmse, **other) for name, rmse in errors.items()}


def _measured(records) -> probe_records.Measured:
    return probe_records.Measured([4] * 4, 2, records, None)


def test_pairs_are_those_of_the_same_record_whatever_the_order():
    rng = np.random.default_rng(0)
    own = {f"r{number}": float(value) for number, value in enumerate(rng.uniform(0.1, 1, 12))}
    gain = {name: 0.05 * (1 + place % 3) for place, name in enumerate(own)}
    other = {name: own[name] - gain[name] for name in rng.permutation(list(own)).tolist()}
    assert list(other) != list(own)
    probes = {"a": _probe(own), "b": _probe(other)}
    common = probe_records.join(probes)
    assert common.ids == list(own) and common.left_out == common.other_pixels == []
    first, second = (probe_records.errors(_measured(records), common.ids, "rmse") for records in probes.values())
    pair = comparison.paired_difference(first[None], second[None], list(own), smaller_is_better=True)
    assert (
        pair["value"] == pytest.approx(-0.1) and pair["verdict"] == "better"
    )  # by place it would be lost in the spread
    np.testing.assert_allclose(first - second, [gain[name] for name in common.ids])


def test_records_that_not_all_have_are_left_out_of_every_row_and_counted():
    probes = {
        "a": _probe({"x": 0.1, "y": 0.2, "only a": 9.0}),
        "b": _probe({"y": 0.4, "only b": 9.0, "x": 0.2}),
        "c": _probe({"x": 0.3, "only b": 9.0, "y": 0.6}),
    }
    common = probe_records.join(probes)
    assert common.ids == ["x", "y"] and common.left_out == ["only a", "only b"]
    for records, rmse in zip(probes.values(), (0.15, 0.3, 0.45), strict=True):
        row = probe_records.summarise(_measured(records), common.ids)
        assert row["rmse"]["value"] == pytest.approx(rmse) and row["abs_rel"]["value"] == pytest.approx(rmse / 2)
        assert row["rmse"]["n"] == row["constant_rmse"]["n"] == row["rmse"]["scenes"] == 2
        assert row["rmse_over_constant"] == pytest.approx(rmse)


def test_probes_without_a_common_record_are_refused():
    probes = {"a": _probe({"x": 0.1, "y": 0.1}), "b": _probe({"z": 0.1})}
    with pytest.raises(ValueError, match=r"No record has depth in all probes \(records with depth: a 2, b 1\)"):
        probe_records.join(probes)


def test_other_pixels_of_the_same_record_are_counted():
    own = {"x": 0.1, "y": 0.2, "z": 0.3}
    cropped = _probe(own)
    cropped["x"]["depth"] *= 1.01  # another part of the picture
    cropped["y"]["pixels"] -= 1
    cropped["z"]["depth"] *= 1 + 1e-6  # rounding
    assert probe_records.join({"a": _probe(own), "b": cropped}).other_pixels == ["x", "y"]
    assert probe_records.join({"a": cropped}).other_pixels == []


def test_both_counts_are_told():
    none = {"n": 0, "ids": []}
    assert probe_page.notes({"common": 5, "left_out": none, "other_pixels": none}) == []
    told = probe_page.notes(
        {"common": 5, "left_out": {"n": 1, "ids": ["x"]}, "other_pixels": {"n": 2, "ids": ["y", "z"]}}
    )
    assert told[0].startswith("1 record left out") and told[1].startswith("2 records of 5 measured at other pixels")
