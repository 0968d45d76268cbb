"""Depth, cameras and points of a model against the labels, beside the best constant predictor.

Everything is in scene-scale units of the first view's frame. Scores of a record are kept and
averaged at the end; camera pairs are pooled before any rate or area is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spatialsv_jax import geometry, metrics
from spatialsv_jax.evaluation import camera_scores
from spatialsv_jax.evaluation.baselines import ConstantPredictor
from spatialsv_jax.evaluation.predictions import Outcome
from spatialsv_jax.evaluation.statistics import calibration, mean_with_interval
from spatialsv_jax.metrics.camera import AUC_THRESHOLDS_DEG
from spatialsv_jax.metrics.depth import parse_alignment
from spatialsv_jax.metrics.normals import NORMAL_NAMES
from spatialsv_jax.metrics.points import point_names

ALIGNMENTS = ("none", "median_ratio")  # always scored: the report shows them
AUC_THRESHOLD_DEG = 30  # likewise
POINT_THRESHOLD = 0.05
MOST_POINTS = 4000  # of one record's cloud in the nearest-neighbour search
MOST_PIXELS = 400  # of one record in the calibration
SHARES = ("delta_", "f_score_", "precision_", "recall_", "within_", "normal_consistency_")
CONFIDENT_HEADS = ("depth", "ray", "points")
NORMAL_CLOUDS = ("points_head", "depth_and_ray_heads", "constant")
DEPTH_NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "delta_1", "delta_2", "delta_3")
POINT_NAMES = point_names((POINT_THRESHOLD,), normals=True)
TRAJECTORY_NAMES = (
    *(f"{name}_{kind}" for kind in ("sim3", "se3", "none") for name in ("ate_rmse", "rpe1_translation_rmse")),
    "rpe1_rotation_rmse_deg",
    "scale_sim3",
)

CONVENTIONS = {
    "units": "scene scale (mean distance of a record's points from its first camera), frame of the first view",
    "depth": "over the valid pixels of all views of a record, then the mean over records with an interval clustered "
    "by scene; alignment 'none', 'median_ratio': one factor median(true) / median(predicted) per record, and others "
    "as asked for (docs/geometry_metrics.md), each fitted to all views of a record together, or '_per_image'; depth_rmse in predictions.jsonl is the record's rmse without alignment",
    "constant": "fitted on training records: depth = AbsRel-optimal (1/depth-weighted median) map per pixel and view "
    "slot; cameras = mean translation and chordal mean rotation per view slot, over all settings, and as "
    "'mean_pose_of_setting' on training records of the same setting; its points = its depth seen by its cameras",
    "camera": "closed-form camera of each predicted ray map weighted by its confidence; all pairs i < j of a record's "
    "posed views; translation error = angle between relative translations folded at 90 degrees, with _unfolded as it is; "
    "pairs of all records pooled before rates (strictly below) and AUC (per pair the larger error): aucT_hist_max "
    "averages the cumulative shares over integer-degree bins up to T (VGGT's code), aucT_exact_max is the exact area "
    "under the recall step curve / T, aucT_trapezoid_max the area under trapezoids / T (SuperGlue's code); "
    "pairs with a true baseline under 1 % of the scene scale count for rotation only; "
    "where no camera fits a ray map its pairs count as 180 and 90 degrees (180 unfolded)",
    "trajectory": "camera centres of a record's posed views that a camera fits, in view order, against the true ones "
    "after the least-squares similarity (sim3), rigid motion (se3) or as they are (none); ate_rmse over centres, rpe1 "
    "over neighbouring views; mean over records; 3, 2 or 1 views needed",
    "points": f"nearest neighbours between at most {MOST_POINTS} points of a record per cloud (fixed stride), no "
    f"alignment; f_score_{POINT_THRESHOLD}, precision and recall strictly below {POINT_THRESHOLD} scene units, "
    "chamfer_sum = accuracy_mean + completeness_mean, chamfer_half_sum = half of it; normal_consistency_abs = mean "
    "|n . n'| of nearest neighbours; "
    "'points_head_umeyama' after one similarity (sim3) per record on corresponding pixels, 3 at least; no ICP",
    "normals": "of point maps, from neighbour differences at pixels whose neighbours are valid; angles of 0 to 180 degrees "
    "in the frame of the first view, no alignment; within_T = share strictly below T degrees; a predicted normal "
    "without a direction counts as 90 degrees",
    "heads": "distance between the points head and t + depth * d of the ray and depth heads at valid pixels; "
    "'relative' divides by the true distance from the camera",
    "confidence": f"at most {MOST_PIXELS} pixels per record (fixed stride); error = |d - g| / g for depth, the norm of "
    "the residual for ray (six channels) and points",
}


class GeometryScores:
    """Scores records one by one (`row`); `summary` turns rows into the geometry part of evaluation.json.

    Args:
      constants: the fitted constant predictors, one for each size of the maps; none without training records.
      depth_alignments: as `metrics.depth.parse_alignment`, scored besides "none" and "median_ratio"; without
        "_per_image" one alignment serves all views of a record.
      auc_thresholds: whole degrees; 30 is always among them.

    Raises:
      ValueError: an unknown alignment.
    """

    def __init__(
        self,
        constants: Sequence[ConstantPredictor] = (),
        depth_alignments: Sequence[str] = (),
        auc_thresholds: Sequence[int] = AUC_THRESHOLDS_DEG,
    ):
        for name in depth_alignments:
            parse_alignment(name)
        self._alignments = tuple(dict.fromkeys([*ALIGNMENTS, *depth_alignments]))
        self._auc_thresholds = tuple(sorted({*auc_thresholds, AUC_THRESHOLD_DEG}))
        self._constants = {constant.depth.shape[-2:]: (constant, constant.points()) for constant in constants}

    def row(self, outcome: Outcome) -> dict:
        """The scores of one record; `depth_rmse` and `abs_rel` are None without depth."""
        constant, points = self._constants.get(outcome.labels["depth"].shape[-2:], (None, None))
        row = {
            "scene": outcome.record.scene,
            "dataset": outcome.record.dataset,
            "setting": outcome.record.setting,
            "depth": _depth(outcome, constant, self._alignments),
            **_camera(outcome, constant),
            **_points(outcome, points),
            "heads": _heads(outcome),
            "confidence": confidence_errors(outcome),
        }
        own = row["depth"].get("model", {}).get("none", {})
        row["abs_rel"], row["depth_rmse"] = own.get("abs_rel"), own.get("rmse")
        return row

    def summary(self, rows: Sequence[Mapping]) -> dict:
        """Everything over `rows`: depth, camera (by setting too), points, heads, confidence."""
        settings = sorted({row["setting"] for row in rows})
        camera = {"all": camera_scores.summarise(rows, self._auc_thresholds)}
        camera["by_setting"] = {
            name: camera_scores.summarise([r for r in rows if r["setting"] == name], self._auc_thresholds)
            for name in settings
        }
        return {
            "records": len(rows),
            "depth": _depth_summary(rows, self._alignments),
            "camera": camera,
            "trajectory": _means(rows, [row["trajectory"] for row in rows], TRAJECTORY_NAMES),
            "points": _points_summary(rows),
            "normals": {
                name: _means(rows, [row["normals"].get(name) for row in rows], NORMAL_NAMES) for name in NORMAL_CLOUDS
            },
            "heads_agreement": _heads_summary(rows),
            "confidence": {name: _confidence_summary(rows, name) for name in CONFIDENT_HEADS},
        }


def _depth(outcome: Outcome, constant: ConstantPredictor | None, alignments: Sequence[str]) -> dict:
    mask, truth = outcome.depth_mask, outcome.labels["depth"]
    if not mask.any():
        return {}
    guesses = {
        "model": outcome.maps.get("depth"),
        "constant": None if constant is None else constant.depth,
    }
    return {
        name: {kind: metrics.depth_metrics(guess, truth, mask, *parse_alignment(kind)) for kind in alignments}
        for name, guess in guesses.items()
        if guess is not None
    }


def _camera(outcome: Outcome, constant: ConstantPredictor | None) -> dict:
    """`camera` and `trajectory` of a record."""
    valid = outcome.labels["pose_valid"] & bool(outcome.labels["has_geometry"])
    truth = outcome.labels["camera_to_world"]
    found: dict = {"views": int(valid.sum())}
    trajectory: dict = {}
    if "ray" in outcome.maps:
        fit = geometry.solve_camera(
            outcome.maps["ray"].astype(np.float64),
            np.where(outcome.labels["covered"], outcome.maps["ray_confidence"], 0.0).astype(np.float64),
        )
        found["failed_views"] = int((valid & ~fit.ok).sum())
        found["model"] = camera_scores.pairs_with_failures(fit.camera_to_world, truth, valid, fit.ok)
        both = valid & fit.ok
        trajectory = metrics.trajectory_metrics(fit.camera_to_world, truth, both)
        trajectory["n"] = trajectory["n_frames"]
        focal = outcome.labels["intrinsics"][both][:, [0, 1], [0, 1]]
        found["focal_error"] = np.abs(fit.intrinsics[both][:, [0, 1], [0, 1]] / focal - 1).mean(-1).tolist()
    if constant is not None:
        everywhere = np.ones(len(valid), bool)
        found["mean_pose"] = camera_scores.pairs_with_failures(constant.camera_to_world, truth, valid, everywhere)
        own = constant.camera_of_setting.get(outcome.record.setting)
        if own is not None:
            found["mean_pose_of_setting"] = camera_scores.pairs_with_failures(own, truth, valid, everywhere)
    return {"camera": found, "trajectory": trajectory}


def _points(outcome: Outcome, constant_points: np.ndarray | None) -> dict:
    """`points` and `normals` of a record."""
    mask = outcome.points_mask
    if not mask.any():
        return {"points": {}, "normals": {}}
    labels, maps = outcome.labels, outcome.maps
    truth = geometry.points_from_depth(
        labels["depth"].astype(np.float64),
        labels["intrinsics"].astype(np.float64),
        labels["camera_to_world"].astype(np.float64),
    )
    clouds = {}
    if "points" in maps:
        clouds["points_head"] = maps["points"]
    if "depth" in maps and "ray" in maps:
        clouds["depth_and_ray_heads"] = geometry.points_from_rays(maps["ray"], maps["depth"])
    if constant_points is not None:
        clouds["constant"] = constant_points
    # Normals come before the choice of points: they need a pixel's neighbours.
    normals = {name: _surface(cloud, mask) for name, cloud in clouds.items()}
    true_normals, step = _surface(truth, mask), stride(mask, MOST_POINTS)
    chosen = {
        name: (cloud[mask][::step].astype(np.float64), normals[name][mask][::step]) for name, cloud in clouds.items()
    }
    true_cloud, true_directions = truth[mask][::step], true_normals[mask][::step]
    if "points_head" in chosen:
        cloud, directions = chosen["points_head"]
        fitted = metrics.fit_similarity(cloud, true_cloud, "sim3")
        if fitted is not None:
            chosen["points_head_umeyama"] = fitted.points(cloud), fitted.normals(directions)
    return {
        "points": {
            name: metrics.point_metrics(cloud, true_cloud, POINT_THRESHOLD, directions, true_directions)
            for name, (cloud, directions) in chosen.items()
        },
        "normals": {name: metrics.normal_metrics(normals[name], true_normals, mask) for name in normals},
    }


def _surface(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Unit normals float64[V,H,W,3] of a point map, zero where there is none."""
    return geometry.surface_normals(np.where(mask[..., None], points, 0.0).astype(np.float64), mask)[0]


