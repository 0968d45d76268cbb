"""The terms that the paper does not have, against float64 NumPy; weights of pixels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax import geometry
from spatialsv_jax.geometry import quaternion_of
from spatialsv_jax.losses import dense, extensions, objective
from spatialsv_jax.losses.base import part_value, reduce

SHAPE = (2, 2, 5, 6)


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(5)
    made = {
        "depth": rng.uniform(0.5, 2, SHAPE),
        "target": rng.uniform(0.5, 2, SHAPE),
        "ray": rng.normal(size=(*SHAPE, 6)),
        "points": rng.normal(size=(*SHAPE, 3)),
        "target_points": rng.normal(size=(*SHAPE, 3)),
        "confidence": 1 + rng.random(SHAPE),
    }
    mask = rng.random(SHAPE) < 0.7
    mask[1, 1] = False
    return {name: value.astype(np.float32) for name, value in made.items()}, mask


def with_nan(value, mask):
    """The values with NaN where they must not be read."""
    return np.where(mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim)), value, np.nan).astype(np.float32)


def test_heads_against_each_other_and_against_the_points(maps):
    values, mask = maps
    wide = {name: value.astype(np.float64) for name, value in values.items()}
    lifted = wide["ray"][..., :3] + wide["depth"][..., None] * wide["ray"][..., 3:]
    dirty = {name: with_nan(value, mask) for name, value in values.items()}
    found = reduce(extensions.consistency_terms(dirty["points"], dirty["depth"], dirty["ray"], mask))
    expected = np.sqrt(((wide["points"] - lifted) ** 2).sum(-1) + 1e-12)[mask].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    found = reduce(extensions.lifted_points_terms(dirty["depth"], dirty["ray"], dirty["target_points"], mask))
    np.testing.assert_allclose(found, np.abs(lifted - wide["target_points"]).sum(-1)[mask].mean(), rtol=1e-6)

    gradients = jax.grad(lambda *a: reduce(extensions.consistency_terms(*a, mask)), (0, 1, 2))(
        *(dirty[name] for name in ("points", "depth", "ray"))
    )
    for gradient in gradients:  # to all three heads, and to none of them where masked
        assert (
            np.isfinite(gradient).all() and np.asarray(gradient)[mask].any() and not np.asarray(gradient)[~mask].any()
        )
    # Heads that agree: the floor of the residual, and no gradient.
    agree = lifted.astype(np.float32)
    value, gradient = jax.value_and_grad(
        lambda p: reduce(extensions.lifted_points_terms(values["depth"], values["ray"], p, mask))
    )(agree)
    assert value < 1e-6 and not np.asarray(gradient).any()
    far = reduce(extensions.lifted_points_terms(values["depth"], values["ray"], agree + 1e4, mask))
    assert far == 100


@pytest.mark.parametrize("balance", [1.0, 0.5, 0.0])
def test_scale_invariant_depth(maps, balance):
    values, mask = maps
    total, number = 0.0, 0
    for sample in range(2):
        d = (np.log(values["depth"].astype(np.float64)) - np.log(values["target"].astype(np.float64)))[sample][
            mask[sample]
        ]
        total, number = total + len(d) * ((d**2).mean() - balance * d.mean() ** 2), number + len(d)
    loss = lambda depth: reduce(
        extensions.scale_invariant_terms(depth, with_nan(values["target"], mask), mask, balance)
    )
    depth = with_nan(values["depth"], mask)
    np.testing.assert_allclose(loss(depth), total / number, rtol=2e-6)
    scaled = loss(depth * np.array([3.0, 0.2], np.float32).reshape(2, 1, 1, 1))
    assert (abs(scaled - loss(depth)) < 1e-6) == (balance == 1)  # a factor per sample is forgiven, or is not
    step = np.float64(1e-3)
    gradient = np.asarray(jax.grad(loss)(depth))
    assert np.isfinite(gradient).all() and not gradient[~mask].any()
    place = tuple(np.argwhere(mask)[0])
    moved = depth.copy()
    moved[place] += step
    np.testing.assert_allclose((loss(moved) - loss(depth)) / step, gradient[place], rtol=0.05, atol=1e-4)


def _quaternion(axis, angle):
    axis = np.asarray(axis, float) / np.linalg.norm(axis)
    return np.array([*(axis * np.sin(angle / 2)), np.cos(angle / 2)])


def _rotation(axis, angle):
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


AXES = [([1, 2, 3], 0.7), ([0, 0, 1], np.pi), ([1, 0, 0], np.pi), ([0, 1, 0], 3.1), ([1, 1, 0], 0.0), ([-1, 2, 0], 2.5)]


@pytest.mark.parametrize("axis, angle", AXES)
def test_quaternions_of_rotations(axis, angle):
    expected = _quaternion(axis, angle)
    found = quaternion_of(_rotation(axis, angle))
    assert min(np.abs(found - expected).max(), np.abs(found + expected).max()) < 1e-7 and found[3] >= 0
    traced = jax.jit(quaternion_of)(_rotation(axis, angle)[None].astype(np.float32))
    assert min(np.abs(traced[0] - expected).max(), np.abs(traced[0] + expected).max()) < 1e-6


def test_camera_vectors():
    rng = np.random.default_rng(6)
    mask = np.array([[True, True], [True, False]])
    poses, pose = np.tile(np.eye(4), (2, 2, 1, 1)), rng.normal(size=(2, 2, 9))
    for place, (axis, angle) in zip(np.ndindex(2, 2), AXES, strict=False):
        poses[place][:3, :3], poses[place][:3, 3] = _rotation(axis, angle), rng.normal(size=3)
    pose[..., 3:7] /= np.linalg.norm(pose[..., 3:7], axis=-1, keepdims=True)
    cameras = np.tile(np.array([[30.0, 0, 6], [0, 20.0, 5], [0, 0, 1]]), (2, 2, 1, 1))
    fov = [2 * np.arctan(10 / 40), 2 * np.arctan(12 / 60)]  # maps of 10 x 12
    sums = np.zeros(3)
    for place, (axis, angle) in zip(np.ndindex(2, 2), AXES, strict=False):
        if mask[place]:
            q, own = _quaternion(axis, angle), pose[place]
            turn = min(np.abs(own[3:7] - q).sum(), np.abs(own[3:7] + q).sum()) if abs(own[3:7] @ q) > 1e-6 else np.nan
            sums += [np.abs(own[:3] - poses[place][:3, 3]).mean(), turn / 4, np.abs(own[7:] - fov).mean()]
    single = lambda array: jnp.asarray(array, jnp.float32)
    cameras[1, 1], poses[1, 1], pose[1, 1] = np.nan, np.nan, np.nan
    parts = extensions.pose_terms(single(pose), single(cameras), single(poses), mask, (10, 12))
    values = [float(part_value(parts[name])) for name in ("translation", "rotation", "fov")]
    np.testing.assert_allclose(values[0], sums[0] / 3, rtol=1e-5)
    np.testing.assert_allclose(values[2], sums[2] / 3, rtol=1e-5)
    np.testing.assert_allclose(values[1], sums[1] / 3, rtol=1e-5)
    np.testing.assert_allclose(reduce(parts), values[0] + values[1] + 0.5 * values[2], rtol=1e-6)
    # A camera from its own vector, with either sign of the quaternion, is perfect; nothing flows from the masked view.
    true = np.concatenate(
        [poses[..., :3, 3], quaternion_of(np.nan_to_num(poses[..., :3, :3])), np.tile(fov, (2, 2, 1))], -1
    )
    true[0, 0, 3:7] *= -1
    loss = lambda p: reduce(extensions.pose_terms(p, single(cameras), single(poses), mask, (10, 12)))
    assert loss(single(true)) < 1e-6
    assert np.isfinite(jax.grad(loss)(single(pose))[mask]).all()
    assert not np.asarray(jax.grad(loss)(single(pose)))[1, 1].any()


def test_metric_scale():
    mask = np.array([True, False, True])
    found = extensions.scale_terms(jnp.asarray([1.0, jnp.nan, 4.0]), jnp.asarray([2.0, 0.0, 4.0]), mask)
    np.testing.assert_allclose(reduce(found), np.log(3 / 2) / 2, rtol=1e-6)
    gradient = jax.grad(lambda s: reduce(extensions.scale_terms(s, jnp.asarray([2.0, 0.0, 4.0]), mask)))(
        jnp.asarray([1.0, jnp.nan, 4.0])
    )
    np.testing.assert_allclose(gradient, [-0.25, 0, 0], rtol=1e-6)  # -1 / (1 + s) / 2; 0 where it is right


def test_averaged_model_teaches_by_its_confidence(maps):
    values, mask = maps
    own = {name: with_nan(values[name], mask) for name in ("depth", "ray", "points")}
    rng = np.random.default_rng(7)
    average = {name: (value + rng.normal(size=value.shape)).astype(np.float32) for name, value in own.items()}
    average |= {f"{name}_confidence": with_nan(values["confidence"], mask) for name in own}
    parts = extensions.ema_terms(own, average, mask)
    weight = 1 - 1 / values["confidence"].astype(np.float64)
    for name in own:
        squared = (own[name].astype(np.float64) - average[name].astype(np.float64)) ** 2
        error = np.sqrt(squared.reshape(*SHAPE, -1).sum(-1) + 1e-12)
        np.testing.assert_allclose(part_value(parts[name]), (error * weight)[mask].sum() / mask.sum(), rtol=1e-5)
    doubt = {**average, **{f"{name}_confidence": np.ones(SHAPE, np.float32) for name in own}}
    assert float(reduce(extensions.ema_terms(own, doubt, mask))) == 0
    gradient = jax.grad(lambda a: reduce(extensions.ema_terms(own, {**average, "depth": a}, mask)))(average["depth"])
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("function, channels", [(dense.depth_terms, 1), (dense.point_terms, 3)])
def test_pixels_count_by_their_weight(function, channels):
    """Two halves of a batch with weights a and b: every part is the mean of the halves' own sums, a and b times."""
    rng = np.random.default_rng(8)
    shape = (2, 1, 16, 16)
    prediction, target = (rng.normal(size=(*shape, channels)).astype(np.float32) for _ in range(2))
    mask, confidence = rng.random(shape) < 0.8, (1 + rng.random(shape)).astype(np.float32)
    weight = np.broadcast_to(np.array([0.4, 1.6], np.float32).reshape(2, 1, 1, 1), shape)
    weighted = function(prediction, target, mask, confidence, 0.2, np.where(mask, weight, np.nan))
    halves = [function(*(a[i : i + 1] for a in (prediction, target, mask, confidence))) for i in range(2)]
    for name, part in weighted.items():
        total = 0.4 * float(halves[0][name].total()) + 1.6 * float(halves[1][name].total())
        np.testing.assert_allclose(part_value(part), total / float(part.count()), rtol=2e-5)
        assert part.count() == halves[0][name].count() + halves[1][name].count()
    ones = function(prediction, target, mask, confidence, 0.2, np.ones(shape, np.float32))
    np.testing.assert_array_equal(reduce(ones), reduce(function(prediction, target, mask, confidence)))


