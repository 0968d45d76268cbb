"""Makes tests/goldens/trajectories.json: camera paths and what evo computes of them.

    python -m venv evo && evo/bin/pip install evo==1.38.1 && evo/bin/python tests/goldens/make_trajectories.py

evo has an environment of its own because it brings pandas, seaborn and a reader of ROS bags along. Cases: name ->
prediction and target, each [x, y, z, qx, qy, qz, qw] per frame (camera to world), and for sim3, se3 and none: the
alignment (rotation, translation, scale), ate_rmse (APE of the translation part) and for delta 1 and 3 frames, all
pairs, rpe_translation_rmse and rpe_rotation_rmse_deg. Where evo refuses an alignment, its error stands instead.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
from evo.core import geometry, metrics
from evo.core.trajectory import PosePath3D
from evo.core.units import Unit
from scipy.spatial.transform import Rotation

OUT = Path(__file__).parent / "trajectories.json"


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Predicted and true paths [frames, 7]."""
    rng = np.random.default_rng(7)

    def path(positions, noise: float, scale: float, frames: int):
        turns = Rotation.from_rotvec(np.cumsum(0.2 * rng.normal(size=(frames, 3)), axis=0))
        common = Rotation.random(random_state=int(rng.integers(1000)))
        moved = scale * common.apply(positions) + rng.normal(size=3) + noise * rng.normal(size=(frames, 3))
        guess = common * turns * Rotation.from_rotvec(noise * rng.normal(size=(frames, 3)))
        return tuple(
            np.round(np.concatenate([place, turn.as_quat()], axis=1), 7)
            for place, turn in ((moved, guess), (positions, turns))
        )

    walk = np.cumsum(rng.normal(size=(16, 3)), axis=0)
    plane = np.cumsum(rng.normal(size=(12, 3)), axis=0) * [1, 1, 0]
    line = np.linspace(0, 3, 9)[:, None] * [1.0, 2.0, -1.0]
    mirrored = path(np.cumsum(rng.normal(size=(10, 3)), axis=0), 0.05, 0.5, 10)
    mirrored[0][:, 2] *= -1  # the best orthogonal matrix is a reflection, which no alignment may return
    return {
        "walk": path(walk, 0.1, 0.3, 16),
        "plane": path(plane, 0.3, 2.0, 12),
        "noise": path(rng.normal(size=(8, 3)), 1.5, 1.0, 8),
        "mirrored": mirrored,
        "line": path(line, 0.0, 0.7, 9),
    }


def pose_path(rows: np.ndarray) -> PosePath3D:
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = Rotation.from_quat(rows[:, 3:]).as_matrix(), rows[:, :3]
    return PosePath3D(poses_se3=list(poses))


def measured(prediction: np.ndarray, target: np.ndarray, alignment: str) -> dict:
    guess, truth = copy.deepcopy(pose_path(prediction)), pose_path(target)
    result: dict = {}
    if alignment != "none":
        try:
            rotation, translation, scale = guess.align(truth, correct_scale=alignment == "sim3")
        except geometry.GeometryException as error:
            return {"error": str(error)}
        result = {"rotation": rotation.tolist(), "translation": translation.tolist(), "scale": float(scale)}
    ape = metrics.APE(metrics.PoseRelation.translation_part)
    ape.process_data((truth, guess))
    result["ate_rmse"] = float(ape.get_statistic(metrics.StatisticsType.rmse))
    for name, relation in (
        ("rpe_translation_rmse", metrics.PoseRelation.translation_part),
        ("rpe_rotation_rmse_deg", metrics.PoseRelation.rotation_angle_deg),
    ):
        for delta in (1, 3):
            rpe = metrics.RPE(relation, delta, Unit.frames, all_pairs=True)
            rpe.process_data((truth, guess))
            result[f"{name}_{delta}"] = float(rpe.get_statistic(metrics.StatisticsType.rmse))
    return result


def main() -> None:
    found = {
        name: {
            "prediction": prediction.tolist(),
            "target": target.tolist(),
            **{alignment: measured(prediction, target, alignment) for alignment in ("sim3", "se3", "none")},
        }
        for name, (prediction, target) in cases().items()
    }
    OUT.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
