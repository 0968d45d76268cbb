"""Every cell that says `exact` against the scores of the published scorers on the same lines (tests/goldens)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spatialsv_jax.evaluation.benchmarks import lines, scoring, table

GOLDENS = json.loads((Path(__file__).parents[2] / "goldens" / "benchmarks.json").read_text("utf-8"))
ROWS = {
    name: [{field: GOLDENS["values"][at] for field, at in zip(GOLDENS["fields"], row, strict=True)} for row in rows]
    for name, rows in GOLDENS["rows"].items()
}
CELLS = [(name, dialect) for name, entry in GOLDENS["expected"].items() for dialect in entry]
# Bins of items that are no single question.
GROUPS = ("flip", "circular", "flip_circular", "partial", "refined")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions")
    for name, rows in ROWS.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize(("name", "dialect"), CELLS)
def test_scores_equal_those_of_the_published_scorer(files, name, dialect):
    expected = GOLDENS["expected"][name][dialect]
    plan = table.cell(name, dialect).plan(lines.read(files / f"{name}.jsonl"), False)
    alone = [item.value for item in plan.items if not set(item.bins) & set(GROUPS)]
    rows = ROWS[name]
    assert len(alone) == len(rows) == len(expected["scores"])
    wrong = [
        (row["prediction"], row["ground_truth"], row["options"], mine, theirs)
        for row, mine, theirs in zip(rows, alone, expected["scores"], strict=True)
        if mine != theirs
    ]
    assert not wrong
    assert 0 < sum(alone) < len(alone)  # both right and wrong ones


@pytest.mark.parametrize(("name", "dialect"), CELLS)
def test_numbers_of_the_table_equal_those_of_the_published_scorer(files, name, dialect):
    expected = GOLDENS["expected"][name][dialect]
    result = scoring.score(name, files / f"{name}.jsonl", dialect, resamples=1)
    if "overall" in expected:
        assert result["overall"] == pytest.approx(expected["overall"], abs=1e-12)
    for part in ("per_type", "groups"):
        for key, value in expected.get(part, {}).items():
            assert result[part][key]["score"] == pytest.approx(value, abs=1e-12), (part, key)


def test_every_exact_cell_of_a_harness_is_compared():
    exact = {
        (name, dialect)
        for name, cells in table.BENCHMARKS.items()
        for dialect, cell in cells.items()
        if cell.kind == "exact"
    }
    # The debiased set has the scorers of vsibench; MMBench's authors' harness is the kit; captions have their own test.
    same = {("vsibench_debiased", dialect) for dialect in table.DIALECTS} | {
        ("mmbench", "original"),
        ("scanqa", "original"),
    }
    assert exact - same == set(CELLS)
