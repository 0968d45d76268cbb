"""VGGT against the published program on small random weights: every intermediate and output, and what each mistake would change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vggt_runs as runs
from scipy.spatial.transform import Rotation
from teacher_runs import error

from spatialsv_jax.geometry import points_from_depth
from spatialsv_jax.teachers.position_tables import resize_table
from spatialsv_jax.teachers.vggt.camera_head import CameraHead, decode_cameras
from spatialsv_jax.teachers.vggt.model import DenseHead

TOLERANCE = 1e-4  # of the largest absolute value


def compare(found, wanted):
    """Names whose error exceeds the tolerance."""
    errors = {name: error(runs.cut(found[name]), values) for name, values in wanted.items()}
    return {name: value for name, value in errors.items() if not value <= TOLERANCE}


def test_every_intermediate_and_output_is_the_reference():
    found = runs.states(runs.imported(), *runs.reference_run())
    others = ("images_uint8", "one_view_", "prepare_", "head_only_")
    wanted = {name: values for name, values in runs.reference().items() if not name.startswith(others)}
    assert set(wanted) == set(found) and len(wanted) >= 40
    assert not compare(found, wanted)


def test_one_view_alone():
    predictions = runs.predict(runs.imported(), runs.pictures()[:, :1])
    prefix = "one_view_"
    wanted = {name.removeprefix(prefix): v for name, v in runs.reference().items() if name.startswith(prefix)}
    assert len(wanted) == 7 and not compare(runs.outputs(predictions), wanted)


def camera_head(params, rows):
    sizes = runs.imported().model.sizes
    return CameraHead(sizes.camera_block(), sizes.camera_layers).apply({"params": params}, rows)


def test_the_pose_fed_back_is_not_clipped():
    """These rows give fields of view below 0 in rounds whose result the next one reads."""
    wanted = runs.reference()["head_only_pose_enc_iterations"]
    assert (wanted[:-1, ..., 7:] == 0).any()
    rows = runs.reference()["head_only_camera_tokens"]
    found = jax.jit(camera_head)(runs.imported().params["camera_head"], rows)
    assert error(found, wanted) <= TOLERANCE


def test_gradients_do_not_cross_the_feedback():
    rows = runs.reference()["head_only_camera_tokens"]
    total = lambda params, number: camera_head(params, rows)[number].sum()
    slope = jax.jit(jax.grad(total))
    slopes = [slope(runs.imported().params["camera_head"], number)["empty_pose"] for number in (0, 1)]
    assert np.abs(slopes[0]).max() > 1e-3 and not np.any(slopes[1])


def test_epsilons_of_norms():
    """What an epsilon of 1e-6 or 1e-5 changes is too small to see in outputs."""
    seen = runs.epsilons(runs.imported().model, (1, 2, 28, 28, 3))
    small = {name for name, value in seen.items() if value == 1e-6}
    assert all(value in (1e-6, 1e-5) for value in seen.values())
    assert small == {name for name in seen if name.startswith("encoder/") or name.endswith("/adaptive_norm")}
    ends = {name.rsplit("/", 1)[-1] for name in seen}
    assert ends == {
        "attention_norm", "mlp_norm", "q_norm", "k_norm", "norm", "token_norm", "trunk_norm", "adaptive_norm",
    }  # fmt: skip
    assert {name.split("/")[0] for name in seen} == {
        "encoder", "aggregator", "camera_head", "depth_head", "point_head",
    }  # fmt: skip


def test_residual_units_add_the_clipped_input():
    """With convolutions of 0 the deepest unit gives relu(x), and not x."""
    found, sizes = runs.imported(), runs.imported().model.sizes
    params = jax.tree.map(np.array, found.params["depth_head"])
    deepest = params["pyramid"]["level_3"]
    for name in ("first", "second"):
        deepest["fuse"][name] = jax.tree.map(np.zeros_like, deepest["fuse"][name])
    deepest["mix"] = {"kernel": np.eye(sizes.features, dtype=np.float32), "bias": np.zeros(sizes.features, np.float32)}
    grids = [np.random.default_rng(level).normal(size=(1, 1, 4, 4, 2 * sizes.width)) for level in range(4)]
    options = dict(capture_intermediates=True, mutable=["intermediates"])
    apply = jax.jit(lambda params, grids: DenseHead(sizes, 2).apply({"params": params}, grids, **options)[1])
    seen = apply(params, [jnp.float32(x) for x in grids])["intermediates"]
    lateral, made = runs.out(seen, "reassembly/reduce_3"), runs.out(seen, "pyramid/level_3")
    assert np.min(lateral) < -0.1  # 2 x 2 cells, 4 x 4 with aligned corners
    np.testing.assert_allclose(made[:, ::3, ::3], np.maximum(lateral, 0), atol=1e-6)


def test_the_position_table_is_resized_with_antialiasing():
    table = runs.imported().params["encoder"]["tokens"]["position"]
    for grid in ((4, 5), (25, 37), (40, 12)):
        wanted = jax.image.resize(
            jnp.reshape(table[1:], (37, 37, -1)), (*grid, table.shape[-1]), "cubic", antialias=True
        )
        found = resize_table(table[1:], 37, grid, "antialiased").reshape(wanted.shape)
        assert error(found, wanted) < 1e-4
    other = resize_table(table[1:], 37, (4, 5), "offset").reshape(4, 5, -1)
    assert error(other, resize_table(table[1:], 37, (4, 5), "antialiased").reshape(4, 5, -1)) > 0.1


def test_the_encoders_class_and_registers_are_dropped():
    """The aggregator sees its own special rows and the encoder's patch rows alone."""
    _, seen = runs.reference_run()
    rows, patches = runs.out(seen, "aggregator/special"), runs.out(seen, "encoder/norm")
    assert runs.out(seen, "encoder/tokens").shape[2] == 25 and patches.shape[2] == 20 and rows.shape[2] == 25
    np.testing.assert_array_equal(rows[:, :, 5:], patches)
    special = runs.imported().params["aggregator"]["special"]
    for view, variant in enumerate((0, 1, 1)):
        np.testing.assert_array_equal(rows[0, view, 0], special["camera"][variant])
        np.testing.assert_array_equal(rows[0, view, 1:5], special["registers"][4 * variant : 4 * variant + 4])


