"""Loss curves: which rows are read, what is drawn, and that the SVG stands alone."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from spatialsv_jax.report import curves


def _rows(steps=60):
    return [
        {
            "step": step,
            "total": 2 - step / 20,
            "text": 2.0,
            "depth": -0.5 * step,
            "depth/weight": 1.0,
            "distill": 3.0,
            "distill/weight": 0.0,
            "gradient_norm/depth": 0.1 if step % 10 == 0 else None,
        }
        for step in range(steps)
    ]


def test_a_torn_last_line_is_dropped_and_another_broken_line_is_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row) for row in _rows(4)]
    file.write_text("\n".join([*lines, lines[0][:9]]))
    assert [row["step"] for row in curves.read_metrics(file)] == [0, 1, 2, 3]
    file.write_text("\n".join([lines[0], "{", lines[1]]))
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        curves.read_metrics(file)


def test_phases_are_found_from_a_phase_a_step_and_a_run(tmp_path):
    for name in ("base", "spatial"):
        (tmp_path / name / "checkpoints" / "7").mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"step": 0, "total": 1.0}))
    alone = curves.phases_of(tmp_path / "spatial" / "checkpoints" / "7")
    assert list(alone) == ["spatial"]
    (tmp_path / "run.json").write_text(
        json.dumps({"phases": {"base": "base", "labels": "labels", "spatial": "spatial"}})
    )
    for place in (tmp_path, tmp_path / "spatial", tmp_path / "spatial" / "checkpoints" / "7"):
        assert list(curves.phases_of(place)) == ["base", "spatial"]
    assert curves.phases_of(tmp_path / "labels" / "a" / "b" / "c" / "d") == {}


def test_series_skips_null_and_thins_long_runs():
    steps, values = curves.series(_rows(), "gradient_norm/depth")
    np.testing.assert_array_equal(steps, [0, 10, 20, 30, 40, 50])
    np.testing.assert_allclose(values, 0.1)
    assert len(curves.series([{"step": i, "x": 1.0} for i in range(5001)], "x")[0]) <= 400
    assert len(curves.series([], "x")[0]) == 0


def test_smoothing_keeps_constants_and_short_curves():
    np.testing.assert_allclose(curves.smooth(np.full(300, 2.5)), 2.5)
    np.testing.assert_array_equal(curves.smooth(np.array([3.0, 1.0, 2.0])), [3.0, 1.0, 2.0])
    noisy = np.random.default_rng(0).normal(size=1000)
    assert curves.smooth(noisy)[100:].std() < 0.5 * noisy.std()


def test_svg_is_xml_without_weight_zero_terms_and_repeatable():
    svg = curves.curves_svg(_rows(), "phase0")
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and "currentColor" in svg and "#010203" not in svg
    texts = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert {"total", "text", "depth", "gradient norm"} <= texts
    assert "distill" not in texts
    assert svg == curves.curves_svg(_rows(), "phase0")
    ids = lambda text: {e.get("id") for e in ElementTree.fromstring(text).iter() if e.get("id")}
    assert not ids(svg) & ids(curves.curves_svg(_rows(), "phase1"))
    assert curves.curves_svg([], "phase0") == ""


def test_spikes_stand_above_the_median_before():
    norms = [1.0, 3.0, 2.0, 20.0, None, 2.0]
    rows = [{"step": 10 * place, "gradient_norm/all": norm} for place, norm in enumerate(norms)] + [{"step": 60}]
    assert curves.spikes(rows, 3) == [(40, float("inf")), (30, 10.0), (10, 3.0)]
    assert curves.spikes(rows, 9, recent=1)[-1] == (50, 0.1)  # only the 20 before it
    assert curves.spikes(rows[:1]) == [] and curves.spikes([]) == []
