"""The benchmarks and dialects that can be scored: how, after which source, and how exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from spatialsv_jax.evaluation.benchmarks import (
    ego3d,
    free_text,
    letter_benchmarks,
    letters,
    quantities,
    rotated,
    scanqa,
    sparbench,
    vlmevalkit,
    vsibench,
)
from spatialsv_jax.evaluation.benchmarks.lines import Line
from spatialsv_jax.evaluation.benchmarks.plan import Plan
from spatialsv_jax.metrics.answers import parse_number

DIALECTS = ("original", "lmms_eval_0_7_3", "vlmevalkit")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One scorer.

    Attributes:
      kind: "exact" (equal to the source on committed vectors) or "ours" (the rule stands in docs/benchmarks.md).
      source: what it follows.
      plan: (lines, fixed) -> Plan.
      has_variants: the published scorer is faulty, and there is a fixed one.
    """

    kind: str
    source: str
    plan: Callable[[Sequence[Line], bool], Plan]
    has_variants: bool = False


LMMS = "lmms-eval 0.7.3"
KIT = "VLMEvalKit (PyPI ms-vlmeval 0.0.20, by rule, no judge)"
_lmms, _kit = partial(Cell, "exact", LMMS), partial(Cell, "exact", KIT)

_vsi_original = partial(vsibench.vsibench, letter=letters.first_word, number=parse_number)
_vsi_lmms = partial(vsibench.vsibench, letter=letters.first_word, number=quantities.first_number, merge_partial=True)
_vsi_kit = partial(
    vsibench.vsibench, letter=vlmevalkit.letter, number=vlmevalkit.number, accuracy=quantities.relative_accuracy
)
_VSI = {
    "original": Cell("exact", "vision-x-nyu/thinking-in-space e6a72f3", _vsi_original),
    "lmms_eval_0_7_3": _lmms(_vsi_lmms),
    "vlmevalkit": _kit(_vsi_kit),
}
_cv = partial(letter_benchmarks.cvbench, letter=lambda line, _: letters.leading(line.prediction))

