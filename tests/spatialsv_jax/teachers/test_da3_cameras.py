"""Depth Anything 3's nine numbers of a camera, its encoder's input and its decoder, against scipy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from spatialsv_jax.geometry import invert_pose
from spatialsv_jax.partitioning import create
from spatialsv_jax.teachers.da3 import cameras
from spatialsv_jax.teachers.da3.cameras import CameraDecoder, CameraEncoder
from spatialsv_jax.teachers.da3.scale import adopt_cameras

SIZE = (56, 70)


def poses(views=4, seed=0):
    rng = np.random.default_rng(seed)
    found = np.tile(np.eye(4), (1, views, 1, 1))
    found[0, :, :3, :3] = Rotation.random(views, random_state=seed).as_matrix()
    found[0, :, :3, 3] = rng.standard_normal((views, 3))
    return found


def matrices(views=4, fx=60.0, fy=80.0):
    return np.tile(np.array([[fx, 0, 35.0], [0, fy, 28.0], [0, 0, 1]]), (1, views, 1, 1))


def test_encoding():
    """Centre and rotation of the camera in the world (not the inverse), and the vertical field of view first."""
    given = poses()
    found = np.asarray(cameras.encode_cameras(jnp.asarray(given), jnp.asarray(matrices()), SIZE))[0]
    np.testing.assert_allclose(found[:, :3], given[0, :, :3, 3], atol=1e-6)
    np.testing.assert_allclose(Rotation.from_quat(found[:, 3:7]).as_matrix(), given[0, :, :3, :3], atol=1e-6)
    assert (found[:, 6] >= 0).all()
    np.testing.assert_allclose(found[:, 7:], [[2 * np.arctan(28 / 80), 2 * np.arctan(35 / 60)]] * 4, rtol=1e-6)


def test_round_trip_and_any_length_of_the_quaternion():
    given = poses()
    encoding = np.array(cameras.encode_cameras(jnp.asarray(given), jnp.asarray(matrices()), SIZE))
    encoding[..., 3:7] *= np.array([0.3, -2.0, 5.0, 1.0])[None, :, None]
    pose, intrinsics = cameras.decode_cameras(jnp.asarray(encoding), SIZE)
    np.testing.assert_allclose(pose, given, atol=1e-5)
    np.testing.assert_allclose(intrinsics, matrices(), rtol=1e-5)


def test_a_field_of_view_of_zero_stays_finite():
    _, intrinsics = cameras.decode_cameras(jnp.asarray([0.0, 0, 0, 0, 0, 0, 1, 0, 0.5]), SIZE)
    assert np.isfinite(intrinsics).all()
    np.testing.assert_allclose(intrinsics[1, 1], 28 / 1e-6, rtol=1e-5)


def test_the_zero_quaternion_is_no_rotation():
    pose, _ = cameras.decode_cameras(jnp.asarray([1.0, 2, 3, 0, 0, 0, 0, 0.5, 0.5]), SIZE)
    np.testing.assert_array_equal(pose, [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])


def test_normalised_poses():
    given, valid = poses(5), np.array([[False, True, True, True, True]])
    for mask in (None, valid):
        kept = slice(None) if mask is None else slice(1, None)
        relative = np.linalg.inv(given[0, kept][0]) @ given[0, kept]
        distances = np.sort(np.linalg.norm(relative[:, :3, 3], axis=-1))
        median = distances[(len(distances) - 1) // 2]  # of four: the lower one
        relative[:, :3, 3] /= max(median, 0.1)
        found = cameras.normalise_poses(jnp.asarray(given), None if mask is None else jnp.asarray(mask))
        np.testing.assert_allclose(found[0, kept], relative, atol=1e-5)
    near = poses(3)
    near[..., :3, 3] *= 1e-3
    found = cameras.normalise_poses(jnp.asarray(near))
    relative = np.linalg.inv(near[0, 0]) @ near[0]
    np.testing.assert_allclose(found[0, :, :3, 3], relative[:, :3, 3] / 0.1, atol=1e-5)


def test_the_scale_to_given_cameras():
    """Predicted cameras that are the given ones, moved and twice as far apart: depth is halved."""
    given = poses(5)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = Rotation.random(random_state=5).as_matrix(), (1, 2, 3)
    doubled = given.copy()
    doubled[..., :3, 3] *= 2
    predicted = motion @ doubled
    scale = cameras.scale_to_given(jnp.asarray(predicted), jnp.asarray(given))
    np.testing.assert_allclose(scale, 2, rtol=1e-5)
    broken = predicted.copy()
    broken[0, 2, :3, 3] += 50
    valid = jnp.asarray([[True, True, False, True, True]])
    np.testing.assert_allclose(cameras.scale_to_given(jnp.asarray(broken), jnp.asarray(given), valid), 2, rtol=1e-5)
    names = ("ray", "ray_confidence", "pose")
    predictions = {
        "depth": jnp.ones((1, 5, 2, 2)),
        "camera_to_world": jnp.asarray(predicted),
        **dict.fromkeys(names, 0),
    }
    adopted = adopt_cameras(predictions, jnp.asarray(given), jnp.asarray(matrices(5)))
    np.testing.assert_allclose(adopted["depth"], 0.5, rtol=1e-5)
    np.testing.assert_allclose(adopted["camera_to_world"], given, atol=1e-6)
    assert not set(names) & set(adopted)


def test_decoder():
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 8)), jnp.float32)
    params = create(jax.random.key(0), jax.eval_shape(CameraDecoder().init, jax.random.key(0), rows))
    values = jax.tree.map(np.float64, params["params"])
    linear = lambda x, name: x @ values[name]["kernel"] + values[name]["bias"]
    x = np.maximum(linear(np.maximum(linear(np.float64(rows), "first"), 0), "second"), 0)
    fields = np.maximum(linear(x, "field_of_view"), 0)
    wanted = np.concatenate([linear(x, "translation"), linear(x, "quaternion"), fields], -1)
    np.testing.assert_allclose(jax.jit(CameraDecoder().apply)(params, rows), wanted, atol=1e-5)


def test_the_encoder_has_sixteen_heads_and_masks_views():
    encoding = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 9)), jnp.float32)
    encoder = CameraEncoder(32)
    params = create(jax.random.key(0), jax.eval_shape(encoder.init, jax.random.key(0), encoding))
    assert params["params"]["trunk"]["layers"]["block"]["attention"]["q"]["kernel"].shape == (4, 32, 32)
    assert cameras.ENCODER_HEADS == 16
    masked = jax.jit(encoder.apply)(params, encoding, jnp.asarray([[True, True, False]]))
    np.testing.assert_allclose(masked[:, :2], jax.jit(encoder.apply)(params, encoding[:, :2]), atol=1e-5)
    assert np.abs(masked - jax.jit(encoder.apply)(params, encoding)).max() > 1e-3


def test_world_to_camera_is_the_inverse():
    """What the published program hands out is the inverse of what is decoded."""
    pose, _ = cameras.decode_cameras(jnp.asarray([[1.0, 2, 3, 0.1, 0.2, 0.3, 0.9, 1, 1]]), SIZE)
    np.testing.assert_allclose(invert_pose(pose)[0] @ pose[0], np.eye(4), atol=1e-6)
    np.testing.assert_allclose(pose[0, :3, 3], [1, 2, 3])
