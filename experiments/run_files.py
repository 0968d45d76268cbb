"""Answers and metrics of runs as their folders hold them. Needs no jax."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spatialsv_jax.evaluation.comparison import Score
from spatialsv_jax.report import curves

FIELDS = {"id": str, "scene": str, "question_type": str, "ground_truth": str, "correct": (bool, int, float)}


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}).") from None


def read_object(path: Path) -> dict:
    """The JSON object in a file.

    Raises:
      ValueError: it holds something else, naming the file.
    """
    try:
        found = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a JSON {type(found).__name__}, expected an object.")
    return found


def read_part(path: Path, values: dict, name: str) -> dict:
    """A field of a file's object that is an object itself; {} where it is absent.

    Raises:
      ValueError: it is something else, naming file and field.
    """
    found = values.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{path}: field '{name}' is {found!r}, expected an object.")
    return found


@dataclasses.dataclass(frozen=True)
class Answers:
    """The lines of one predictions.jsonl by question id, and what its evaluation.json says of data and model."""

    folder: Path
    rows: dict[str, dict]
    data_sha256: str | None
    model: str | None = None

    @staticmethod
    def read(folder: str | Path) -> Answers:
        """Reads `folder/predictions.jsonl` (and `evaluation.json` where there is one).

        Raises:
          FileNotFoundError, ValueError: no such file, a line that is not JSON, lacks a field, or repeats an id.
        """
        folder = Path(folder)
        path = folder / "predictions.jsonl"
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} has no predictions.jsonl. Make it with python -m experiments.evaluate --model MODEL --out {folder}."
            )
        rows: dict[str, dict] = {}
        for number, line in enumerate(_text(path).splitlines(), 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}.") from None
            for name, kind in FIELDS.items():
                if not isinstance(row, dict) or not isinstance(row.get(name), kind):
                    hint = " Answers of --benchmark are scored by experiments.score." if name == "correct" else ""
                    raise ValueError(f"{path}, line {number}: field '{name}' is missing or of another type.{hint}")
            if not 0 <= row["correct"] <= 1:  # NaN neither
                raise ValueError(f"{path}, line {number}: field 'correct' is {row['correct']}, expected 0 to 1.")
            depth = row.get("depth_rmse")
            if depth is not None and (isinstance(depth, (bool, str, list, dict)) or not 0 <= depth < math.inf):
                raise ValueError(f"{path}, line {number}: field 'depth_rmse' is {depth!r}, expected a length or null.")
            if row["id"] in rows:
                raise ValueError(f"{path}, line {number}: id '{row['id']}' stands there twice.")
            rows[row["id"]] = row
        if not rows:
            raise ValueError(f"{path} has no lines.")
        evaluation = folder / "evaluation.json"
        said = read_object(evaluation) if evaluation.exists() else {}
        data, trained = (read_part(evaluation, said, name) for name in ("data", "trained"))
        return Answers(folder, rows, data.get("data_sha256"), trained.get("model"))

    def metrics(self) -> list[dict]:
        """The metric rows of the model that answered; [] where it has none, as a checkpoint of others.

        That model is the one which evaluation.json names; without that file, or if the named folder is no longer there and
        this is a run's own, the run in or above this folder.
        """
        own = (self.folder / "run.json").exists()
        if self.model and Path(self.model).exists():
            model = Path(self.model).absolute()
            places = [model.parents[1] if model.parent.name == "checkpoints" else model]
        elif own or not self.model:
            places = [self.folder] if own else [self.folder, *self.folder.absolute().parents[:3]]
        else:
            return []
        for place in places:
            files = [place / "metrics.jsonl"]
            if (place / "run.json").exists():
                phases = read_part(place / "run.json", read_object(place / "run.json"), "phases").values()
                files = [place / phase / "metrics.jsonl" for phase in reversed(list(phases))]
            for file in filter(Path.exists, files):
                rows = curves.read_metrics(file)
                if any("gradient_norm/text" in row or "text" in row for row in rows):  # not a teacher's
                    return rows
        return []


@dataclasses.dataclass(frozen=True)
class Table:
    """Scores of all runs on the questions that all of them answered."""

    questions: int
    numbers: int  # of them, questions about numbers that enter their own type only
    scenes: np.ndarray  # str[N], of the scored items: questions, or what a benchmark counts as one
    overall: Score
    types: dict[str, Score]
    scores: list[np.ndarray]  # of each variant float[S,N]
    depth: list[np.ndarray]  # of each variant float[S,R], RMSE of the lifted depth; NaN where a seed has none
    record_scenes: np.ndarray  # str[R]
    left_out: dict[str, int]  # folder -> questions that not all runs answered
    rule: str = "share of right answers over all word and letter questions"
    asked_differently: dict[str, dict] = dataclasses.field(default_factory=dict)  # field -> {folder: what it says}


def join(variants: Sequence[Sequence[Answers]]) -> Table:
    """Brings the answers of all variants' seeds together by question id.

    Raises:
      ValueError: no common question, other data behind the same ids, or a question whose truth, type or scene differs.
    """
    runs = [run for seeds in variants for run in seeds]
    hashes = {run.data_sha256: run.folder for run in runs if run.data_sha256}
    if len(hashes) > 1:
        places = " and ".join(str(folder) for folder in hashes.values())
        raise ValueError(f"{places} were evaluated on different data (data_sha256 in evaluation.json).")
    first = runs[0]
    ids = [name for name in first.rows if all(name in run.rows for run in runs)]
    if not ids:
        raise ValueError(f"No question of {first.folder} was answered by all runs; evaluate them on the same data.")
    for run in runs[1:]:
        for name in ids:
            for field in ("ground_truth", "question_type", "scene"):
                if run.rows[name][field] != first.rows[name][field]:
                    raise ValueError(
                        f"Question '{name}': {field} is {first.rows[name][field]!r} in {first.folder}, but {run.rows[name][field]!r} "
                        f"in {run.folder}. They were evaluated on different data."
                    )
    exact = np.array([isinstance(first.rows[name]["correct"], bool) for name in ids])
    mixed = {first.rows[name]["question_type"] for name, right in zip(ids, exact, strict=True) if right}
    kind = lambda name, right: (
        first.rows[name]["question_type"]
        + ("" if right or first.rows[name]["question_type"] not in mixed else " (number)")
    )
    records: dict[str, str] = {}  # record -> its first question
    for name in ids:
        records.setdefault(name.rsplit("/", 1)[0], name)
    lifted = list(records.values())
    rmse = lambda run, name: math.nan if (value := run.rows[name].get("depth_rmse")) is None else value
    types = np.array([kind(name, right) for name, right in zip(ids, exact, strict=True)])
    return Table(
        questions=len(ids),
        numbers=int((~exact).sum()),
        scenes=np.array([first.rows[name]["scene"] for name in ids]),
        overall=Score.mean(exact),
        types={name: Score.mean(types == name) for name in sorted(set(types.tolist()))},
        scores=[np.array([[float(run.rows[i]["correct"]) for i in ids] for run in seeds]) for seeds in variants],
        depth=[np.array([[rmse(run, i) for i in lifted] for run in seeds], float) for seeds in variants],
        record_scenes=np.array([first.rows[name]["scene"] for name in lifted], dtype=str),
        left_out={str(run.folder): len(run.rows) - len(ids) for run in runs},
    )
