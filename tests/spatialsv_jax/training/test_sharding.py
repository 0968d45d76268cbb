"""Logical axes to shardings: rules, unknown names, indivisible sizes, state trees."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from spatialsv_jax.partitioning import LOGICAL_AXES
from spatialsv_jax.training import sharding


def _shape(*dims):
    return jax.ShapeDtypeStruct(dims, np.float32)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))


def test_every_logical_axis_has_a_rule():
    assert set(sharding.RULES) == set(LOGICAL_AXES)


def test_free_axis_takes_what_is_left():
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}


@pytest.mark.parametrize("rows, config, expected", [
    (4, {}, {"data": 4, "fsdp": 1, "tensor": 1}),
    (12, {"tensor": 2}, {"data": 4, "fsdp": 1, "tensor": 2}),
    (12, {"fsdp": 4}, {"data": 1, "fsdp": 4, "tensor": 1}),
    (4, {"data": 2, "tensor": -1}, {"data": 2, "fsdp": 1, "tensor": 4}),
    (3, {"data": 8}, {"data": 8, "fsdp": 1, "tensor": 1}),
    (4, {"context": -1, "data": 2}, {"data": 2, "fsdp": 1, "context": 4, "tensor": 1}),
])  # fmt: skip
def test_a_free_axis_takes_no_more_devices_than_rows_divide_over(rows, config, expected):
    mesh = sharding.make_mesh(sharding.MeshConfig(**config), rows=rows)
    assert dict(mesh.shape) == {"context": 1, **expected}
    if rows == 3:
        with pytest.raises(ValueError, match="3 rows does not divide over the 8 devices"):
            sharding.check_rows(rows, mesh)


@pytest.mark.parametrize("config", [dict(data=3), dict(data=-1, fsdp=-1), dict(data=16, fsdp=1), dict(data=0)])
def test_impossible_mesh_is_an_error(config):
    with pytest.raises(ValueError, match="config.mesh"):
        sharding.make_mesh(sharding.MeshConfig(**config))


def test_rules_split_and_report(mesh):
    shapes = {"a": {"kernel": _shape(8, 12)}, "b": _shape(3, 12), "c": _shape(5)}
    axes = {"a": {"kernel": ("embed", "mlp")}, "b": ("embed", "mlp"), "c": ("norm",)}
    tree, report = sharding.parameter_shardings(shapes, axes, mesh)
    assert tree["a"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert tree["b"].spec == PartitionSpec(None, "tensor")
    assert tree["c"].spec == PartitionSpec(None)
    assert list(report.replicated) == ["b"] and "embed=3" in report.replicated["b"]


def test_unknown_axis_names_the_parameter(mesh):
    with pytest.raises(ValueError, match=r"a/kernel.*'colour'.*Known: layers"):
        sharding.parameter_shardings({"a": {"kernel": _shape(4)}}, {"a": {"kernel": ("colour",)}}, mesh)


def test_moments_take_their_parameters_sharding(mesh):
    params = {"x": {"kernel": jax.ShapeDtypeStruct((4, 4), np.float32)}}
    tree, _ = sharding.parameter_shardings(params, {"x": {"kernel": ("embed", "mlp")}}, mesh)
    params = sharding.with_shardings(params, tree)
    moments = sharding.like_parameters({"mu": params, "count": _shape()}, params, mesh)
    assert moments["mu"]["x"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert moments["count"].spec == PartitionSpec()


def test_bytes_count_one_devices_shard(mesh):
    leaf = jax.ShapeDtypeStruct((8, 4), np.float32, sharding=jax.NamedSharding(mesh, PartitionSpec("fsdp", "tensor")))
    assert sharding.bytes_per_device({"x": leaf}) == 8 * 4 * 4 // 4


def test_batch_that_does_not_divide_is_an_error(mesh):
    with pytest.raises(ValueError, match="6 rows does not divide over the 4 devices"):
        sharding.put_batch({"x": np.zeros((6, 2), np.float32)}, mesh)


def test_context_and_hybrid_meshes():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, context=2, tensor=2))
    assert mesh.axis_names == ("data", "fsdp", "context", "tensor") and mesh.devices.shape == (2, 1, 2, 2)
    with pytest.raises(ValueError, match="slices is 3, but the data axis of 8"):
        sharding.make_mesh(sharding.MeshConfig(data=8, slices=3))
    with pytest.raises(ValueError, match="slices is 2, but the devices form 1 hosts"):
        sharding.make_mesh(sharding.MeshConfig(data=8, slices=2))


def test_large_parameters_are_split_or_the_report_says_why(mesh):
    shapes = {"table": _shape(2**13 + 1, 2**12), "odd": _shape(4097, 4097), "small": _shape(3, 5)}
    axes = {"table": ("vocab", "norm"), "odd": ("vocab", "norm"), "small": ("vocab", "norm")}
    tree, report = sharding.parameter_shardings(shapes, axes, mesh)
    assert tree["table"].spec == PartitionSpec(None, "fsdp")  # no rule splits "norm", but it is large
    assert list(report.large) == ["odd"] and "(4097, 4097)" in report.large["odd"]
    alone = sharding.make_mesh(sharding.MeshConfig(data=8))
    _, report = sharding.parameter_shardings(shapes, axes, alone)
    assert set(report.large) == {"table", "odd"} and "neither fsdp nor tensor" in report.large["odd"]
