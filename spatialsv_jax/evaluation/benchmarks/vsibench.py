"""VSI-Bench (arXiv 2412.14171) and its relatives: letters and numbers by question type, 8 tasks, direction merged."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from spatialsv_jax.evaluation.benchmarks import quantities, vlmevalkit
from spatialsv_jax.evaluation.benchmarks.lines import Line
from spatialsv_jax.evaluation.benchmarks.plan import ALL, Item, Plan, Rule, choice, cluster, known, present
from spatialsv_jax.metrics.answers import mean_relative_accuracy

LEVELS = tuple(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard"))
NUMBER_TYPES = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
CHOICE_TYPES = ("object_rel_distance", *LEVELS, "route_planning", "obj_appearance_order")
DIRECTION = "object_rel_direction"
TASKS = (*NUMBER_TYPES, "object_rel_distance", DIRECTION, "route_planning", "obj_appearance_order")

Reader = Callable[[str], float | None]


def positive_number(line: Line) -> float:
    """The true number of a line, which may be 0 but not negative."""
    if (value := line.number()) < 0:
        raise line.error("ground_truth", f"expected a number that is not negative, found {line.truth!r}.")
    return value


def number_item(line: Line, said: float | None, accuracy: Callable[[float, float], float]) -> Item:
    """A number question's score; no number scores 0."""
    truth = positive_number(line)
    value = 0.0 if said is None else accuracy(said, truth)
    return Item(value, (ALL, line.question_type), cluster(line), said is not None)


def _tasks(types: Sequence[str], merge_partial: bool) -> dict[str, dict[str, float]]:
    """Task -> weights of its question types: the direction levels are one task if all are there (or must be)."""
    merge = merge_partial or set(LEVELS) <= set(types)
    tasks = {name: {name: 1.0} for name in types if not (merge and name in LEVELS)}
    if merge:
        tasks[DIRECTION] = {name: 1 / len(LEVELS) for name in LEVELS}
    return {name: tasks[name] for name in sorted(tasks, key=lambda name: (*TASKS, *LEVELS, name).index(name))}


def _grouping(types: Sequence[str], merge_partial: bool) -> tuple[Rule, dict[str, Rule]]:
    """The official overall number, and the rule of each task."""
    tasks = _tasks(types, merge_partial)
    metric = {name: "mra" if name in NUMBER_TYPES else "accuracy" for name in tasks}
    overall = Rule(
        {name: weight / len(tasks) for task in tasks.values() for name, weight in task.items()},
        "mean of accuracies and mra",
    )
    return overall, {name: Rule(weights, metric[name]) for name, weights in tasks.items()}


def vsibench(
    lines: Sequence[Line],
    fixed: bool,
    letter: Callable[[str], str | None],
    number: Reader,
    accuracy: Callable[[float, float], float] = mean_relative_accuracy,
    merge_partial: bool = False,
) -> Plan:
    """Official grouping: unweighted mean of the tasks, object_rel_direction = mean of its three levels.

    Args:
      lines: the predictions.
      fixed: without effect.
      letter: text -> option letter.
      number: text -> number.
      accuracy: (prediction, truth) -> score.
      merge_partial: the direction task exists even if a level is absent, and has no value then (lmms-eval stops there);
        otherwise the levels that are there count as tasks of their own.
    """
    known(lines, (*NUMBER_TYPES, *CHOICE_TYPES), "VSI-Bench")
    items = []
    for line in lines:
        if line.question_type in NUMBER_TYPES:
            items.append(number_item(line, number(line.prediction), accuracy))
            continue
        said = letter(line.prediction)
        items.append(Item(float(said == line.letter()), (ALL, line.question_type), cluster(line), said is not None))
    types = present(lines, (*NUMBER_TYPES, *CHOICE_TYPES))
    overall, per_type = _grouping(types, merge_partial)
    groups = {name: Rule({name: 1.0}) for name in types if name in LEVELS and name not in per_type}
    words = "unweighted mean of the tasks; object_rel_direction is the mean of easy, medium and hard"
    return Plan(items, overall, words, per_type, groups)


