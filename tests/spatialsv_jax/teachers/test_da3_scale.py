"""Metres, the nested pair's scale and sky, against NumPy."""

import jax.numpy as jnp
import numpy as np

from spatialsv_jax.teachers.da3.scale import fill_sky, join_nested, metric_depth

RNG = np.random.default_rng(0)
SHAPE = (1, 2, 8, 10)


def test_metres():
    depth = jnp.ones((1, 1, 2, 2))
    matrix = jnp.asarray([[[[200.0, 0, 1], [0, 400, 1], [0, 0, 1]]]])
    np.testing.assert_allclose(metric_depth(depth, matrix), 1.0)  # (200 + 400) / 2 / 300


def test_sky_is_filled_per_sample():
    depth, sky = RNG.uniform(1, 5, SHAPE).astype(np.float32), RNG.uniform(0, 0.6, SHAPE).astype(np.float32)
    sky[0, 0, 0, 0] = 0.3
    found = np.asarray(fill_sky(jnp.asarray(depth), jnp.asarray(sky)))
    is_sky = sky >= np.float32(0.3)
    assert is_sky[0, 0, 0, 0]
    np.testing.assert_allclose(found[is_sky], np.quantile(depth[~is_sky], 0.99), rtol=1e-5)
    np.testing.assert_array_equal(found[~is_sky], depth[~is_sky])
    valid = jnp.asarray([[True, False]])
    found = np.asarray(fill_sky(jnp.asarray(depth), jnp.asarray(sky), valid))
    np.testing.assert_allclose(found[0, 0][is_sky[0, 0]], np.quantile(depth[0, 0][~is_sky[0, 0]], 0.99), rtol=1e-5)


def test_ten_pixels_of_sky_are_none():
    depth, sky = jnp.asarray(RNG.uniform(1, 5, SHAPE), jnp.float32), np.zeros(SHAPE, np.float32)
    sky.reshape(-1)[:10] = 1
    np.testing.assert_array_equal(fill_sky(depth, jnp.asarray(sky)), depth)
    sky.reshape(-1)[:11] = 1
    assert (np.asarray(fill_sky(depth, jnp.asarray(sky))) != np.asarray(depth)).sum() == 11
    np.testing.assert_array_equal(fill_sky(depth, jnp.asarray(1 - 0 * sky)), depth)


def nested():
    depth = RNG.uniform(1, 3, SHAPE).astype(np.float32)
    poses = np.tile(np.eye(4, dtype=np.float32), (1, 2, 1, 1))
    poses[0, 1, :3, 3] = (1, 2, 3)
    matrix = np.array([[150, 0, 5], [0, 150, 4], [0, 0, 1]], np.float32)
    any_view = {
        "depth": depth,
        "depth_confidence": RNG.uniform(1, 4, SHAPE).astype(np.float32),
        "camera_to_world": poses,
        "intrinsics": np.tile(matrix, (1, 2, 1, 1)),
        "pose": np.ones((1, 2, 9), np.float32),
        "ray": np.ones((1, 2, 4, 5, 6), np.float32),
    }
    metric = {
        "depth": (7 * depth * RNG.uniform(0.8, 1.2, SHAPE)).astype(np.float32),
        "sky": (RNG.random(SHAPE) < 0.2).astype(np.float32),
    }
    any_view["depth"][0, 0, 0, 0], metric["depth"][0, 0, 0, 1] = 1e-4, 1e-3
    return any_view, metric


def test_the_nested_scale():
    any_view, metric = nested()
    found = join_nested(*({name: jnp.asarray(value) for name, value in part.items()} for part in (any_view, metric)))
    depth, metres, sky = any_view["depth"], metric["depth"] * 150 / 300, metric["sky"] >= 0.3
    confidence = any_view["depth_confidence"]
    used = ~sky & (confidence >= np.median(confidence[~sky])) & (depth > 1e-3) & (metres > 1e-2)
    scale = (depth[used] * metres[used]).sum() / (depth[used] ** 2).sum()
    np.testing.assert_allclose(found["scale"], scale, rtol=1e-5)
    assert abs(scale - 3.5) < 0.2
    np.testing.assert_allclose(np.asarray(found["depth"])[~sky], scale * depth[~sky], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(found["depth"])[sky], np.quantile(scale * depth[~sky], 0.99), rtol=1e-5)
    np.testing.assert_allclose(found["camera_to_world"][0, 1, :3, 3], scale * np.array([1, 2, 3]), rtol=1e-5)
    np.testing.assert_allclose(found["pose"][0, 0], [scale] * 3 + [1] * 6, rtol=1e-5)
    np.testing.assert_allclose(found["ray"][0, 0, 0, 0], [scale] * 3 + [1] * 3, rtol=1e-5)


def test_the_nested_scale_of_valid_views():
    any_view, metric = nested()
    alone = [{name: value[:, :1] for name, value in part.items()} for part in (any_view, metric)]
    wanted = join_nested(*({name: jnp.asarray(value) for name, value in part.items()} for part in alone))
    any_view["depth"][:, 1], metric["depth"][:, 1] = 100, 1
    made = join_nested(
        *({name: jnp.asarray(value) for name, value in part.items()} for part in (any_view, metric)),
        jnp.asarray([[True, False]]),
    )
    np.testing.assert_allclose(made["scale"], wanted["scale"], rtol=1e-5)
    np.testing.assert_allclose(made["depth"][:, :1], wanted["depth"], rtol=1e-5)


def test_far_sky_is_limited():
    any_view, metric = nested()
    metric["depth"] *= 1e4
    found = join_nested(*({name: jnp.asarray(value) for name, value in part.items()} for part in (any_view, metric)))
    np.testing.assert_allclose(np.asarray(found["depth"])[metric["sky"] >= 0.3], 200)
