"""The averaged model, the extensions in a whole step, and the count of examples."""

import dataclasses

import jax
import numpy as np
import pytest
from step_cases import make_step, one_device, tiny_batch, tiny_config

from spatialsv_jax import assembly
from spatialsv_jax.training import ema, sharding, step
from spatialsv_jax.training.checkpoints import Checkpoints
from spatialsv_jax.training.state import merge_params, split_params

WEIGHTS = dict(consistency=0.1, lifted_points=0.1, scale_invariant=0.1, pose=0.1, scale=0.1, ema=1.0)
HEADS = ("depth", "ray", "points", "pose", "scale")


def config_with_everything(**changes):
    sections = dict(losses=WEIGHTS, lifting=dict(heads=HEADS), ema=dict(decay=0.9, noise=0.1))
    return tiny_config(**{**sections, **changes})


@pytest.fixture(scope="module")
def batch():
    batch = tiny_batch(rows=4)
    batch["has_geometry"][1:3] = False
    batch["has_text"][2] = False
    batch["question_valid"][0, 1:] = False
    return batch


@pytest.fixture(scope="module")
def trained(batch):
    """(parts, initial state on the host, states after 1 and 2 steps, metrics of both)."""
    parts, shapes, state = make_step(config_with_everything(), one_device(), batch)
    initial = jax.device_get(state)
    run, rows = step.jit_step(parts, shapes), sharding.put_batch(batch, one_device())
    states, metrics = [initial], []
    for _ in range(2):
        state, found = run(state, rows)
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(found))
    return parts, shapes, states, metrics


def test_the_average_follows_the_parameters(trained):
    parts, _, states, _ = trained
    trainable = [split_params(state.params, parts.frozen_groups)[0] for state in states]
    assert "vision" not in trainable[0]["backbone"]
    for first, average in zip(jax.tree.leaves(trainable[0]), jax.tree.leaves(states[0].ema), strict=True):
        np.testing.assert_array_equal(first, average)
    expected = trainable[0]
    for number, after in enumerate(trainable[1:]):
        keep = min(0.9, (1 + number) / (10 + number))
        expected = jax.tree.map(lambda old, new, keep=keep: keep * old + (1 - keep) * new, expected, after)
        for want, have in zip(jax.tree.leaves(expected), jax.tree.leaves(states[number + 1].ema), strict=True):
            np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-7)


def test_the_average_teaches_samples_without_geometry_alone(trained, batch):
    parts, _, states, metrics = trained
    assert metrics[0]["ema/depth/count"] == 2 * 2 * 16 * 16  # two samples, two views
    # By hand: the averaged model sees clean pixels, the other the noise of samples without geometry.
    state = states[1]
    frozen = split_params(state.params, parts.frozen_groups)[1]
    apply = jax.jit(parts.apply)
    teacher = apply(merge_params(state.ema, frozen), batch)
    noise = 0.1 * jax.random.normal(jax.random.fold_in(jax.random.key(0), 1), batch["pixel_values"].shape)
    seen = np.where(batch["has_geometry"].reshape(4, 1, 1, 1, 1), batch["pixel_values"], batch["pixel_values"] + noise)
    student = apply(state.params, {**batch, "pixel_values": seen.astype(np.float32)})
    total = 0.0
    for name in ("depth", "ray", "points"):
        difference = np.asarray(student[name], np.float64) - np.asarray(teacher[name], np.float64)
        error = np.sqrt((difference.reshape(4, 2, 16, 16, -1) ** 2).sum(-1) + 1e-12)
        weight = 1 - 1 / np.asarray(teacher[f"{name}_confidence"], np.float64)
        total += (error * weight)[1:3].mean()
    np.testing.assert_allclose(metrics[1]["ema"], total, rtol=1e-4)


def test_every_extension_reaches_its_heads(trained, batch):
    parts, _, states, metrics = trained
    for name in WEIGHTS:
        assert np.isfinite(metrics[0][name]) and metrics[0][name] != 0 or name == "ema"
    norms = jax.jit(lambda s, b: step.trunk_gradient_norms(parts, s, b))(states[2], batch)
    assert all(norms[f"gradient_norm/{name}"] > 0 for name in WEIGHTS)


def test_examples_are_counted_and_kept(trained, batch, tmp_path):
    _, shapes, states, metrics = trained
    once = dict(labelled=3, unlabelled=1, with_geometry=2, with_features=4, questions=1 + 3 + 3)
    assert {name: int(number) for name, number in states[1].seen.items()} == once
    assert {name: int(number) for name, number in states[2].seen.items()} == {k: 2 * v for k, v in once.items()}
    assert metrics[1]["seen/labelled"] == 6
    checkpoints = Checkpoints(tmp_path)
    layout = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    checkpoints.save(jax.device_put(states[2], layout), {})
    checkpoints.wait()
    restored, _ = checkpoints.restore(shapes)
    checkpoints.close()
    for have, want in zip(jax.tree.leaves(restored), jax.tree.leaves(states[2]), strict=True):
        np.testing.assert_array_equal(have, want)


def test_counts_of_a_mesh_are_those_of_the_global_batch():
    mesh = sharding.make_mesh(sharding.MeshConfig(4, 2, 1))
    batch = tiny_batch()
    batch["has_text"][:5] = False
    parts, shapes, state = make_step(
        tiny_config(losses=dict(depth=0, ray=0, points=0), lifting=dict(heads=())), mesh, batch
    )
    state, _ = step.jit_step(parts, shapes)(state, sharding.put_batch(batch, mesh))
    assert int(state.seen["labelled"]) == 3 and int(state.seen["unlabelled"]) == 5 and state.ema == {}


def test_wrong_settings_are_named():
    for changes, message in (
        (dict(ema=dict(decay=0.0, noise=0.0)), "losses.ema is 1.0 and config.ema.decay 0.0"),
        (dict(losses=dict(ema=0.0)), "losses.ema is 0.0 and config.ema.decay 0.9"),
        (dict(lifting=dict(heads=("depth", "ray", "points", "pose"))), r"scale reads \['scale'\]"),
        (dict(lifting=dict(heads=("depth", "ray", "points", "camera"))), "choose each at most once from.*pose, scale"),
        (dict(ema=dict(decay=1.0)), "config.ema.decay is 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            assembly.read_settings(config_with_everything(**changes))
    with pytest.raises(ValueError, match="config.ema.noise is 0.1"):
        ema.EmaConfig(noise=0.1)
    cached = {**tiny_batch(rows=1), "vision_features": np.zeros((1, 2, 4, 8), np.float32)}
    with pytest.raises(ValueError, match="cached features"):
        ema.with_noise(cached, 0, 0.1)


def test_noise_is_drawn_by_the_seed(trained, batch):
    parts, _, states, _ = trained
    zero = lambda params, given: dict.fromkeys(ema.AVERAGED, 0.0)

    def noise(seed):
        made = step.with_ema_targets(dataclasses.replace(parts, apply=zero, seed=seed), states[1], batch)
        return np.asarray(made["pixel_values"] - batch["pixel_values"])

    assert (noise(0) == noise(0)).all() and noise(0).any()
    assert abs(np.corrcoef(noise(0)[1:3].ravel(), noise(7)[1:3].ravel())[0, 1]) < 0.1
