"""The compiled step gathers a layer's parameters where the layer runs, never a whole stack of layers before."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from step_cases import make_step, tiny_batch, tiny_config

from spatialsv_jax.training import sharding, step

LAYERS = 5  # no other axis has this size


def gathers_outside_loops(program: str) -> list[str]:
    """Shapes ("f32[5,32,64]") that all-gathers outside of every while loop's body give."""
    bodies: dict[str, list[str]] = {}
    current = ""
    for line in program.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            current = header[1]
            bodies[current] = []
        elif current:
            bodies[current].append(line)
    called = {
        name: set(re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", "\n".join(lines)))
        for name, lines in bodies.items()
    }
    inside = set(re.findall(r"body=%?([\w.\-]+)", program))
    while new := set().union(*(called.get(name, set()) for name in inside)) - inside:
        inside |= new
    shapes = []
    for name in bodies.keys() - inside:
        for line in bodies[name]:
            if found := re.search(r"= (.*?) all-gather(?:-start)?\(", line):
                shapes += re.findall(r"\w+\[[\d,]+\]", found[1])
    return shapes


def stacks(shapes: list[str]) -> list[str]:
    return [shape for shape in shapes if f"[{LAYERS}," in shape and shape.count(",") > 1]


@pytest.mark.parametrize("gathered", [False, True])
def test_the_search_finds_a_stack_that_is_gathered_before_a_loop(gathered):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=8))
    split = jax.ShapeDtypeStruct(
        (LAYERS, 16, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    )
    rows = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))

    def run(weights, x):
        if gathered:
            weights = jax.lax.with_sharding_constraint(weights, NamedSharding(mesh, PartitionSpec()))
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    program = jax.jit(run).lower(split, rows).compile().as_text()
    assert "all-gather" in program
    assert bool(stacks(gathers_outside_loops(program))) == gathered


def test_no_stack_of_layers_is_gathered_outside_the_scan():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=8))
    text = dict(losses=dict(depth=0.0, ray=0.0, points=0.0), lifting=dict(heads=()))
    config = tiny_config(**text)
    config.language.update(layers=LAYERS, remat="full", unroll=1)
    parts, shapes, _ = make_step(config, mesh, tiny_batch())
    kernels = shapes.params["backbone"]["language"]["layers"]["mlp"]
    assert kernels["up"]["kernel"].sharding.spec == PartitionSpec(None, "fsdp", None)
    batch = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding.batch_sharding(mesh))
        for name, value in tiny_batch().items()
    }
    with jax.set_mesh(mesh):
        program = step.jit_step(parts, shapes).lower(shapes, batch).compile().as_text()
    assert np.any(["all-gather" in line for line in program.splitlines()])
    assert not stacks(gathers_outside_loops(program))
