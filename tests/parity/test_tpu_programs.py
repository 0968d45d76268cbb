"""Kernels compiled for TPUs that are not there.

python -m pip install -e ".[test,tpu_programs]"
JAX_PLATFORMS=cpu python -m pytest -n 0 -m parity tests/parity/test_tpu_programs.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments import plan, plan_step
from experiments.plan_changes import on_slices
from spatialsv_jax.backbones.attention import self_attention
from spatialsv_jax.planning import hlo
from spatialsv_jax.planning.chips import parse_topology

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("count, dim, kv_heads", [(1100, 128, 2), (1024, 80, 16), (577, 64, 16)])
def test_splash_attention_compiles_split_and_without_copies_of_scores(count, dim, kv_heads):
    """A decoder's prefix, Qwen2.5-VL's and CLIP's encoder: forward and both backward kernels, nothing gathered."""
    pytest.importorskip("libtpu")
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = Mesh(np.array(devices).reshape(2, 1, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "tensor"))
    shape = lambda heads: jax.ShapeDtypeStruct((4, heads, count, dim), jnp.bfloat16, sharding=split)

    def total(query, key, value):
        out = self_attention(query, key, value, causal=kv_heads < 16, backend="splash")
        return out.astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.grad(total, (0, 1, 2))).lower(shape(16), shape(kv_heads), shape(kv_heads)).compile()
    program = compiled.as_text()
    assert program.count("tpu_custom_call") >= 3 and "all-gather" not in program
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 16 * count * count * 2 / 4


def test_slices_exchange_the_gradients_and_nothing_larger():
    """The quickstart model on two slices: parameters are gathered within a slice alone."""
    pytest.importorskip("libtpu")
    config = plan.read_config("experiments/configs/quickstart.py:tiny", [])
    config = plan_step.phase_of(config, "spatial")
    config.data.sources.rooms.per_batch = 7  # and one row of text
    config, topology = on_slices(config, "data=2,fsdp=4,slices=2", parse_topology("v5e:2x2"))
    found = plan.plan(config, topology)
    between = {kind: entry for kind, entry in found.collectives.items() if kind.endswith(hlo.BETWEEN_SLICES)}
    gradients = 4 * found.parameters / 4  # bytes in float32, a quarter on each device of a slice
    assert between.pop("all-reduce between slices").bytes < 2 * gradients + 2**16
    assert sum(entry.bytes for entry in between.values()) < 2**16
    assert found.fits and found.memory.source == "scheduled"
