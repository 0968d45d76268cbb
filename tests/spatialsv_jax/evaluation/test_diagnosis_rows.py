"""Rows of a diagnosis and its page on a stand-in model whose errors are known."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from data_pipelines.loader import evaluation_batches
from experiments import diagnose, diagnosis_rows
from spatialsv_jax.evaluation import diagnosis
from spatialsv_jax.evaluation.predictions import outcomes
from spatialsv_jax.evaluation.statistics import plain
from spatialsv_jax.report import diagnosis_page


@pytest.fixture()
def diagnosed(processor, data_config, make_engine):
    def start(records, **engine):
        batches = evaluation_batches(data_config, processor, records, 4)
        return diagnosis_rows.collect(outcomes(make_engine(**engine), batches, blind=False), len(records), "test")

    return start


def test_rows_have_the_error_of_their_own_views(diagnosed, records):
    found = diagnosed(records)
    assert len(found.questions) == sum(len(record.questions) for record in records)
    for row in found.questions:
        assert row["views"] == (1 if row["form"] == "word" else 3)
        assert row["quality"]["abs_rel"] == pytest.approx(0.1, abs=1e-6)  # every depth is 10 % too deep
        assert row["object_count"] is None and row["occlusion"] is None  # these rooms have no boxes
    one, all_views = found.questions[0], found.questions[1]
    assert one["record"] == all_views["record"] and one["quality"]["rmse"] != all_views["quality"]["rmse"]
    assert found.records[0]["depth"] == all_views["quality"]


def test_heads_and_confidence(diagnosed, records):
    found = diagnosed(records, shift=0.5)
    gaps = found.records[0]["heads"]
    assert gaps["all"]["mean"] == pytest.approx(0.5 * np.sqrt(3), abs=1e-4)
    result = diagnose.summarise(found, "rmse", 20)
    assert result["heads"]["records"] == len(records) and result["heads"]["all"]["mean"]["scenes"] == 6
    # The points' error is nearly the shift; the ray's is 0: there is nothing to know of it.
    assert result["confidence"]["ray"]["n"] > 0 and result["confidence"]["ray"]["bins"][0]["error_mean"] < 1e-3
    depth = result["confidence"]["depth"]["sparsification"]
    assert depth["records"] == len(records) and depth["area"]["value"] == pytest.approx(1, abs=1e-3)
    assert result["accuracy"]["value"] == np.mean([r["score"] for r in found.questions if r["form"] != "number"])


@pytest.mark.parametrize("engine", [{"heads": ()}, {"talks": False}, {"heads": ("depth",)}])
def test_models_with_fewer_abilities(diagnosed, records, engine):
    found = diagnosed(records, **engine)
    result = diagnose.summarise(found, "abs_rel", 20)
    json.dumps(plain(result), allow_nan=False)
    if engine == {"heads": ()}:
        assert result["depth"]["rmse"]["value"] is None and result["within_run"]["without_quality"] == len(
            found.questions
        )
    assert result["heads"]["records"] == (6 if "talks" in engine else 0)


class _Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_the_page_escapes_everything_and_needs_no_other_file(diagnosed, records, tmp_path):
    evil = "<script>alert(1)</script> $x_"
    asked = [tuple(dataclasses.replace(q, type=evil) for q in record.questions) for record in records]
    bad = [dataclasses.replace(record, questions=qs) for record, qs in zip(records, asked, strict=True)]
    found = diagnosed(bad)
    for number, row in enumerate(found.questions):  # as if depths differed: quarters need that
        row["quality"] = {"rmse": 0.1 * (number % 7), "abs_rel": 0.1 * (number % 7)}
    trained = {"name": evil, "objective": evil, "step": 3}
    run = {"trained": trained, **diagnose.summarise(found, "rmse", 20)}
    across = diagnosis.across_runs([0.1, 0.2, 0.3], [0.5, 0.4, 0.1])
    result = plain(
        {
            "measure": "rmse", "data": {"path": evil, "split": evil, "records": 6, "scenes": 6}, "across_runs": across,
            "runs": {evil: run}, "conventions": {evil: evil}, "provenance": {"command": evil},
        }
    )  # fmt: skip
    page = diagnosis_page.write_page(tmp_path, result).read_text("utf-8")
    parsed = _Texts()
    parsed.feed(page)
    assert "script" not in parsed.tags and parsed.text.count(evil) > 8
    assert "http" not in page and 'src="data:image/png' in page
    for name in ("across_runs", "bins_1", "confidence_1", "types_1"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
