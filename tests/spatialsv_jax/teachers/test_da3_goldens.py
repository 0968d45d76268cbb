"""Depth Anything 3 against the published program on a tiny random model: every intermediate, float32 and bfloat16."""

import jax.numpy as jnp
import numpy as np
import pytest
import teacher_runs as runs

from spatialsv_jax.processing.pretrained import normalise
from spatialsv_jax.teachers.da3 import cameras, scale
from spatialsv_jax.teachers.da3.preprocess import MEAN, STD

EXACT = 1e-4  # of the largest absolute value
ROUGH = {"any_view": 0.06, "mono": 0.03}  # bfloat16: measured 2.2e-2 and 1.1e-2 at most, docs/teachers.md


def compare(states, wanted, prefix=""):
    """All arrays of the reference under `prefix`: their largest relative errors, by name."""
    errors = {}
    for name, value in wanted.items():
        if name.startswith(prefix):
            found = np.asarray(states[name.removeprefix(prefix)])
            whole = value.dtype.kind != "f" or found.shape == value.shape
            errors[name] = runs.error(found if whole else runs.cut(found), value)
    assert errors
    return errors


def inputs(folder):
    wanted = runs.reference(folder)
    pictures = wanted.pop("pictures")
    return wanted, normalise(pictures.reshape(-1, *pictures.shape[2:]), MEAN, STD).reshape(pictures.shape)


def given_cameras(wanted):
    poses = np.linalg.inv(wanted["extrinsics_w2c_raw"].astype(np.float64)).astype(np.float32)
    return jnp.asarray(poses), jnp.asarray(wanted["intrinsics"])


@pytest.mark.parametrize(("prefix", "views"), [("three/", 3), ("two/", 2), ("one/", 1)])
def test_any_view(prefix, views):
    wanted, pixels = inputs("da3")
    found = runs.imported("da3")
    states = runs.any_view_states(found, *runs.run(found, pixels[:, :views]))
    if views < 3:  # the file states a choice that is not made below three views
        wanted.pop(f"{prefix}ref_idx")
        assert states["ref_idx"].tolist() == [0]
    errors = compare(states, wanted, prefix)
    assert max(errors.values()) < EXACT, errors
    assert len(errors) == (43 if views == 3 else 11)


def test_given_cameras():
    wanted, pixels = inputs("da3")
    found, given = runs.imported("da3"), given_cameras(wanted)
    states = runs.any_view_states(found, *runs.run(found, pixels, cameras=given))
    normal = cameras.normalise_poses(given[0])
    states["cam_enc_pose_encoding"] = cameras.encode_cameras(normal, given[1], pixels.shape[2:4])
    wanted.pop("posed/ref_idx")
    errors = compare(states, wanted, "posed/")
    inverse = np.linalg.inv(np.asarray(normal, np.float64))
    errors["normalised"] = runs.error(inverse, wanted["extrinsics_w2c_normalised"])
    assert max(errors.values()) < EXACT and len(errors) == 16, errors


def test_mono():
    wanted, pixels = inputs("da3_mono")
    found = runs.imported("da3_mono")
    predictions, seen = runs.run(found, pixels)
    states = runs.mono_states(found, predictions, seen)
    filled = scale.fill_sky(jnp.asarray(predictions["depth"]), jnp.asarray(predictions["sky"]))
    states["depth_sky_filled"] = np.asarray(filled)
    errors = compare(states, wanted)
    assert max(errors.values()) < EXACT and len(errors) == 21, errors


@pytest.mark.parametrize("folder", ["da3", "da3_mono"])
def test_bfloat16_backbone(folder):
    """Only the backbone's products are bfloat16; the reference view is given, because it could be another."""
    wanted, pixels = inputs(folder)
    found = runs.imported(folder, dtype="bfloat16")
    if folder == "da3":
        states = runs.any_view_states(found, *runs.run(found, pixels, reference=jnp.asarray([1])))
        errors = compare(states, {name: value for name, value in wanted.items() if "ref_idx" not in name}, "three/")
    else:
        wanted.pop("depth_sky_filled")
        errors = compare(runs.mono_states(found, *runs.run(found, pixels)), wanted)
    limit = ROUGH["any_view" if folder == "da3" else "mono"]
    assert 1e-4 < max(errors.values()) < limit, errors


def test_names_of_the_outputs_are_the_projects():
    """Rays with the origin first, camera to world, and the pose vector that decodes to it."""
    wanted, pixels = inputs("da3")
    found = runs.imported("da3")
    predictions, _ = runs.run(found, pixels)
    assert predictions["ray"].shape == (1, 3, 8 * 4, 8 * 5, 6) and predictions["depth"].shape == (1, 3, 56, 70)
    theirs = wanted["three/ray"]
    ours = np.concatenate([predictions["ray"][..., 3:], predictions["ray"][..., :3]], -1)
    assert runs.error(runs.cut(ours), theirs) < EXACT < runs.error(runs.cut(predictions["ray"]), theirs)
    pose, intrinsics = cameras.decode_cameras(jnp.asarray(predictions["pose"]), (56, 70))
    np.testing.assert_allclose(predictions["camera_to_world"], pose, atol=1e-6)
    np.testing.assert_allclose(predictions["intrinsics"], intrinsics, rtol=1e-6)
    back = predictions["camera_to_world"][:, :, :3] - wanted["three/c2w"]
    assert np.abs(back).max() < 1e-4 < np.abs(wanted["three/c2w"] - wanted["three/extrinsics_w2c"]).max()
