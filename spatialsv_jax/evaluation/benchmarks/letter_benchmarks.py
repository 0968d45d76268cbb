"""Benchmarks scored by option letters alone; what a line counts for, and how the letters become one number."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from spatialsv_jax.evaluation.benchmarks import letters, vlmevalkit
from spatialsv_jax.evaluation.benchmarks.lines import LETTERS, Line
from spatialsv_jax.evaluation.benchmarks.plan import ALL, Item, Plan, Rule, choice, cluster, mean_of, present

Reader = Callable[[str], str | None]
SETTINGS = ("around", "rotation", "translation", "among")


def by_letter(lines: Sequence[Line], fixed: bool, letter: Reader, repaired: Reader | None = None) -> Plan:
    """Plain accuracy; `repaired` reads the letter in the fixed variant."""
    reader = repaired if fixed and repaired else letter
    return choice(lines, fixed, letter=lambda line, _: reader(line.prediction))


def by_sub_task(lines: Sequence[Line], fixed: bool, letter: Callable[[Line, bool], str | None]) -> Plan:
    """Unweighted mean of the sub-tasks' accuracies."""

    def arrange(found: Sequence[Line]) -> dict:
        return {"overall": mean_of(present(found)), "overall_rule": "unweighted mean of the sub-tasks"}

    return choice(lines, fixed, letter=letter, arrange=arrange)


def by_option_text(lines: Sequence[Line], fixed: bool) -> Plan:
    """VLMEvalKit's older matcher; plain accuracy."""
    return choice(lines, fixed, letter=matched)


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
        return bare.upper() if fixed else line.truth

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


def viewspatial(lines: Sequence[Line], fixed: bool) -> Plan:
    """ViewSpatial-Bench: plain accuracy; as published "a" as a word is an answer, fixed it is not."""
    return by_letter(lines, fixed, letters.viewspatial, letters.viewspatial_fixed)


mindcube_vlmevalkit = functools.partial(mindcube, letter=vlmevalkit.letter)
