"""The rooms teacher: a small Depth Anything 3 behind the MLLM's call."""

import jax
import numpy as np
import pytest

from experiments.configs import common
from spatialsv_jax import assembly, spec
from spatialsv_jax.partitioning import create
from spatialsv_jax.teacher import SpatialTeacher, TeacherConfig
from spatialsv_jax.teachers.da3.model import AnyViewModel

CONFIG = TeacherConfig(image_size=16, patch_size=4, width=16, heads=2, channels=(4, 4, 4, 4), features=8, unroll=1)
MAPS = ("depth", "depth_confidence", "ray", "ray_confidence", "points", "points_confidence")


@pytest.fixture(scope="module")
def setup():
    batch = spec.fake_batch(dict(B=2, V=3, H=8, W=8, P=4, S=12, Q=1, T=2, A=1, K=1, N=5), (16, 16, 3))
    model = SpatialTeacher(CONFIG)
    params = model.init_params(jax.random.key(0), batch, label_hw=(8, 8))
    return model, params, batch, jax.jit(lambda p, b: model.apply({"params": p}, b, label_hw=(8, 8)))


def test_predictions(setup):
    model, params, batch, run = setup
    found = run(params, batch)
    features = found.pop("teacher_features")
    assert features.shape == (2, 3, 4, 16) and model.grid_hw == (2, 2) and model.feature_width == 16
    spec.check(found, spec.PREDICTIONS, required=MAPS)
    assert set(params) == {"teacher", "lifting"}
    axes = model.logical_axes(batch, label_hw=(8, 8))
    assert axes["teacher"]["pairs"]["layers"]["across"]["mlp"]["up"]["kernel"] == ("layers", "embed", "mlp")
    alone = lambda p, b: model.apply({"params": p}, b, label_hw=(8, 8), lift=False)
    assert jax.tree.map(np.shape, jax.eval_shape(alone, params, batch)) == {"teacher_features": features.shape}


def bilinear(source, target):
    """float64[target,source] weights of a bilinear resize, written pixel by pixel."""
    weights = np.zeros((target, source))
    for pixel in range(target):
        place = min(max((pixel + 0.5) * source / target - 0.5, 0), source - 1)
        below = int(place)
        weights[pixel, below] += 1 - (place - below)
        weights[pixel, min(below + 1, source - 1)] += place - below
    return weights


def resized(maps, size):
    return np.einsum("yh,xw,bvhw...->bvyx...", bilinear(maps.shape[2], size), bilinear(maps.shape[3], size), maps)


def test_the_maps_are_those_of_depth_anything_3(setup):
    """Pictures of 16 pixels enlarged to 4 patches of 14, the published order of calls, and maps at the labels' pixels."""
    _, params, batch, run = setup
    found = run(params, batch)
    model = AnyViewModel(CONFIG.sizes)
    enlarged = resized(batch["pixel_values"].astype(np.float64), 56).astype(np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), enlarged))["params"]
    drawn = create(jax.random.key(1), shapes) | {"backbone": params["teacher"], "head": params["lifting"]}
    made = jax.jit(lambda p, x: model.apply({"params": p}, x, strategy="first", features=3))(drawn, enlarged)
    assert made["reference"].tolist() == [0, 0]
    assert made["depth"].shape == (2, 3, 56, 56) and made["ray"].shape == (2, 3, 32, 32, 6)
    for name in MAPS[:4]:
        np.testing.assert_allclose(found[name], resized(np.asarray(made[name], np.float64), 8), atol=2e-5, rtol=2e-5)
    across = np.asarray(made["features"])[..., 16:].reshape(2, 3, 2, 2, 2, 2, 16)
    np.testing.assert_allclose(found["teacher_features"], across.mean((3, 5)).reshape(2, 3, 4, 16), atol=2e-5)


def test_points_follow_from_depth_and_rays(setup):
    _, params, batch, run = setup
    found = {name: np.asarray(value, np.float64) for name, value in run(params, batch).items()}
    for view in range(3):
        for row, column in ((0, 0), (3, 6)):
            origin, direction = np.split(found["ray"][1, view, row, column], 2)
            expected = origin + found["depth"][1, view, row, column] * direction
            np.testing.assert_allclose(found["points"][1, view, row, column], expected, rtol=1e-5, atol=1e-6)
    less = np.minimum(found["depth_confidence"], found["ray_confidence"])
    np.testing.assert_array_equal(found["points_confidence"], less)


def test_views_see_each_other_but_not_padding(setup):
    _, params, batch, run = setup
    moved = {**batch, "pixel_values": batch["pixel_values"].copy()}
    moved["pixel_values"][:, 2] += 1.0
    plain, changed = run(params, batch), run(params, moved)
    assert np.abs(np.asarray(plain["ray"] - changed["ray"]))[:, 0].max() > 1e-5
    valid = batch["view_valid"].copy()
    valid[:, 2] = False
    plain, changed = (run(params, {**b, "view_valid": valid}) for b in (batch, moved))
    for name, value in plain.items():
        np.testing.assert_array_equal(value[:, :2], changed[name][:, :2])
        assert np.isfinite(value).all()


def test_the_first_valid_view_is_the_world(setup):
    """Its token alone tells views apart: with other views before or behind it, or moved, each view's maps stay."""
    _, params, batch, run = setup
    order = lambda names: {**batch, "pixel_values": batch["pixel_values"][:, names]}
    valid = np.tile([False, True, True], (2, 1))
    plain = run(params, {**batch, "view_valid": valid[:, ::-1]})  # views 0 and 1
    behind = run(params, {**order([2, 0, 1]), "view_valid": valid})
    other = run(params, {**order([2, 1, 0]), "view_valid": valid})
    for name in ("points", "ray", "depth"):
        np.testing.assert_allclose(behind[name][:, 1:], plain[name][:, :2], atol=2e-5, rtol=2e-5)
    assert np.abs(np.asarray(other["points"][:, [2, 1]] - plain["points"][:, :2])).max() > 1e-4
    unmarked = {**params, "teacher": {**params["teacher"], "camera": np.zeros_like(params["teacher"]["camera"])}}
    plain, other = run(unmarked, order([0, 1, 2])), run(unmarked, order([1, 0, 2]))
    np.testing.assert_allclose(plain["points"], other["points"][:, [1, 0, 2]], atol=2e-5, rtol=2e-5)


def test_a_sample_without_a_view_stays_finite(setup):
    _, params, batch, run = setup
    valid = batch["view_valid"].copy()
    valid[1] = False
    assert all(np.isfinite(value).all() for value in run(params, {**batch, "view_valid": valid}).values())


def test_wrong_settings_are_named():
    wrong = {
        "no multiple of patch_size": dict(image_size=60),
        "teacher.width": dict(width=100, heads=6),
        "teacher.alt_start": dict(alt_start=0),
        "teacher: taps": dict(layers=12),
        "teacher: channels": dict(features=10),
    }
    for match, values in wrong.items():
        with pytest.raises(ValueError, match=match):
            TeacherConfig(**values)


def test_runs_of_the_earlier_teacher():
    """Language models saved beside its settings are read; the network itself is named as gone."""
    config = common.get_config().to_dict()
    config["teacher"] = dict(image_size=64, patch_size=8, merge=2, stem="conv", width=128, layers=4, tasks=("depth",))
    assert assembly.read_settings(config).teacher == TeacherConfig()
    with pytest.raises(ValueError, match="config is of an earlier rooms teacher"):
        assembly.read_settings({**config, "model": "teacher"})
