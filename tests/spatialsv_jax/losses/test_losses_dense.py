"""Dense losses against per-pixel float64 loops written from the method's formulas."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from spatialsv_jax.losses import dense
from spatialsv_jax.losses.base import Part, _scaled_rank, quantile_filter, reduce

LAM = 0.2
AS_USED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
TERMS = {"depth": (dense.depth_terms, ()), "ray": (dense.ray_terms, (6,)), "points": (dense.point_terms, (3,))}


def example(kind: str, shape=(2, 2, 11, 13), seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    channels = TERMS[kind][1]
    target = rng.normal(size=(*shape, *channels))
    prediction = target + spread * rng.normal(size=target.shape)
    return prediction, target, rng.random(shape) < 0.8, 1 + rng.exponential(size=shape)


def reference_regression(prediction, target, mask, confidence):
    sums, number = np.zeros(2), 0
    for index in np.argwhere(mask):
        index = tuple(index)
        error = min(100.0, np.sqrt(np.sum(np.square(prediction[index] - target[index])) + 1e-12))
        c = confidence[index]
        sums += error, error * c - LAM * np.log(c)
        number += 1
    return {"reg": (sums[0], number), "conf": (sums[1], number)}


def subsampled(stride, *arrays):
    return [array[:, :, ::stride, ::stride] for array in arrays]


def reference_gradient(prediction, target, mask, confidence, stride):
    error, mask, confidence = subsampled(stride, prediction - target, mask, confidence)
    total = 0.0
    for b, v, y, x in np.ndindex(mask.shape):
        for dy, dx in ((0, 1), (1, 0)):
            later = (b, v, y + dy, x + dx)
            if y + dy < mask.shape[2] and x + dx < mask.shape[3] and mask[b, v, y, x] and mask[later]:
                residual = min(100.0, abs(error[later] - error[b, v, y, x]))
                total += residual * confidence[later] - LAM * np.log(confidence[later])
    return total, int(mask.sum())


def reference_normal(prediction, target, mask, confidence, stride):
    prediction, target, mask, confidence = subsampled(stride, prediction, target, mask, confidence)
    up, left, down, right = (-1, 0), (0, -1), (1, 0), (0, 1)
    total, number = 0.0, 0
    for b, v, y, x in np.ndindex(mask.shape):
        for pair in ((up, left), (left, down), (down, right), (right, up)):
            near = [(b, v, y + dy, x + dx) for dy, dx in pair]
            inside = all(0 <= n[2] < mask.shape[2] and 0 <= n[3] < mask.shape[3] for n in near)
            if not (mask[b, v, y, x] and inside and all(mask[n] for n in near)):
                continue
            units = []
            for points in (prediction, target):
                w = np.cross(points[near[0]] - points[b, v, y, x], points[near[1]] - points[b, v, y, x])
                size = np.linalg.norm(w)
                units.append(w / size if size > 1e-8 else np.zeros(3))
            c = confidence[b, v, y, x]
            total += (1 - units[0] @ units[1]) * c - LAM * np.log(c)
            number += 1
    return total, number


def reference(kind, *arrays):
    prediction, target, mask, confidence = (np.asarray(a, np.float64) for a in arrays)
    arrays = prediction, target, mask > 0, confidence
    parts = {key: (*value, 1.0) for key, value in reference_regression(*arrays).items()}
    if kind == "depth":
        for scale in range(4):
            parts[f"grad_s{scale}"] = (*reference_gradient(*arrays, 2**scale), 1 / 4)
    if kind == "points":
        for scale in range(3):
            parts[f"normal_s{scale}"] = (*reference_normal(*arrays, 2**scale), 1 / 3)
    return parts


@pytest.mark.parametrize("kind", TERMS)
@pytest.mark.parametrize("shape", [(2, 2, 11, 13), (1, 1, 3, 2)])
def test_values_counts_and_reduction(kind, shape):
    arrays = example(kind, shape)
    parts = jax.jit(TERMS[kind][0])(*arrays)
    expected = reference(kind, *arrays)
    assert set(parts) == set(expected)
    total = 0.0
    for key, (value, number, coefficient) in expected.items():
        assert float(parts[key].count()) == number, key
        assert parts[key].coefficient == coefficient
        np.testing.assert_allclose(parts[key].total(), value, rtol=2e-5, atol=1e-5, err_msg=key)
        # What a part holds says the same without its methods.
        values = np.where(parts[key].mask, parts[key].values, 0).sum(dtype=np.float64)
        np.testing.assert_allclose(values, value, rtol=2e-5, atol=1e-5, err_msg=key)
        assert np.asarray(parts[key].count_mask).sum() == number
        total += coefficient * value / number if number else 0.0
    np.testing.assert_allclose(dense.reduce(parts), total, rtol=1e-5)


@pytest.mark.parametrize("kind", TERMS)
def test_gradients_by_finite_differences(kind):
    prediction, target, mask, confidence = example(kind, (1, 2, 6, 7), seed=3)
    rng = np.random.default_rng(4)
    moves = rng.normal(size=prediction.shape), rng.normal(size=confidence.shape)

    def value(prediction, confidence):
        parts = reference(kind, prediction, target, mask, confidence)
        return sum(k * s / n for s, n, k in parts.values() if n)

    step = 1e-6
    numeric = value(prediction + step * moves[0], confidence + step * moves[1])
    numeric = (numeric - value(prediction - step * moves[0], confidence - step * moves[1])) / (2 * step)

    def loss(prediction, target, confidence):
        return reduce(TERMS[kind][0](prediction, target, mask, confidence))

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*map(jnp.asarray, (prediction, target, confidence)))
    analytic = sum(np.sum(np.asarray(g, np.float64) * m) for g, m in zip(gradients[::2], moves, strict=True))
    np.testing.assert_allclose(analytic, numeric, rtol=1e-4)
    assert not np.asarray(gradients[1]).any(), "labels get no gradient"
    assert not np.asarray(gradients[0])[~mask].any() and not np.asarray(gradients[2])[~mask].any()


@pytest.mark.parametrize("kind", TERMS)
def test_what_lies_outside_the_mask_has_no_influence(kind):
    arrays = example(kind, (2, 2, 6, 7), seed=5)
    mask = arrays[2]
    step = jax.jit(jax.value_and_grad(lambda p, y, c: reduce(TERMS[kind][0](p, y, jnp.asarray(mask), c)), (0, 1, 2)))
    clean = step(*(jnp.asarray(arrays[i], jnp.float32) for i in (0, 1, 3)))
    for junk in (np.nan, np.inf, -np.inf, 0.0, -3e38):
        dirty = [np.array(arrays[i], np.float32) for i in (0, 1, 3)]
        for array in dirty:
            array[~mask] = junk
        for a, b in zip(jax.tree.leaves(step(*dirty)), jax.tree.leaves(clean), strict=True):
            np.testing.assert_array_equal(a, b)


def test_perfect_prediction():
    for kind, (function, _) in TERMS.items():
        _, target, mask, confidence = example(kind, (1, 2, 9, 8), seed=6)
        target = jnp.asarray(target, jnp.float32)
        # Compiled as users compile: the suite's own flags contract the two equal normals to different roundings.
        parts = jax.jit(function, compiler_options=AS_USED)(target, target, mask, np.ones_like(confidence))
        np.testing.assert_allclose(reduce({"reg": parts.pop("reg")}), 1e-6, rtol=1e-5)
        np.testing.assert_allclose(reduce({"conf": parts.pop("conf")}), 1e-6, rtol=1e-5)
        assert all(float(reduce({key: part})) == 0 for key, part in parts.items())
        gradient = jax.jit(jax.grad(lambda p, *rest, f=function: reduce(f(p, *rest))))(target, target, mask, confidence)
        assert not np.asarray(gradient).any(), kind


def test_constant_point_map_and_degenerate_labels():
    _, target, mask, confidence = example("points", (1, 1, 8, 8), seed=7)
    constant = jnp.full(target.shape, 0.3, jnp.float32)

    def normals(prediction, target):
        parts = dense.point_terms(prediction, target, mask, np.ones_like(confidence))
        return reduce({key: part for key, part in parts.items() if key.startswith("normal")})

    step = jax.jit(jax.value_and_grad(normals))
    for prediction, label in ((constant, target), (jnp.asarray(target, jnp.float32), constant), (constant, constant)):
        value, gradient = step(prediction, label)
        np.testing.assert_allclose(value, 1, rtol=1e-6)
        np.testing.assert_array_equal(gradient, 0)


def test_residuals_are_clamped_at_100_before_the_confidence():
    mask, confidence = np.ones((1, 1, 2, 2), bool), jnp.full((1, 1, 2, 2), 50.0)
    prediction = jnp.asarray([[[[500.0, 0], [0, 0]]]])

    @functools.partial(jax.jit, static_argnums=2)
    def loss(prediction, confidence, key):
        return reduce({key: dense.depth_terms(prediction, jnp.zeros_like(prediction), mask, confidence)[key]})

    value, (by_prediction, by_confidence) = jax.value_and_grad(loss, (0, 1))(prediction, confidence, "conf")
    np.testing.assert_allclose(value, (100 * 50 + 3e-6 * 50) / 4 - LAM * np.log(50), rtol=1e-6)
    assert by_prediction[0, 0, 0, 0] == 0
    np.testing.assert_allclose(by_confidence[0, 0, 0, 0], (100 - LAM / 50) / 4, rtol=1e-6)
    # Both pairs at the outlier end at later pixels: 2 * 100 * 50, over 4 valid pixels.
    pairs = 4 * LAM * np.log(50)
    np.testing.assert_allclose(loss(prediction, confidence, "grad_s0") * 4, (2 * 100 * 50 - pairs) / 4, rtol=1e-6)


def test_best_confidence_is_lambda_over_error():
    errors = np.array([0.01, 0.05, 0.1, 0.19, 0.3, 2.0])
    raw = jnp.zeros(errors.size)
    shape = (1, 1, 1, errors.size)

    def loss(raw):
        confidence = 1 + jnp.exp(raw)
        parts = dense.ray_terms(
            np.tile(errors.reshape(*shape, 1) / np.sqrt(6), 6),
            np.zeros((*shape, 6)),
            np.ones(shape, bool),
            confidence.reshape(shape),
        )
        return reduce({"conf": parts["conf"]}) * errors.size

    @jax.jit
    def fit(raw):
        return jax.lax.fori_loop(0, 6000, lambda _, r: jnp.clip(r - 0.3 * jax.grad(loss)(r), -8, 8), raw)

    np.testing.assert_allclose(1 + np.exp(fit(raw)), np.maximum(1, LAM / errors), rtol=0.03)


def test_empty_masks_give_zero_and_scales_without_pixels_still_count():
    for kind, (function, _) in TERMS.items():
        prediction, target, mask, confidence = example(kind, (1, 1, 8, 8))
        step = jax.jit(jax.value_and_grad(lambda p, *rest, f=function: reduce(f(p, *rest))))
        value, gradient = step(prediction.astype(np.float32), target, np.zeros_like(mask), confidence)
        assert value == 0 and not np.asarray(gradient).any()
    # Pixels of odd rows only: scale 0 alone has pixels, and enters with a quarter.
    prediction, target, mask, confidence = example("depth", (1, 1, 8, 8))
    mask[:, :, ::2] = False
    parts = jax.jit(dense.depth_terms)(prediction, target, mask, confidence)
    parts = {key: part for key, part in parts.items() if "grad" in key}
    assert [float(part.count()) for part in parts.values()] == [mask.sum(), 0, 0, 0]
    value, number = reference_gradient(prediction, target, mask, confidence, 1)
    np.testing.assert_allclose(reduce(parts), value / number / 4, rtol=1e-5)


def test_sharding_does_not_change_values():
    arrays = [jnp.asarray(a, bool if a.dtype == bool else jnp.float32) for a in example("points", (8, 2, 8, 8), seed=8)]
    arrays[2] = arrays[2].at[:3].set(False)  # uneven counts per shard

    @jax.jit
    def step(prediction, target, mask, confidence):
        return jax.value_and_grad(lambda p: reduce(dense.point_terms(p, target, mask, confidence)))(prediction)

    value, gradient = step(*arrays)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = [jax.device_put(array, NamedSharding(mesh, PartitionSpec("data"))) for array in arrays]
    sharded_value, sharded_gradient = step(*placed)
    np.testing.assert_allclose(sharded_value, value, rtol=1e-6)
    np.testing.assert_allclose(sharded_gradient, gradient, rtol=1e-5, atol=1e-8)


def test_quantile_filter_by_sorting():
    rng = np.random.default_rng(9)
    for number, quantile in ((1000, 0.98), (1001, 0.98), (3026, 0.98), (4000, 0.995), (1500, 0.5)):
        values = rng.exponential(size=5000).astype(np.float32)
        values[:40] *= 200
        mask = np.zeros(5000, bool)
        mask[:number] = True
        result, slope = values[mask], np.ones(number)
        if number > 1000:
            result = np.minimum(result, 100)
            threshold = min(np.sort(result)[round(quantile * (number - 1))], 100)
            keep = result < threshold if (result < threshold).sum() > 1000 else np.ones(number, bool)
            slope = (keep & (values[mask] < 100)) / keep.sum()
            result = result[keep]
        else:
            slope = slope / number

        def filtered(values, mask=mask, quantile=quantile):
            return quantile_filter(Part(values, jnp.asarray(mask), jnp.asarray(mask)), quantile)

        part = filtered(jnp.asarray(values))
        assert float(part.count()) == result.size
        np.testing.assert_allclose(reduce({"a": part}), result.astype(np.float64).mean(), rtol=1e-5)
        gradient = jax.grad(lambda v, f=filtered: reduce({"a": f(v)}))(jnp.asarray(values))
        np.testing.assert_allclose(gradient[mask], slope, rtol=1e-5)
    # Ranks are exact, ties to even: 0.98 * 25 = 24.5 -> 24, 0.98 * 75 = 73.5 -> 74.
    last = np.array([0, 1, 25, 75, 125, 20_000_000, 999_999_999])
    assert _scaled_rank(jnp.asarray(last, jnp.int32), 0.98).tolist() == [round(n * 98 / 100) for n in last.tolist()]


def test_parts_are_pytrees_and_shapes_are_checked():
    arrays = example("depth", (1, 1, 4, 4))
    part = dense.depth_terms(*arrays)["grad_s1"]
    assert isinstance(jax.tree.map(lambda x: x, part), Part) and dataclasses.replace(part).coefficient == 0.25
    last_axis = dense.depth_terms(arrays[0][..., None], arrays[1][..., None], *arrays[2:])  # NumPy, no jit
    np.testing.assert_allclose(reduce(last_axis), reduce(jax.jit(dense.depth_terms)(*arrays)), rtol=1e-6)
    prediction, target, mask, confidence = arrays
    with pytest.raises(ValueError, match="'target' has shape"):
        dense.depth_terms(prediction, target[..., :1], mask, confidence)
    with pytest.raises(ValueError, match="'confidence' has shape"):
        dense.depth_terms(prediction, target, mask, confidence[..., None])
    with pytest.raises(ValueError, match="'mask' must be bool"):
        dense.depth_terms(prediction, target, mask.astype(np.float32), confidence)
    with pytest.raises(ValueError, match="'prediction' has shape"):
        dense.point_terms(*example("ray", (1, 1, 4, 4)))
