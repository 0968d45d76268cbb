"""The compiled step gathers a layer's parameters where the layer runs, never a whole stack of layers before."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from step_cases import make_step, tiny_batch, tiny_config

from spatialsv_jax.partitioning import vocabulary_product
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


@pytest.mark.parametrize("axes", [dict(fsdp=8), dict(data=2, fsdp=4), dict(data=2, fsdp=2, tensor=2)])
def test_logits_need_no_whole_vocabulary_on_a_device(axes):
    words, width = 48, 80  # no other array is as large as a tensor device's part of [words,width]
    mesh = sharding.make_mesh(sharding.MeshConfig(**{"data": 1, **axes}))
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape, np.float32) for shape in ((8, 3, width), (words, width)))
    weights = rng.standard_normal((8, 3, words), np.float32)

    def value(x, kernel):
        logits = vocabulary_product(x, kernel)
        return (jax.nn.log_softmax(logits) * weights).sum(), logits

    wanted = jax.grad(value, (0, 1), has_aux=True)(x, kernel)
    rows, split = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec("tensor", "fsdp"))
    with jax.set_mesh(mesh):
        run = jax.jit(jax.grad(value, (0, 1), has_aux=True), out_shardings=((rows, split), rows))
        compiled = run.lower(
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows),
            jax.ShapeDtypeStruct(kernel.shape, kernel.dtype, sharding=split),
        ).compile()
        found = compiled(jax.device_put(x, rows), jax.device_put(kernel, split))
    for have, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-5 * float(jnp.abs(want).max()))
    made = re.findall(r" = f32\[([\d,]+)\]", compiled.as_text())
    sizes = [np.prod([int(size) for size in shape.split(",")]) for shape in made]
    assert max(sizes) < words // mesh.shape["tensor"] * width


def test_logits_of_rows_that_do_not_divide_are_plain_products():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=8))
    x, kernel = np.ones((3, 4), np.float32), np.arange(40, dtype=np.float32).reshape(10, 4)
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(jax.jit(vocabulary_product)(x, kernel), x @ kernel.T)
