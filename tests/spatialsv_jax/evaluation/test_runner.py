"""The whole evaluation on a stand-in model: files without NaN, repeatable, honest choice of scenes, safe page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from data_pipelines.loader import evaluation_batches
from experiments.evaluation_groups import Subset, fit_constant
from experiments.scene_figures import scene_figure
from spatialsv_jax.evaluation import runner, statistics
from spatialsv_jax.evaluation.benchmarks import lines
from spatialsv_jax.evaluation.geometry_scores import GeometryScores
from spatialsv_jax.evaluation.predictions import outcomes
from spatialsv_jax.report import page
from spatialsv_jax.report.scene_section import spread

NAMES = [
    "id", "dataset", "scene", "question_type", "question", "options", "prediction", "ground_truth", "correct", "views",
    "depth_rmse",
]  # fmt: skip


@pytest.fixture()
def evaluated(records, processor, data_config, make_engine):
    def start(**engine):
        constant = fit_constant(data_config, processor, records, 0)
        batches = evaluation_batches(data_config, processor, records, 4)
        geometry = GeometryScores([constant])
        return runner.evaluate(list(runner.score(outcomes(make_engine(**engine), batches), geometry)), geometry)

    return start


def _strict(value):
    return json.loads(json.dumps(statistics.plain(value), allow_nan=False))


def test_every_question_has_its_line_and_scores_follow_from_them(evaluated, records):
    result = evaluated()
    assert len(result.rows) == sum(len(record.questions) for record in records)
    assert all(list(row) == NAMES for row in result.rows)
    assert len({row["id"] for row in result.rows}) == len(result.rows)
    first = result.rows[0]
    assert first["question"] == "what is in view 1 ?" and first["views"] == ["v0"] and first["correct"] is True
    assert result.rows[1]["options"] == ["red", "blue", "green", "black"] and result.rows[1]["views"] == [
        "v0",
        "v1",
        "v2",
    ]
    assert len({row["depth_rmse"] for row in result.rows}) == len(records)
    questions = _strict(result.scores)["questions"]
    assert questions["n"] == len(result.rows)
    for name, entry in questions["types"].items():
        mine = [float(row["correct"]) for row in result.rows if row["question_type"] == name]
        assert entry[entry["metric"]] == pytest.approx(np.mean(mine)) and entry["n"] == len(mine)
        assert entry["blind"]["value"] == 0.0
    parts = result.scores["breakdown"]["setting"]
    assert {name: part["records"] for name, part in parts.items()} == {"walk": 4, "rotation": 2}
    assert sum(part["questions"]["n"] for part in parts.values()) == len(result.rows)


def test_the_scorers_of_benchmarks_read_the_lines_as_they_are(evaluated, tmp_path):
    result = evaluated()
    statistics.write_json_lines(tmp_path / "predictions.jsonl", result.rows)
    read = lines.read(tmp_path / "predictions.jsonl")
    for line, row in zip(read, result.rows, strict=True):
        names = ("id", "question_type", "prediction", "ground_truth", "scene", "dataset")
        assert [getattr(line, name) for name in names] == [row[name] for name in names]
        assert line.options == (None if row["options"] is None else tuple(row["options"]))
    assert {line.options is None for line in read} == {True, False}


def test_two_runs_give_the_same_numbers(evaluated):
    assert _strict(evaluated().scores) == _strict(evaluated().scores)


@pytest.mark.parametrize("engine", [{"heads": ()}, {"talks": False}, {"heads": ("depth",)}])
def test_models_with_fewer_abilities_give_the_same_keys(evaluated, engine):
    def keys(value):
        return (
            {k: keys(v) for k, v in value.items() if k not in ("types", "groups")} if isinstance(value, dict) else None
        )

    assert keys(_strict(evaluated(**engine).scores)) == keys(_strict(evaluated().scores))


def test_scenes_are_best_medians_and_worst():
    quality = [{"index": i, "setting": "walk" if i % 3 else "free", "abs_rel": float((7 * i) % 10)} for i in range(10)]
    chosen, sentence = runner.choose_scenes(quality, 4)
    assert chosen[0][0] == 0 and "best of 10" in chosen[0][1]
    assert quality[chosen[-1][0]]["abs_rel"] == 9.0 and "worst of 10" in chosen[-1][1]
    walks = sorted(row["abs_rel"] for row in quality if row["setting"] == "walk")
    assert quality[chosen[1][0]]["abs_rel"] == walks[(len(walks) - 1) // 2] and "median of 6 walk" in chosen[1][1]
    assert "free" in chosen[2][1] and "not by looks" in sentence
    assert runner.choose_scenes(quality, 1)[0] == [chosen[0]]
    assert runner.choose_scenes([], 3)[0] == []
    lost = [{"index": 0, "setting": "walk", "abs_rel": None}]
    assert runner.choose_scenes(lost, 3)[0] == [(0, "record 1")]
    alone, _ = runner.choose_scenes([{"index": 0, "setting": "walk", "abs_rel": 0.1}], 3)
    assert len(alone) == 1 and "best" in alone[0][1] and "worst" in alone[0][1]


def test_shown_questions_come_from_every_type():
    rows = [{"question_type": kind, "number": number} for kind in "ab" for number in range(5)]
    assert [row["question_type"] for row in spread(rows, 4)] == ["a", "b", "a", "b"]
    assert len(spread(rows, 40)) == 10


class _Page(HTMLParser):
    VOID = ("meta", "img", "br", "link", "input", "circle", "path")

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.links, self.scripts = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.links += [
            value for name, value in attrs if name in ("src", "href") and tag in ("a", "img", "link", "script")
        ]
        self.events = [name for name, _ in attrs if name.startswith("on")]
        assert not self.events
        if tag == "script":
            self.scripts.append([dict(attrs), ""])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1][1] += data

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("heads", [("depth", "ray", "points"), ("depth",), ()])
def test_page_stands_alone_and_escapes_all_text(
    tmp_path, evaluated, records, processor, data_config, make_engine, heads
):
    result = evaluated(heads=heads)
    evil = '<script>alert("x")</script>'
    shown, sentence = runner.choose_scenes(result.quality, 3)
    places = sorted(place for place, _ in shown)
    batches = evaluation_batches(data_config, processor, Subset(records, places), 4)
    found = dict(zip(places, outcomes(make_engine(heads=heads), batches, False), strict=True))
    figures = [scene_figure(found[place], evil) for place, _ in shown]
    figures[0].questions[0].update(question=evil, prediction=evil, ground_truth=evil)
    evaluation = _strict(
        {
            **result.scores,
            "trained": {
                "name": evil, "model": evil, "step": 5, "objective": "tasks", "labels": evil, "init_from": "", "training_data": {},
                "weights": {"text": 1.0, "depth": [[0, 0.0], [10, 1.0]]},
            },
            "data": {"records": 6, "scenes": 6, "split": "test", "path": evil, "data_sha256": "1" * 64},
            "conventions": runner.conventions(),
            "scene_choice": sentence,
            "provenance": {"command": evil, "versions": {"jax": "0"}, "seed": 0},
        }
    )  # fmt: skip
    rows = [{"step": step, "total": 1.0 - step, "text": 1.0} for step in range(5)]
    path = page.write_report(tmp_path / "report", evaluation, figures, {evil: rows})
    text = path.read_text("utf-8")
    reader = _Page()
    reader.feed(text)
    assert reader.open == [] and "&lt;script&gt;" in text
    clouds = "points" in heads or bool(figures[0].true)
    known = [{"type": "application/json", "id": "viewer-data"}, {"src": "viewer.js"}]
    assert [attributes for attributes, _ in reader.scripts] == known * clouds
    if clouds:  # what the viewer reads is data, and holds the text as it is
        (run,) = json.loads(reader.scripts[0][1])["runs"]
        assert run["data_sha256"] == "1" * 64  # by which reports of other data are told apart
        assert run["name"] == evil and run["scenes"][0]["questions"][0]["prediction"] == evil
        assert json.loads((path.parent / "viewer.json").read_text("utf-8"))["runs"] == [run]
    assert path.stat().st_size < 10e6
    for link in reader.links:
        assert link.startswith("data:image/") or (path.parent / link).is_file(), link[:80]
    assert not re.search(r"@import|url\(\s*['\"]?http|<link|<iframe", text)
    largest = max((len(link) for link in reader.links if link.startswith("data:")), default=0)
    assert largest * 3 / 4 < 150_000
    assert "svg" in reader.seen
