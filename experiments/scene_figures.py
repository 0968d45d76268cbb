"""From what a model said of a record to what the report shows of it."""

from __future__ import annotations

import numpy as np

from data_pipelines.transforms.decode import decode_views
from spatialsv_jax import geometry
from spatialsv_jax.evaluation import runner
from spatialsv_jax.evaluation.predictions import Outcome
from spatialsv_jax.report.scene_section import Geometry, SceneFigure


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
        clouds = {}
        if "ray" in maps:
            clouds["depth + rays"] = geometry.points_from_rays(maps["ray"], maps["depth"])[:views]
        if "points" in maps:
            clouds["points head"] = maps["points"][:views]
        covered = labels["covered"][:views]
        confidence = maps["depth_confidence"][:views]
        predicted = Geometry(maps["depth"][:views], covered, covered, *cameras_of(maps, views), clouds, confidence)
    score = runner.question_rows(outcome, None)
    return SceneFigure(
        title=record.id,
        tags=(record.dataset, record.setting, why, *(() if abs_rel is None else (f"AbsRel {abs_rel:.3f}",))),
        note="",
        images=images,
        predicted=predicted,
        true=true,
        questions=_spread([line for line, _ in score], 24),
        question_count=len(score),
        scene_scale_m=float(labels["scene_scale_m"]),
    )


def cameras_of(maps, views: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(intrinsics, camera_to_world, ok) of the predicted rays; identity and False without a ray head."""
    if "ray" not in maps:
        return np.tile(np.eye(3), (views, 1, 1)), np.tile(np.eye(4), (views, 1, 1)), np.zeros(views, bool)
    fit = geometry.solve_camera(
        maps["ray"][:views].astype(np.float64), maps["ray_confidence"][:views].astype(np.float64)
    )
    return fit.intrinsics, fit.camera_to_world, fit.ok


def _spread(rows: list[dict], count: int) -> list[dict]:
    """At most `count` rows, taken in turn from every question type."""
    turns: dict[str, int] = {}
    keyed = []
    for place, row in enumerate(rows):
        turn = turns[row["question_type"]] = turns.get(row["question_type"], -1) + 1
        keyed.append((turn, place))
    return [rows[place] for _, place in sorted(keyed)[:count]]
