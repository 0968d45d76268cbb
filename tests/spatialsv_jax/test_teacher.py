"""The multi-view teacher."""

import jax
import numpy as np
import pytest

from spatialsv_jax import spec
from spatialsv_jax.teacher import SpatialTeacher, TeacherConfig

CONFIG = TeacherConfig(image_size=16, patch_size=4, width=16, layers=4, heads=2, channels=(4, 4, 4, 4), features=4)


@pytest.fixture(scope="module")
def setup():
    batch = spec.fake_batch(dict(B=2, V=3, H=8, W=8, P=4, S=12, Q=1, T=2, A=1, K=1, N=5), (16, 16, 3))
    batch = {name: batch[name] for name in ("pixel_values", "view_valid")}
    model = SpatialTeacher(CONFIG)
    params = model.init_params(jax.random.key(0), batch, label_hw=(8, 8))
    return model, params, batch, jax.jit(lambda p, b: model.apply({"params": p}, b, label_hw=(8, 8)))


def test_predictions(setup):
    model, params, batch, run = setup
    found = run(params, batch)
    features = found.pop("teacher_features")
    assert features.shape == (2, 3, 4, 16) and model.grid_hw == (2, 2) and model.feature_width == 16
    others = ("answer_logits", "features", "pose", "scene_scale")
    names = tuple(name for name in spec.PREDICTIONS if name not in others)
    spec.check(found, spec.PREDICTIONS, required=names)
    assert set(params) == {"teacher", "lifting"}
    axes = model.logical_axes(batch, label_hw=(8, 8))
    assert axes["teacher"]["layers"]["across"]["up"]["kernel"] == ("layers", "embed", "mlp")


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


def test_the_first_valid_view_is_the_reference(setup):
    _, params, batch, run = setup
    swapped = {**batch, "pixel_values": batch["pixel_values"][:, [1, 0, 2]]}
    plain, other = run(params, batch), run(params, swapped)
    # Only the reference mark tells views apart: without a first view, order does not matter.
    assert np.abs(np.asarray(plain["points"] - other["points"][:, [1, 0, 2]])).max() > 1e-4
    unmarked = jax.tree.map(lambda leaf: leaf, params)
    unmarked["teacher"]["role"] = 0 * params["teacher"]["role"]
    plain, other = run(unmarked, batch), run(unmarked, swapped)
    np.testing.assert_allclose(plain["points"], other["points"][:, [1, 0, 2]], atol=1e-5)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="teacher.layers"):
        TeacherConfig(layers=2)
    with pytest.raises(ValueError, match="teacher.tasks"):
        TeacherConfig(tasks=("normals",))
