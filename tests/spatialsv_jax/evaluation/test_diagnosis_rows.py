"""Rows of a diagnosis and its page on a stand-in model whose errors are known."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

from data_pipelines.loader import evaluation_batches
from experiments import diagnose, diagnosis_rows
from spatialsv_jax import geometry
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


@pytest.mark.parametrize("most", [4000, 100])
def test_deciles_of_disagreement_are_those_of_the_gaps_that_were_made(
    processor, data_config, records, make_engine, monkeypatch, most
):
    """A point lies on its ray, `gap` behind the depth head's depth, which is `error` too deep."""
    gap_of = lambda truth: 0.2 * np.abs(np.cos(11 * truth))
    error_of = lambda truth: 0.3 * np.abs(np.sin(37 * truth)) * (0.5 + gap_of(truth))

    def lift(batch):
        truth = np.where(batch["valid"], batch["depth"], 1.0).astype(np.float64)
        cameras = batch["intrinsics"].astype(np.float64), batch["camera_to_world"].astype(np.float64)
        ray = geometry.rays_from_camera(*cameras, *truth.shape[-2:])
        depth = truth * (1 + error_of(truth))
        points = ray[..., :3] + ray[..., 3:] * (depth * (1 + gap_of(truth)))[..., None]
        maps = {name: value.astype(np.float32) for name, value in (("depth", depth), ("ray", ray), ("points", points))}
        return maps | {f"{name}_confidence": np.ones(depth.shape, np.float32) for name in maps}

    engine = dataclasses.replace(make_engine(), lift=lift)
    shown = lambda: outcomes(engine, evaluation_batches(data_config, processor, records, 4), blind=False)
    gaps, errors = [], []
    for outcome in shown():
        truth = outcome.labels["depth"][outcome.points_mask].astype(np.float64)
        truth = truth[:: -(-len(truth) // most)]
        gaps += gap_of(truth).tolist()
        errors += error_of(truth).tolist()
    monkeypatch.setattr(diagnosis_rows, "MOST_PIXELS", most)
    result = diagnose.summarise(diagnosis_rows.collect(shown(), len(records), "test"), "rmse", 20)
    found = result["confidence"]["disagreement"]
    assert found["n"] == len(gaps) and found["reason"] is None and len(found["bins"]) == 10
    assert found["spearman"] == pytest.approx(stats.spearmanr(-np.array(gaps), errors).statistic, abs=1e-4)
    order, start = sorted(range(len(gaps)), key=lambda place: -gaps[place]), 0
    for entry in found["bins"]:
        own = order[start : start + entry["n"]]
        start += entry["n"]
        assert abs(entry["n"] - len(gaps) / 10) < 1 and set(entry) == {"gap_mean", "error_mean", "error_median", "n"}
        assert entry["gap_mean"] == pytest.approx(sum(gaps[place] for place in own) / len(own), abs=1e-5)
        assert entry["error_mean"] == pytest.approx(sum(errors[place] for place in own) / len(own), abs=1e-4)
        assert entry["error_median"] == pytest.approx(np.median([errors[place] for place in own]), abs=1e-3)
    assert start == len(gaps)
    assert found["bins"][0]["gap_mean"] > 0.19 and found["bins"][-1]["gap_mean"] < 0.05  # the least sure first


@pytest.mark.parametrize("engine", [{"heads": ()}, {"talks": False}, {"heads": ("depth",)}])
def test_models_with_fewer_abilities(diagnosed, records, engine):
    found = diagnosed(records, **engine)
    result = diagnose.summarise(found, "abs_rel", 20)
    json.dumps(plain(result), allow_nan=False)
    if engine == {"heads": ()}:
        assert result["depth"]["rmse"]["value"] is None and result["within_run"]["without_quality"] == len(
            found.questions
        )
    whole = "talks" in engine
    assert result["heads"]["records"] == (6 if whole else 0)
    disagreement = result["confidence"]["disagreement"]
    assert (disagreement["bins"] is None) != whole and (disagreement["reason"] is None) == whole
    if engine == {"heads": ("depth",)}:
        assert disagreement["reason"].endswith("the model has no ray and no points head.")
        assert result["confidence"]["ray"]["reason"] == "The model has no ray head."
        assert result["confidence"]["depth"]["reason"] is None and len(result["confidence"]["depth"]["bins"]) == 10
    if engine == {"heads": ()}:
        assert result["confidence"]["depth"]["bins"] is None


def test_data_without_cameras_or_depth_is_the_reason(diagnosed, records):
    views = len(records[0].view_ids)
    for lacking in ({"pose_valid": np.zeros(views, bool)}, {"depths": (b"",) * views}):
        found = diagnose.summarise(diagnosed([dataclasses.replace(one, **lacking) for one in records]), "rmse", 20)
        assert set(found["confidence"]) == {"depth", "ray", "points", "disagreement"}
        for entry in found["confidence"].values():
            assert entry["bins"] is None
            assert entry["reason"] == "No record has a view with a known camera and valid depth."


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
    single = diagnose.summarise(diagnosed(records, heads=("depth",)), "rmse", 20)
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
            "runs": {evil: run, "one head": {"trained": trained, **single}}, "conventions": {evil: evil}, "provenance": {"command": evil},
        }
    )  # fmt: skip
    page = diagnosis_page.write_page(tmp_path, result).read_text("utf-8")
    parsed = _Texts()
    parsed.feed(page)
    assert "script" not in parsed.tags and parsed.text.count(evil) > 8
    assert "http" not in page and 'src="data:image/png' in page
    assert "disagreement: gap" in parsed.text and "the model has no ray and no points head." in parsed.text
    for name in ("across_runs", "bins_1", "confidence_1", "types_1"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
