"""Checkpoints come back bit for bit, and damage is noticed and named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax.training import sharding
from spatialsv_jax.training import state as state_lib
from spatialsv_jax.training.checkpoints import CheckpointError, Checkpoints, verify
from spatialsv_jax.training.optimizer import OptimizerConfig, make_optimizer

AXES = {"backbone": {"language": {"kernel": ("embed", "mlp")}}, "lifting": {"bias": ("output",)}}


def _state(mesh_config, width=8, given=None):
    mesh = sharding.make_mesh(mesh_config)
    tx = make_optimizer(OptimizerConfig(), 10)

    def init():
        kernel = jax.random.normal(jax.random.key(3), (width, 4))
        return {"backbone": {"language": {"kernel": kernel}}, "lifting": {"bias": jnp.ones(3)}}

    shapes, _ = state_lib.state_shapes(init, tx, (), AXES, mesh)
    return shapes, state_lib.create_state(init, tx, (), shapes, given)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    _, state = _state(sharding.MeshConfig(data=8))
    checkpoints = Checkpoints(folder)
    checkpoints.save(state, {"data": {"x": "1"}})
    checkpoints.close()
    return folder, state


def test_round_trip_onto_another_mesh_is_exact(saved):
    folder, state = saved
    shapes, _ = _state(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    restored, meta = Checkpoints(folder).restore(shapes)
    assert meta["data"] == {"x": "1"}
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(old, new)
    kernel = restored.params["backbone"]["language"]["kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec("fsdp", "tensor")


def test_params_alone_come_back_as_numpy(saved):
    folder, state = saved
    params, _, step = Checkpoints(folder, create=False).restore_params()
    assert step == 0 and isinstance(params["lifting"]["bias"], np.ndarray)
    np.testing.assert_array_equal(
        params["backbone"]["language"]["kernel"], state.params["backbone"]["language"]["kernel"]
    )


def test_another_architecture_is_one_clear_error(saved):
    shapes, _ = _state(sharding.MeshConfig(data=8), width=16)
    with pytest.raises(CheckpointError, match="does not fit the configured model"):
        Checkpoints(saved[0]).restore(shapes)


def test_damage_names_the_file(saved, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(saved[0], folder)
    assert verify(folder, 0)
    victim = max((folder / "0" / "params").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else -1)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{victim.name} differs from its checksum"):
        Checkpoints(folder, create=False).restore_params()
    victim.unlink()
    with pytest.raises(CheckpointError, match=f"{victim.name} is missing"):
        Checkpoints(folder, create=False).restore_params()


def test_missing_step_lists_those_present(saved):
    with pytest.raises(CheckpointError, match=r"No checkpoint 7 .*\[0\]"):
        Checkpoints(saved[0], create=False).restore_params(7)
    with pytest.raises(CheckpointError, match="No checkpoints at"):
        Checkpoints(saved[0] / "nowhere", create=False)


def test_starting_parameters_must_fit_except_what_is_new():
    mesh = sharding.MeshConfig(data=8)
    shapes, _ = _state(mesh)
    kernel = np.full((8, 4), 7, np.float16)
    given = state_lib.place(
        {"backbone": {"language": {"kernel": kernel}}, "lifting": {"bias": np.zeros(5)}}, shapes.params, ("lifting",)
    )
    _, new = _state(mesh, given=given)
    np.testing.assert_array_equal(new.params["backbone"]["language"]["kernel"], kernel)
    assert new.params["backbone"]["language"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(new.params["lifting"]["bias"], np.ones(3))
    with pytest.raises(ValueError, match=r"(?s)missing: backbone/language/kernel.*unexpected: backbone/other"):
        state_lib.place({"backbone": {"other": kernel}}, shapes.params, ("lifting",))