def stride(mask: np.ndarray, limit: int) -> int:
    """The step that keeps at most `limit` of the mask's pixels."""
    return max(1, -(-int(mask.sum()) // limit))


def _means(rows: Sequence[Mapping], entries: Sequence[Mapping | None], names: Sequence[str]) -> dict:
    """Mean over the records that have the entry; `n` = records, `pixels` = their pixels or points."""
    chosen = [(row["scene"], entry) for row, entry in zip(rows, entries, strict=True) if entry and entry["n"]]
    result: dict = {"n": len(chosen), "pixels": int(sum(entry["n"] for _, entry in chosen))}
    for name in names:
        values = [(scene, entry[name]) for scene, entry in chosen if entry[name] is not None]
        kind = {"share" if name.startswith(SHARES) else "error": True}
        mean = mean_with_interval([value for _, value in values], [scene for scene, _ in values], **kind)
        result[name], result[f"{name}_interval_95"] = mean["value"], mean["interval_95"]
    return result


def _depth_summary(rows: Sequence[Mapping], alignments: Sequence[str]) -> dict:
    result: dict = {}
    for name in ("model", "constant"):
        result[name] = {
            kind: _means(rows, [row["depth"].get(name, {}).get(kind) for row in rows], DEPTH_NAMES)
            for kind in alignments
        }
    own, base = (result[name]["none"]["abs_rel"] for name in ("model", "constant"))
    result["abs_rel_over_constant"] = own / base if own is not None and base else None
    both = [row for row in rows if "model" in row["depth"] and "constant" in row["depth"]]
    gaps = [row["depth"]["constant"]["none"]["abs_rel"] - row["depth"]["model"]["none"]["abs_rel"] for row in both]
    result["abs_rel_gain_over_constant"] = mean_with_interval(gaps, [row["scene"] for row in both])
    return result


def _points_summary(rows: Sequence[Mapping]) -> dict:
    names = ("points_head", "points_head_umeyama", "depth_and_ray_heads", "constant")
    return {name: _means(rows, [row["points"].get(name) for row in rows], POINT_NAMES) for name in names}


def _heads(outcome: Outcome) -> dict:
    maps, mask = outcome.maps, outcome.points_mask
    if not {"depth", "ray", "points"} <= set(maps) or not mask.any():
        return {}
    other = geometry.points_from_rays(maps["ray"], maps["depth"])
    distance = np.linalg.norm(maps["points"].astype(np.float64) - other, axis=-1)[mask]
    labels = outcome.labels
    ray = geometry.rays_from_camera(labels["intrinsics"], labels["camera_to_world"], *labels["depth"].shape[1:])
    length = (labels["depth"] * np.linalg.norm(ray[..., 3:], axis=-1))[mask]
    return {
        "n": int(mask.sum()),
        "mean": float(distance.mean()),
        "median": float(np.median(distance)),
        "percentile_90": float(np.percentile(distance, 90)),
        "relative_median": float(np.median(distance / length)),
    }


def _heads_summary(rows: Sequence[Mapping]) -> dict:
    return _means(rows, [row["heads"] for row in rows], ("mean", "median", "percentile_90", "relative_median"))


def confidence_errors(outcome: Outcome, most: int = MOST_PIXELS) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Head -> (confidence, error) at up to `most` pixels of a record (`CONVENTIONS["confidence"]`)."""
    labels, maps = outcome.labels, outcome.maps
    pose = (labels["intrinsics"].astype(np.float64), labels["camera_to_world"].astype(np.float64))
    truth = labels["depth"].astype(np.float64)
    posed = (labels["pose_valid"] & bool(labels["has_geometry"]))[:, None, None]
    cases = {
        "depth": (outcome.depth_mask, lambda: np.abs(maps["depth"] - truth) / np.where(truth > 0, truth, 1)),
        "ray": (
            labels["covered"] & posed,
            lambda: np.linalg.norm(maps["ray"] - geometry.rays_from_camera(*pose, *truth.shape[1:]), axis=-1),
        ),
        "points": (
            outcome.points_mask,
            lambda: np.linalg.norm(maps["points"] - geometry.points_from_depth(truth, *pose), axis=-1),
        ),
    }
    found = {}
    for name, (mask, error) in cases.items():
        if f"{name}_confidence" in maps and mask.any():
            step = stride(mask, most)
            found[name] = (maps[f"{name}_confidence"][mask][::step], error()[mask][::step])
    return found


def _confidence_summary(rows: Sequence[Mapping], name: str) -> dict:
    pairs = [row["confidence"][name] for row in rows if name in row["confidence"]]
    if not pairs:
        return calibration(np.zeros(0), np.zeros(0))
    return calibration(*(np.concatenate([pair[side] for pair in pairs]) for side in (0, 1)))
