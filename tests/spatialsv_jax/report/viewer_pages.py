"""Pages with the viewer for the tests in a browser: one room with several predictions, and text that attacks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from experiments import view
from spatialsv_jax.report import markup, viewer_data
from spatialsv_jax.report.scene_section import write_scene

EVIL = "<img src=x onerror=\"document.title='broken'\">"


def question(text, correct, **changes):
    return {
        "question": text,
        "question_type": EVIL,
        "prediction": EVIL,
        "ground_truth": "yes",
        "correct": correct,
        **changes,
    }


def scenes(room, factor):
    """Four scenes of one room: depth too deep by `factor`, by its double, right, and without truth."""
    instances = np.full(room.true.depth.shape, -1, np.int16)
    instances[:, 10:, :16] = 0
    instances[:, 10:, 16:] = 1
    names = {"objects": ("red chair", EVIL), "instances": instances}
    asked = [question("about the chair ?", 0.0, objects=[0], views=[1]), question("and that ?", 1.0, objects=[1])]

    def deeper(by):
        true, points = room.true.points["true"], room.true
        points = true + by * (true - room.true.camera_to_world[:, None, None, :3, 3])
        return dataclasses.replace(room.predicted, points={"points head": points})

    first = dataclasses.replace(
        room, title=f"room {EVIL}", predicted=deeper(factor), abs_rel=factor, questions=asked, **names
    )
    worse = dataclasses.replace(
        first, title="worse", predicted=deeper(2 * factor), abs_rel=2 * factor, questions=asked[:1] * 2
    )
    good = dataclasses.replace(first, title="good", predicted=deeper(0), abs_rel=0.0, questions=asked[1:])
    blind = dataclasses.replace(room, title="no truth", true=None, abs_rel=None, questions=[], scene_scale_m=0.0)
    return [first, worse, good, blind]


def write_pages(room, folder: Path) -> Path:
    """`report0` with four scenes, `report1` with the first two and other predictions, each with its npz, and `both`."""
    reports = []
    for name, factor, count in (("a & <b>", 0.1, 4), ("other", 0.3, 2)):
        report = folder / f"report{len(reports)}"
        report.mkdir()
        shown = scenes(room, factor)[:count]
        entries = [write_scene(one, report, f"scene{i}", ("npz",))[1][0] for i, one in enumerate(shown)]
        html = viewer_data.write_runs(report, [{"name": name, "scenes": entries}])
        (report / "index.html").write_text(markup.document("viewer", html), "utf-8")
        reports.append(report)
    view.join_reports(reports, folder / "both")
    return folder