def vsibench_mc(lines: Sequence[Line], fixed: bool, letter: Callable[[str], str | None]) -> Plan:
    """The multiple-choice half as plain accuracy over questions; the official grouping of the same half stands beside."""
    known(lines, (*NUMBER_TYPES, *CHOICE_TYPES), "VSI-Bench")
    asked = [line for line in lines if line.question_type in CHOICE_TYPES]
    if not asked:
        raise lines[0].error("question_type", "no line of the file has a multiple-choice question of VSI-Bench.")

    def arrange(found: Sequence[Line]) -> dict:
        official, per_type = _grouping(present(found, CHOICE_TYPES), False)
        levels = {name: Rule({name: 1.0}) for name in present(found) if name in LEVELS and name not in per_type}
        left_out = {"number questions": len(lines) - len(asked)} if len(lines) > len(asked) else {}
        return {
            "overall_rule": "share of right answers over all multiple-choice questions",
            "per_type": per_type,
            "groups": {"official_grouping": Rule(official.weights), **levels},
            "left_out": left_out,
        }

    return choice(asked, fixed, letter=lambda line, _: letter(line.prediction), arrange=arrange)


def _tagged(text: str) -> str:
    """What stands in the first <answer> tags, or the whole text."""
    match = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return match.group(1) if match else text


def _spbench_letter(text: str, fixed: bool) -> str | None:
    if fixed:
        match = re.search(r"\b([A-D])\b", text) or re.fullmatch(r"\W*([a-d])\W*", text)
        return match.group(1).upper() if match else None
    text = text.replace("Answer:", "")
    match = re.fullmatch(r"([A-D])\.?", text.split(" ")[0].strip())
    found = match.group(1) if match else text.strip()
    return found.upper() if len(found) == 1 and found.isalpha() else None


def spbench(lines: Sequence[Line], fixed: bool) -> Plan:
    """SPBench as SpatialLadder scores it: unweighted mean of the question types; answers inside <answer> tags alone.

    As published, letters are "X" or "X." as the first word and anything else must equal the truth, and number words
    win over digits, "a" and "an" among them. Fixed: the first lone capital A to D, and `quantities.first_number`.
    """
    types = (*NUMBER_TYPES, *CHOICE_TYPES, DIRECTION)
    known(lines, types, "SPBench")
    items = []
    for line in lines:
        text = _tagged(line.prediction)
        if line.question_type in NUMBER_TYPES:
            said = quantities.first_number(text) if fixed else quantities.spbench_number(text)
            items.append(number_item(line, said, mean_relative_accuracy))
            continue
        found = _spbench_letter(text, fixed)
        items.append(Item(float(found == line.letter()), (ALL, line.question_type), cluster(line), found is not None))
    overall, per_type = _grouping(present(lines, types), False)
    words = "unweighted mean of the question types (three direction levels, if given, are one)"
    return Plan(items, overall, words, per_type)


def spbench_vlmevalkit(lines: Sequence[Line], fixed: bool) -> Plan:
    """SPBench in VLMEvalKit: its letters and numbers, unweighted mean of the five question types."""
    types = ("object_counting", "object_abs_distance", "object_size_estimation", "object_rel_distance", DIRECTION)
    known(lines, types, "SPBench in VLMEvalKit")
    items = []
    for line in lines:
        if line.question_type in NUMBER_TYPES:
            items.append(number_item(line, vlmevalkit.number(line.prediction), quantities.relative_accuracy))
            continue
        said = vlmevalkit.letter(line.prediction)
        items.append(Item(float(said == line.letter()), (ALL, line.question_type), cluster(line), said is not None))
    overall, per_type = _grouping(present(lines, types), False)
    return Plan(items, overall, "unweighted mean of the question types", per_type)
