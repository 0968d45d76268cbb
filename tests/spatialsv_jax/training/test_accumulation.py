"""Microbatches change nothing: gradients, reported values and the update are those of one pass over the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_cases import make_step, one_device, tiny_batch, tiny_config

from spatialsv_jax import assembly
from spatialsv_jax.training import accumulation, sharding, step

# Text, per-pixel terms at several scales with their own counts, a term per sample, and the averaged model.
WEIGHTS = dict(ray=0.0, points=0.0, scale_invariant=0.1)
EVERYTHING = dict(
    losses=dict(consistency=0.1, lifted_points=0.1, scale_invariant=0.1, pose=0.1, scale=0.1, ema=1.0),
    lifting=dict(heads=("depth", "ray", "points", "pose", "scale")),
    ema=dict(decay=0.9, noise=0.1),
)
SMALL = dict(losses=WEIGHTS, lifting=dict(heads=("depth",)))


def uneven_batch():
    """8 rows that differ in what counts, so that a mean of the microbatches' means would be another number."""
    batch = tiny_batch()
    batch["valid"][::2, :, 3:9] = False
    batch["valid"][1, 0] = False
    batch["question_valid"][1, 1:] = False
    batch["question_valid"][[2, 6]] = False
    batch["has_text"][3] = False
    batch["answer_valid"] &= batch["question_valid"][..., None]
    batch["has_geometry"][[2, 3, 7]] = False
    batch["pose_valid"][5, 1] = False
    batch["view_valid"][4, 1] = False
    weight = np.random.default_rng(1).uniform(0.5, 1.5, batch["depth"].shape).astype(np.float32)
    return {**batch, "label_weight": weight}


def config_of(microbatches, sections=SMALL):
    return tiny_config(**sections, training=dict(microbatches=microbatches))


def evaluated(microbatches, mesh, batch):
    """((total, report), gradients) on the host."""
    parts, shapes, state = make_step(config_of(microbatches), mesh, batch)
    places = step.split_params(jax.tree.map(lambda leaf: leaf.sharding, shapes).params, parts.frozen_groups)[0]
    found = jax.jit(lambda s, b: step.value_and_gradients(parts, s, b, places))(state, sharding.put_batch(batch, mesh))
    return jax.device_get(found)


@pytest.fixture(scope="module")
def whole():
    batch = uneven_batch()
    return batch, evaluated(1, one_device(), batch)


@pytest.mark.parametrize("microbatches, sizes", [(2, None), (4, None), (2, dict(data=2, fsdp=2, tensor=2))])
def test_gradients_and_reports_are_those_of_one_pass(whole, microbatches, sizes):
    batch, (value, gradients) = whole
    mesh = sharding.make_mesh(sharding.MeshConfig(**sizes)) if sizes else one_device()
    found_value, found = evaluated(microbatches, mesh, batch)
    tolerance = 3e-5 if sizes else 1e-6
    assert found_value[1].keys() == value[1].keys()
    for name, want in value[1].items():
        np.testing.assert_allclose(found_value[1][name], want, rtol=tolerance, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(found_value[0], value[0], rtol=tolerance)
    norm = np.sqrt(sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in jax.tree.leaves(gradients)))
    for (path, want), have in zip(jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(found), strict=True):
        error = np.linalg.norm((have - want).astype(np.float64))
        assert error <= tolerance * norm, (jax.tree_util.keystr(path), error / norm)


def test_every_term_agrees_too(whole):
    """All extensions at once, with the noise of the averaged model: losses alone, to keep the program small."""
    batch, results = whole[0], []
    for microbatches in (1, 4):
        parts, _, state = make_step(config_of(microbatches, EVERYTHING), one_device(), batch)
        report = jax.jit(lambda s, b, parts=parts: step.report_losses(parts, s, b))(state, batch)
        results.append(jax.device_get(report))
    assert results[0].keys() == results[1].keys()
    for name, want in results[0].items():
        np.testing.assert_allclose(results[1][name], want, rtol=2e-6, atol=1e-7, err_msg=name)
    assert results[0]["ema/depth/count"] == 3 * 2 * 16 * 16  # rows 2, 3, 7


def test_the_probe_of_gradient_norms_agrees(whole):
    norms = []
    for microbatches in (1, 4):
        config = config_of(microbatches, dict(losses=dict(depth=0.0, ray=0.0, points=0.0), lifting=dict(heads=())))
        parts, _, state = make_step(config, one_device(), whole[0])
        found = jax.jit(lambda s, b, parts=parts: step.trunk_gradient_norms(parts, s, b))(state, whole[0])
        norms.append(float(found["gradient_norm/text"]))
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)


def test_what_cannot_be_exact_is_refused():
    with pytest.raises(ValueError, match=r"config.losses.quantile is 0.98 and config.training.microbatches 2"):
        assembly.read_settings(tiny_config(losses=dict(quantile=0.98), training=dict(microbatches=2)))
    with pytest.raises(ValueError, match="config.training.microbatches is 0"):
        assembly.read_settings(tiny_config(training=dict(microbatches=0)))
    mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2))
    with pytest.raises(ValueError, match=r"8 rows does not divide over the 8 devices .* times 2 microbatches"):
        sharding.check_rows(8, mesh, microbatches=2)
    sharding.check_rows(16, mesh, microbatches=2)


def test_passes_that_only_label_keep_the_rows_in_order():
    batch = {"x": jnp.arange(12.0).reshape(6, 2), "y": jnp.arange(6)}
    seen = []

    def label(part):
        seen.append(part["x"].shape)
        return {"z": part["x"].sum(-1) * part["y"], "y": part["y"] + 1}

    found = accumulation.in_turns(label, batch, 3)
    assert set(seen) == {(2, 2)}
    np.testing.assert_array_equal(found["z"], np.arange(12).reshape(6, 2).sum(-1) * np.arange(6))
    np.testing.assert_array_equal(found["y"], np.arange(6) + 1)
