"""Checks of a teacher's labels when they arrive: do the views agree with each other, do points follow from depth and cameras."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from data_pipelines.labels.files import LabelFile
from spatialsv_jax import geometry

AGREEMENT = 0.05  # relative difference of depth below which two views agree
POINTS_TOLERANCE = 0.02  # median distance of stated points from t + depth * d, relative to the depth
HEAD_TOLERANCE = 0.25  # the same for points that another head predicts: far below what a wrong convention makes


def agreement(labels: LabelFile) -> float | None:
    """`agreement_of` a teacher's labels. Views without a camera see nothing and are not seen."""
    posed = labels.pose_valid[:, None, None]
    intrinsics = np.where(posed, labels.intrinsics, np.eye(3))
    return agreement_of(
        labels.depth, intrinsics, np.where(posed, labels.camera_to_world, np.eye(4)), labels.valid & posed
    )


def agreement_of(depth, intrinsics, camera_to_world, valid) -> float | None:
    """Share of the valid pixels that another view sees whose depth it confirms within `AGREEMENT`; None if none is seen.

    Args:
      depth: [V,H,W] in the unit of the poses.
      intrinsics: [V,3,3].
      camera_to_world: [V,4,4].
      valid: bool[V,H,W].
    """
    cameras = (depth, intrinsics, camera_to_world, valid)
    agreed = geometry.multi_view_filter(*cameras, threshold=AGREEMENT)
    contradicted = valid & ~geometry.multi_view_filter(*cameras, threshold=AGREEMENT, keep_unless_contradicted=True)
    seen = int(agreed.sum()) + int(contradicted.sum())
    return int(agreed.sum()) / seen if seen else None


def check_arrival(labels: LabelFile, least: float = 0.0) -> LabelFile:
    """The labels with the agreement of their views, all pixels masked if it is less than `least`.

    The agreement of labels that were checked before is taken from them; what another threshold masked is unmasked first.
    Scenes whose views see nothing of each other cannot be judged and are kept.
    """
    if labels.masked_depth is not None:
        depth = labels.masked_depth
        labels = dataclasses.replace(labels, depth=depth, valid=depth > 0, masked_depth=None)
    found = labels.agreement
    if found is None:
        found = agreement(labels) if len(labels.view_ids) > 1 else None
        found = math.nan if found is None else found
    labels = dataclasses.replace(labels, agreement=found, min_agreement=least)
    if found < least:
        blank = dict(valid=np.zeros_like(labels.valid), depth=np.zeros_like(labels.depth))
        labels = dataclasses.replace(labels, masked_depth=np.where(labels.valid, labels.depth, 0), **blank)
    return labels


def check_points(labels: LabelFile, points: np.ndarray, where: str, tolerance: float = POINTS_TOLERANCE) -> None:
    """Compares points that a teacher states with t + depth * d of its own depth and cameras.

    Both are compared in the first view's frame. Teachers unproject whole pixels, we their centres: half a pixel is within the
    tolerance.

    Args:
      labels: the labels.
      points: float[V,H,W,3] in the frame of the labels' cameras.
      where: for messages.
      tolerance: the largest median distance, relative to the depth.

    Raises:
      ValueError: they are something else: cameras, depth or their conventions do not belong together.
    """
    own = geometry.points_from_depth(labels.depth.astype(np.float64), labels.intrinsics, labels.camera_to_world)
    apart = np.linalg.norm(own - points, axis=-1)[labels.valid] / labels.depth[labels.valid]
    if apart.size and not np.median(apart) <= tolerance:
        raise ValueError(
            f"{where}: the stated points lie {np.median(apart):.1%} of the depth away from t + depth * d (median). Depth and cameras "
            "do not belong together, or have other conventions than this teacher's."
        )
