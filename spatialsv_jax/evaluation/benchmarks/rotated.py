"""3DSRBench and MMBench: a question is asked several times (options rotated, picture flipped) and counts once if all are right."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from spatialsv_jax.evaluation.benchmarks import letters
from spatialsv_jax.evaluation.benchmarks.letter_benchmarks import matched
from spatialsv_jax.evaluation.benchmarks.lines import Line
from spatialsv_jax.evaluation.benchmarks.plan import ALL, Item, Plan, Rule, cluster, known

Reader = Callable[[Line], str | None]
Key = Callable[[Line], str]
MILLION = 1_000_000


def _clusters(lines: Sequence[Line], question: Key) -> dict[str, str]:
    """Id of a line -> cluster: the scene of the first row of its question that states one, else the question.

    Rows of one question (the same `question`) are never apart, whatever scenes they state.
    """
    stated: dict[str, str] = {}
    for line in lines:
        if line.scene is not None:
            stated.setdefault(question(line), cluster(line))
    named = {line.id: question(line) for line in lines}
    return {name: stated.get(asked, f"question {asked}") for name, asked in named.items()}


def _grouped(
    lines: Sequence[Line],
    right: dict[str, bool],
    key: Key,
    name: str,
    clusters: dict[str, str],
    headed: bool = True,
) -> list[Item]:
    """One item per group: 1 if all its rows are right; it enters `name` and "name: category of its first row".

    Raises:
      LineError: `headed`, and the row after which a group is named is not there.
    """
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    items = []
    for first, members in groups.items():
        main = next((line for line in members if line.id == first), None if headed else members[0])
        if main is None:
            raise members[0].error("id", f"question {first!r}, to which this row belongs, is not in the file.")
        value = math.prod(float(right[line.id]) for line in members)
        items.append(Item(value, (name, f"{name}: {main.question_type}"), clusters[main.id]))
    return items


# Category -> its group in the paper's table.
THREED_SR_GROUPS = {
    "height": ("height_higher",),
    "location": ("location_above", "location_closer_to_camera", "location_next_to"),
    "orientation": ("orientation_in_front_of", "orientation_on_the_left", "orientation_viewpoint"),
    "multi_object": (
        "multi_object_closer_to", "multi_object_facing", "multi_object_viewpoint_towards_object",
        "multi_object_parallel", "multi_object_same_direction",
    ),
}  # fmt: skip
_QID = re.compile(r".{8}(-flip)?(-\d+)?")


def threed_srbench_lmms(line: Line) -> str | None:
    """lmms-eval's letter of a line."""
    return letters.threed_srbench(line.prediction)


def threed_srbench(
    lines: Sequence[Line], fixed: bool, letter: Reader = matched, strict: bool = True, headed: bool = True
) -> Plan:
    """3DSRBench: rows are right or wrong; flip, circular and both count groups of rows, told by the id (the qid).

    Args:
      lines: the predictions.
      fixed: without effect.
      letter: reads a line.
      strict: the headline is flip and circular together (the paper's); else vanilla, the share of right rows.
      headed: every group must have its first row; else (lmms-eval) groups count as they are, and ids that are no qids
        leave them out.
    """
    main = {kind: group for group, kinds in THREED_SR_GROUPS.items() for kind in kinds}
    known(lines, main, "3DSRBench")
    named = all(_QID.fullmatch(line.id) for line in lines)
    for line in lines if headed else ():
        if not _QID.fullmatch(line.id):
            raise line.error("id", f"expected a qid like ABC1DE2F, -flip and -N behind it, found {line.id!r}.")
    said = {line.id: letter(line) for line in lines}
    right = {line.id: said[line.id] == line.letter("D") for line in lines}
    clusters = _clusters(lines, lambda line: line.id[:8] if named else line.id)
    items = [
        Item(
            float(right[line.id]),
            ("vanilla", f"vanilla: {line.question_type}", f"group {main[line.question_type]}"),
            clusters[line.id],
            said[line.id] is not None,
        )
        for line in lines
    ]
    keys = {
        "flip": lambda line: line.id.replace("-flip", ""),
        "circular": lambda line: line.id[: 13 if "-flip" in line.id else 8],
        "flip_circular": lambda line: line.id[:8],
    }
    for name, key in keys.items() if named else ():
        items += _grouped(lines, right, key, name, clusters, headed)
    unit = "flip_circular" if strict else "vanilla"
    items = [Item(i.value, (*i.bins, ALL) if unit in i.bins else i.bins, i.cluster, i.parsed) for i in items]
    kinds = sorted({line.question_type for line in lines})
    groups = {name: Rule({name: 1.0}) for name in ("vanilla", *(keys if named else ()))}
    groups |= {
        name: Rule({f"group {name}": 1.0}) for name in THREED_SR_GROUPS if any(f"group {name}" in i.bins for i in items)
    }
    words = "share of questions right in every rotation, flipped and not" if strict else "share of right rows (vanilla)"
    per_type = {
        name: Rule({f"{unit}: {name}": 1.0}) for name in kinds if any(f"{unit}: {name}" in i.bins for i in items)
    }
    return Plan(items, Rule({ALL: 1.0}), words, per_type, groups)


def mmbench_lmms(line: Line) -> str | None:
    """lmms-eval's letter of a line; options A to D that are missing have the text "nan" in its table, as here."""
    choices = line.choices()
    return letters.mmbench(line.prediction.strip(), {name: choices.get(name, "nan") for name in "ABCD"})


def mmbench(lines: Sequence[Line], fixed: bool, letter: Reader = matched) -> Plan:
    """MMBench: index i + k * 1,000,000 is rotation k of question i, and a question is right if all its rotations are.

    Args:
      lines: the predictions, the index as id.
      fixed: without effect.
      letter: reads a line.
    """
    for line in lines:
        if not line.id.isascii() or not line.id.isdigit():
            raise line.error("id", f"MMBench's index is a whole number, found {line.id!r}.")
    said = {line.id: letter(line) for line in lines}
    right = {line.id: said[line.id] == line.letter() for line in lines}
    first = lambda line: str(int(line.id) % MILLION)
    clusters = _clusters(lines, first)
    items = [Item(float(right[x.id]), ("all rotations alone",), clusters[x.id], said[x.id] is not None) for x in lines]
    items += [Item(i.value, (*i.bins, ALL), i.cluster) for i in _grouped(lines, right, first, "circular", clusters)]
    kinds = sorted(
        {name.removeprefix("circular: ") for item in items for name in item.bins if name.startswith("circular: ")}
    )
    return Plan(
        items,
        Rule({ALL: 1.0}),
        "share of questions right in every rotation",
        {name: Rule({f"circular: {name}": 1.0}) for name in kinds},
        {"rows": Rule({"all rotations alone": 1.0})},
    )
