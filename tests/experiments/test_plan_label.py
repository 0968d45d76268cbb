"""Plans of labelling: bytes and work by hand, what a host of a slice has, and refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import plan, plan_label
from spatialsv_jax.planning import scheduled
from spatialsv_jax.planning.chips import parse_topology
from spatialsv_jax.teachers import networks
from spatialsv_jax.teachers.da3.model import AnyViewModel
from spatialsv_jax.teachers.da3.presets import Sizes
from spatialsv_jax.teachers.key_tables import parameter_shapes
from spatialsv_jax.training.sharding import MeshConfig


@pytest.fixture(scope="module")
def small():
    """A small network in the place of a published one."""
    found = networks.outline("da3", "DA3-SMALL", process_res=70)
    sizes = Sizes(32, 10, 2, 128, 2, (3, 5, 7, 9), 16, (8, 16, 24, 32), dtype="bfloat16")
    model = AnyViewModel(sizes)
    patch = jax.ShapeDtypeStruct((1, 1, 28, 28, 3), jnp.float32)
    return dataclasses.replace(found, model=model, params={"model": parameter_shapes(model, patch)})


def test_bytes_and_work_by_hand(small):
    found = plan_label.plan_labels(small, parse_topology("cpu:4"), MeshConfig(data=2, context=2), 4, 2, (56, 70))
    count = sum(leaf.size for leaf in small.params["model"]["backbone"]["tokens"]["patch"].values())
    assert count == 14 * 14 * 3 * 32 + 32
    assert found.size == (56, 70) and found.memory.source == "compiler"
    assert found.memory.batch == 4 * 2 * 56 * 70 * 3 * 4 // 4 + 4 * 2 // 4
    whole = sum(leaf.size for leaf in _leaves(small.params)) * 4
    assert found.memory.parameters == whole  # no fsdp axis: on every device
    split = plan_label.plan_labels(
        small, parse_topology("cpu:4"), MeshConfig(data=1, fsdp=4), 4, 2, (56, 70), compile=False
    )
    assert split.memory.parameters < 0.6 * whole and split.memory.source == "estimate"
    # Blocks alone: 12 width^2 per token and block, twice as FLOPs, without attention's own products and the head.
    blocks = 4 * 2 * (1 + 4 * 5) * 10 * 2 * 12 * 32 * 32
    assert blocks < found.flops == pytest.approx(split.flops)


def _leaves(tree):
    return [leaf for node in tree.values() for leaf in (_leaves(node) if isinstance(node, dict) else [node])]


@pytest.mark.parametrize(
    "slice_name, host, hosts",
    [("v5e:4x4", "v5e:2x2", 4), ("v5p:2x2x4", "v5p:2x2x1", 4), ("v5e:1x1", "v5e:1x1", 1), ("h100:8", "h100:8", 1)],
)
def test_a_host_labels_by_itself(slice_name, host, hosts):
    topology = parse_topology(slice_name)
    assert str(plan_label.host_of(topology)) == host and topology.hosts == hosts


def test_the_rate_is_that_of_all_hosts(small):
    one, four = (
        plan_label.plan_labels(small, parse_topology(name), MeshConfig(data=8), 8, 2, (56, 70), compile=False)
        for name in ("h100:8", "h100:32")
    )
    assert four.pictures_per_second == pytest.approx(4 * one.pictures_per_second)
    assert one.pictures_per_second == pytest.approx(16 / one.times.seconds)
    assert one.to_json()["flops_per_picture"] == pytest.approx(one.flops / 16)


def test_the_command_and_its_refusals(tmp_path, monkeypatch, small, capsys):
    monkeypatch.setattr(plan_label, "network_of", lambda *given: small)
    out = tmp_path / "plans" / "label.json"
    plan.main(["--label", "DA3-SMALL", "--topology", "cpu:4", "--views", "2", "--picture", "56x70", "--out", str(out)])
    said = capsys.readouterr().out
    assert "Apache-2.0" in said and "4 scenes of 2 views at 56 x 70" in said
    assert json.loads(out.read_text())["mesh"] == {"data": 4, "fsdp": 1, "context": 1, "tensor": 1}
    for more, message in (
        (["--picture", "56"], "no HEIGHTxWIDTH"),
        (["--mesh", "data=2,context=2", "--views", "3"], "--views 3 is no multiple"),
        (["--mesh", "rows=2"], "is no axis=size"),
        (["--mesh", "data=4", "--rows", "3"], "3 rows"),
    ):
        with pytest.raises(SystemExit) as stopped:
            plan.main(["--label", "DA3-SMALL", "--topology", "cpu:4", *more])
        assert message in str(stopped.value)
    with pytest.raises(SystemExit):
        plan.main(["--topology", "cpu:4"])
    assert "--label TEACHER" in capsys.readouterr().err


def test_published_names():
    with pytest.raises(ValueError, match="mono form, which gives no cameras"):
        plan_label.network_of("DA3METRIC-LARGE", False, 0)
    with pytest.raises(ValueError, match="DA4 is no folder, and its name is none of the published DA3-SMALL"):
        plan_label.network_of("DA4", False, 0)
    nested = plan_label.network_of("depth-anything/DA3NESTED-GIANT-LARGE-1.1", False, 0)
    assert nested.is_metric and set(nested.params) == {"model", "metric"}
    assert plan_label.network_of("DA3-SMALL", True, 0).is_metric
    count = sum(leaf.size for leaf in _leaves(plan_label.network_of("VGGT-1B", False, 0).params))
    assert count == pytest.approx(1190.6e6, rel=1e-4)
    folder = Path(__file__).parents[1] / "goldens/vggt"
    assert plan_label.network_of(str(folder), False, 0).family == "vggt"


def test_a_compiler_that_fails_is_said_in_a_line(small, monkeypatch):
    """libtpu's own errors too, which are none about memory."""

    def schedule(*_):
        raise scheduled.Refused("INTERNAL: no kernel for this")

    monkeypatch.setattr(plan_label, "network_of", lambda *_: small)
    monkeypatch.setattr(plan_label, "abstract_devices", lambda topology: jax.devices()[: topology.devices])
    monkeypatch.setattr(scheduled, "schedule", schedule)
    with pytest.raises(SystemExit, match="failed: INTERNAL: no kernel"):
        plan.main(["--label=x", "--topology=v5e:1x1", "--picture=56x70", "--views=2"])
