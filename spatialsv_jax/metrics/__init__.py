"""Scores of depth, cameras, points and answers. NumPy in float64; undefined = None with n = 0."""

from spatialsv_jax.metrics.answers import (
    exact_match,
    mean_relative_accuracy,
    parse_letter,
    parse_number,
    score_answer,
)
from spatialsv_jax.metrics.camera import camera_metrics, pairwise_errors
from spatialsv_jax.metrics.depth import ALIGNMENTS, align_depth, depth_metrics
from spatialsv_jax.metrics.points import point_metrics

__all__ = [
    "ALIGNMENTS",
    "align_depth",
    "camera_metrics",
    "depth_metrics",
    "exact_match",
    "mean_relative_accuracy",
    "pairwise_errors",
    "parse_letter",
    "parse_number",
    "point_metrics",
    "score_answer",
]
