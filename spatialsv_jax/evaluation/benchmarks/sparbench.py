"""SPAR-Bench (arXiv 2503.22976): 20 task types, unweighted mean; low, middle and high groups."""

from __future__ import annotations

from collections.abc import Sequence

from spatialsv_jax.evaluation.benchmarks import quantities, vlmevalkit
from spatialsv_jax.evaluation.benchmarks.lines import Line
from spatialsv_jax.evaluation.benchmarks.plan import ALL, Item, Plan, Rule, cluster, known, mean_of, present

LOW = tuple(
    f"{kind}_prediction_{pair}{views}"
    for views in ("", "_mv")
    for kind in ("depth", "distance")
    for pair in ("oc", "oo")
)
VIEW_CHANGE = "view_change_infer"
MIDDLE = ("position_matching", "camera_motion_infer", VIEW_CHANGE)
HIGH = (
    "distance_infer_center_oo", "distance_infer_center_oo_mv", "obj_spatial_relation_oc_mv", "obj_spatial_relation_oo",
    "obj_spatial_relation_oo_mv", "spatial_imagination_oc", "spatial_imagination_oc_mv", "spatial_imagination_oo",
    "spatial_imagination_oo_mv",
)  # fmt: skip


def _metric(name: str) -> str:
    return "mra" if name in LOW else "mean mra of five axes" if name == VIEW_CHANGE else "accuracy"


def _plan(lines: Sequence[Line], items: list[Item], middle: Sequence[str]) -> Plan:
    types = present(lines, (*LOW, *MIDDLE, *HIGH))
    levels = {"low": LOW, "middle": middle, "high": HIGH}
    found = {level: [name for name in names if name in types] for level, names in levels.items()}
    metric = "mean of accuracies and mra"
    return Plan(
        items,
        mean_of(types, metric),
        "unweighted mean of the task types",
        {name: Rule({name: 1.0}, _metric(name)) for name in types},
        {level: mean_of(names, metric) for level, names in found.items() if names},
    )


def _item(line: Line, value: float, parsed: bool) -> Item:
    return Item(value, (ALL, line.question_type), cluster(line), parsed)


def _true_change(line: Line) -> dict[str, float]:
    try:
        return quantities.view_change(line.truth)
    except ValueError:
        message = f"expected a change of view like 'move_right:1.5,rotate_left:30', found {line.truth!r}."
        raise line.error("ground_truth", message) from None


def sparbench(lines: Sequence[Line], fixed: bool, lmms: bool = False) -> Plan:
    """The published scorer, and its repair.

    As published: a choice is right if it equals the truth, is contained in it (so an empty answer is right), or its
    first character is the truth; the change of view is scored relative to the prediction, and the middle group has no
    view_change_infer. Fixed: an empty answer is wrong, relative to the truth, and the group is complete.

    Args:
      lines: the predictions.
      fixed: the repair.
      lmms: as published by lmms-eval 0.7.3, where every number question scores 0: its file lacks an import, and the
        error that follows is taken for a missing number.
    """
    known(lines, (*LOW, *MIDDLE, *HIGH), "SPAR-Bench")
    items = []
    for line in lines:
        kind, text = line.question_type, line.prediction
        if kind in LOW:
            said, true = quantities.spar_number(text, last=kind.endswith("_mv")), line.number()
            none = said is None or (lmms and not fixed)
            items.append(_item(line, 0.0 if none else quantities.relative_accuracy(said, true), said is not None))
        elif kind == VIEW_CHANGE:
            true = _true_change(line)
            try:
                value = quantities.view_change_accuracy(quantities.view_change(text), true, swapped=not fixed)
                items.append(_item(line, value, True))
            except ValueError:
                items.append(_item(line, 0.0, False))
        else:
            if line.options:
                line.letter()  # one of the options'
            said, true = text.lower(), line.truth.lower()
            empty = not said.strip() if fixed else False
            right = not empty and (said in true or said[:1] == true)
            items.append(_item(line, float(right), said[:1].isalpha()))
    return _plan(lines, items, MIDDLE if fixed else [name for name in MIDDLE if name != VIEW_CHANGE])


def sparbench_vlmevalkit(lines: Sequence[Line], fixed: bool) -> Plan:
    """VLMEvalKit: its letters and numbers; the change of view relative to the truth, unreadable parts passed over."""
    known(lines, (*LOW, *MIDDLE, *HIGH), "SPAR-Bench")
    items = []
    for line in lines:
        kind, text = line.question_type, line.prediction
        if kind in LOW:
            said, true = vlmevalkit.number(text), line.number()
            items.append(
                _item(line, 0.0 if said is None else quantities.relative_accuracy(said, true), said is not None)
            )
        elif kind == VIEW_CHANGE:
            said = quantities.lenient_view_change(text)
            value = quantities.view_change_accuracy(said, quantities.lenient_view_change(line.truth), swapped=False)
            items.append(_item(line, value, bool(said)))
        else:
            said = vlmevalkit.letter(text)
            items.append(_item(line, float(said == line.letter()), said is not None))
    return _plan(lines, items, MIDDLE)
