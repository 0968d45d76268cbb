"""Tokens, pictures and views split over a context axis: losses and gradients are those of one device."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from step_cases import LABEL, one_device, tiny_config

from experiments.configs import qwen2_5_vl_3b
from experiments.train import model_functions
from spatialsv_jax import assembly
from spatialsv_jax.backbones.attention import choose_backend
from spatialsv_jax.model import SpatialMLLM
from spatialsv_jax.spec import fake_batch
from spatialsv_jax.training import sharding, state, step

ONE_HEAD = dict(losses=dict(ray=0.0, points=0.0), lifting=dict(heads=("depth",)))


def tiny_case():
    """(settings, model, batch): 15 prefix tokens and questions of 5, which no context axis divides."""
    settings = assembly.read_settings(tiny_config(**ONE_HEAD))
    settings = dataclasses.replace(settings, language=dataclasses.replace(settings.language, vocab_size=16))
    sizes = dict(B=4, V=2, H=LABEL, W=LABEL, P=4, S=15, Q=3, T=5, A=2, K=1, N=16)
    return settings, fake_batch(sizes, (32, 32, 3))


def qwen_case():
    config = qwen2_5_vl_3b.get_config("tiny").phases.finetune
    config.language.unroll = 1
    for section, values in ONE_HEAD.items():
        config[section].update(values)
    settings = assembly.read_settings(config)
    settings = dataclasses.replace(settings, language=dataclasses.replace(settings.language, vocab_size=32))
    sizes = dict(B=2, V=2, H=LABEL, W=LABEL, P=16, S=37, Q=1, T=7, A=2, K=3, N=32)
    return settings, fake_batch(sizes, (56, 56, 3))


CASES = {"tiny": tiny_case, "qwen2_5_vl": qwen_case}


def evaluated(case, mesh):
    """(total, gradients) on the host, and the compiled program's text."""
    settings, batch = CASES[case]()
    batch["has_geometry"][0] = False
    batch["valid"][:, 1, :5] = False
    batch["prefix_mask"][1, -2:] = False
    model = SpatialMLLM(settings.vision, settings.language, settings.lifting, settings.family)
    init, apply, axes = model_functions(model, settings, batch, seed=0)
    parts = step.make_parts(settings, apply)
    shapes, _ = state.state_shapes(init, parts.tx, parts.frozen_groups, axes, mesh)
    created = state.create_state(init, parts.tx, parts.frozen_groups, shapes)
    rows = sharding.put_batch(batch, mesh)
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda s, b: step.value_and_gradients(parts, s, b)).lower(created, rows).compile()
        (total, _), gradients = jax.device_get(compiled(created, rows))
    return total, gradients, compiled


@pytest.fixture(scope="module")
def reference():
    return functools.cache(lambda case: evaluated(case, one_device()))


@pytest.mark.parametrize("case, sizes", [
    ("tiny", dict(data=2, context=4)),
    pytest.param("qwen2_5_vl", dict(data=1, fsdp=2, context=2, tensor=2), marks=pytest.mark.slow),
])  # fmt: skip
def test_split_over_context_equals_one_device(reference, case, sizes):
    total, gradients, whole = reference(case)
    found_total, found, compiled = evaluated(case, sharding.make_mesh(sharding.MeshConfig(**sizes)))
    np.testing.assert_allclose(found_total, total, rtol=3e-5)
    for (path, want), have in zip(jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(found), strict=True):
        error = np.abs(have - want).max()
        assert error <= 3e-5 * max(np.abs(want).max(), 1e-3), (jax.tree_util.keystr(path), error, np.abs(want).max())
    if case == "tiny" and sizes["data"] == 2:
        # Two rows a device, and a quarter of their tokens: much less than a fourth of the whole program's scratch.
        scratch = [program.memory_analysis().temp_size_in_bytes for program in (compiled, whole)]
        assert scratch[0] < 0.4 * scratch[1], scratch


def test_without_a_context_axis_the_program_is_as_without_a_mesh():
    settings, batch = tiny_case()
    model = SpatialMLLM(settings.vision, settings.language, settings.lifting, settings.family)
    init, apply, _ = model_functions(model, settings, batch, seed=0)
    shapes = jax.eval_shape(init)

    def equations(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name != "reshard":  # which JAX itself puts behind constants when a mesh is set
                yield equation.primitive.name, tuple(str(variable.aval) for variable in equation.outvars)
            for value in equation.params.values():
                if inner := getattr(value, "jaxpr", value if hasattr(value, "eqns") else None):
                    yield from equations(inner)

    def program(**sizes):
        with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(**sizes))):
            return list(equations(jax.make_jaxpr(apply)(shapes, batch).jaxpr))

    alone = list(equations(jax.make_jaxpr(apply)(shapes, batch).jaxpr))
    constraints = lambda program: sum(name == "sharding_constraint" for name, _ in program)
    assert len(alone) > 500 and constraints(alone) == 0
    assert program(data=4, tensor=2) == alone
    assert (
        constraints(program(data=2, fsdp=2, tensor=2)) == 4
    )  # of the logits alone (`partitioning.vocabulary_product`)
    assert constraints(program(data=2, context=4)) > 10


def test_a_sequence_that_cudnn_cannot_split_is_refused():
    assert choose_backend("auto", "bfloat16", split=True) == "xla"
    with pytest.raises(ValueError, match="'cudnn'.*Choose 'xla'"):
        choose_backend("cudnn", "bfloat16", split=True)
