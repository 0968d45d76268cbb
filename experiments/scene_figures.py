"""From what a model said of a record to what the report shows of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.scene_objects import ObjectBox, instances, named_objects, object_boxes
from data_pipelines.transforms.decode import decode_views
from spatialsv_jax import geometry
from spatialsv_jax.evaluation import runner
from spatialsv_jax.evaluation.predictions import Outcome
from spatialsv_jax.report.figure import Geometry, SceneFigure


def scene_figure(outcome: Outcome, why: str, abs_rel: float | None = None):
    """What the page shows of one record, with the reason why it was chosen and its depth error."""
    record, labels, maps = outcome.record, outcome.labels, outcome.maps
    views = len(record.view_ids)
    images, _ = decode_views(record, tuple(range(views)), with_depth=False)
    posed = (labels["pose_valid"] & bool(labels["has_geometry"]))[:views]
    depth = labels["depth"][:views].astype(np.float64)
    intrinsics, pose = (labels[name][:views].astype(np.float64) for name in ("intrinsics", "camera_to_world"))
    points = geometry.points_from_depth(depth, intrinsics, pose)
    true = None
    if outcome.depth_mask.any():
        true = Geometry(
            depth, outcome.depth_mask[:views], outcome.points_mask[:views], intrinsics, pose, posed, {"true": points}
        )
    predicted = None
    if "depth" in maps and views:
        clouds, sure = {}, {}
        if "ray" in maps:
            clouds["depth + rays"] = geometry.points_from_rays(maps["ray"], maps["depth"])[:views]
            sure["depth + rays"] = maps["depth_confidence"][:views]
        if "points" in maps:
            clouds["points head"] = maps["points"][:views]
            sure["points head"] = maps["points_confidence"][:views]
        covered = labels["covered"][:views]
        confidence = maps["depth_confidence"][:views]
        predicted = Geometry(
            maps["depth"][:views], covered, covered, *cameras_of(maps, views), clouds, confidence, sure
        )
    boxes = object_boxes(record)
    return SceneFigure(
        title=record.id,
        tags=(record.dataset, record.setting, why, *(() if abs_rel is None else (f"AbsRel {abs_rel:.3f}",))),
        note="",
        images=images,
        predicted=predicted,
        true=true,
        questions=_questions(outcome, boxes),
        abs_rel=abs_rel,
        scene_scale_m=float(labels["scene_scale_m"]),
        objects=tuple(box.name for box in boxes),
        instances=_instances(outcome, points, boxes),
    )


def _questions(outcome: Outcome, boxes: Sequence[ObjectBox]) -> list[dict]:
    """The lines of predictions.jsonl with the views that a question needs (none: all) and the things that it names."""
    rows = []
    for question, (line, _) in zip(outcome.questions, runner.question_rows(outcome, None), strict=True):
        about = named_objects(" ".join((line["question"], *question.options)), boxes)
        rows.append({**line, "views": list(question.views) or None, "objects": about})
    return rows


def _instances(outcome: Outcome, points: np.ndarray, boxes: Sequence[ObjectBox]) -> np.ndarray | None:
    """int16[V,H,W]: the thing that each pixel shows, by its true point; None without boxes, cameras or metres."""
    record, labels = outcome.record, outcome.labels
    posed = np.flatnonzero(labels["pose_valid"][: len(record.view_ids)])
    scale = float(labels["scene_scale_m"])
    if not boxes or not len(posed) or not scale or not labels["has_geometry"]:
        return None
    label = labels["camera_to_world"][posed[0]].astype(np.float64)
    world = record.camera_to_world[posed[0]]
    local = (points - label[:3, 3]) @ label[:3, :3] * scale  # metres in that view's camera
    valid = outcome.points_mask[: len(record.view_ids)]
    return instances(np.where(valid[..., None], local @ world[:3, :3].T + world[:3, 3], np.nan), boxes)


def cameras_of(maps, views: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(intrinsics, camera_to_world, ok) of the predicted rays; identity and False without a ray head."""
    if "ray" not in maps:
        return np.tile(np.eye(3), (views, 1, 1)), np.tile(np.eye(4), (views, 1, 1)), np.zeros(views, bool)
    fit = geometry.solve_camera(
        maps["ray"][:views].astype(np.float64), maps["ray_confidence"][:views].astype(np.float64)
    )
    return fit.intrinsics, fit.camera_to_world, fit.ok
