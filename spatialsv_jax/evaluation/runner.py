"""One evaluation from batches to evaluation.json: inference, scores, breakdown, choice of scenes to show."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import spatialsv_jax
from spatialsv_jax.evaluation import answer_scores, geometry_scores
from spatialsv_jax.evaluation.geometry_scores import GeometryScores
from spatialsv_jax.evaluation.predictions import Outcome, spoken
from spatialsv_jax.evaluation.statistics import INTERVAL_METHOD

FORMAT_VERSION = 2  # 2: f_score is f_score_0.05; paths, normals, AUC in three conventions


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores, one row per question, and how good each record's depth is (for the choice of scenes)."""

    scores: dict
    rows: list[dict]  # lines of predictions.jsonl
    quality: list[dict]  # index, setting, abs_rel of every record, in order


@dataclasses.dataclass(frozen=True)
class Scored:
    """What the scores need of one record.

    Attributes:
      index: of the record in its source.
      geometry: its row of `GeometryScores`.
      questions: per question its line of predictions.jsonl, and what only the scores need.
    """

    index: int
    geometry: dict
    questions: list[tuple[dict, dict]]


def score(found: Iterable[Outcome], geometry: GeometryScores) -> Iterator[Scored]:
    """Scores what a model says, record by record."""
    for outcome in found:
        row = geometry.row(outcome)
        yield Scored(outcome.index, row, question_rows(outcome, row["depth_rmse"]))


def evaluate(records: Sequence[Scored], geometry: GeometryScores) -> Evaluation:
    """All scores of an evaluation.

    Args:
      records: of `score`, in the order of the files.
      geometry: that they were scored with.
    """
    rows = [line for record in records for line, _ in record.questions]
    scored = [{**line, **extra} for record in records for line, extra in record.questions]
    found = [record.geometry for record in records]
    quality = [
        {"index": record.index, "setting": record.geometry["setting"], "abs_rel": record.geometry["abs_rel"]}
        for record in records
    ]
    scores = {
        "questions": answer_scores.summarise(scored),
        **geometry.summary(found),
        "breakdown": {
            kind: {name: _part(name, kind, scored, found, geometry) for name in sorted({row[kind] for row in found})}
            for kind in ("dataset", "setting")
        },
    }
    return Evaluation(scores, rows, quality)


def question_rows(outcome: Outcome, depth_rmse: float | None) -> list[tuple[dict, dict]]:
    """Per question the line of predictions.jsonl and what only the scores need."""
    result = []
    record, everywhere = outcome.record, list(range(len(outcome.record.view_ids)))
    for number, (question, answer) in enumerate(zip(outcome.questions, outcome.answers, strict=True)):
        line = {
            "id": f"{record.id}/{question.id}",
            "dataset": record.dataset,
            "scene": record.scene,
            "question_type": question.type,
            "question": spoken(question.text),
            "options": list(question.options) or None,
            "prediction": answer,
            "ground_truth": question.answer,
            "correct": answer_scores.score(question.form, answer, question.answer),
            "views": [record.view_ids[view] for view in (question.views or everywhere)],
            "depth_rmse": depth_rmse,
        }
        blind = None
        if outcome.blind_answers:
            blind = float(answer_scores.score(question.form, outcome.blind_answers[number], question.answer))
        result.append(
            (line, {"form": question.form, "group": question.group, "setting": record.setting, "blind": blind})
        )
    return result


def _part(name: str, kind: str, scored: Sequence[Mapping], found: Sequence[Mapping], geometry: GeometryScores) -> dict:
    """Scores of one data set or setting."""
    rows = [row for row in found if row[kind] == name]
    summary = geometry.summary(rows)
    questions = answer_scores.summarise([row for row in scored if row[kind] == name])
    return {
        "records": len(rows),
        "questions": questions,
        "depth": summary["depth"],
        "camera": summary["camera"]["all"],
        "points": summary["points"],
    }


def choose_scenes(quality: Sequence[Mapping], count: int) -> tuple[list[tuple[int, str]], str]:
    """Which records a report shows: the best, the worst, and the median of each setting.

    Args:
      quality: of `Evaluation`.
      count: at most that many.

    Returns:
      ([(index in `quality`, why)], one sentence that says how they were chosen).
    """
    ranked = [place for place in range(len(quality)) if quality[place]["abs_rel"] is not None]
    ranked.sort(key=lambda place: (quality[place]["abs_rel"], place))
    if not ranked:
        return [(place, f"record {place + 1}") for place in range(min(count, len(quality)))], "The first records."
    settings: dict[str, list[int]] = {}
    for place in ranked:
        settings.setdefault(quality[place]["setting"], []).append(place)
    wanted = [(ranked[0], f"best of {len(ranked)} by AbsRel")]
    for name, members in sorted(settings.items(), key=lambda item: (-len(item[1]), item[0])):
        wanted.append((members[(len(members) - 1) // 2], f"median of {len(members)} {name} records"))
    worst = (ranked[-1], f"worst of {len(ranked)} by AbsRel")
    chosen: dict[int, str] = {}
    for place, why in [*wanted[: max(1, count - 1)], worst]:
        chosen[place] = f"{chosen[place]}, {why}" if place in chosen else why
    sentence = "Chosen by depth error, not by looks: the best record, the median record of each setting, and the worst."
    return list(chosen.items())[:count], sentence


def describe_model(loaded, model: str) -> dict:
    """What was trained: name, objective with its weights, whose labels, step and where it started from."""
    from spatialsv_jax.losses.objective import PAPER_TERMS, TERMS

    losses, sources = loaded.config["losses"], loaded.config["data"]["sources"].values()
    geometry = {"measured" if source["labels"] == "measured" else "a teacher's" for source in sources}
    name, run = loaded.config.get("name") or loaded.path.name, loaded.path.parent
    return {
        "name": f"{run.name} / {name}" if (run / "run.json").exists() else name,
        # From wherever this is read; what does not lie in a folder of this machine stays as it was typed.
        "model": str(Path(model).absolute()) if Path(model).exists() else model,
        "step": int(loaded.step),
        "objective": loaded.settings.objective_name,
        "labels": f"depth and cameras {' and '.join(sorted(geometry))}" if geometry else "none",
        "weights": {name: losses.get(name, 0.0) for name in TERMS if name in PAPER_TERMS or losses.get(name)},
        "init_from": loaded.config.get("init_from", ""),
        "training_data": loaded.meta.get("data", {}) if loaded.meta else {},
    }


def provenance(config: Mapping, manifest: Path, command: str, seed: int) -> dict:
    """Hashes and versions that pin the numbers.

    Args:
      config: the model's resolved config.
      manifest: manifest.json of the evaluated data.
      command: as typed.
      seed: of the choice of records.
    """
    import jax

    packages = ("jax", "flax", "numpy", "grain", "orbax-checkpoint")
    root = Path(spatialsv_jax.__file__).parents[1]
    code = hashlib.sha256()
    for package in ("spatialsv_jax", "data_pipelines", "experiments"):
        for file in sorted((root / package).rglob("*.py")):
            code.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    device = jax.devices()[0]
    return {
        "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest(),
        "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else None,
        "code_sha256": code.hexdigest(),
        "command": command,
        "seed": seed,
        "device": f"{device.platform} ({device.device_kind})",
        "versions": {
            "spatialsv_jax": spatialsv_jax.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
    }


def conventions() -> dict:
    """How every number is defined, to be stored beside it."""
    return {"interval": INTERVAL_METHOD, **answer_scores.CONVENTIONS, **geometry_scores.CONVENTIONS}
