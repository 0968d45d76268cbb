"""Which differences between runs are noise: `python -m experiments.compare --runs A B [...] [--base DIR] --out DIR`.

A run is a folder with predictions.jsonl, as experiments.train and experiments.evaluate write it; several seeds of one
variant are joined by commas: `--runs tasks=runs/t0,runs/t1 text=runs/x0,runs/x1`. All are compared with the first. With
`--benchmark NAME` the answers are those of a published benchmark and its scorer judges them.
Writes OUT/comparison.json, figures and OUT/index.html, prints the table. Needs no jax. docs/diagnosis.md.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments import benchmark_runs, reporting
from experiments.model_and_data import typed_command
from experiments.run_files import Answers, Table, join
from spatialsv_jax.evaluation import comparison
from spatialsv_jax.evaluation.benchmarks.table import BENCHMARKS
from spatialsv_jax.evaluation.statistics import plain, write_json
from spatialsv_jax.report import comparison_page, curves

FORMAT_VERSION = 1


def compare_runs(
    runs: Mapping[str, Sequence[str]],
    out: str | Path,
    base: str | None = None,
    resamples: int = 2000,
    command: str = "",
    benchmark: Mapping[str, str | None] | None = None,
) -> dict:
    """Compares, writes the files, and returns the contents of comparison.json.

    Args:
      runs: variant -> folders of its seeds; the first variant is the one that others are compared with.
      out: where to write.
      base: folder with the predictions of the model that all started from, to see what was forgotten.
      resamples: of the bootstrap.
      command: what to record as the command.
      benchmark: {"benchmark", "dialect", "variant"} as in `experiments.score`; None = answers to own data.

    Raises:
      FileNotFoundError, ValueError: answers that are missing, broken, or of different data; fewer than two folders.
    """
    if sum(map(len, runs.values())) + bool(base) < 2:
        raise ValueError("--runs names one folder: give two, or --base.")
    names = list(runs)
    folders = [*(runs[name] for name in names), *([[base]] if base else [])]
    given = [Path(folder).resolve() for seeds in runs.values() for folder in seeds]  # the base may be one of them
    if twice := [str(folder) for folder in dict.fromkeys(given) if given.count(folder) > 1]:
        raise ValueError(
            f"{', '.join(twice)} is given twice: a run is no second seed of itself, and does not differ from itself."
        )
    shares: dict[str, dict | None] = {}
    if benchmark:
        table = benchmark_runs.join(folders, **benchmark)
    else:
        answers = [[Answers.read(folder) for folder in seeds] for seeds in folders]
        table = join(answers)
        shares = {name: _shares(seeds) for name, seeds in zip(names, answers, strict=False)}  # the base has none
    result = plain(
        {
            "format_version": FORMAT_VERSION,
            "runs": {name: [str(folder) for folder in folders] for name, folders in runs.items()},
            "base": base,
            "questions": table.questions,
            "number_questions": table.numbers,
            "score": table.rule,
            "asked_differently": table.asked_differently,
            "left_out": table.left_out,
            "scenes": len(set(table.scenes.tolist())),
            "variants": {
                name: comparison.variant_score(table.scores[place], table.scenes, table.overall)
                for place, name in enumerate(names)
            },
            "pairs": _pairs(names, table, resamples),
            "by_type": {
                name: comparison.by_type(table.scores[0], table.scores[place], table.scenes, table.types, resamples)
                for place, name in enumerate(names)
                if place
            },
            "depth_rmse": _depth(names, table, resamples),
            "without_depth": [
                name for name, depth in zip(names, table.depth, strict=False) if np.isnan(depth).any(0).all()
            ],
            "forgetting": _forgetting(names, table, resamples) if base else {},
            "gradient_shares": {name: entry for name, entry in shares.items() if entry},
            "without_gradient_norms": [name for name, entry in shares.items() if not entry],
            "method": comparison.METHOD,
            "command": command,
        }
    )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "comparison.json", result)
    comparison_page.write_page(out, result)
    print(summary(result), flush=True)
    print(f"wrote {out / 'comparison.json'} and {out / 'index.html'}", flush=True)
    return result


def _pairs(names: Sequence[str], table: Table, resamples: int) -> list[dict]:
    return [
        {
            "first": names[a],
            "second": names[b],
            **comparison.paired_difference(
                table.scores[a], table.scores[b], table.scenes, table.overall, resamples=resamples
            ),
        }
        for a, b in itertools.combinations(range(len(names)), 2)
    ]


def _depth(names: Sequence[str], table: Table, resamples: int) -> list[dict]:
    """Each pair over the records that all its seeds have lifted; a variant without a depth head is in no pair."""
    result = []
    for a, b in itertools.combinations(range(len(names) if table.depth else 0), 2):
        both = ~np.isnan(table.depth[a]).any(0) & ~np.isnan(table.depth[b]).any(0)
        if not both.any():
            continue
        first, second = table.depth[a][:, both], table.depth[b][:, both]
        gap = comparison.paired_difference(
            first, second, table.record_scenes[both], smaller_is_better=True, resamples=resamples
        )
        pair = {"first": names[a], "second": names[b], "left_out": int((~both).sum())}
        result.append({**pair, "first_rmse": float(first.mean()), "second_rmse": float(second.mean()), **gap})
    return result


def _forgetting(names: Sequence[str], table: Table, resamples: int) -> dict:
    base = table.scores[-1]
    result = {}
    for place, name in enumerate(names):
        types = comparison.by_type(base, table.scores[place], table.scenes, table.types, resamples, True)
        for kind, entry in types.items():
            inside = table.types[kind].inside
            entry |= comparison.moved(base[:, inside], table.scores[place][:, inside])
        result[name] = types
    return result


def _shares(seeds: Sequence[Answers]) -> dict | None:
    """Mean over the seeds that have probes."""
    found = [comparison.gradient_shares(run.metrics(), curves.TERMS) for run in seeds]
    found = [entry for entry in found if entry]
    if not found:
        return None
    terms = [term for term in curves.TERMS if any(term in entry["mean"] for entry in found)]
    parts = ("mean", "first_quarter", "last_quarter")
    mean = lambda part, term: float(np.mean([entry[part].get(term, 0.0) for entry in found]))
    return {
        "seeds": len(found),
        "probes": sum(entry["probes"] for entry in found),
        **{part: {term: mean(part, term) for term in terms} for part in parts},
    }


def summary(result: Mapping) -> str:
    """The table of differences as text."""
    lines = [f"{result['questions']} questions of {result['scenes']} scenes that all runs answered ({result['score']})"]
    lines += [f"  left out of {folder}: {count}" for folder, count in result["left_out"].items() if count]
    if result["asked_differently"]:
        lines.append(
            f"  CAUTION: the runs were asked differently in {', '.join(result['asked_differently'])}; see comparison.json"
        )
    for name, entry in result["variants"].items():
        spread = (
            ""
            if entry["seed_spread"] is None
            else f", spread over {len(entry['seeds'])} seeds {100 * entry['seed_spread']:.2f}"
        )
        lines.append(f"  {name}: {_percent(entry['value'])}{spread}")
    for pair in result["pairs"]:
        lines.append(f"  {pair['second']} - {pair['first']}: {_shown(pair)}")
    for name, types in result["by_type"].items():
        counts = {
            verdict: sum(entry["verdict"] == verdict for entry in types.values())
            for verdict in comparison_page.VERDICTS
        }
        lines.append(
            f"  {name}, by type: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        )
        lines += [
            f"    {kind}: {_shown(entry)}" for kind, entry in types.items() if entry["verdict"] in ("better", "worse")
        ]
    for pair in result["depth_rmse"]:
        bounds = pair["interval_95"]
        around = "no interval" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
        lines.append(
            f"  RMSE of lifted depth, {pair['second']} - {pair['first']}: {pair['value']:+.4f} ({around}): {pair['verdict']}"
        )
    if result["without_depth"]:
        lines.append(f"  without lifted depth: {', '.join(result['without_depth'])}")
    for name, types in result["forgetting"].items():
        worse = [kind for kind, entry in types.items() if entry["verdict"] == "worse"]
        lines.append(f"  {name}, forgotten of the base: {', '.join(worse) or 'no type beyond noise'}")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "no word or letter question" if value is None else f"{100 * value:.1f} %"


def _shown(pair: Mapping) -> str:
    if pair["value"] is None:
        return "nothing to compare"
    bounds = pair["interval_95"]
    around = "no interval" if bounds is None else f"{100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}"
    return f"{100 * pair['value']:+.1f} points ({around}, noise of {pair['noise']}): {pair['verdict']}"


def parse_runs(words: Sequence[str]) -> dict[str, list[str]]:
    """`NAME=DIR,DIR` or `DIR,DIR` as {name: folders}; the name is by default the first folder's.

    Raises:
      ValueError: an empty folder or a name twice.
    """
    result: dict[str, list[str]] = {}
    for word in words:
        head, mark, tail = word.partition("=")
        named = bool(mark) and "/" not in head
        folders = [folder for folder in (tail if named else word).split(",")]
        name = head if named else Path(folders[0]).name or folders[0]
        if not all(folders) or not name:
            raise ValueError(f"--runs {word}: expected NAME=DIR,DIR or DIR,DIR.")
        if name in result:
            raise ValueError(f"--runs names '{name}' twice; write NAME=DIR.")
        result[name] = folders
    return result


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m experiments.compare", description="Says which differences are noise."
    )
    result.add_argument(
        "--runs", required=True, nargs="+", metavar="[NAME=]DIR[,DIR]", help="variants, seeds joined by commas"
    )
    result.add_argument("--base", help="folder with predictions.jsonl of the model that all started from")
    result.add_argument("--out", required=True, help="folder to write into")
    result.add_argument("--benchmark", help=f"the runs answered this one: {', '.join(BENCHMARKS)}")
    result.add_argument("--dialect", help="of --benchmark, as in experiments.score (default original)")
    result.add_argument("--variant", help="of --benchmark, as in experiments.score")
    result.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default 2000)")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 for a mistake in its arguments or files."""
    flags = parser().parse_args(argv)
    reporting.check_counts(parser(), flags, "resamples")
    command = typed_command()
    if flags.benchmark is None and (flags.dialect or flags.variant):
        parser().error("--dialect and --variant belong to --benchmark")
    benchmark = flags.benchmark and {
        "benchmark": flags.benchmark,
        "dialect": flags.dialect or "original",
        "variant": flags.variant,
    }
    return reporting.exit_code(
        lambda: compare_runs(parse_runs(flags.runs), flags.out, flags.base, flags.resamples, command, benchmark)
    )


if __name__ == "__main__":
    sys.exit(main())
