"""The notebooks, executed as a user would, in kernels of their own, on the run that the tests share; committed without outputs."""

from __future__ import annotations

import html
import json
import math
import os
import re
import shutil
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))


class Executed:
    """What a notebook showed: its printed text, tables and pictures."""

    def __init__(self, name: str, folder: Path, **parameters: object):
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        given = {f"SPATIALSV_{key.upper()}": str(value) for key, value in parameters.items()}
        client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
        client.execute(env={**os.environ, "PYTHONPATH": path, **given})
        self.outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
        everything = [output for outputs in self.outputs.values() for output in outputs]
        self.printed = "".join(output.get("text", "") for output in everything)
        self.html = "".join(output.get("data", {}).get("text/html", "") for output in everything)

    def table(self, cell: str, place: int = 0) -> list[list[str]]:
        """Cells of a table in a cell's output, without its head; an interval stands behind its value."""
        found = [output["data"]["text/html"] for output in self.outputs[cell] if "text/html" in output.get("data", {})]
        rows = re.findall(r"<tr>(.*?)</tr>", found[place].split("<tbody>")[1])
        plain = lambda cell: html.unescape(re.sub(r"<.*?>", "", cell))
        return [[plain(cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)] for row in rows]

    def pictures(self, cell: str) -> int:
        """How many pictures a cell showed."""
        return sum("image/png" in output.get("data", {}) for output in self.outputs[cell])


def _json(path: Path):
    return json.loads(path.read_text("utf-8"))


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_committed_notebooks_are_clean(file):
    notebook = nbformat.read(file, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.metadata.get("tags") == ["parameters"]] == [code[0].id]
    assert all(not cell.metadata for cell in notebook.cells if cell is not code[0])
    assert max(len(cell.source.splitlines()) for cell in code[1:]) <= 24  # the library's functions do the work
    assert f"`{file.name}`" in (ROOT / "README.md").read_text()


def test_loss_inspection(tiny_run, tmp_path):
    shown = Executed("loss_inspection", tmp_path, workdir=tiny_run)
    rows = _lines(tiny_run / "spatial" / "metrics.jsonl")
    assert f"3 logged steps, 0 to 2; last total {rows[-1]['total']:.6f}" in shown.printed
    assert "6 maps agree with their terms" in shown.printed
    for cell in ("terms", "parts", "gradients", "rates", "time", "confidence"):
        assert shown.pictures(f"{cell}-figure") == 1, cell
    assert shown.pictures("pixels-figures") == 2

    norms = [row["gradient_norm/all"] for row in rows]
    ratios = {1: norms[1] / norms[0], 2: norms[2] / np.median(norms[:2])}
    spikes = shown.table("spike-table")
    assert [int(line[0]) for line in spikes] == sorted(ratios, key=ratios.get, reverse=True)
    for step, ratio, total, skipped in spikes:
        assert float(ratio) == pytest.approx(ratios[int(step)], rel=1e-3) and skipped == "0"
        assert float(total) == pytest.approx(rows[int(step)]["total"], rel=1e-3)

    assert f"step {spikes[0][0]}: 2 records, those that training noted" in shown.printed

    by_record = shown.table("by-record-table")
    totals = [float(line[1]) for line in by_record]
    assert totals == sorted(totals, reverse=True) and len(totals) == 2
    for _, total, *terms in by_record:
        assert float(total) == pytest.approx(sum(map(float, terms)), abs=2e-3)
    confidence = shown.table("confidence-table")
    assert [line[0] for line in confidence] == ["depth", "ray", "points"]
    for line in confidence:
        e, c, weighted, own, conf = map(float, line[1:])
        assert conf == pytest.approx(weighted + own, abs=2e-3) and weighted >= e
        assert -0.2 * math.log(c) - 1e-3 <= own < 0  # Jensen: the mean of log c is at most the log of its mean


