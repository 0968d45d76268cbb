"""`spatialsv_jax.load` of a run: where its parameters go, in which type, and a config that does not fit them."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spatialsv_jax
from spatialsv_jax import loading
from spatialsv_jax.training.checkpoints import CheckpointError
from spatialsv_jax.training.sharding import MeshConfig

PICTURES = [np.full((40, 40, 3), 90, np.uint8), np.full((40, 40, 3), 200, np.uint8)]


@pytest.fixture(scope="module")
def loaded(tiny_run):
    return spatialsv_jax.load(tiny_run)


def test_host_mesh_and_type(loaded, tiny_run):
    host = spatialsv_jax.load(tiny_run, on_host=True)
    split = spatialsv_jax.load(tiny_run, MeshConfig(data=1, fsdp=8))
    rough = spatialsv_jax.load(tiny_run, dtype="bfloat16")
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(split.params))
    for one, on_host, shared, short in zip(
        *(jax.tree.leaves(model.params) for model in (loaded, host, split, rough)), strict=True
    ):
        assert isinstance(on_host, np.ndarray) and one.sharding.device_set == {jax.local_devices()[0]}
        np.testing.assert_array_equal(one, on_host)
        np.testing.assert_array_equal(one, np.asarray(shared))
        assert short.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(one, jnp.bfloat16), short)
    depth = loaded.reconstruct(PICTURES).depth
    np.testing.assert_allclose(split.reconstruct(PICTURES).depth, depth, rtol=1e-5)
    np.testing.assert_allclose(rough.reconstruct(PICTURES).depth, depth, rtol=0.1)
    assert (host.step, host.meta) == (loaded.step, loaded.meta)
    with pytest.raises(ValueError, match="dtype is 'int8'; choose"):
        spatialsv_jax.load(tiny_run, dtype="int8")


def test_a_model_that_one_device_cannot_hold_goes_over_all_of_this_process(loaded, tiny_run, monkeypatch):
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.params))
    monkeypatch.setattr(loading, "_device_memory", lambda: 2 * size)
    assert spatialsv_jax.load(tiny_run).mesh is None
    monkeypatch.setattr(loading, "_device_memory", lambda: 2 * size - 2)
    split = spatialsv_jax.load(tiny_run)
    assert dict(split.mesh.shape)["fsdp"] == len(jax.local_devices())
    assert sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(split.params)) < 0.7 * size
    assert spatialsv_jax.load(tiny_run, dtype="bfloat16").mesh is None  # half as large
    np.testing.assert_allclose(split.reconstruct(PICTURES).depth, loaded.reconstruct(PICTURES).depth, rtol=1e-5)


def test_a_config_of_another_size_is_refused(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run / "spatial", tmp_path / "spatial")
    config = json.loads((run / "config.json").read_text())
    config["language"]["mlp_width"] += 8
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"does not fit its config.json:\n.*checkpoint \(.*, model \("):
        spatialsv_jax.load(run)
