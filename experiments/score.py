"""Scores predictions on a published benchmark: `python -m experiments.score --benchmark NAME --predictions FILE.jsonl`.

Reads the lines that `experiments.evaluate` writes, of any model; needs no model and no accelerator. docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import benchmark_runs, reporting
from spatialsv_jax.evaluation.benchmarks import scoring, table
from spatialsv_jax.evaluation.statistics import write_json


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(prog="python -m experiments.score", description="Scores predictions.")
    result.add_argument("--benchmark", required=True, help=", ".join(table.BENCHMARKS))
    result.add_argument("--predictions", required=True, help="JSON lines as experiments.evaluate writes them")
    result.add_argument(
        "--dialect", default="original", help=f"whose scorer: {', '.join(table.DIALECTS)} (default original)"
    )
    result.add_argument(
        "--variant", help="as_published (default) or fixed, where the published scorer is faulty; the result says which"
    )
    result.add_argument("--out", help="where to write the result as JSON (default: nowhere, the table alone)")
    result.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default 2000)")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 for a mistake in its arguments or files."""
    flags = parser().parse_args(argv)
    reporting.check_counts(parser(), flags, "resamples")

    def work() -> None:
        if flags.out:
            _check_out(Path(flags.out), Path(flags.predictions))
        benchmark_runs.check_benchmark(Path(flags.predictions).parent, flags.benchmark)
        result = scoring.score(flags.benchmark, flags.predictions, flags.dialect, flags.variant, flags.resamples)
        if flags.out:
            out = Path(flags.out)
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, result)
        print(scoring.shown(result) + (f"\nwrote {flags.out}" if flags.out else ""))

    return reporting.exit_code(work)


def _check_out(out: Path, predictions: Path) -> None:
    """Raises ValueError where the result would go over the answers, or is to be a folder."""
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; give a file, {out / 'scores.json'} for instance.")
    if out.resolve() == predictions.resolve():
        raise ValueError(f"--out {out} is the file of predictions, which would be lost; give another file.")


if __name__ == "__main__":
    sys.exit(main())