def test_taps_are_states_without_a_norm():
    found = runs.imported()
    _, seen = runs.reference_run()
    states = [runs.out(seen, f"aggregator/pairs/layers/{part}") for part in ("within", "across")]
    for number, tap in enumerate(found.model.sizes.taps):
        wanted = np.concatenate([part[tap] for part in states], -1)
        np.testing.assert_array_equal(runs.out(seen, "aggregator")[number], wanted)
    lean = lambda params, pixels: found.model.apply({"params": params}, pixels, points=False)
    made = jax.eval_shape(lean, found.params, runs.pictures())
    assert "depth" in made and not {"points", "points_confidence", "features"} & set(made)


def test_the_sine_embedding_has_the_pictures_aspect():
    """What the reference adds to the third projected map, from the formula in float64."""
    predictions, seen = runs.reference_run()
    found = runs.states(runs.imported(), predictions, seen)["depth_head_resized_3"]
    added = np.moveaxis(found, 1, -1) - runs.out(seen, "depth_head/reassembly/project_2")
    rows, columns, channels = added.shape[1:]
    aspect = 70 / 56
    reach = np.array([aspect, 1.0]) / np.sqrt(aspect**2 + 1)
    for row, column in ((0, 0), (2, 1), (3, 4)):
        place = reach * (2 * np.array([column, row]) / np.array([columns, rows]) - 1 + 1 / np.array([columns, rows]))
        angle = place[:, None] * 100.0 ** (-np.arange(channels // 4) / (channels // 4))
        wanted = 0.1 * np.concatenate([np.sin(angle), np.cos(angle)], -1).ravel()
        np.testing.assert_allclose(added[0, row, column], wanted, atol=2e-6)


def test_cameras_follow_the_projects_conventions():
    """The reference's are world to camera; ours and the nine numbers are camera to world."""
    predictions, _ = runs.reference_run()
    extrinsics = runs.reference()["extrinsics_w2c"].reshape(3, 3, 4)
    for pose, found, wanted in zip(predictions["pose"][0], predictions["camera_to_world"][0], extrinsics, strict=True):
        rotation, centre = wanted[:, :3].T, -wanted[:, :3].T @ wanted[:, 3]
        assert np.abs(rotation - rotation.T).max() > 0.1  # a transposed one would be noticed
        np.testing.assert_allclose(found, [*np.c_[rotation, centre], [0, 0, 0, 1]], atol=1e-5)
        np.testing.assert_allclose(pose[:3], centre, atol=1e-5)
        np.testing.assert_allclose(Rotation.from_quat(pose[3:7]).as_matrix(), rotation, atol=1e-5)
        assert abs(np.linalg.norm(pose[3:7]) - 1) < 1e-5 and pose[6] >= 0
    focal = predictions["intrinsics"][..., (1, 0), (1, 0)]
    np.testing.assert_allclose(focal, np.array([28, 35]) / np.tan(predictions["pose"][..., 7:] / 2), rtol=1e-4)
    assert np.abs(focal[..., 0] - focal[..., 1]).min() > 1
    np.testing.assert_array_equal(predictions["intrinsics"][..., :2, 2], np.broadcast_to([35, 28], (1, 3, 2)))


def test_points_of_depth_lie_half_a_pixel_from_the_reference():
    predictions, _ = runs.reference_run()
    depth, intrinsics, poses = (predictions[name] for name in ("depth", "intrinsics", "camera_to_world"))
    shifted = intrinsics + np.float32([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    wanted = runs.reference()["world_points_from_depth"]
    assert error(runs.cut(points_from_depth(depth, shifted, poses)), wanted) <= TOLERANCE
    assert error(runs.cut(points_from_depth(depth, intrinsics, poses)), wanted) > 3e-3


def test_a_field_of_view_of_zero_gives_a_finite_camera():
    """So does the zero quaternion: the identity."""
    encoding = jnp.zeros((2, 9)).at[0, 6].set(1.0).at[0, 7:].set(jnp.array([0.0, jnp.pi]))
    decode = jax.jit(lambda x: decode_cameras(x, (56, 70)))
    assert all(np.isfinite(values).all() for values in decode(encoding))
    assert (decode(encoding)[2][..., (0, 1), (0, 1)] > 0).all()
    slope = jax.jit(jax.grad(lambda x: sum(jnp.abs(part).sum() for part in decode(x))))(encoding)
    assert np.isfinite(slope).all()


def test_only_the_first_views_place_matters():
    order = np.array([0, 2, 1])
    predictions, _ = runs.reference_run()
    for names, close in ((order, True), (np.array([1, 0, 2]), False)):
        other, _ = runs.run(runs.imported(), runs.pictures()[:, names])
        errors = [error(other[name], predictions[name][:, names]) for name in ("depth", "pose", "points")]
        assert all(value < 1e-5 for value in errors) if close else all(value > 1e-2 for value in errors)


@pytest.mark.parametrize("padding", [3, 0, 1])
def test_views_that_are_not_valid_change_nothing(padding):
    """Wherever they stand: the first valid view is the one with rows of its own."""
    noise = np.random.default_rng(padding).uniform(0, 1, (1, 1, 56, 70, 3)).astype(np.float32)
    pixels = np.insert(runs.pictures(), padding, noise[0], axis=1)
    valid = np.insert(np.ones((1, 3), bool), padding, False, axis=1)
    found = runs.predict(runs.imported(), pixels, view_valid=jnp.asarray(valid))
    wanted, _ = runs.reference_run()
    rounds = found["pose_rounds"][:, valid][:, None]
    assert error(rounds, wanted["pose_rounds"]) < 1e-5
    for name in ("depth", "depth_confidence", "points", "points_confidence", "pose", "camera_to_world", "intrinsics"):
        assert error(found[name][valid][None], wanted[name]) < 2e-5, name
    unmasked = runs.predict(runs.imported(), pixels, view_valid=jnp.ones((1, 4), bool))
    assert error(unmasked["depth"][valid][None], wanted["depth"]) > 1e-2


def test_heads_in_chunks_of_views():
    found = runs.imported()
    pixels = np.random.default_rng(0).uniform(0, 1, (1, 9, 28, 28, 3)).astype(np.float32)
    predictions, seen = runs.run(found, pixels)
    grids = runs.out(seen, "aggregator")[:, :, :, found.model.sizes.special :].reshape(4, 1, 9, 2, 2, -1)
    head = jax.jit(DenseHead(found.model.sizes, 2).apply)
    whole = head({"params": found.params["depth_head"]}, [jnp.asarray(grid) for grid in grids])
    assert error(predictions["depth"], jnp.exp(whole[..., 0])) < 1e-5


def test_bfloat16_backbone():
    """Heads stay float32; the errors are those that docs/teachers.md states for this model."""
    found = runs.predict(runs.imported(dtype="bfloat16"), runs.pictures(), features=3)
    wanted, seen = runs.reference_run()
    assert all(values.dtype == np.float32 for values in found.values())
    errors = {name: error(found[name], wanted[name]) for name in ("depth", "points", "pose_rounds")}
    errors["features"] = error(found["features"], runs.out(seen, "aggregator")[3][:, :, 5:])
    assert all(1e-4 < value < 0.02 for value in errors.values()), errors
