"""Scores the geometry of any model: `python -m experiments.score_geometry --prediction FILE.npz --truth FILE.npz`.

Both files hold arrays of V views: depth [V,H,W], points [V,H,W,3], intrinsics [V,3,3], camera_to_world [V,4,4],
optionally valid bool[V,H,W] and camera_ok bool[V]. `experiments.reconstruct` writes such a file. What both have
is scored; formulas and the names of conventions: docs/geometry_metrics.md. Needs no jax.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import geometry_options, reporting
from spatialsv_jax.evaluation.scene_scores import FIELDS, Scene, score_scene
from spatialsv_jax.evaluation.statistics import plain, write_json
from spatialsv_jax.metrics import SIMILARITIES

CONVENTIONS = {
    "depth": "NAME: one alignment over all views and errors over all pixels; NAME_per_image: each view aligned and "
    "scored alone, then the mean over views",
    "pose": "all pairs i < j; translation angles folded at 90 degrees, with _unfolded as they are; max: per pair the larger error; "
    "hist: integer-degree bins (VGGT's code); exact: area under the step curve; trapezoid: SuperGlue's code",
    "trajectory": "ate_rmse and rpe1 (neighbouring views) after sim3, se3 or none (Umeyama on camera centres)",
    "points": "sim3 and se3: Umeyama on corresponding pixels, no ICP; F-scores strictly below the threshold",
    "normals": "angles of 0 to 180 degrees, of point maps after the same alignments; shares strictly below",
}


def read_scene(path: str) -> Scene:
    """The arrays of an npz file.

    Raises:
      FileNotFoundError, ValueError: no such file, no npz file, or arrays that do not fit together.
    """
    try:
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("it is one array without a name")
        with arrays:
            found = {name: arrays[name] for name in arrays.files if name in FIELDS}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file.") from None
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is no readable npz file ({error}); write it with numpy.savez.") from None
    return Scene.of(path, found)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(prog="python -m experiments.score_geometry", description="Scores 3D predictions.")
    result.add_argument("--prediction", required=True, help="npz file of a model's arrays")
    result.add_argument("--truth", required=True, help="npz file of the true ones, the same views in the same order")
    result.add_argument("--out", help="JSON file to write (default: print it)")
    geometry_options.add_flags(result, ("none", "median_ratio"))
    result.add_argument(
        "--alignment", nargs="+", choices=tuple(SIMILARITIES), default=["none", "sim3"],
        help="of paths and clouds (default none sim3)",
    )  # fmt: skip
    result.add_argument(
        "--f_score", nargs="+", type=_length, default=[0.05], help="thresholds in the truth's unit (default 0.05)"
    )
    result.add_argument(
        "--resize", choices=("prediction", "truth"),
        help="bring its maps to the other's size by nearest pixels (same field of view; default: sizes must agree)",
    )  # fmt: skip
    result.add_argument(
        "--scene_scale", type=_length, default=1.0,
        help="length of which 1 %% is the shortest baseline that has a direction (default 1)",
    )  # fmt: skip
    return result


def _length(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < np.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive length")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 for a mistake in its arguments or files."""
    flags = parser().parse_args(argv)

    def work() -> None:
        prediction, truth = read_scene(flags.prediction), read_scene(flags.truth)
        if flags.resize == "prediction" and truth.size:
            prediction = prediction.resized(*truth.size)
        elif flags.resize == "truth" and prediction.size:
            truth = truth.resized(*prediction.size)
        scores = score_scene(
            prediction, truth, flags.depth_alignment, flags.pose_auc,
            flags.alignment, flags.f_score, flags.scene_scale,
        )  # fmt: skip
        result = {
            "prediction": flags.prediction, "truth": flags.truth, **scores,
            "conventions": {**CONVENTIONS, "scene_scale": flags.scene_scale, "resized": flags.resize},
        }  # fmt: skip
        if flags.out:
            Path(flags.out).parent.mkdir(parents=True, exist_ok=True)
            write_json(Path(flags.out), result)
        print(f"wrote {flags.out}" if flags.out else json.dumps(plain(result), indent=1, allow_nan=False))

    return reporting.exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
