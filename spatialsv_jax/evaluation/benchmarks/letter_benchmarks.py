"""Benchmarks scored by option letters alone; what a line counts for, and how the letters become one number."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from spatialsv_jax.evaluation.benchmarks import letters, vlmevalkit
from spatialsv_jax.evaluation.benchmarks.lines import LETTERS, Line
from spatialsv_jax.evaluation.benchmarks.plan import ALL, Item, Plan, Rule, choice, cluster, known, mean_of, present

Reader = Callable[[str], str | None]
# Question types as the published files name them.
BLINK_TASKS = (
    "Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test", "Jigsaw", "Multi-view_Reasoning",
    "Object_Localization", "Relative_Depth", "Relative_Reflectance", "Semantic_Correspondence", "Spatial_Relation",
    "Visual_Correspondence", "Visual_Similarity",
)  # fmt: skip
MMSI_TYPES = (
    *(f"Positional Relationship ({pair})" for pair in ("Cam.–Cam.", "Cam.–Obj.", "Cam.–Reg.", "Obj.–Obj.", "Obj.–Reg.", "Reg.–Reg.")),
    "Attribute (Meas.)", "Attribute (Appr.)", "Motion (Cam.)", "Motion (Obj.)", "MSR",
)  # fmt: skip
VIEWSPATIAL_TYPES = (
    "Camera perspective - Relative Direction", "Camera perspective - Object View Orientation",
    "Person perspective - Relative Direction", "Person perspective - Object View Orientation",
    "Person perspective - Scene Simulation Relative Direction",
)  # fmt: skip
# The paper's "below" is "under" in the published rows, by the page of an environment that filters them by `relation`
# (dmnsh001/EmbSpatial-Bench 0.1.0 on Prime Intellect's hub).
EMBSPATIAL_RELATIONS = ("above", "below", "under", "left", "right", "close", "far")
CVBENCH_TASKS = ("Count", "Relation", "Depth", "Distance")
CROSSVIDEO_TASKS = (
    "Cross-video Anomaly Detection", "Cross-video Scene Recognition", "Multi-video Key-Action Recognition",
    "Cross-video Event Retrieval", "Cross-video Object Recognition", "Multi-video Attribute Recognition",
    "Joint-video Counting", "Cross-video Entity Matching", "Multi-view Scene Understanding",
    "Multi-video Temporal Reasoning", "Joint-video Spatial Navigating", "Video Difference Caption",
    "Cross-video Counterfactual Reasoning", "Joint-video Summarization", "Cross-video Procedural Transfer",
)  # fmt: skip
SETTINGS = ("around", "rotation", "translation", "among")


def mmsi(lines: Sequence[Line], fixed: bool, letter: Reader) -> Plan:
    """MMSI-Bench: plain accuracy; letters A to F, which is what its parser reads."""
    known(lines, MMSI_TYPES, "MMSI-Bench", loosely=True)
    return choice(lines, fixed, letter=lambda line, _: letter(line.prediction), truth=lambda line: line.letter("F"))


def blink(
    lines: Sequence[Line], fixed: bool, letter: Callable[[Line, bool], str | None], by_task: bool = False
) -> Plan:
    """BLINK: plain accuracy; `by_task`: the unweighted mean of the sub-tasks' accuracies."""
    known(lines, BLINK_TASKS, "BLINK", loosely=True)
    mean = {"overall": mean_of(present(lines)), "overall_rule": "unweighted mean of the sub-tasks"}
    return choice(lines, fixed, letter=letter, arrange=lambda _: mean if by_task else {})


def matched(line: Line, fixed: bool = False) -> str | None:
    """VLMEvalKit's older matcher on a line, whose options it needs."""
    return vlmevalkit.matched_letter(line.prediction, line.choices())


def blink_letter(line: Line, fixed: bool) -> str | None:
    """BLINK's letter among those of the line's options (all of A to Z where it has none)."""
    return letters.of_options(line.prediction, LETTERS[: len(line.options)] if line.options else LETTERS)


def crossvideo(lines: Sequence[Line], fixed: bool) -> Plan:
    """The cross-video CVBench: letters, or yes and no; plain accuracy.

    As published the truth must be written as the parser writes it: A to D, YES, NO. Fixed: in any case.
    """

    def truth(line: Line) -> str:
        bare = line.truth.strip().rstrip(".")
        if bare.upper() not in ("A", "B", "C", "D", "YES", "NO"):
            raise line.error("ground_truth", f"expected A to D, Yes or No, found {line.truth!r}.")
        if len(bare) == 1:
            line.check_option(bare.upper())
        return bare.upper() if fixed else line.truth

    known(lines, CROSSVIDEO_TASKS, "CVBench", loosely=True)
    reader = letters.crossvideo_fixed if fixed else letters.crossvideo
    return choice(lines, fixed, letter=lambda line, _: reader(line.prediction), truth=truth)


