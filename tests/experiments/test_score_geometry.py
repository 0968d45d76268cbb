"""The command that scores npz files: a scene in closed form, what is missing, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from experiments import evaluate, score_geometry
from spatialsv_jax import geometry

ROOT = Path(__file__).parents[2]
VIEWS, HEIGHT, WIDTH = 4, 12, 16


def _reject(name):
    raise AssertionError(f"{name} in the JSON")


@pytest.fixture()
def truth():
    """Four views of a wavy wall; a hole in one."""
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (VIEWS, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(0.2 * rng.normal(size=(VIEWS, 3))).as_matrix()
    poses[:, :3, 3] = rng.normal(size=(VIEWS, 3))
    intrinsics = np.tile([[15.0, 0, WIDTH / 2], [0, 15, HEIGHT / 2], [0, 0, 1]], (VIEWS, 1, 1))
    depth = 3 + 0.5 * np.sin(np.arange(HEIGHT)[:, None] / 3) + 0.1 * np.arange(WIDTH) + rng.random((VIEWS, 1, 1))
    depth[2, :3, :4] = 0
    return {"depth": depth, "intrinsics": intrinsics, "camera_to_world": poses}


@pytest.fixture()
def score(tmp_path, truth, capsys):
    def start(prediction, *flags, truth=truth):
        for name, arrays in (("prediction", prediction), ("truth", truth)):
            np.savez(tmp_path / f"{name}.npz", **arrays)
        files = [f"--{name}={tmp_path / name}.npz" for name in ("prediction", "truth")]
        code = score_geometry.main([*files, *flags])
        text = capsys.readouterr()
        return (json.loads(text.out, parse_constant=_reject) if code == 0 else text.err), code

    return start


def similar(truth, scale=0.25):
    """The same scene in another unit and frame: what a perfect model without metric scale says."""
    common = np.eye(4)
    common[:3, :3], common[:3, 3] = Rotation.random(random_state=1).as_matrix(), [1, -2, 3]
    poses = common @ truth["camera_to_world"]
    poses[:, :3, 3] *= scale
    depth = np.where(truth["depth"] > 0, truth["depth"], 9.0) * scale
    return {"depth": depth, "intrinsics": truth["intrinsics"], "camera_to_world": poses, "images": np.zeros(3)}


def test_a_scene_in_another_frame_and_unit_is_perfect_after_sim3(score, truth):
    flags = (
        "--depth_alignment",
        "none",
        "scale",
        "scale_per_image",
        "--f_score",
        "0.01",
        "0.5",
        "--pose_auc",
        "5",
        "10",
    )
    result, code = score(similar(truth), *flags, "--alignment", "none", "se3", "sim3")
    assert code == 0 and result["counts"] == {
        "pixels": VIEWS * HEIGHT * WIDTH - 12, "pixels_without_prediction": 0,
        "views": 4, "views_without_prediction": 0,
    }  # fmt: skip
    assert list(result["depth"]) == ["none", "scale", "scale_per_image"]
    assert result["depth"]["none"]["abs_rel"] == pytest.approx(0.75) and result["depth"]["scale"]["abs_rel"] < 1e-12
    assert result["depth"]["scale_per_image"]["n_images"] == 4
    assert result["pose"]["auc10_exact_max"] > 0.999 and result["pose"]["auc5_hist_max"] == 1
    assert "auc30_hist_max" not in result["pose"] and result["pose"]["n_pairs"] == 6
    path, points, normals = result["trajectory"], result["points"], result["normals"]
    assert path["ate_rmse_sim3"] < 1e-9 < path["ate_rmse_se3"] < path["ate_rmse_none"]
    assert path["scale_sim3"] == pytest.approx(4) == points["sim3"]["scale"]
    assert points["sim3"]["chamfer_sum"] < 1e-9 and points["sim3"]["f_score_0.01"] == 1 > points["se3"]["f_score_0.01"]
    assert points["sim3"]["normal_consistency_abs"] == pytest.approx(1)
    assert normals["sim3"]["angle_mean_deg"] < 1e-4 < 10 < normals["none"]["angle_mean_deg"]
    assert result["conventions"]["scene_scale"] == 1.0


def test_pixels_and_views_without_a_prediction_are_left_out_and_counted(score, truth):
    prediction = {**similar(truth, 1.0), "camera_ok": np.array([True, True, False, True])}
    prediction["depth"][0, :6] = np.nan
    result, _ = score(prediction)
    assert (
        result["counts"]["pixels_without_prediction"] == 6 * WIDTH and result["counts"]["views_without_prediction"] == 1
    )
    assert result["depth"]["none"]["abs_rel"] < 1e-12
    assert result["pose"]["n_pairs"] == 3 and result["pose"]["rta_5_unfolded"] == 1
    assert result["trajectory"]["n_frames"] == 3 and result["trajectory"]["n_pairs"] == 1
    points = result["points"]["sim3"]
    assert points["accuracy_mean"] < 1e-9 < 0.01 < points["completeness_mean"] and points["recall_0.05"] < 1


def test_little_or_nothing_in_common_is_null_not_nan(score, truth):
    nothing = {**similar(truth), "valid": np.zeros((VIEWS, HEIGHT, WIDTH), bool), "camera_ok": np.zeros(VIEWS, bool)}
    result, code = score(nothing, "--depth_alignment", "scale_shift", "scale_shift_per_image")
    assert code == 0
    for part in (*result["depth"].values(), result["pose"], result["trajectory"]):
        assert {value for key, value in part.items()} <= {None, 0}
    assert result["points"]["sim3"]["n"] == result["normals"]["none"]["n"] == 0
    assert result["points"]["none"]["chamfer_sum"] is None
    one = {name: array[0] for name, array in similar(truth).items() if name != "images"}
    result, _ = score(one, truth={name: array[0] for name, array in truth.items()})
    assert result["depth"]["median_ratio"]["abs_rel"] < 1e-12
    assert result["pose"]["n_pairs"] == 0 and result["pose"]["auc30_hist_max"] is None
    assert result["trajectory"]["ate_rmse_sim3"] is None and result["trajectory"]["n_frames"] == 1
    assert result["points"]["sim3"]["chamfer_sum"] < 1e-9
    pixels = np.zeros((VIEWS, HEIGHT, WIDTH), bool)
    pixels[1, 4, 4:6] = True
    result, _ = score({**similar(truth), "valid": pixels})
    assert result["points"]["sim3"]["n"] == 0 and result["points"]["none"]["n"] == 2, "two points fix no similarity"
    assert result["normals"]["none"]["angle_mean_deg"] == 90.0, "two pixels have no normal, the truth's has"
    only_depth, _ = score({"depth": similar(truth)["depth"]})
    assert only_depth["pose"] is only_depth["points"] is only_depth["normals"] is None
    assert only_depth["depth"]["median_ratio"]["abs_rel"] < 1e-12


def test_maps_of_another_size_are_brought_to_the_others(score, truth):
    """A plane that no view looks at askew: its depth is the same at any size, its points are on the plane."""
    flat = {**truth, "depth": np.full((VIEWS, HEIGHT, WIDTH), 2.0)}
    flat["depth"][1, 4, 7] = 8.0
    small = {**flat, "depth": np.full((VIEWS, 4, 8), 2.0), "intrinsics": flat["intrinsics"] * [[0.5], [1 / 3], [1]]}
    small["depth"][1, 1, 3] = 8.0  # its centre lies on pixel (4.5, 7), which is (4, 7) of the large map
    text, code = score(small, truth=flat)
    assert code == 2 and "(4, 4, 8), the truth's (4, 12, 16); resize one of them (--resize)" in text
    large, _ = score(small, "--resize", "prediction", truth=flat)
    assert large["counts"]["pixels"] == VIEWS * HEIGHT * WIDTH and large["conventions"]["resized"] == "prediction"
    wrong = np.zeros((HEIGHT, WIDTH))  # 3 x 2 pixels take the small one; one of them is right
    wrong[3:6, 6:8] = 3.0
    wrong[4, 7] = 0.0
    assert large["depth"]["none"]["abs_rel"] == pytest.approx(wrong.sum() / (VIEWS * HEIGHT * WIDTH))
    reduced, _ = score(small, "--resize", "truth", truth=flat)
    assert reduced["counts"]["pixels"] == VIEWS * 4 * 8
    assert reduced["depth"]["none"]["abs_rel"] == 0, "the small pixel's centre lies on the one that is right"
    assert reduced["points"]["none"]["chamfer_sum"] < 1e-9, "intrinsics follow the maps"


def test_mistakes_name_the_file_and_the_field(score, truth, tmp_path, capsys):
    good = similar(truth)
    mirrored = good["camera_to_world"].copy()
    mirrored[1, :3, 0] *= -1
    for change, message in (
        ({"depth": good["depth"][:, ::2]}, "resize one of them"),
        ({"depth": good["depth"][:3]}, "intrinsics has shape (4, 3, 3), expected (3, 3, 3)"),
        ({"camera_to_world": mirrored}, "camera_to_world of view 1 is no rigid motion"),
        ({"intrinsics": -good["intrinsics"]}, "focal lengths"),
        ({"depth": np.full(good["depth"].shape, "x")}, "depth is <U1, expected numbers"),
    ):
        text, code = score({**good, **change})
        assert code == 2 and message in text and text.count("\n") == 1, text
    text, code = score({"image": np.zeros(3)})
    assert code == 2 and "prediction.npz" in text and "it needs depth, points or camera_to_world" in text
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("text.npz", "one.npy", "none.npz"):
        files = ["--prediction", str(tmp_path / name), "--truth", str(tmp_path / name)]
        assert score_geometry.main(files) == 2
        assert str(tmp_path / name) in capsys.readouterr().err
    for flags in (["--depth_alignment", "mean"], ["--pose_auc", "2.5"], ["--pose_auc", "0"], ["--f_score", "-1"]):
        with pytest.raises(SystemExit) as exit_info:
            score_geometry.main(["--prediction", "a", "--truth", "b", *flags])
        assert exit_info.value.code == 2


def test_the_command_writes_a_file_and_needs_no_jax(truth, tmp_path):
    for name, arrays in (("p", similar(truth)), ("t", truth)):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    code = (
        "import sys; from experiments import score_geometry; "
        "code = score_geometry.main(['--prediction', 'p.npz', '--truth', 't.npz', '--out', 'new/scores.json']); "
        "assert code == 0 and 'jax' not in sys.modules"
    )
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "new/scores.json").read_text())["depth"]["median_ratio"]["n"] > 0


def test_true_points_may_be_given_instead_of_depth(score, truth):
    cloud = geometry.points_from_depth(truth["depth"], truth["intrinsics"], truth["camera_to_world"])
    cloud[truth["depth"] == 0] = np.nan
    result, _ = score({"points": cloud + 0.1}, "--alignment", "none", "se3", truth={"points": cloud})
    assert result["points"]["se3"]["chamfer_half_sum"] < 1e-9 < result["points"]["none"]["chamfer_half_sum"]
    assert result["depth"] is None and result["points"]["none"]["n"] == VIEWS * HEIGHT * WIDTH - 12


def test_evaluate_takes_the_same_flags():
    flags = evaluate.parser().parse_args(
        ["--model", "x", "--depth_alignment", "scale_shift_disparity", "--pose_auc", "7"]
    )
    assert flags.depth_alignment == ["scale_shift_disparity"] and flags.pose_auc == [7]
    flags = evaluate.parser().parse_args(["--model", "x"])
    assert flags.depth_alignment == [] and flags.pose_auc == [3, 5, 15, 30]
