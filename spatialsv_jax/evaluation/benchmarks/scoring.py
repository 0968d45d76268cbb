"""Scores a file of predictions by one cell of the table: the result that `experiments.score` writes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spatialsv_jax.evaluation.benchmarks import lines as line_files
from spatialsv_jax.evaluation.benchmarks import table
from spatialsv_jax.evaluation.benchmarks.plan import ALL, Item, Plan, Rule
from spatialsv_jax.evaluation.statistics import BOOTSTRAP_METHOD, bootstrap_intervals

FORMAT_VERSION = 1
VARIANTS = ("as_published", "fixed")


def score(
    benchmark: str,
    predictions: Path | str,
    dialect: str = "original",
    variant: str | None = None,
    resamples: int = 2000,
) -> dict:
    """Scores of one file.

    Args:
      benchmark: a name of `table.BENCHMARKS`.
      predictions: lines as `experiments.evaluate` writes them.
      dialect: whose scorer: original, lmms_eval_0_7_3 or vlmevalkit.
      variant: as_published or fixed where the published scorer is faulty (default as_published); else None.
      resamples: of the bootstrap.

    Returns:
      The result, plain JSON types; docs/benchmarks.md describes it. Scores are fractions.

    Raises:
      ValueError: an unknown benchmark, dialect or variant, with those that are there; LineError for a faulty line.
    """
    cell, variant = resolve(benchmark, dialect, variant)
    content = Path(predictions).read_bytes()
    found = line_files.read(predictions)
    plan = cell.plan(found, variant == "fixed")
    published = table.PUBLISHED_N.get(benchmark, {})
    return {
        "format_version": FORMAT_VERSION,
        "benchmark": benchmark,
        "dialect": dialect,
        "variant": variant,
        "scorer": _scorer(cell, variant),
        "predictions": {"path": str(predictions), "sha256": hashlib.sha256(content).hexdigest(), "lines": len(found)},
        **summarise(plan, resamples),
        "published_n": published,
        "interval_method": BOOTSTRAP_METHOD,
    }


def resolve(benchmark: str, dialect: str, variant: str | None = None) -> tuple[table.Cell, str | None]:
    """The scorer, and the variant that is used (None where it has none).

    Raises:
      ValueError: an unknown benchmark, dialect or variant, with those that are there.
    """
    cell = table.cell(benchmark, dialect)
    return cell, _variant(cell, f"{benchmark} / {dialect}", variant)


def _scorer(cell: table.Cell, variant: str | None) -> dict:
    """Kind and source; a repair is ours, whatever it repairs."""
    if variant == "fixed":
        return {"kind": "ours", "source": f"a repair of: {cell.source}"}
    return {"kind": cell.kind, "source": cell.source}


def _variant(cell: table.Cell, name: str, variant: str | None) -> str | None:
    if not cell.has_variants:
        if variant is not None:
            raise ValueError(f"{name} has no variants: no fault of this scorer is known. Leave --variant out.")
        return None
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"There is no variant {variant!r}; {name} has {' and '.join(VARIANTS)}.")
    return variant or VARIANTS[0]


def summarise(plan: Plan, resamples: int = 2000) -> dict:
    """The numbers of a plan: overall, per_type, groups, micro and macro with intervals, and the counts.

    A number that needs a bin without items is None, and its entry lists the bin under `missing`.
    """
    types = list(plan.per_type)
    shares = [name for name in types if not plan.per_type[name].root]
    macro: dict[str, float] = {}
    for name in shares:
        for bin_name, weight in plan.per_type[name].weights.items():
            macro[bin_name] = macro.get(bin_name, 0.0) + weight / len(shares)
    rules = {
        ("overall",): plan.overall,
        ("micro",): Rule({ALL: 1.0}, plan.overall.metric),
        ("macro",): Rule(macro, plan.overall.metric),
        **{("per_type", name): rule for name, rule in plan.per_type.items()},
        **{("groups", name): rule for name, rule in plan.groups.items()},
    }
    entries = dict(zip(rules, _entries(plan.items, list(rules.values()), resamples), strict=True))
    clusters = {item.cluster for item in plan.items}
    overall = entries["overall",]
    return {
        "overall": overall["score"],
        "overall_rule": plan.overall_rule,
        "overall_interval_95": overall["interval_95"],
        "overall_missing": overall.get("missing", []),
        "n": overall["n"],
        "unparsable": sum(not item.parsed for item in plan.items),
        "left_out": dict(plan.left_out),
        "micro": entries["micro",],
        "macro": {**entries["macro",], "types": len(shares)},
        "per_type": {name: entries["per_type", name] for name in types},
        "groups": {name: entries["groups", name] for name in plan.groups},
        "extra": dict(plan.extra),
        "clusters": {"n": len(clusters), "with_scene": sum(name.startswith("scene ") for name in clusters)},
    }


def _entries(items: Sequence[Item], rules: Sequence[Rule], resamples: int) -> list[dict]:
    bins = sorted({name for item in items for name in item.bins} | {name for rule in rules for name in rule.weights})
    place = {name: number for number, name in enumerate(bins)}
    members = np.zeros((len(items), len(bins)), bool)
    for row, item in enumerate(items):
        members[row, [place[name] for name in item.bins]] = True
    values = np.array([item.value for item in items])
    unread = np.array([not item.parsed for item in items])
    weights = np.zeros((len(rules), len(bins)))
    for row, rule in enumerate(rules):
        for name, weight in rule.weights.items():
            weights[row, place[name]] = weight
    clusters, shares = [item.cluster for item in items], [not rule.root for rule in rules]
    intervals = bootstrap_intervals(values, members, clusters, weights, resamples, shares)
    result = []
    for rule, interval in zip(rules, intervals, strict=True):
        own = [place[name] for name in rule.weights]
        inside = members[:, own].any(1)
        missing = [name for name in rule.weights if not members[:, place[name]].any()]
        score = None
        if rule.weights and not missing:
            score = sum(weight * float(values[members[:, place[name]]].mean()) for name, weight in rule.weights.items())
        if rule.root and score is not None:
            score, interval = math.sqrt(score), interval and [math.sqrt(bound) for bound in interval]
        entry = {
            "score": score,
            "n": int(inside.sum()),
            "interval_95": None if score is None else interval,
            "metric": rule.metric,
            "unparsable": int((inside & unread).sum()),
        }
        result.append({**entry, "missing": missing} if missing else entry)
    return result


def shown(result: dict) -> str:
    """The result as a table for people."""

    def line(name: str, entry: dict) -> str:
        interval = entry["interval_95"]
        bounds = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "-"
        value = "-" if entry["score"] is None else f"{entry['score']:.4f}"
        return f"{name[:58]:<58} {value:>8} {bounds:>18} {entry['n']:>6} {entry['unparsable']:>10}  {entry['metric']}"

    variant = f", {result['variant']}" if result["variant"] else ""
    head = [
        f"{result['benchmark']}, dialect {result['dialect']}{variant} ({result['scorer']['kind']}: {result['scorer']['source']})",
        f"{'':<58} {'score':>8} {'95 % interval':>18} {'n':>6} {'unparsable':>10}  metric",
    ]
    whole = {
        "score": result["overall"], "interval_95": result["overall_interval_95"], "n": result["n"],
        "unparsable": result["unparsable"], "metric": result["overall_rule"],
    }  # fmt: skip
    rows = [line("overall", whole), line("micro", result["micro"]), line("macro", result["macro"])]
    rows += [line(name, entry) for name, entry in result["per_type"].items()]
    rows += [line(f"({name})", entry) for name, entry in result["groups"].items()]
    rows += [f"{name:<58} {value:>8.4f}" for name, value in result["extra"].items()]
    notes = [f"left out: {count} {reason}" for reason, count in result["left_out"].items()]
    if result["overall_missing"]:
        notes.append(f"overall: undefined without {', '.join(result['overall_missing'])}")
    if result["published_n"]:
        sizes = ", ".join(f"{name} {count}" for name, count in result["published_n"].items())
        notes.append(f"questions: {result['predictions']['lines']} lines; published: {sizes}")
    return "\n".join([*head, *rows, *notes])
