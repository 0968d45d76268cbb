"""Scores of depth, cameras, paths, points, normals, boxes and answers. NumPy in float64; undefined = None with n = 0."""

from spatialsv_jax.metrics.answers import (
    exact_match,
    mean_relative_accuracy,
    parse_letter,
    parse_number,
    score_answer,
)
from spatialsv_jax.metrics.boxes import Boxes, box_iou
from spatialsv_jax.metrics.camera import camera_metrics, pairwise_errors
from spatialsv_jax.metrics.depth import ALIGNMENTS, align_depth, depth_metrics
from spatialsv_jax.metrics.normals import normal_metrics
from spatialsv_jax.metrics.points import point_metrics
from spatialsv_jax.metrics.similarity import SIMILARITIES, Similarity, fit_similarity
from spatialsv_jax.metrics.trajectory import trajectory_metrics

__all__ = [
    "ALIGNMENTS",
    "SIMILARITIES",
    "Boxes",
    "Similarity",
    "align_depth",
    "box_iou",
    "camera_metrics",
    "depth_metrics",
    "exact_match",
    "fit_similarity",
    "mean_relative_accuracy",
    "normal_metrics",
    "pairwise_errors",
    "parse_letter",
    "parse_number",
    "point_metrics",
    "score_answer",
    "trajectory_metrics",
]
