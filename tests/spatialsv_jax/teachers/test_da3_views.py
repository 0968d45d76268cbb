"""What views may and may not change in Depth Anything 3: padding, order, the reference, chunks; blocks against float64 NumPy."""

import json

import da3_oracle
import da3_tensors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import teacher_runs as runs
from safetensors.numpy import load_file

from spatialsv_jax.teachers.da3 import hf
from spatialsv_jax.teachers.da3.model import DualHead
from spatialsv_jax.teachers.da3.presets import Sizes
from spatialsv_jax.teachers.dpt import in_view_chunks

ODD = Sizes(32, 12, 2, 88, 3, (5, 7, 9, 11), 8, (4, 8, 8, 12), mlp="swiglu", head_precision="highest")


def pixels(views=3, size=(28, 42), seed=0):
    return np.random.default_rng(seed).standard_normal((1, views, *size, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A model in GIANT's form (SwiGLU, alt_start odd) and its tensors."""
    folder = tmp_path_factory.mktemp("odd")
    values = da3_tensors.random_values(da3_tensors.tensors(ODD))
    da3_tensors.write(folder, values)
    stated = {
        "backbone": {
            "embed_dim": 32, "depth": 12, "num_heads": 2, "ffn": "swiglu", "out_layers": [5, 7, 9, 11],
            "alt_start": 3, "qknorm_start": 3, "rope_start": 3,
        },
        "head": {"features": 8, "out_channels": [4, 8, 8, 12]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(stated))
    found = hf.load(folder, head_precision="highest")
    assert found.model.sizes == ODD
    return found, values


@pytest.mark.parametrize("reference", [0, 2])
def test_an_odd_start_with_swiglu_against_numpy(odd, reference):
    found, values = odd
    predictions, seen = runs.run(found, pixels(), reference=jnp.asarray([reference]))
    states = runs.any_view_states(found, predictions, seen)
    wanted = da3_oracle.taps(values, ODD, pixels()[0].astype(np.float64), reference)
    for number, (patches, rows) in enumerate(wanted):
        assert runs.error(states[f"tap_{number}_patch"][0], patches) < 2e-5
        assert runs.error(states[f"tap_{number}_camera"][0], rows) < 2e-5


def test_an_even_start_against_numpy():
    """The same oracle on the committed model, at a size of pictures that the references do not have."""
    found = runs.imported("da3")
    values = load_file(runs.GOLDENS / "da3/model.safetensors")
    shown = pixels(size=(70, 28), seed=1)
    predictions, seen = runs.run(found, shown, reference=jnp.asarray([1]))
    states = runs.any_view_states(found, predictions, seen)
    wanted = da3_oracle.taps(values, found.model.sizes, shown[0].astype(np.float64), 1)
    for number, (patches, rows) in enumerate(wanted):
        assert runs.error(states[f"tap_{number}_patch"][0], patches) < 2e-5
        assert runs.error(states[f"tap_{number}_camera"][0], rows) < 2e-5


def test_padding_views_change_nothing(odd):
    """Four views of which the first and the third are padding, against the two others alone."""
    found, _ = odd
    full, valid = pixels(views=4), np.array([[False, True, False, True]])
    full[:, ~valid[0]] *= 30
    for given in (None, some_cameras(4)):
        names = ("features", "pose", "reference")  # the head sees each view by itself
        alone = None if given is None else tuple(part[:, valid[0]] for part in given)
        wanted = runs.predict(found, full[:, valid[0]], *names, cameras=alone)
        made = runs.predict(found, full, *names, view_valid=jnp.asarray(valid), cameras=given)
        assert made.pop("reference").tolist() == [1] and wanted.pop("reference").tolist() == [0]
        for name in wanted:
            assert runs.error(made[name][:, valid[0]], wanted[name]) < 1e-5, name
    unmasked = runs.predict(found, full, "features", cameras=given)
    assert runs.error(unmasked["features"][:, valid[0]], wanted["features"]) > 1e-3


def some_cameras(views):
    poses = np.tile(np.eye(4, dtype=np.float32), (1, views, 1, 1))
    poses[0, :, :3, 3] = np.random.default_rng(3).standard_normal((views, 3))
    matrix = np.array([[40, 0, 21], [0, 40, 14], [0, 0, 1]], np.float32)
    return jnp.asarray(poses), jnp.asarray(np.tile(matrix, (1, views, 1, 1)))


def test_the_reference_among_valid_views_only():
    """Chosen by itself, it is the one that is chosen without the padding."""
    found = runs.imported("da3")
    full = pixels(views=5, seed=4)
    valid = np.array([[True, False, True, True, True]])
    wanted = runs.predict(found, full[:, valid[0]], "features", "reference")
    made = runs.predict(found, full, "features", "reference", view_valid=jnp.asarray(valid))
    assert np.flatnonzero(valid[0])[wanted["reference"][0]] == made["reference"][0]
    assert runs.error(made["features"][:, valid[0]], wanted["features"]) < 1e-5


def test_order_matters_through_the_reference_only(odd):
    found, _ = odd
    shown, order = pixels(), [2, 0, 1]
    made = lambda pixels, reference: runs.predict(found, pixels, "features", "pose", reference=jnp.asarray([reference]))
    first, moved, other = made(shown, 0), made(shown[:, order], 1), made(shown, 1)
    for name in ("features", "pose"):
        assert runs.error(moved[name], first[name][:, order]) < 1e-5
        assert runs.error(other[name], first[name]) > 1e-3


def test_given_cameras_leave_the_reference_without_effect(odd):
    found, _ = odd
    given = some_cameras(3)
    made = [
        runs.predict(found, pixels(), "features", cameras=given, reference=jnp.asarray([number]))["features"]
        for number in (0, 2)
    ]
    np.testing.assert_array_equal(*made)
    assert runs.predict(found, pixels(), "reference", cameras=given)["reference"].tolist() == [0]


def test_views_in_chunks(odd):
    """The head on a few views at a time, also where they do not come out even."""
    found, _ = odd
    grids = [
        jnp.asarray(np.random.default_rng(level).standard_normal((2, 5, 2, 3, 64)), jnp.float32) for level in range(4)
    ]
    head, params = DualHead(ODD), {"params": found.params["head"]}
    wanted = jax.jit(head.apply)(params, grids)
    made = jax.jit(nn.apply(lambda module, grids: in_view_chunks(module, grids, 2), head))(params, grids)
    for name, value in wanted.items():
        np.testing.assert_allclose(made[name], value, rtol=1e-5, atol=1e-5)


def test_features_are_a_tap(odd):
    found, _ = odd
    fixed = {"reference": jnp.asarray([2])}
    _, seen = runs.run(found, pixels(), **fixed)
    grids, _, _ = runs.out(seen, "backbone")
    made = runs.predict(found, pixels(), "features", **fixed)["features"]
    assert runs.error(made, grids[3].reshape(made.shape)) < 1e-5


def test_programs_do_not_grow_with_depth():
    """Twice the blocks, the same number of operations to compile."""
    sizes = []
    for layers in (12, 24):
        deep = Sizes(32, layers, 2, 64, 4, (5, 7, 9, layers - 1), 8, (4, 8, 8, 12))
        model = hf.AnyViewModel(deep)
        params = hf.parameter_shapes(model, jax.ShapeDtypeStruct((1, 1, 28, 28, 3), jnp.float32))
        call = lambda params, pixels: model.apply({"params": params}, pixels)
        text = jax.jit(call).lower(params, jax.ShapeDtypeStruct((1, 2, 28, 28, 3), jnp.float32)).as_text()
        sizes.append(text.count("\n"))
    assert sizes[1] < 1.05 * sizes[0]
