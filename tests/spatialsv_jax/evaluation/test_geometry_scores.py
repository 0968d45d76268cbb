"""Depth, cameras, points, agreement and confidence for predictions whose error is known."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from data_pipelines.loader import evaluation_batches
from spatialsv_jax import geometry, metrics
from spatialsv_jax.evaluation import baselines, camera_scores
from spatialsv_jax.evaluation.geometry_scores import GeometryScores
from spatialsv_jax.evaluation.predictions import outcomes


@pytest.fixture()
def run(records, processor, data_config, make_engine):
    def start(constant=None, change=None, options=(), **engine):
        scores = GeometryScores([constant] if constant else [], *options)
        found = outcomes(make_engine(**engine), evaluation_batches(data_config, processor, records, 4), False)
        rows = [scores.row(outcome if change is None else change(outcome)) for outcome in found]
        return SimpleNamespace(rows=rows, summary=lambda: scores.summary(rows))

    return start


def _constant(records, processor, data_config):
    samples = []
    for batch, rows in evaluation_batches(data_config, processor, records, 1, groups=()):
        sample = {name: batch[name][0] for name in ("depth", "intrinsics", "camera_to_world", "pose_valid")}
        samples.append({**sample, "depth_mask": batch["valid"][0], "setting": rows[0].record.setting, "scene": "x"})
    return baselines.fit_constant(samples), samples


def test_depth_ten_percent_too_deep(run):
    depth = run(depth_factor=1.1).summary()["depth"]
    assert depth["model"]["none"]["abs_rel"] == pytest.approx(0.1, abs=1e-5)
    assert depth["model"]["none"]["delta_1"] == 1.0 and depth["model"]["none"]["n"] == 6
    assert depth["model"]["median_ratio"]["abs_rel"] == pytest.approx(0.0, abs=1e-5)
    assert depth["constant"]["none"] == {**depth["constant"]["none"], "abs_rel": None, "n": 0}
    assert depth["abs_rel_over_constant"] is None


def test_cameras_from_true_rays_are_right_and_walks_stand_alone(run):
    camera = run().summary()["camera"]
    model = camera["all"]["model"]
    assert model["n_pairs"] == 18 and model["rotation_error_deg"] == pytest.approx(0, abs=1e-2)
    assert model["auc30_hist_max"] == pytest.approx(1.0)
    assert camera["all"]["failed_views"] == 0
    assert sorted(camera["by_setting"]) == ["rotation", "walk"]
    walk, turn = (camera["by_setting"][name]["model"] for name in ("walk", "rotation"))
    assert walk["n_pairs_translation"] == 12 and turn["n_pairs_translation"] == 0
    assert turn["translation_error_deg"] is None


def test_constant_is_scored_as_its_own_prediction(run, records, processor, data_config):
    constant, samples = _constant(records, processor, data_config)
    summary = run(constant).summary()
    expected = [
        np.mean(np.abs(constant.depth - sample["depth"])[mask] / sample["depth"][mask])
        for sample in samples
        for mask in [sample["depth_mask"]]
    ]
    assert summary["depth"]["constant"]["none"]["abs_rel"] == pytest.approx(np.mean(expected), rel=1e-5)
    ratio = summary["depth"]["model"]["none"]["abs_rel"] / np.mean(expected)
    assert summary["depth"]["abs_rel_over_constant"] == pytest.approx(ratio, rel=1e-6)
    angles = []
    for sample in samples:
        for first, second in ((0, 1), (0, 2), (1, 2)):
            true, mean = (
                Rotation.from_matrix(poses[first, :3, :3]).inv() * Rotation.from_matrix(poses[second, :3, :3])
                for poses in (sample["camera_to_world"], constant.camera_to_world)
            )
            angles.append(np.degrees((true.inv() * mean).magnitude()))
    mean_pose = summary["camera"]["all"]["mean_pose"]
    assert mean_pose["rotation_error_deg"] == pytest.approx(np.mean(angles), abs=1e-3)
    assert mean_pose["rotation_error_median_deg"] == pytest.approx(np.median(angles), abs=1e-3)
    assert summary["camera"]["all"]["mean_pose_of_setting"]["n_pairs"] == 18


def test_pairs_are_pooled_before_the_area_is_taken(run):
    """A record whose rays are turned by 20 degrees from view to view: AUC is that of all 18 pairs together."""
    turn = Rotation.from_euler("y", [[0], [20], [40]], degrees=True).as_matrix().astype(np.float32)

    def change(outcome):
        if outcome.index != 0:
            return outcome
        ray = outcome.maps["ray"].copy()
        ray[..., 3:] = np.einsum("vij,vhwj->vhwi", turn, ray[..., 3:])
        return dataclasses.replace(outcome, maps={**outcome.maps, "ray": ray})

    model = run(change=change).summary()["camera"]["all"]["model"]
    assert model["rotation_error_deg"] == pytest.approx((20 + 20 + 40) / 18, abs=0.05)
    assert model["rra_15"] == pytest.approx(15 / 18) and model["rra_30"] == pytest.approx(17 / 18)
    assert model["auc30_exact_max"] == pytest.approx((15 + 2 * (1 - 20 / 30)) / 18, abs=2e-3)
    assert model["auc30_hist_max"] == pytest.approx(model["auc30_exact_max"], abs=0.01)


def test_pooling_one_record_is_the_metric_itself():
    rng = np.random.default_rng(7)
    truth, guess = np.tile(np.eye(4), (2, 5, 1, 1))
    truth[:, :3, :3] = Rotation.random(5, random_state=1).as_matrix()
    guess[:, :3, :3] = truth[:, :3, :3] @ Rotation.from_rotvec(0.2 * rng.standard_normal((5, 3))).as_matrix()
    truth[:, :3, 3] = rng.standard_normal((5, 3))
    guess[:, :3, 3] = truth[:, :3, 3] + 0.3 * rng.standard_normal((5, 3))
    truth[1, :3, 3] = truth[0, :3, 3]  # a pair without a baseline
    valid = np.array([True, True, True, False, True])
    expected = metrics.camera_metrics(guess, truth, valid)
    errors = camera_scores.pairs_with_failures(guess, truth, valid, np.ones(5, bool))
    pooled = camera_scores.pooled_metrics([errors], ["scene"])
    assert expected["n_pairs"] == 6 and expected["n_pairs_translation"] == 5
    for name, value in expected.items():
        assert pooled[name] == pytest.approx(value, abs=1e-12), name
    twice = camera_scores.pooled_metrics([errors, errors], ["a", "b"])
    assert twice["auc30_hist_max"] == pytest.approx(expected["auc30_hist_max"]) and twice["n_pairs"] == 12
    nothing = camera_scores.pooled_metrics([], [])
    assert (
        nothing["n_pairs"] == 0 and nothing["auc30_hist_max"] is None and nothing["rotation_error_median_deg"] is None
    )


def test_rays_that_no_camera_fits_count_as_the_worst_error(run):
    def change(outcome):
        ray = outcome.maps["ray"].copy()
        ray[1, ..., 3] *= -1  # mirrored
        return dataclasses.replace(outcome, maps={**outcome.maps, "ray": ray})

    camera = run(change=change).summary()["camera"]["all"]
    assert camera["failed_views"] == 6
    model = camera["model"]
    assert model["n_pairs"] == 18 and model["rotation_error_deg"] == pytest.approx(180 * 2 / 3, abs=0.01)
    assert model["rra_30"] == pytest.approx(1 / 3)
    assert model["translation_error_deg"] == pytest.approx(90 * 2 / 3, abs=0.01)
    assert model["translation_error_deg_unfolded"] == pytest.approx(180 * 2 / 3, abs=0.01)


def test_point_scores_are_those_of_a_nearest_neighbour_search(run, records):
    clouds = []

    def change(outcome):
        labels, mask = outcome.labels, outcome.points_mask
        truth = geometry.points_from_depth(labels["depth"], labels["intrinsics"], labels["camera_to_world"])[mask]
        guess = outcome.maps["points"][mask]
        clouds.append((cKDTree(truth).query(guess)[0].mean(), cKDTree(guess).query(truth)[0].mean()))
        return outcome

    points = run(change=change, shift=0.03).summary()["points"]
    accuracy, completeness = np.mean(clouds, 0)
    assert points["points_head"]["accuracy_mean"] == pytest.approx(accuracy, rel=1e-4)
    assert points["points_head"]["completeness_mean"] == pytest.approx(completeness, rel=1e-4)
    assert points["points_head"]["chamfer_sum"] == pytest.approx(accuracy + completeness, rel=1e-4)
    assert points["points_head_umeyama"]["chamfer_sum"] < points["points_head"]["chamfer_sum"]
    assert points["constant"]["n"] == 0


def test_agreement_of_heads_is_their_distance(run):
    shift = 0.05
    agreement = run(shift=shift).summary()["heads_agreement"]
    assert agreement["median"] == pytest.approx(shift * np.sqrt(3), rel=1e-3)
    assert agreement["mean"] == pytest.approx(shift * np.sqrt(3), rel=1e-3)
    assert run(heads=("depth", "ray")).summary()["heads_agreement"]["n"] == 0


def test_confidence_that_falls_with_depth_is_calibrated_for_an_error_that_grows_with_it(run):
    """Points lie 10 % too far, so the error is proportional to the distance; confidence is 1 + 1/depth."""
    confidence = run(depth_factor=1.1).summary()["confidence"]
    assert confidence["points"]["spearman"] < -0.8
    assert len(confidence["points"]["bins"]) == 10
    assert confidence["depth"]["n"] == 6 * 384  # 768 pixels a record, every second one
    assert confidence["ray"]["bins"][0]["error_mean"] == pytest.approx(0, abs=1e-5)


def test_models_without_heads_and_records_without_labels_are_defined(run):
    summary = run(heads=()).summary()
    assert summary["depth"]["model"]["none"]["abs_rel"] is None and summary["camera"]["all"]["model"]["n_pairs"] == 0
    assert summary["points"]["points_head"]["n"] == 0 and summary["confidence"]["depth"]["n"] == 0

    def strip(outcome):
        labels = {**outcome.labels, "has_geometry": np.asarray(False)}
        return dataclasses.replace(outcome, labels=labels)

    scores = run(change=strip)
    assert all(row["depth_rmse"] is None and row["abs_rel"] is None for row in scores.rows)
    assert scores.summary()["depth"]["model"]["none"]["n"] == 0
    assert GeometryScores().summary([])["records"] == 0


def test_paths_of_true_rays_are_right_and_short_ones_are_undefined(run):
    """Poses off by one similarity: sim3 undoes it, se3 only the frame; records of a turn on the spot have no scale."""

    def change(outcome):
        ray = outcome.maps["ray"].copy()
        ray[..., :3] *= 0.5
        return dataclasses.replace(outcome, maps={**outcome.maps, "ray": ray})

    path = run(change=change).summary()["trajectory"]
    assert path["n"] == 6 and path["pixels"] == 18
    assert path["ate_rmse_sim3"] < 1e-4 < path["ate_rmse_se3"] <= path["ate_rmse_none"]
    assert path["rpe1_rotation_rmse_deg"] < 0.05 and path["rpe1_translation_rmse_sim3"] < 1e-3
    assert path["scale_sim3"] == pytest.approx((4 * 2 + 2 * 1) / 6, rel=1e-3), "four walks, two turns"

    def lose(count):
        def change(outcome):
            labels = {**outcome.labels, "pose_valid": np.arange(3) < count}
            return dataclasses.replace(outcome, labels=labels)

        return run(change=change).summary()["trajectory"]

    two, one, none = lose(2), lose(1), lose(0)
    assert two["n"] == 6 and two["ate_rmse_sim3"] is None and two["ate_rmse_se3"] is not None
    assert one["ate_rmse_none"] is not None and one["rpe1_rotation_rmse_deg"] is None
    assert none["n"] == 0 and none["ate_rmse_none"] is None


def test_normals_of_scaled_points_are_right_and_of_turned_points_are_off_by_the_turn(run):
    normals = run(depth_factor=1.0).summary()["normals"]
    assert (
        normals["depth_and_ray_heads"]["angle_mean_deg"] < 0.1 and normals["depth_and_ray_heads"]["within_11.25"] == 1
    )
    turn = Rotation.from_euler("y", 20, degrees=True).as_matrix().astype(np.float32)

    def change(outcome):
        return dataclasses.replace(outcome, maps={**outcome.maps, "points": outcome.maps["points"] @ turn.T})

    scores = run(change=change).summary()
    normals = scores["normals"]["points_head"]
    vertical = 1 - normals["within_11.25"]  # floor and ceiling keep their normals
    assert 0.2 < vertical < 1 and normals["within_22.5"] > 0.97
    assert normals["angle_mean_deg"] == pytest.approx(20 * vertical, abs=0.7)
    points = scores["points"]
    assert points["points_head_umeyama"]["normal_consistency_abs"] > 0.995, "normals turn with their points"
    assert points["points_head"]["normal_consistency_abs"] < 0.98


def test_further_conventions_stand_beside_the_usual_ones(run):
    summary = run(depth_factor=1.1, options=(["scale_shift_per_image", "scale"], [7])).summary()
    assert list(summary["depth"]["model"]) == ["none", "median_ratio", "scale_shift_per_image", "scale"]
    assert summary["depth"]["model"]["scale_shift_per_image"]["abs_rel"] < 1e-5
    model = summary["camera"]["all"]["model"]
    assert {name for name in model if name.startswith("auc")} == {
        f"auc{t}_{kind}_max{end}"
        for t in (7, 30)
        for kind in ("hist", "exact", "trapezoid")
        for end in ("", "_unfolded")
    }
    with pytest.raises(ValueError, match="Unknown depth alignment 'mean_per_image'"):
        GeometryScores((), ["mean_per_image"])


def numbers(value) -> list[float]:
    """All floats anywhere in a result."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("pixels", [0, 1, 2, 3])