BENCHMARKS: dict[str, dict[str, Cell]] = {
    "vsibench": _VSI,
    "vsibench_debiased": _VSI,
    "vsibench_mc": {
        "original": Cell("ours", "letters of thinking-in-space, plain accuracy", partial(vsibench.vsibench_mc, letter=letters.first_word)),
        "lmms_eval_0_7_3": Cell("ours", f"letters of {LMMS}, plain accuracy", partial(vsibench.vsibench_mc, letter=letters.first_word)),
        "vlmevalkit": Cell("ours", f"letters of {KIT}, plain accuracy", partial(vsibench.vsibench_mc, letter=vlmevalkit.letter)),
    },
    "mindcube": {
        "original": Cell("ours", "letters of lmms-eval's copy of the authors' code, their settings", partial(letter_benchmarks.mindcube, letter=letters.mindcube)),
        "lmms_eval_0_7_3": _lmms(partial(letter_benchmarks.mindcube, letter=letters.mindcube, by_prefix=True)),
        "vlmevalkit": _kit(letter_benchmarks.mindcube_vlmevalkit),
    },
    "cvbench": {
        "original": Cell("ours", f"the official formula, letters of {LMMS}", partial(_cv, micro=False)),
        "lmms_eval_0_7_3": _lmms(partial(_cv, micro=True)),
        "vlmevalkit": Cell("exact", f"{KIT}, for 2D and 3D; their official combination is not the kit's", partial(letter_benchmarks.cvbench, letter=letter_benchmarks.matched, micro=False)),
    },
    "crossvideo_cvbench": {
        "original": Cell("exact", "Hokhim2/CVBench a70c231", letter_benchmarks.crossvideo, True),
    },
    "sparbench": {
        "original": Cell("exact", f"the authors' scorer as {LMMS} has it, with the import that lacks there", sparbench.sparbench, True),
        "lmms_eval_0_7_3": Cell("exact", f"{LMMS}, whose number questions all score 0 as published", partial(sparbench.sparbench, lmms=True), True),
        "vlmevalkit": _kit(sparbench.sparbench_vlmevalkit),
    },
    "blink": {
        "original": Cell("ours", f"letters of {LMMS}, mean of the sub-tasks", partial(letter_benchmarks.blink, letter=letter_benchmarks.blink_letter, by_task=True)),
        "lmms_eval_0_7_3": _lmms(partial(letter_benchmarks.blink, letter=letter_benchmarks.blink_letter)),
        "vlmevalkit": _kit(partial(letter_benchmarks.blink, letter=letter_benchmarks.matched)),
    },
    "mmsi": {
        "original": Cell("ours", f"the authors' parser as {LMMS} has it, plain accuracy", partial(letter_benchmarks.mmsi, letter=letters.mmsi)),
        "lmms_eval_0_7_3": _lmms(partial(letter_benchmarks.mmsi, letter=letters.mmsi)),
        "vlmevalkit": _kit(partial(letter_benchmarks.mmsi, letter=vlmevalkit.letter)),
    },
    "viewspatial": {
        "original": Cell("exact", f"ZJU-REAL/ViewSpatial-Bench 0e86b63, whose code {LMMS} has too", letter_benchmarks.viewspatial, True),
        "lmms_eval_0_7_3": _lmms(letter_benchmarks.viewspatial, True),
        "vlmevalkit": _kit(partial(letter_benchmarks.viewspatial, letter=vlmevalkit.letter)),
    },
    "embspatial": {
        "original": Cell("ours", f"letters of {LMMS}, plain accuracy", partial(letter_benchmarks.embspatial, letter=letters.leading)),
        "lmms_eval_0_7_3": _lmms(partial(letter_benchmarks.embspatial, letter=letters.leading)),
        "vlmevalkit": _kit(partial(letter_benchmarks.embspatial, letter=vlmevalkit.letter)),
    },
    "spbench": {
        "original": Cell("exact", "ZJU-REAL/SpatialLadder, as copied in hsiangwei0903/CaMo 65209b4", vsibench.spbench, True),
        "vlmevalkit": _kit(vsibench.spbench_vlmevalkit),
    },
    "3dsrbench": {
        "original": Cell("ours", f"letters of {KIT}; flip and circular together, as in the paper", rotated.threed_srbench),
        "lmms_eval_0_7_3": _lmms(partial(rotated.threed_srbench, letter=rotated.threed_srbench_lmms, strict=False, headed=False)),
        "vlmevalkit": _kit(partial(rotated.threed_srbench, strict=False)),
    },
    "spatial457": {
        "original": Cell("ours", f"the rule of {LMMS}", free_text.spatial457, True),
        "lmms_eval_0_7_3": _lmms(free_text.spatial457, True),
        "vlmevalkit": _kit(partial(free_text.spatial457, kit=True)),
    },
    "ego3d": {"original": Cell("ours", "the authors' utils/eval.py, in the fork fanyunfeng-bit/EGO3D-BENCH 800165e", ego3d.ego3d, True)},
    "topviewrs": {
        "original": Cell("ours", f"letters of {KIT}; partial match of the option that was read", free_text.topviewrs),
        "vlmevalkit": _kit(partial(free_text.topviewrs, kit=True)),
    },
    "sqa3d": {"original": Cell("exact", "zd11024/Video-3D-LLM c0c28c0 (refined match: ours)", free_text.sqa3d)},
    "scanqa": {"original": Cell("exact", "zd11024/Video-3D-LLM c0c28c0 with pycocoevalcap 1.2, no METEOR", scanqa.scanqa)},
    "mmbench": {
        "original": Cell("exact", f"{KIT}, which is the authors' harness", rotated.mmbench),
        "lmms_eval_0_7_3": _lmms(partial(rotated.mmbench, letter=rotated.mmbench_lmms)),
        "vlmevalkit": _kit(rotated.mmbench),
    },
}  # fmt: skip

# Questions of the published sets, to see whether a file is complete.
PUBLISHED_N = {
    "vsibench": {"full": 5130},
    "mindcube": {"tiny": 1050, "full": 21154},
    "cvbench": {"2D": 1438, "3D": 1200},
    "crossvideo_cvbench": {"full": 1000},
    "sparbench": {"full": 7207},
    "mmsi": {"full": 1000},
    "viewspatial": {"full": 5712},
    "spbench": {"SI": 1009, "MV": 319},
    "ego3d": {"full": 8675},
    "topviewrs": {"realistic": 5539, "semantic": 5845},
}


def cell(benchmark: str, dialect: str) -> Cell:
    """The scorer of a benchmark in a dialect.

    Raises:
      ValueError: there is none; the message lists those that are there.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {benchmark!r}. Known: {', '.join(BENCHMARKS)}.")
    found = BENCHMARKS[benchmark]
    if dialect not in found:
        raise ValueError(f"{benchmark} has no dialect {dialect!r}; it has {', '.join(found)}.")
    return found[dialect]