@pytest.mark.slow
def test_diagnose_a_model(tiny_run, tmp_path):
    out = tmp_path / "diagnosis"
    shown = Executed("diagnose_a_model", tmp_path, workdir=tiny_run, out=out)
    found, evaluation = _json(out / "diagnosis.json"), _json(tiny_run / "evaluation.json")
    (run,) = found["runs"].values()
    whole = {line[0]: line[1:] for line in shown.table("whole-table")}
    assert whole["accuracy"][0].split()[0] == f"{evaluation['questions']['micro']['value']:.3f}"
    assert whole["depth rmse"][0].split()[0] == f"{evaluation['depth']['model']['none']['rmse']:.3f}"
    assert run["trained"]["path"] == str((tiny_run / "spatial").resolve())
    assert whole["depth rmse"][1] == "3" and "3 records of 3 scenes" in shown.printed
    for cell in ("quarters-figure", "deciles-figure", "thinned-figure"):
        assert shown.pictures(cell) == 1, cell
    assert {line[0] for line in shown.table("thinned-figure")} == {"depth", "ray", "points", "disagreement"}
    assert shown.pictures("worst-figures") == 2
    assert shown.html.count("<section") == len(run["cards"][:4]) > 0
    assert shown.html.count("data:image/png") == 4 * len(run["cards"][:4])

    run["trained"]["path"] = str(tmp_path / "other")
    (out / "diagnosis.json").write_text(json.dumps(found), "utf-8")
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="is not of WORKDIR"):
        Executed("diagnose_a_model", tmp_path, workdir=tiny_run, out=out)


@pytest.mark.slow
def test_compare_runs(tiny_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_run / "spatial", other / "spatial", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copy(tiny_run / "run.json", other)
    lines = _lines(tiny_run / "predictions.jsonl")
    words = [line for line in lines if isinstance(line["correct"], bool)]
    before = np.mean([line["correct"] for line in words])
    for line in words[::2]:
        line["correct"] = not line["correct"]
    (other / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "comparison"
    shown = Executed("compare_runs", tmp_path, runs=f"first={tiny_run} second={other}", base=tiny_run, out=out)
    after = np.mean([line["correct"] for line in words])
    variants = {line[0]: line[1] for line in shown.table("differences-table")}
    assert variants["first"].split()[0] == f"{before:.3f}" and variants["second"].split()[0] == f"{after:.3f}"
    ((pair, difference, *_),) = shown.table("differences-table", 1)
    assert pair == "second - first" and difference.split()[0] == f"{after - before:.3f}"
    low, high = _json(out / "comparison.json")["pairs"][0]["interval_95"]
    assert difference.split()[1:] == [f"{low:.3f}", "to", f"{high:.3f}"]
    ((_, first, second, same, verdict),) = shown.table("depth-table")
    assert first == second and same.startswith("0.000") and verdict == "within noise"
    assert "without probes (training.gradient_norm_every): none" in shown.printed
    assert shown.pictures("types-figures") == 3  # the second against the first, and both against the base
    for cell in ("gradients-figure", "curves-figure", "norms-figure"):
        assert shown.pictures(cell) == 1, cell


@pytest.mark.slow
def test_bring_your_own_images(tiny_run, tmp_path):
    examples, out = ROOT / "docs" / "examples" / "own_data", tmp_path / "out"
    folders = {"pictures": examples / "photos", "scans": examples / "captures"}
    shown = Executed("bring_your_own_images", tmp_path, workdir=tiny_run, out=out, steps=3, **folders)
    assert {path.suffix for path in (examples / "photos/hall").iterdir()} == {".jpg"}  # questions lie with the copy
    assert "colour: what colour is the box ? -> pink (word)" in shown.printed
    split = _json(out / "photos" / "manifest.json")["splits"]["train"]
    assert split["records"] == 2 and split["counts"]["frames_kept"] == 4 + 2
    photos, scans = shown.table("sources")
    assert photos[3:] == ["yes", "no", "0"] and scans[3:5] == ["no", "yes"] and float(scans[5]) > 0.1
    answers = _lines(out / "evaluation" / "predictions.jsonl")
    score = _json(out / "evaluation" / "evaluation.json")["questions"]
    assert [line[:3] for line in shown.table("asked")] == [
        [line["question"], line["prediction"], line["ground_truth"]] for line in answers
    ]
    assert score["n"] == len(answers) >= 3
    with np.load(out / "look" / "reconstruction.npz") as arrays:
        assert arrays["depth"].shape[0] in (2, 4) and (arrays["depth"] > 0).all()
    rows = _lines(out / "run" / "metrics.jsonl")
    assert len(rows) == 3 and rows[0]["text/ce/count"] > 0 and rows[0]["depth/reg/count"] > 0
    assert f"total {rows[0]['total']:.4f} at step 0, {rows[-1]['total']:.4f} at step 2" in shown.printed
    for cell in ("labels-figure", "reconstructed", "trained-figure"):
        assert shown.pictures(cell) == 1, cell