def test_records_with_hardly_a_pixel_are_scored_without_nan(run, pixels):
    def change(outcome):
        flags = np.zeros(outcome.labels["valid"].shape, bool)
        flags.reshape(-1)[np.flatnonzero(outcome.labels["valid"])[:pixels]] = True
        return dataclasses.replace(outcome, labels={**outcome.labels, "valid": flags})

    scores = run(change=change, options=(list(metrics.ALIGNMENTS), [1])).summary()
    umeyama, own = scores["points"]["points_head_umeyama"], scores["points"]["points_head"]
    assert umeyama["n"] == (6 if pixels >= 3 else 0) and own["n"] == (6 if pixels else 0)
    assert own["normal_consistency_abs"] is None and scores["normals"]["points_head"]["n"] == 0
    assert np.isfinite(numbers(scores)).all()


def test_rays_of_one_direction_and_points_in_one_place_are_scored_without_nan(run):
    """A head that has collapsed: no variance anywhere."""

    def change(outcome):
        maps = {name: np.ones_like(value) for name, value in outcome.maps.items()}
        return dataclasses.replace(outcome, maps=maps)

    scores = run(change=change, options=(list(metrics.ALIGNMENTS), [1])).summary()
    assert scores["camera"]["all"]["failed_views"] == 18 and scores["trajectory"]["n"] == 0
    assert scores["normals"]["points_head"]["angle_mean_deg"] == 90
    assert scores["points"]["points_head_umeyama"]["n"] == 6
    assert scores["depth"]["model"]["scale_shift"]["abs_rel"] > 0
    assert np.isfinite(numbers(scores)).all()
