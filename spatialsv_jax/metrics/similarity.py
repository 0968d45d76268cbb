"""Named alignments of corresponding points: none, SE(3), Sim(3). float64, no jax."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spatialsv_jax.geometry import umeyama

# The fewest corresponding points after which an error is left to measure: one point can always be moved onto
# another, two can always be moved and scaled onto two others.
SIMILARITIES = {"none": 1, "se3": 2, "sim3": 3}


class Similarity(NamedTuple):
    """x -> scale * rotation x + translation, in float64."""

    rotation: np.ndarray  # [3, 3]
    translation: np.ndarray  # [3]
    scale: float

    def points(self, points) -> np.ndarray:
        """Points [..., 3] after it."""
        return self.scale * np.asarray(points, np.float64) @ self.rotation.T + self.translation

    def normals(self, normals) -> np.ndarray:
        """Directions [..., 3] after it: turned only."""
        return np.asarray(normals, np.float64) @ self.rotation.T

    def poses(self, poses) -> np.ndarray:
        """camera_to_world [..., 4, 4] after it: centres moved, axes turned, still rigid."""
        moved = np.array(poses, np.float64)
        moved[..., :3, :3] = self.rotation @ moved[..., :3, :3]
        moved[..., :3, 3] = self.points(moved[..., :3, 3])
        return moved


def fit_similarity(source, target, alignment: str) -> Similarity | None:
    """The transform that brings `source` closest to `target` in the least-squares sense (Umeyama 1991).

    Args:
      source: [N, 3] points.
      target: [N, 3], the corresponding ones.
      alignment: "none" (identity), "se3" (turn and move) or "sim3" (and one scale).

    Returns:
      The similarity, or None for fewer than 1, 2 or 3 points. Points on a line and points that coincide are fitted
      like any others: `geometry.umeyama` picks one of the equally good rotations, and scale 1 where none is determined.

    Raises:
      ValueError: an unknown alignment, shapes that differ, or non-finite points.
    """
    check_similarity(alignment)
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    for name, points in (("source", source), ("target", target)):
        if points.shape != (len(source), 3):
            raise ValueError(f"'{name}' has shape {points.shape}, expected {(len(source), 3)}.")
        if not np.isfinite(points).all():
            raise ValueError(f"'{name}' has {int((~np.isfinite(points).all(-1)).sum())} non-finite points.")
    if len(source) < SIMILARITIES[alignment]:
        return None
    if alignment == "none":
        return Similarity(np.eye(3), np.zeros(3), 1.0)
    rotation, translation, scale = umeyama(source, target, with_scale=alignment == "sim3")
    return Similarity(rotation, translation, float(scale))


def check_similarity(alignment: str) -> None:
    """Raises ValueError unless `alignment` is in `SIMILARITIES`."""
    if alignment not in SIMILARITIES:
        raise ValueError(f"Unknown alignment {alignment!r}. Known: {', '.join(SIMILARITIES)}.")
