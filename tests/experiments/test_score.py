"""The score command: its file, its table, its errors."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import score
from spatialsv_jax.evaluation.benchmarks import table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/benchmarks.md").read_text("utf-8")


@pytest.fixture
def predictions(tmp_path):
    rows = [
        {"id": f"{n}", "question_type": kind, "prediction": said, "ground_truth": true, "options": options, "scene": f"s{n // 4}", "dataset": "d"}
        for n, (kind, said, true, options) in enumerate(
            [("object_counting", "3", "4", None), ("route_planning", "B", "B", ["A. x", "B. y"]), ("route_planning", "?", "A", ["A. x", "B. y"])] * 4
        )
    ]  # fmt: skip
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_the_result_says_what_was_scored_and_how(predictions, tmp_path, capsys):
    out = tmp_path / "new" / "scores.json"
    assert score.main(["--benchmark", "vsibench", "--predictions", str(predictions), "--out", str(out)]) == 0
    result = json.loads(out.read_text("utf-8"))
    assert result["benchmark"] == "vsibench" and result["dialect"] == "original" and result["variant"] is None
    assert result["scorer"]["kind"] == "exact" and "thinking-in-space" in result["scorer"]["source"]
    assert result["predictions"]["sha256"] == hashlib.sha256(predictions.read_bytes()).hexdigest()
    assert result["predictions"]["lines"] == result["n"] == 12 and result["unparsable"] == 4
    assert result["overall"] == pytest.approx((0.6 + 0.5) / 2)
    counting = result["per_type"]["object_counting"]
    assert counting["n"] == 4 and counting["score"] == pytest.approx(0.6) and counting["metric"] == "mra"
    assert result["micro"]["score"] == pytest.approx((0.6 * 4 + 4) / 12) and result["macro"]["types"] == 2
    low, high = result["overall_interval_95"]
    assert 0 <= low <= result["overall"] <= high <= 1 and result["clusters"] == {"n": 3, "with_scene": 3}
    shown = capsys.readouterr().out
    assert re.search(r"^overall +0\.5500 .* 12 +4 ", shown, re.MULTILINE) and "published: full 5130" in shown
    assert re.search(r"^route_planning +0\.5000", shown, re.MULTILINE)


def test_the_same_file_gives_the_same_result(predictions, tmp_path):
    command = ["--benchmark", "vsibench", "--predictions", str(predictions), "--out"]
    for name in ("a.json", "b.json"):
        assert score.main([*command, str(tmp_path / name)]) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_mistakes_end_with_2_and_say_what_is_there(predictions, tmp_path, capsys):
    cases = [
        (["--benchmark", "vsi"], "There is no benchmark 'vsi'. Known: vsibench, "),
        (["--benchmark", "sqa3d", "--dialect", "vlmevalkit"], "sqa3d has no dialect 'vlmevalkit'; it has original."),
        (["--benchmark", "vsibench", "--variant", "fixed"], "vsibench / original has no variants"),
        (["--benchmark", "sparbench", "--variant", "better"], "sparbench / original has as_published and fixed"),
        (["--benchmark", "mindcube"], "line 1, field 'id'"),
        (["--benchmark", "vsibench", "--predictions", str(tmp_path / "none")], "No such file"),
        (["--benchmark", "vsibench", "--out", str(tmp_path)], "is a folder; give a file"),
        (
            ["--benchmark", "vsibench", "--out", f"{tmp_path}/../{tmp_path.name}/{predictions.name}"],
            "which would be lost",
        ),
    ]
    before = predictions.read_bytes()
    for arguments, message in cases:
        assert score.main(["--predictions", str(predictions), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert predictions.read_bytes() == before and not list(tmp_path.parent.glob("*.partial"))
    with pytest.raises(SystemExit):
        score.main(["--benchmark", "vsibench", "--predictions", str(predictions), "--resamples", "0"])


def test_scoring_needs_no_jax():
    subprocess.run(
        [sys.executable, "-c", "import sys, experiments.score\nassert 'jax' not in sys.modules"], check=True, cwd=ROOT
    )


def test_the_page_has_the_table_of_benchmarks_and_dialects():
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE[PAGE.index("| benchmark | original |") :], re.MULTILINE))
    assert set(rows) == set(table.BENCHMARKS)
    for name, cells in table.BENCHMARKS.items():
        shown = [cell.strip() for cell in rows[name].split("|")]
        for dialect, text in zip(table.DIALECTS, shown, strict=True):
            cell = cells.get(dialect)
            expected = "-" if cell is None else cell.kind + (", 2 variants" if cell.has_variants else "")
            assert text == expected, (name, dialect)
