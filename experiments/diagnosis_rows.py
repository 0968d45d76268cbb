"""What a diagnosis keeps of each record and question while a model runs over a data set."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from tqdm import tqdm

from data_pipelines.scene_objects import ObjectBox, object_boxes
from experiments.diagnosis_objects import RecordThings
from spatialsv_jax import metrics
from spatialsv_jax.evaluation import runner
from spatialsv_jax.evaluation.geometry_scores import CONFIDENT_HEADS, confidence_errors, stride
from spatialsv_jax.evaluation.head_agreement import GAPS, head_gaps
from spatialsv_jax.evaluation.predictions import Outcome
from spatialsv_jax.evaluation.scene_difficulty import difficulty, sight_of_boxes
from spatialsv_jax.evaluation.sparsification import sparsification

MEASURES = ("rmse", "abs_rel")
MOST_PIXELS = 4000  # of a record in calibration and agreement
DISAGREEMENT = "disagreement"  # minus the gap of depth and points, as if it were a confidence in the depth


class Findings:
    """Rows of questions and of records of one model.

    Attributes:
      questions: per question its answer, the depth error of its views and their difficulty.
      records: per record its depth error, sparsification and gaps between heads.
      pixels: head or `DISAGREEMENT` -> list of (confidence, error) at some pixels of each record.
      maps: names of all maps that the model gave.
    """

    def __init__(self):
        self.questions: list[dict] = []
        self.records: list[dict] = []
        self.pixels: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {
            name: [] for name in (*CONFIDENT_HEADS, DISAGREEMENT)
        }
        self.maps: set[str] = set()

    def add(self, outcome: Outcome) -> None:
        """Takes one record."""
        self.maps |= set(outcome.maps)
        record = outcome.record
        everywhere = tuple(range(len(record.view_ids)))
        boxes = object_boxes(record)
        sight = _sight(outcome, boxes)
        things = things_of(outcome)
        cells: dict[tuple, dict] = {}
        for question, (line, extra) in zip(outcome.questions, runner.question_rows(outcome, None), strict=True):
            views = tuple(sorted(set(question.views))) or everywhere
            if views not in cells:
                hard = difficulty(*sight, views) if sight is not None else {"object_count": None, "occlusion": None}
                cells[views] = {"quality": depth_error(outcome, views), **hard}
            kept = {name: line[name] for name in _LINE}
            self.questions.append(
                {
                    **kept,
                    "form": extra["form"],
                    "setting": extra["setting"],
                    "record": len(self.records),
                    "views": len(views),
                    "view_places": list(views),
                    "score": float(line["correct"]),
                    **cells[views],
                    "objects": things.about(question, views) if things is not None else None,
                }
            )
        row = {"id": record.id, "scene": record.scene, "setting": record.setting}
        row["depth"] = depth_error(outcome, everywhere)
        row["sparsification"] = {}
        for name, (confidence, error) in confidence_errors(outcome, MOST_PIXELS).items():
            self.pixels[name].append((confidence, error))
            row["sparsification"][name] = sparsification(confidence, error)
        row["heads"] = self._heads(outcome, row["sparsification"])
        self.records.append(row)

    def why_missing(self, name: str) -> str:
        """Why `pixels[name]` is empty."""
        heads = CONFIDENT_HEADS if name == DISAGREEMENT else (name,)
        lacking = [head for head in heads if head not in self.maps]
        if not lacking:
            return "No record has a view with a known camera and valid depth."
        text = f"the model has no {' and no '.join(lacking)} head."
        return f"{text[0].upper()}{text[1:]}" if len(heads) == 1 else f"It needs the heads {', '.join(heads)}; {text}"

    def _heads(self, outcome: Outcome, curves: dict) -> dict:
        """Median and mean of each gap; keeps the gaps as confidences, and adds how well they sort the depth errors."""
        mask = outcome.points_mask
        gaps = head_gaps(outcome.maps) if mask.any() else {}
        if not gaps:
            return {}
        step = stride(mask, MOST_PIXELS)
        depth, truth, gap = (
            values[mask][::step].astype(np.float64)
            for values in (outcome.maps["depth"], outcome.labels["depth"], gaps["depth_points"])
        )
        error = np.abs(depth - truth) / truth
        self.pixels[DISAGREEMENT].append((-gap, error))
        curves[DISAGREEMENT] = sparsification(-gap, error)
        return {
            name: {"median": float(np.median(gaps[name][mask])), "mean": float(np.mean(gaps[name][mask]))} for name in GAPS
        }  # fmt: skip


_LINE = ("id", "scene", "dataset", "question_type", "question", "prediction", "ground_truth", "correct")


def collect(found: Iterable[Outcome], total: int, title: str) -> Findings:
    """The findings of all outcomes."""
    result = Findings()
    for outcome in tqdm(found, total=total, desc=title):
        result.add(outcome)
    return result


def depth_error(outcome: Outcome, views: tuple[int, ...]) -> dict | None:
    """{measure: error} of the lifted depth of some views, without alignment; None without head or measured depth."""
    if "depth" not in outcome.maps or not views:
        return None
    chosen = list(views)
    mask = outcome.depth_mask[chosen]
    if not mask.any():
        return None
    found = metrics.depth_metrics(outcome.maps["depth"][chosen], outcome.labels["depth"][chosen], mask)
    return {name: found[name] for name in MEASURES}


def metric_views(outcome: Outcome) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Depth in metres, where it is valid in posed views, intrinsics and camera_to_world in the record's world frame.

    None where the record has no cameras or no metres.
    """
    views, scale = len(outcome.record.view_ids), float(outcome.labels["scene_scale_m"])
    if not scale or not outcome.points_mask[:views].any():
        return None
    return (
        outcome.labels["depth"][:views].astype(np.float64) * scale,
        outcome.points_mask[:views],
        outcome.labels["intrinsics"][:views].astype(np.float64),
        np.asarray(outcome.record.camera_to_world, np.float64),
    )


def things_of(outcome: Outcome) -> RecordThings | None:
    """The record's things in its reconstruction; None without depth head, boxes, cameras or metres."""
    boxes, seen = object_boxes(outcome.record), metric_views(outcome)
    return RecordThings(outcome, boxes, seen) if boxes and seen is not None and "depth" in outcome.maps else None


def _sight(outcome: Outcome, boxes: tuple[ObjectBox, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    seen = metric_views(outcome)
    if seen is None or not boxes:
        return None
    shapes = (np.stack([getattr(box, name) for box in boxes]) for name in ("centre", "axes", "size"))
    return sight_of_boxes(*seen, *shapes)
