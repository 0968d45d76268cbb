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

from spatialsv_jax.backbones.attention import self_attention

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
