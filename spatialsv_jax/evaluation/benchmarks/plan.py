"""From scores of questions to the numbers of a table: linear rules over bins, with intervals by scene."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from spatialsv_jax.evaluation.benchmarks.lines import Line

ALL = "all"


@dataclasses.dataclass(frozen=True)
class Item:
    """One scored unit: a question, or a group of questions that counts as one.

    Attributes:
      value: score in 0..1, or a squared error in m^2.
      bins: names of the means that it enters.
      cluster: items of one cluster are drawn together for the intervals.
      parsed: whether the answer could be read.
    """

    value: float
    bins: tuple[str, ...]
    cluster: str
    parsed: bool = True


@dataclasses.dataclass(frozen=True)
class Rule:
    """A number of the result: sum of weight * mean of the bin; with `root`, the square root of that."""

    weights: Mapping[str, float]
    metric: str = "accuracy"
    root: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a scorer makes of the lines.

    Attributes:
      items: scored units.
      overall: the benchmark's headline number.
      overall_rule: the same in words.
      per_type: name -> rule.
      groups: further numbers of the benchmark, name -> rule.
      left_out: lines that this benchmark does not score, by reason.
      extra: numbers without interval.
    """

    items: list[Item]
    overall: Rule
    overall_rule: str
    per_type: dict[str, Rule]
    groups: dict[str, Rule] = dataclasses.field(default_factory=dict)
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    extra: dict[str, float] = dataclasses.field(default_factory=dict)


def mean_of(bins: Iterable[str], metric: str = "accuracy") -> Rule:
    """The unweighted mean of the bins' means."""
    names = list(bins)
    return Rule({name: 1 / len(names) for name in names}, metric)


def cluster(line: Line) -> str:
    """The scene of a line (with its data set), or the question itself."""
    return f"question {line.id}" if line.scene is None else f"scene {line.dataset} {line.scene}"


def present(lines: Sequence[Line], order: Sequence[str] = ()) -> list[str]:
    """Question types of the lines: those of `order` first, then the others by name."""
    found = {line.question_type for line in lines}
    return [name for name in order if name in found] + sorted(found - set(order))


def known(lines: Sequence[Line], names: Iterable[str], benchmark: str, loosely: bool = False) -> None:
    """Raises LineError for the first line whose question_type the benchmark does not have.

    Args:
      lines: the predictions.
      names: the types.
      benchmark: its name, for the message.
      loosely: case, kind of dash, and blank or underscore do not count (harnesses spell the names in several ways).
    """
    names = list(names)
    same = _plainly if loosely else str
    allowed = {same(name) for name in names}
    for line in lines:
        if same(line.question_type) not in allowed:
            raise line.error("question_type", f"{benchmark} has no {line.question_type!r}; it has {', '.join(names)}.")


def _plainly(name: str) -> str:
    return name.casefold().replace("\u2013", "-").replace("_", " ")


def choice(
    lines: Sequence[Line],
    fixed: bool,
    *,
    letter: Callable[[Line, bool], str | None],
    truth: Callable[[Line], str | None] = lambda line: line.letter(),
    bins: Callable[[Line], Iterable[str]] = lambda line: (),
    arrange: Callable[[Sequence[Line]], dict] = lambda lines: {},
) -> Plan:
    """Plan of a benchmark whose questions are right or wrong; overall = share of right answers unless `arrange` says else.

    Args:
      lines: the predictions.
      fixed: the repaired variant of a faulty scorer.
      letter: (line, fixed) -> what was answered, None where nothing could be read.
      truth: what is right.
      bins: further bins of a line, beside its type.
      arrange: fields of the Plan that differ.
    """
    items = []
    for line in lines:
        said, true = letter(line, fixed), truth(line)  # the truth is checked whatever was said
        names = (ALL, line.question_type, *bins(line))
        items.append(Item(float(said is not None and said == true), names, cluster(line), said is not None))
    plan = {
        "overall": Rule({ALL: 1.0}),
        "overall_rule": "share of right answers over all questions",
        "per_type": {name: Rule({name: 1.0}) for name in present(lines)},
    }
    return Plan(items, **{**plan, **arrange(lines)})