def test_single_pixels_count_by_their_weight():
    """reg by hand, and one pair of neighbours: the later pixel's weight."""
    depth, target = np.zeros((1, 1, 1, 2), np.float32), np.array([[[[1.0, 3.0]]]], np.float32)
    mask, ones = np.ones(depth.shape, bool), np.ones(depth.shape, np.float32)
    parts = dense.depth_terms(depth, target, mask, ones, 0.2, np.array([[[[0.5, 1.5]]]], np.float32))
    np.testing.assert_allclose(part_value(parts["reg"]), (0.5 * 1 + 1.5 * 3) / 2, rtol=1e-6)
    np.testing.assert_allclose(part_value(parts["grad_s0"]), 1.5 * 2 / 2, rtol=1e-6)


def test_settings_of_the_extensions():
    config = objective.ObjectiveConfig(
        text=0, distill=0, depth=0, ray=0, points=0, consistency=0.1, pose=((0, 0.0), (5, 1.0))
    )
    assert objective.active_terms(config) == ("consistency", "pose")
    assert objective.needed_heads("consistency") == ("points", "depth", "ray")
    assert objective.needed_heads("scale") == ("scale",) and objective.needed_heads("text") == ()
    assert objective.needed_heads("depth") == ("depth",)
    with pytest.raises(ValueError, match="scale_invariant_balance must be in"):
        objective.ObjectiveConfig(scale_invariant_balance=2)
    defaults = objective.ObjectiveConfig()
    assert set(objective.active_terms(defaults)) == set(objective.PAPER_TERMS)
    assert geometry.quaternion_of is quaternion_of
