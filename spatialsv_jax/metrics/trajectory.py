"""Errors of a camera path: absolute (ATE) and from frame to frame (RPE). float64, no jax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatialsv_jax.geometry import invert_pose, rotation_angle_deg
from spatialsv_jax.metrics.camera import checked_poses, relative_poses
from spatialsv_jax.metrics.similarity import check_similarity, fit_similarity


def trajectory_metrics(
    prediction, target, valid, alignments: Sequence[str] = ("sim3", "se3", "none"), delta: int = 1
) -> dict[str, float | int | None]:
    """ATE and RPE of one sequence of cameras (Sturm et al. 2012, as MonST3R measures them with evo).

    The predicted path is brought to the true one by the least-squares similarity between corresponding camera
    centres (Umeyama 1991), whose turn applies to the cameras' axes too. ate_rmse_A = root mean square distance of
    corresponding centres after alignment A. With E = inverse(true relative pose) (predicted relative pose) of the
    frames i and i + delta, for all i: rpe1_translation_rmse_A = root mean square of |translation of E|, and
    rpe1_rotation_rmse_deg that of its angle, which no alignment changes; 1 is `delta`. scale_sim3 is the scale that
    was fitted. Turning and moving change no relative pose, so RPE is the same for "se3" and "none".

    Args:
      prediction: [V, 4, 4] camera_to_world, in order.
      target: [V, 4, 4] camera_to_world.
      valid: bool[V], frames with a true and a predicted pose. Others are left out; a pair needs both of its frames.
      alignments: of `SIMILARITIES`.
      delta: distance of a pair's frames, in frames.

    Returns:
      The numbers that the keys name, n_frames and n_pairs (the pairs of RPE). With fewer valid frames than 3
      (sim3), 2 (se3) or 1 (none) the numbers of that alignment are None, and so is RPE without pairs. A path on a
      line has defined values: what a line leaves open is a turn about it, which changes none of them. A path
      without movement, predicted or true, is aligned with scale 1.

    Raises:
      ValueError: wrong shapes, a valid pose that is not finite, an unknown alignment, delta < 1.
    """
    if delta != int(delta) or delta < 1:
        raise ValueError(f"'delta' is {delta}, expected a whole number of frames from 1 on.")
    for alignment in alignments:
        check_similarity(alignment)
    prediction, target, valid = checked_poses(prediction, target, valid)
    first = np.flatnonzero(valid[:-delta] & valid[delta:])
    prediction, target = (np.where(valid[:, None, None], pose, np.eye(4)) for pose in (prediction, target))
    true_step = relative_poses(target, first, first + delta)
    undo = invert_pose(true_step)
    result: dict[str, float | int | None] = {}
    for alignment in alignments:
        fitted = fit_similarity(prediction[valid][:, :3, 3], target[valid][:, :3, 3], alignment)
        ate = rpe = None
        if fitted is not None:
            aligned = fitted.poses(prediction)
            ate = _rms((aligned - target)[valid][:, :3, 3])
            rpe = _rms((undo @ relative_poses(aligned, first, first + delta))[:, :3, 3])
        result[f"ate_rmse_{alignment}"], result[f"rpe{delta}_translation_rmse_{alignment}"] = ate, rpe
        if alignment == "sim3":
            result["scale_sim3"] = None if fitted is None else fitted.scale
    step = relative_poses(prediction, first, first + delta)
    angle = rotation_angle_deg(true_step[:, :3, :3], step[:, :3, :3])
    result[f"rpe{delta}_rotation_rmse_deg"] = _rms(angle[:, None])
    return {**result, "n_frames": int(valid.sum()), "n_pairs": len(first)}


def _rms(vectors: np.ndarray) -> float | None:
    """Root mean square length of [N, D]; None without any."""
    return float(np.sqrt(np.mean((vectors * vectors).sum(-1)))) if len(vectors) else None
