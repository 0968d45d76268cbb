"""Answers of several runs to a published benchmark, scored by one of its scorers and brought together question by question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.run_files import Table, read_object, read_part
from spatialsv_jax.evaluation.benchmarks import scoring
from spatialsv_jax.evaluation.benchmarks.lines import Line, read
from spatialsv_jax.evaluation.benchmarks.plan import Plan, Rule
from spatialsv_jax.evaluation.comparison import Score

SAID = "benchmark.json"  # what evaluate --benchmark writes beside the answers
# Benchmarks of the same questions: answers to one may be scored as another.
KIN = (("vsibench", "vsibench_mc", "vsibench_debiased"),)
FIELDS = ("ground_truth", "question_type", "options", "scene", "dataset")


def join(variants: Sequence[Sequence[str | Path]], benchmark: str, dialect: str, variant: str | None) -> Table:
    """Scores every folder's predictions.jsonl on the questions that all of them answered.

    Args:
      variants: folders of each variant's seeds.
      benchmark, dialect, variant: as in `experiments.score`.

    Returns:
      The table; its overall score is the benchmark's own, its types those of the benchmark that are means of shares.

    Raises:
      FileNotFoundError, ValueError: no such file, a faulty line, no common question, other data behind the same ids, or a scorer
        that leaves questions out by what was answered.
    """
    cell, variant = scoring.resolve(benchmark, dialect, variant)
    for folder in (Path(folder) for seeds in variants for folder in seeds):
        check_benchmark(folder, benchmark)
    folders = [Path(folder) for seeds in variants for folder in seeds]
    found = [_read(folder) for folder in folders]
    ids = [name for name in found[0] if all(name in lines for lines in found)]
    if not ids:
        raise ValueError(f"No question of {folders[0]} was answered by all runs; evaluate them on the same part.")
    _check_data(folders, found, ids)
    plans = [cell.plan([lines[name] for name in ids], variant == "fixed") for lines in found]
    first = plans[0]
    units = [(item.bins, item.cluster) for item in first.items]
    for folder, plan in zip(folders, plans, strict=True):
        if [(item.bins, item.cluster) for item in plan.items] != units:
            hint = " --variant fixed counts them." if cell.has_variants and variant != "fixed" else ""
            raise ValueError(
                f"{benchmark} / {dialect} leaves questions out by what was answered, and {folder} lacks other ones than {folders[0]}: "
                f"nothing to pair.{hint}"
            )
    values = np.array([[item.value for item in plan.items] for plan in plans])
    bounds = np.cumsum([0, *map(len, variants)])
    shares = {name: rule for name, rule in first.per_type.items() if not rule.root}
    return Table(
        questions=len(ids),
        numbers=0,
        scenes=np.array([item.cluster for item in first.items]),
        overall=_score(first, first.overall),
        types={name: _score(first, rule) for name, rule in shares.items()},
        scores=[values[low:high] for low, high in zip(bounds[:-1], bounds[1:], strict=True)],
        depth=[],
        record_scenes=np.zeros(0, str),
        left_out={str(folder): len(lines) - len(ids) for folder, lines in zip(folders, found, strict=True)},
        asked_differently=_differences(folders),
        rule=f"{benchmark}, dialect {dialect}{f', {variant}' if variant else ''}: {first.overall_rule}",
    )


def asked_of(folder: Path) -> dict:
    """What `evaluate --benchmark` recorded beside the answers of a folder; {} where it did not make them.

    Raises:
      ValueError: a broken file, named.
    """
    path = folder / SAID
    return read_part(path, read_object(path), "asked") if path.exists() else {}


def check_benchmark(folder: Path, benchmark: str) -> None:
    """Looks whether a folder's answers are to this benchmark, or to one of the same questions.

    Raises:
      ValueError: they are to another one.
    """
    name = asked_of(folder).get("benchmark", benchmark)
    if name != benchmark and not any({name, benchmark} <= set(kin) for kin in KIN):
        raise ValueError(f"{folder} holds answers to {name} ({SAID}), not to {benchmark}.")


def _differences(folders: Sequence[Path]) -> dict[str, dict]:
    """What the runs were asked differently: field -> {folder: value}."""
    found = {}
    asked = {str(folder): asked_of(folder) for folder in folders}
    for field in ("part", "prompts", "decoding", "views"):
        said = {folder: values[field] for folder, values in asked.items() if field in values}
        if any(value != next(iter(said.values())) for value in said.values()):
            found[field] = said
    return found


def _read(folder: Path) -> dict[str, Line]:
    path = folder / "predictions.jsonl"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} has no predictions.jsonl. Make it with python -m experiments.evaluate --model MODEL --benchmark NAME "
            f"--raw DIR --out {folder}."
        )
    return {line.id: line for line in read(path)}


def _check_data(folders: Sequence[Path], found: Sequence[dict[str, Line]], ids: Sequence[str]) -> None:
    hashes: dict[str, Path] = {}
    for folder in folders:
        if digest := read_part(folder / SAID, asked_of(folder), "data").get("sha256"):
            hashes.setdefault(digest, folder)
    if len(hashes) > 1:
        places = " and ".join(map(str, hashes.values()))
        raise ValueError(f"{places} were asked of different data (asked.data.sha256 in {SAID}).")
    for folder, lines in zip(folders[1:], found[1:], strict=True):
        for name in ids:
            for field in FIELDS:
                ours, others = getattr(found[0][name], field), getattr(lines[name], field)
                if ours != others:
                    raise ValueError(
                        f"Question '{name}': {field} is {ours!r} in {folders[0]}, but {others!r} in {folder}. They were asked of different data."
                    )


def _score(plan: Plan, rule: Rule) -> Score:
    members = np.array([[name in item.bins for name in rule.weights] for item in plan.items], bool)
    return Score(members.reshape(len(plan.items), len(rule.weights)), np.array(list(rule.weights.values())))