def cvbench(lines: Sequence[Line], fixed: bool, letter: Callable[[Line, bool], str | None], micro: bool) -> Plan:
    """CV-Bench (Cambrian-1): by the three sources, which stand in the lines' dataset.

    Args:
      lines: the predictions.
      fixed: without effect.
      letter: reads the answer.
      micro: overall = plain accuracy (lmms-eval); else the official 0.5 * ((ADE20K + COCO) / 2 + Omni3D).
    """
    known(lines, CVBENCH_TASKS, "CV-Bench", loosely=True)
    sources = ("ADE20K", "COCO", "Omni3D")
    for line in lines:
        if line.dataset not in sources:
            raise line.error("dataset", f"CV-Bench needs the source, {', '.join(sources)}; found {line.dataset!r}.")
    official = Rule({"source ADE20K": 0.25, "source COCO": 0.25, "source Omni3D": 0.5})
    words = "0.5 * ((ADE20K + COCO) / 2 + Omni3D), accuracies by source"
    found = [name for name in sources if any(line.dataset == name for line in lines)]
    groups = {
        "official": official,
        "2D": mean_of(f"source {name}" for name in sources[:2]),
        "3D": Rule({"source Omni3D": 1.0}),
        **{name: Rule({f"source {name}": 1.0}) for name in found},
    }
    plan = {"groups": groups} if micro else {"overall": official, "overall_rule": words, "groups": groups}
    return choice(lines, fixed, letter=letter, bins=lambda line: (f"source {line.dataset}",), arrange=lambda _: plan)


def embspatial(lines: Sequence[Line], fixed: bool, letter: Reader) -> Plan:
    """EmbSpatial-Bench: plain accuracy; per type, and per source (ai2thor, mp3d, scannet) where the lines name one."""
    known(lines, EMBSPATIAL_RELATIONS, "EmbSpatial-Bench", loosely=True)
    sources = sorted({line.dataset for line in lines if line.dataset})
    groups = {name: Rule({f"source {name}": 1.0}) for name in sources}
    return choice(
        lines,
        fixed,
        letter=lambda line, _: letter(line.prediction),
        bins=lambda line: (f"source {line.dataset}",) if line.dataset else (),
        arrange=lambda _: {"groups": groups},
    )


def _setting(line: Line, by_prefix: bool) -> str:
    """MindCube's setting of a question, from its id."""
    if by_prefix:  # behind the record's name, where there is one
        first = line.id.rpartition("/")[2].split("_", 1)[0]
        return {"aroundnew": "around"}.get(first, first if first in ("among", "around", "rotation") else "other")
    for name in SETTINGS:
        if name in line.id.lower():
            return name
    raise line.error("id", f"MindCube's ids hold one of {', '.join(SETTINGS)}; found {line.id!r}.")


def mindcube(lines: Sequence[Line], fixed: bool, letter: Reader, by_prefix: bool = False) -> Plan:
    """MindCube: accuracy per setting, read from the id, and over all questions but translation.

    Args:
      lines: the predictions.
      fixed: without effect.
      letter: text -> letter.
      by_prefix: the setting is the first part of the id, and unknown ones count in the overall number only (lmms-eval).
    """
    items = []
    for line in lines:
        said, setting = letter(line.prediction), _setting(line, by_prefix)
        bins = (setting,) if setting == "translation" else (ALL, setting)
        items.append(Item(float(said == line.letter("E")), bins, cluster(line), said is not None))
    shown = [name for name in (*SETTINGS, "other") if any(name in item.bins for item in items)]
    words = "share of right answers over all questions" + ("" if by_prefix else " but those of translation")
    return Plan(items, Rule({ALL: 1.0}), words, {name: Rule({name: 1.0}) for name in shown})


def viewspatial(lines: Sequence[Line], fixed: bool, letter: Reader = letters.viewspatial) -> Plan:
    """ViewSpatial-Bench: plain accuracy; as published "a" as a word is an answer, fixed it is not."""
    known(lines, VIEWSPATIAL_TYPES, "ViewSpatial-Bench", loosely=True)
    reader = letters.viewspatial_fixed if fixed else letter
    return choice(lines, fixed, letter=lambda line, _: reader(line.prediction), truth=lambda line: line.letter("D"))


mindcube_vlmevalkit = functools.partial(mindcube, letter=vlmevalkit.letter)
