"""Geometry of one scene, from any model, against the truth: depth, poses, path, points, normals. NumPy only.

What `experiments.score_geometry` reads from two npz files; `geometry_scores` does the same for whole data sets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from spatialsv_jax import geometry, metrics
from spatialsv_jax.metrics.camera import AUC_THRESHOLDS_DEG, pair_metrics
from spatialsv_jax.metrics.depth import parse_alignment

# Array -> its axes after the views; what `Scene.of` reads.
FIELDS = {"depth": 2, "points": 3, "intrinsics": 2, "camera_to_world": 2, "valid": 2, "camera_ok": 0}


@dataclasses.dataclass(frozen=True)
class Scene:
    """One scene's arrays in float64; None where there are none. V views of H x W pixels."""

    depth: np.ndarray | None = None  # [V, H, W] z-depth
    points: np.ndarray | None = None  # [V, H, W, 3] world points
    intrinsics: np.ndarray | None = None  # [V, 3, 3] pixels of the H x W map
    camera_to_world: np.ndarray | None = None  # [V, 4, 4]
    valid: np.ndarray | None = None  # bool[V, H, W], pixels that have a depth or a point
    camera_ok: np.ndarray | None = None  # bool[V], views that have a camera

    @staticmethod
    def of(name: str, arrays: Mapping[str, np.ndarray]) -> Scene:
        """Reads and checks the fields in `FIELDS`; others are ignored.

        Without `valid` every pixel with a finite depth > 0 (else: a finite point) is valid, and one that is neither is
        never valid. Without `camera_ok` every finite pose is one. A single depth map [H, W] is one view.

        Args:
          name: what messages call the arrays, for example a file.
          arrays: by name.

        Raises:
          ValueError: neither depth nor points nor camera_to_world, shapes that do not fit together, poses whose axes
            are not orthonormal within 1e-3.
        """
        found = {field: np.asarray(arrays[field]) for field in FIELDS if field in arrays}
        if not found.keys() & {"depth", "points", "camera_to_world"}:
            raise ValueError(
                f"{name} holds {', '.join(sorted(arrays)) or 'none of the known arrays'}: it needs depth, points or camera_to_world."
            )
        if next((found[field].ndim == FIELDS[field] for field in ("depth", "points") if field in found), False):
            found = {field: array[None] if array.ndim == FIELDS[field] else array for field, array in found.items()}
        views = len(next(iter(found.values()))) if next(iter(found.values())).ndim else 0
        size = next((found[field].shape[1:3] for field in ("depth", "points") if field in found), (0, 0))
        shapes = {
            "depth": (views, *size), "points": (views, *size, 3), "intrinsics": (views, 3, 3),
            "camera_to_world": (views, 4, 4), "valid": (views, *size), "camera_ok": (views,),
        }  # fmt: skip
        for field, array in found.items():
            if array.shape != shapes[field]:
                raise ValueError(f"{name}: {field} has shape {array.shape}, expected {shapes[field]}.")
            kind = bool if field in ("valid", "camera_ok") else np.float64
            if kind is np.float64 and array.dtype.kind not in "fiu":
                raise ValueError(f"{name}: {field} is {array.dtype}, expected numbers.")
            found[field] = array.astype(kind)
        if size != (0, 0):
            usable = np.ones(shapes["valid"], bool)
            if "depth" in found:
                usable &= np.isfinite(found["depth"]) & (found["depth"] > 0)
            else:
                usable &= np.isfinite(found["points"]).all(-1)
            found["valid"] = usable & found.get("valid", True)
        if "intrinsics" in found and (found["intrinsics"][:, [0, 1], [0, 1]] <= 0).any():
            raise ValueError(f"{name}: intrinsics have focal lengths that are not positive.")
        if "camera_to_world" in found:
            found["camera_ok"] = np.isfinite(found["camera_to_world"]).all((1, 2)) & found.get("camera_ok", True)
            _check_rotations(name, found["camera_to_world"], found["camera_ok"])
        return Scene(**found)

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the maps; None without any."""
        return None if self.valid is None else self.valid.shape[1:]

    def resized(self, height: int, width: int) -> Scene:
        """The same views with maps of H x W: each pixel takes the one that its centre falls on. No value is mixed.

        Right for maps of the same field of view only, not for crops. Intrinsics follow.
        """
        if self.size is None or self.size == (height, width):
            return self
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(np.int64)
            for new, old in zip((height, width), self.size, strict=True)
        )
        maps = {
            name: getattr(self, name)[:, rows[:, None], columns]
            for name in ("depth", "points", "valid")
            if getattr(self, name) is not None
        }
        if self.intrinsics is not None:
            factors = np.array([width / self.size[1], height / self.size[0], 1.0])
            maps["intrinsics"] = self.intrinsics * factors[:, None]
        return dataclasses.replace(self, **maps)

    def cloud(self) -> tuple[np.ndarray, np.ndarray] | None:
        """World points [V, H, W, 3], given or from depth and cameras, and where they are; None without either."""
        if self.points is not None:
            return self.points, self.valid & np.isfinite(self.points).all(-1)
        if self.depth is None or self.intrinsics is None or self.camera_to_world is None:
            return None
        posed = self.camera_ok & np.isfinite(self.intrinsics).all((1, 2))
        chosen = posed[:, None, None]
        cloud = geometry.points_from_depth(
            np.where(self.valid, self.depth, 0.0),
            np.where(chosen, self.intrinsics, np.eye(3)),
            np.where(chosen, self.camera_to_world, np.eye(4)),
        )
        return cloud, self.valid & chosen


def _check_rotations(name: str, poses: np.ndarray, valid: np.ndarray) -> None:
    turned = poses[:, :3, :3]
    for view in np.flatnonzero(valid):
        error = np.abs(turned[view].T @ turned[view] - np.eye(3)).max()
        if error > 1e-3 or np.linalg.det(turned[view]) < 0:
            raise ValueError(
                f"{name}: camera_to_world of view {view} is no rigid motion (its axes must be orthonormal and right-handed)."
            )


def score_scene(
    prediction: Scene,
    truth: Scene,
    depth_alignments: Sequence[str] = ("none", "median_ratio"),
    auc_thresholds: Sequence[int] = AUC_THRESHOLDS_DEG,
    similarities: Sequence[str] = ("none", "sim3"),
    thresholds: Sequence[float] = (0.05,),
    scene_scale: float = 1.0,
) -> dict:
    """Everything that both scenes have the arrays for; the name of each part or number says its convention.

    Args:
      prediction: of a model. Pixels and views without a prediction are left out and counted.
      truth: what is right.
      depth_alignments: as `parse_alignment`.
      auc_thresholds: as `metrics.camera_metrics`, whose numbers come with folded and `_unfolded` translation angles.
      similarities: alignments of paths and of clouds (from corresponding pixels), of `metrics.SIMILARITIES`.
      thresholds: lengths of the F-score, in the truth's unit.
      scene_scale: length in the truth's unit of which 1 % is the shortest baseline with a direction.

    Returns:
      depth, pose, trajectory, points and normals, each None where an array is missing on either side, else numbers as
      of `metrics`; and counts: true pixels and views, and those without a prediction. Numbers are None with a count of
      0 where there is nothing to score.

    Raises:
      ValueError: scenes whose views or map sizes differ, unknown alignments.
    """
    maps = [scene.valid.shape for scene in (prediction, truth) if scene.valid is not None]
    if len(set(maps)) > 1:
        raise ValueError(
            f"The prediction's maps have [views, height, width] {maps[0]}, the truth's {maps[1]}; "
            "resize one of them (--resize)."
        )
    result: dict = {"depth": None, "pose": None, "trajectory": None, "points": None, "normals": None}
    counts: dict[str, int] = {}
    if prediction.depth is not None and truth.depth is not None:
        mask = truth.valid & prediction.valid
        counts.update(pixels=int(truth.valid.sum()), pixels_without_prediction=int((truth.valid & ~mask).sum()))
        result["depth"] = {
            name: metrics.depth_metrics(prediction.depth, truth.depth, mask, *parse_alignment(name))
            for name in depth_alignments
        }
    if prediction.camera_to_world is not None and truth.camera_to_world is not None:
        poses = prediction.camera_to_world, truth.camera_to_world
        if len(poses[0]) != len(poses[1]):
            raise ValueError(f"The prediction has {len(poses[0])} cameras, the truth {len(poses[1])}.")
        both = truth.camera_ok & prediction.camera_ok
        counts.update(views=int(truth.camera_ok.sum()), views_without_prediction=int((truth.camera_ok & ~both).sum()))
        pairs = metrics.pairwise_errors(*poses, both, scene_scale)
        result["pose"] = {**pair_metrics(pairs, auc_thresholds), **pair_metrics(pairs, auc_thresholds, fold=False)}
        result["trajectory"] = metrics.trajectory_metrics(*poses, both, similarities)
    clouds = prediction.cloud(), truth.cloud()
    if None not in clouds:
        result["points"], result["normals"] = _surfaces(*clouds, similarities, thresholds)
    return {**result, "counts": counts}


def _surfaces(predicted, true, similarities: Sequence[str], thresholds: Sequence[float]) -> tuple[dict, dict]:
    """Points and normals after each alignment, which corresponding pixels determine.

    Predicted points are those of pixels that have a true one; true points are all, so that pixels without a
    prediction cost completeness.
    """
    (cloud, has_prediction), (target, has_truth) = predicted, true
    mask = has_prediction & has_truth
    normals = geometry.surface_normals(np.where(mask[..., None], cloud, 0.0), mask)[0]
    true_normals = geometry.surface_normals(np.where(has_truth[..., None], target, 0.0), has_truth)[0]
    points: dict = {}
    angles: dict = {}
    for alignment in similarities:
        fitted = metrics.fit_similarity(cloud[mask], target[mask], alignment)
        if fitted is None:  # too few corresponding pixels: as without any
            none = np.zeros((0, 3))
            points[alignment] = metrics.point_metrics(none, none, thresholds, none, none)
            angles[alignment] = metrics.normal_metrics(none, none, np.zeros(0, bool))
            continue
        turned = fitted.normals(normals)
        points[alignment] = metrics.point_metrics(
            fitted.points(cloud[mask]), target[has_truth], thresholds, turned[mask], true_normals[has_truth]
        )
        points[alignment]["scale"] = fitted.scale
        angles[alignment] = metrics.normal_metrics(turned, true_normals, mask)
    return points, angles
