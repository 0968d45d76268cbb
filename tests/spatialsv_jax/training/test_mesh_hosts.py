"""Meshes of several hosts: each holds whole rows, its own ones, in the order in which the loader gives them out."""

import dataclasses
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from spatialsv_jax.planning.chips import CHIPS, parse_topology
from spatialsv_jax.planning.devices import abstract_devices
from spatialsv_jax.training import sharding

# One of two hosts of four devices: rows numbered by record, context over up to all devices of a host.
HOST = """
import sys
import jax
import numpy as np
from spatialsv_jax.training import sharding

port, host = sys.argv[1], int(sys.argv[2])
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(f"localhost:{port}", 2, host)
for context in (1, 2, 4):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=-1, context=context))
    own = np.arange(4 * host, 4 * host + 4)
    rows = sharding.put_batch({"record": own[:, None]}, mesh)["record"]
    assert rows.shape == (8, 1), rows.shape
    for shard in rows.addressable_shards:
        start = shard.index[0].start
        assert np.asarray(shard.data).ravel().tolist() == list(range(start, start + context)), (context, start)
print("done")
"""


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as a mesh needs."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = "tpu"
    device_kind: str = "made up"


def made_up(hosts: int, each: int, slices: int = 1, **kinds) -> list[Device]:
    """Devices of hosts that lie as on a torus: numbered so that those of one host are not neighbours."""
    of = lambda number: number % hosts
    return [Device(n, of(n), of(n) * slices // hosts, **kinds) for n in range(hosts * each)]


def check_rows_of_hosts(mesh) -> None:
    """Counted here anew: one host for each row coordinate, in order, as many coordinates for each."""
    data, fsdp, *_ = mesh.devices.shape
    owners = []
    for row in range(data * fsdp):
        found = {device.process_index for device in mesh.devices[row // fsdp, row % fsdp].flat}
        assert len(found) == 1, (row, found)
        owners += found
    hosts = len(set(owners))
    assert owners == [row * hosts // len(owners) for row in range(len(owners))]
    assert len({device.id for device in mesh.devices.flat}) == mesh.devices.size


SIZES = [
    ("v5e:4x4", dict(data=1, fsdp=4, tensor=4)),
    ("v5e:4x4", dict(data=1, fsdp=16)),
    ("v5e:8x8", dict(data=1, fsdp=16, context=4)),
    ("v5p:4x4x4", dict(data=1, fsdp=16, context=4)),
    ("v5p:4x4x4", dict(data=2, fsdp=8, context=2, tensor=2)),
    ("v6e:16x16", dict(data=1, fsdp=64, tensor=4)),
]


@pytest.mark.parametrize("topology, sizes", SIZES)
def test_each_host_holds_its_rows(topology, sizes):
    devices = parse_topology(topology).devices
    check_rows_of_hosts(sharding.make_mesh(sharding.MeshConfig(**sizes), made_up(devices // 4, 4)))


@pytest.mark.parametrize("chip", ["v5e", "v5p", "v6e"])
def test_hosts_of_a_slice_are_those_of_its_description(chip):
    pytest.importorskip("libtpu")
    for shape in CHIPS[chip].slices:
        topology = parse_topology(f"{chip}:{shape}")
        assert topology.hosts == len({device.process_index for device in abstract_devices(topology)}), shape


@pytest.mark.parametrize("topology, sizes", SIZES)
def test_each_host_of_a_described_slice_holds_its_rows(topology, sizes):
    pytest.importorskip("libtpu")
    check_rows_of_hosts(sharding.make_mesh(sharding.MeshConfig(**sizes), abstract_devices(parse_topology(topology))))


def test_rows_over_several_hosts_are_refused():
    """Four devices a host: 8 for a row would be two hosts', of which each feeds rows of its own; nor may hosts differ."""
    with pytest.raises(ValueError, match=r"4 hosts of \[4\] devices .* context x tensor \(here 8\)"):
        sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2, context=4, tensor=2), made_up(4, 4))
    with pytest.raises(ValueError, match=r"2 hosts of \[2, 4\] devices"):
        sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=3, tensor=2), made_up(2, 4)[:5] + [Device(9, 0)])


def test_rows_that_hosts_share_or_that_lie_apart_are_found():
    """Hosts of 2 x 2 on a torus of 4 x 4, its lines as rows; and a host's two rows with another's between them."""
    torus = [[Device(4 * x + y, x // 2 * 2 + y // 2) for y in range(4)] for x in range(4)]
    apart = [[Device(n, owner)] for n, owner in enumerate((0, 1, 0, 1))]
    for wrong in (torus, apart):
        array = np.array(wrong, dtype=object).reshape(1, 4, 1, -1)
        with pytest.raises(ValueError, match="rows to several hosts"):
            sharding._check_hosts(array)


@pytest.mark.parametrize("attribute", ["slice_index", "process_index"])
def test_the_data_axis_goes_over_slices(attribute):
    """Of four hosts in two slices, or of two hosts with slow links between them."""
    devices = made_up(4, 2, slices=2) if attribute == "slice_index" else made_up(2, 4)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2, slices=2), devices)
    for row in range(4):
        assert {getattr(device, attribute) for device in mesh.devices[row].flat} == {row // 2}
    check_rows_of_hosts(mesh)


def test_slices_that_are_not_numbered_in_turn_are_refused():
    devices = [Device(n, n // 2, n // 2 % 2) for n in range(8)]  # hosts 0 and 2 are of one slice
    with pytest.raises(ValueError, match=r"groups of \[2, 2, 2, 2\] of one slice_index"):
        sharding.make_mesh(sharding.MeshConfig(data=8, slices=2), devices)


@pytest.mark.parametrize(
    "sizes", [dict(data=2, fsdp=4), dict(data=1, fsdp=8), dict(data=-1, fsdp=4), dict(fsdp=-1, data=1)]
)
@pytest.mark.parametrize("hosts", [1, 2])
def test_several_tpu_slices_must_be_said(sizes, hosts):
    devices = [Device(n, n * hosts // 8, n // 4) for n in range(8)]
    with pytest.raises(ValueError, match=r"set config.mesh.slices=2 and config.mesh.data to a multiple of it"):
        sharding.make_mesh(sharding.MeshConfig(**sizes), devices)
    gpus = [dataclasses.replace(device, platform="gpu", process_index=device.slice_index) for device in devices]
    check_rows_of_hosts(sharding.make_mesh(sharding.MeshConfig(**sizes), gpus))  # two machines on one network


def test_a_mesh_that_jax_cannot_lay_out_is_a_mistake_of_the_config(monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError("Failed to find assignment for logical_axis_index 3 of size 4")

    monkeypatch.setattr(jax, "make_mesh", refuse)
    with pytest.raises(ValueError, match=r"config.mesh .*'tensor': 4.* cannot be laid .*logical_axis_index 3"):
        sharding.make_mesh(sharding.MeshConfig(data=2, tensor=4))


@pytest.mark.hosts
def test_rows_arrive_where_their_records_were_loaded(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    run = lambda host: subprocess.Popen([sys.executable, "-c", HOST, port, host], stdout=-1, stderr=-2, text=True)
    for process in [run("0"), run("1")]:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0 and "done" in said, said


def test_a_batch_of_another_number_of_rows_is_refused(monkeypatch):
    """Not guessed from what one process has: with two of them a batch of four rows has eight."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=4), jax.devices()[:4])
    with pytest.raises(ValueError, match=r"global_shape=\(8, 2\)"):
        sharding.put_batch({"x": np.zeros((4, 2), np.float32)}, mesh)
