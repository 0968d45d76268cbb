"""Relative pose errors of many records, pooled over all their pairs before any rate or area is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spatialsv_jax.evaluation.statistics import mean_with_interval
from spatialsv_jax.metrics.camera import AUC_THRESHOLDS_DEG, PairErrors, pair_metrics, pairwise_errors

KINDS = ("model", "mean_pose", "mean_pose_of_setting")


def pairs_with_failures(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray, fits: np.ndarray) -> PairErrors:
    """Errors of all pairs of posed views; pairs with a view that no camera fits get the worst errors, 180 and 90 (180 unfolded).

    Args:
      prediction: float[V,4,4] camera_to_world; ignored where not `fits`.
      target: float[V,4,4] camera_to_world, scene-scale units.
      valid: bool[V], views with a true pose.
      fits: bool[V], views with a predicted pose.
    """
    usable = np.where(fits[:, None, None], prediction, np.eye(4))
    errors = pairwise_errors(usable, target, valid)
    lost = ~fits[valid]
    first, second = np.triu_indices(len(lost), 1)
    failed = lost[first] | lost[second]
    return PairErrors(
        np.where(failed, 180.0, errors.rotation_deg),
        np.where(failed & errors.has_translation, 90.0, errors.translation_deg),
        errors.has_translation,
        np.where(failed & errors.has_translation, 180.0, errors.translation_unfolded_deg),
    )


def pooled_metrics(
    records: Sequence[PairErrors], scenes: Sequence[str], auc_thresholds: Sequence[int] = AUC_THRESHOLDS_DEG
) -> dict:
    """The numbers of `metrics.camera_metrics` over the pairs of all records together, folded and `_unfolded`.

    Besides them the medians (`rotation_error_median_deg`, `translation_error_median_deg`) and an interval of the
    mean rotation error, clustered by scene. Shares count errors strictly below their threshold.

    Args:
      records: pair errors of each record.
      scenes: the scene of each record.
      auc_thresholds: whole degrees.
    """
    empty = PairErrors(np.zeros(0), np.zeros(0), np.zeros(0, bool), np.zeros(0))
    pooled = PairErrors(*(np.concatenate(parts) for parts in zip(*[empty, *records], strict=True)))
    owners = [scene for scene, errors in zip(scenes, records, strict=True) for _ in errors.rotation_deg]
    return {
        **pair_metrics(pooled, auc_thresholds),
        **pair_metrics(pooled, auc_thresholds, fold=False),
        "rotation_error_median_deg": _median(pooled.rotation_deg),
        "rotation_error_interval_95": mean_with_interval(pooled.rotation_deg, owners, error=True)["interval_95"],
        "translation_error_median_deg": _median(pooled.translation_deg[pooled.has_translation]),
    }


def summarise(rows: Sequence[Mapping], auc_thresholds: Sequence[int] = AUC_THRESHOLDS_DEG) -> dict:
    """Pooled numbers of the model and the two mean poses, and how often no camera was found.

    Args:
      rows: with `scene` and `camera`: `views`, optionally `failed_views`, `focal_error` (relative, per view) and
        PairErrors under the names of `KINDS`.
      auc_thresholds: whole degrees.
    """
    result: dict = {}
    for kind in KINDS:
        chosen = [row for row in rows if kind in row["camera"]]
        pairs, scenes = [row["camera"][kind] for row in chosen], [row["scene"] for row in chosen]
        result[kind] = pooled_metrics(pairs, scenes, auc_thresholds)
    focal = [error for row in rows for error in row["camera"].get("focal_error", ())]
    return {
        **result,
        "views": sum(row["camera"]["views"] for row in rows),
        "failed_views": sum(row["camera"].get("failed_views", 0) for row in rows),
        "focal_error_median": float(np.median(focal)) if focal else None,
    }


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None
