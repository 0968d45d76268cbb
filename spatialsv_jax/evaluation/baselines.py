"""The best predictor that looks at nothing: a depth map per view slot and a mean camera per view slot.

Fitted on training rooms only; evaluation writes it beside every geometric score, because a room
whose views follow a habit can be guessed rather well without opening the eyes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from spatialsv_jax import geometry
from spatialsv_jax.evaluation.statistics import weighted_median


@dataclasses.dataclass(frozen=True)
class ConstantPredictor:
    """What is predicted for view slot v of any sample, in scene-scale units of the first view's frame."""

    depth: np.ndarray  # float64[V,H,W]
    intrinsics: np.ndarray  # float64[V,3,3]
    camera_to_world: np.ndarray  # float64[V,4,4], over all settings
    camera_of_setting: Mapping[str, np.ndarray]  # setting -> float64[V,4,4], fitted on its records alone
    records: int
    scenes: tuple[str, ...]

    def points(self) -> np.ndarray:
        """World points float64[V,H,W,3] of the constant depth seen by the constant cameras."""
        return geometry.points_from_depth(self.depth, self.intrinsics, self.camera_to_world)


def abs_rel_optimal_depth(depth: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The depth map c that minimises the sum over samples of |c - depth| / depth, pixel by pixel.

    It is the median weighted by 1/depth (ours; a plain median minimises the absolute error instead).

    Args:
      depth: float[N,H,W] > 0 where valid.
      valid: bool[N,H,W].

    Returns:
      float64[H,W]. A pixel that is valid in no sample gets the optimum over all pixels; all 1 without any pixel.
    """
    weights = np.where(valid, 1.0 / np.where(valid, depth, 1.0), 0.0)
    best = weighted_median(depth, weights)
    if np.isnan(best).any():
        overall = weighted_median(depth.reshape(-1), weights.reshape(-1))
        best = np.where(np.isnan(best), 1.0 if np.isnan(overall) else overall, best)
    return best


def chordal_mean(rotations: np.ndarray) -> np.ndarray:
    """The rotation nearest to the arithmetic mean of float[N,3,3] in the Frobenius norm, det +1; identity for N = 0."""
    if len(rotations) == 0:
        return np.eye(3)
    return geometry.nearest_rotation(np.mean(np.asarray(rotations, np.float64), 0))[0]


def mean_pose(poses: np.ndarray) -> np.ndarray:
    """Mean translation and chordal mean rotation of float[N,4,4]; identity for N = 0."""
    pose = np.eye(4)
    if len(poses):
        pose[:3, :3] = chordal_mean(poses[:, :3, :3])
        pose[:3, 3] = poses[:, :3, 3].mean(0)
    return pose


def fit_constant(samples: Iterable[Mapping]) -> ConstantPredictor:
    """Fits the constant predictor on training samples.

    Args:
      samples: mappings with `depth` float[V,H,W], `depth_mask` bool[V,H,W], `intrinsics` float[V,3,3],
        `camera_to_world` float[V,4,4], `pose_valid` bool[V] in the batch's normalised units, and the strings
        `setting` and `scene`; samples without geometry have all-False masks.

    Raises:
      ValueError: no sample, or none with valid depth.
    """
    samples = list(samples)
    if not any(np.any(sample["depth_mask"]) for sample in samples):
        raise ValueError(f"No valid depth in the {len(samples)} training records, so there is no constant predictor.")
    depth, mask, intrinsics, poses, posed = (
        np.stack([np.asarray(sample[name]) for sample in samples])
        for name in ("depth", "depth_mask", "intrinsics", "camera_to_world", "pose_valid")
    )
    views = depth.shape[1]
    best = np.stack([abs_rel_optimal_depth(depth[:, slot], mask[:, slot]) for slot in range(views)])
    empty = ~mask.any((0, 2, 3))
    if empty.any():  # a slot that no training record fills: every slot's pixels together
        best[empty] = abs_rel_optimal_depth(depth.reshape(-1, *depth.shape[2:]), mask.reshape(-1, *mask.shape[2:]))
    camera = intrinsics[posed].mean(0) if posed.any() else np.eye(3)
    settings = np.array([sample["setting"] for sample in samples])

    def slots(rows: np.ndarray) -> np.ndarray:
        chosen, flags = poses[rows], posed[rows]
        return np.stack([mean_pose(chosen[flags[:, slot], slot]) for slot in range(views)])

    return ConstantPredictor(
        depth=best,
        intrinsics=np.stack(
            [intrinsics[posed[:, slot], slot].mean(0) if posed[:, slot].any() else camera for slot in range(views)]
        ).astype(np.float64),
        camera_to_world=slots(np.ones(len(samples), bool)),
        camera_of_setting={name: slots(settings == name) for name in sorted(set(settings.tolist()))},
        records=len(samples),
        scenes=tuple(sorted({str(sample["scene"]) for sample in samples})),
    )
