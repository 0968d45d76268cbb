"""Targets, text and distillation terms, and the weighted objective."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax import geometry, spec
from spatialsv_jax.losses import dense, distillation, language, objective
from spatialsv_jax.losses.base import part_value, reduce, row_values
from spatialsv_jax.losses.targets import make_targets
from spatialsv_jax.settings import from_mapping

SIZES = dict(B=3, V=2, H=8, W=6, P=4, S=16, Q=3, T=7, A=2, K=1, F=5, N=11)
CONFIG = objective.ObjectiveConfig(text=0.5, ray=2.0, points=((0, 0.0), (10, 1.0)))
STEP = jax.jit(objective.evaluate, static_argnums=(0, 4))
COUNTS = jax.jit(objective.batch_counts, static_argnums=0)


@pytest.fixture(scope="module")
def batch():
    batch = spec.fake_batch(SIZES, (4,), seed=1, features=True)
    rng = np.random.default_rng(2)
    batch["valid"] &= rng.random(batch["valid"].shape) < 0.8
    batch["covered"][:, :, :, -1] = False
    batch["pose_valid"][0, 1] = batch["depth_valid"][1, 0] = False
    batch["view_valid"][1, 1] = batch["has_geometry"][2] = batch["has_features"][1] = batch["has_text"][0] = False
    batch["question_valid"][1, 2] = batch["answer_valid"][1, 0, 1] = False
    batch["depth"] = np.where(batch["valid"], batch["depth"], 0).astype(np.float32)
    return batch


@pytest.fixture(scope="module")
def predictions():
    rng = np.random.default_rng(3)
    shape = (3, 2, 8, 6)
    made = {"answer_logits": rng.normal(size=(3, 3, 2, 11)), "features": rng.normal(size=(3, 2, 4, 5))}
    for name, channels in (("depth", ()), ("ray", (6,)), ("points", (3,))):
        made[name] = rng.normal(size=(*shape, *channels))
        made[f"{name}_confidence"] = 1 + rng.random(shape)
    return {key: value.astype(np.float32) for key, value in made.items()}


def test_targets_agree_with_their_definition_and_ignore_invalid_views(batch):
    dirty = {key: np.array(value) for key, value in batch.items()}
    dirty["intrinsics"][0, 1] = 0  # not posed
    dirty["camera_to_world"][0, 1] = np.nan
    dirty["depth"][2] = np.nan  # no geometry
    targets = make_targets(dirty)
    assert all(isinstance(value, np.ndarray) for value in targets.values())
    spec.check(targets, spec.TARGETS)
    view = batch["view_valid"] & batch["has_geometry"][:, None]
    posed, depth = view & batch["pose_valid"], view & batch["depth_valid"]
    pixels = batch["valid"] & batch["covered"]
    np.testing.assert_array_equal(targets["depth_mask"], pixels & depth[..., None, None])
    np.testing.assert_array_equal(targets["points_mask"], pixels & (depth & posed)[..., None, None])
    np.testing.assert_array_equal(targets["ray_valid"], batch["covered"] & posed[..., None, None])
    assert targets["depth_mask"][0, 1].any() and not targets["points_mask"][0, 1].any()
    ray = geometry.rays_from_camera(batch["intrinsics"], batch["camera_to_world"], 8, 6)
    points = ray[..., :3] + batch["depth"][..., None] * ray[..., 3:]
    for name, full, mask in (("ray", ray, "ray_valid"), ("points", points, "points_mask")):
        expected = np.where(targets[mask][..., None], full, 0)
        np.testing.assert_allclose(targets[name], expected, atol=1e-6)
    traced = jax.jit(make_targets)(dirty)
    for name, value in targets.items():
        np.testing.assert_allclose(traced[name], value, atol=1e-6)


def test_text_is_one_mean_over_answer_tokens(batch, predictions):
    total, number = 0.0, 0
    for b, q, a in np.ndindex(3, 3, 2):
        if batch["answer_valid"][b, q, a] and batch["question_valid"][b, q] and batch["has_text"][b]:
            logits = predictions["answer_logits"][b, q, a].astype(np.float64)
            token = batch["question_tokens"][b, q, batch["answer_positions"][b, q, a]]
            total += np.log(np.exp(logits).sum()) - logits[token]
            number += 1
    parts = objective.text(predictions, batch, CONFIG)
    assert float(parts["text/ce"].count()) == number == 3 * 2 * 2 - 2 - 1
    np.testing.assert_allclose(reduce(parts), total / number, rtol=1e-6)
    # Large logits stay finite, and masked ones leak nowhere.
    logits = jnp.asarray([[1e4, 0.0], [jnp.nan, jnp.inf]])
    step = jax.value_and_grad(lambda x: reduce(language.text_terms(x, jnp.array([1, 0]), jnp.array([True, False]))))
    value, gradient = step(logits)
    assert value == 1e4
    np.testing.assert_array_equal(gradient, [[1, -1], [0, 0]])
    with pytest.raises(ValueError, match="'tokens' has shape"):
        language.text_terms(logits, jnp.zeros((1, 2), int), jnp.ones((1, 2), bool))


def test_distillation_is_one_minus_cosine(batch, predictions):
    total, number = 0.0, 0
    for b, v, p in np.ndindex(3, 2, 4):
        if batch["has_features"][b] and batch["view_valid"][b, v]:
            ours, teacher = (
                a[b, v, p].astype(np.float64) for a in (predictions["features"], batch["teacher_features"])
            )
            total += 1 - ours @ teacher / np.linalg.norm(ours) / np.linalg.norm(teacher)
            number += 1
    parts = objective.distill(predictions, batch, CONFIG)
    assert float(parts["distill/cos"].count()) == number == 16
    np.testing.assert_allclose(reduce(parts), total / number, rtol=1e-6)


def test_distillation_at_zero_equal_masked_and_its_gradient():
    rng = np.random.default_rng(4)
    features = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32).at[0].set(0).at[3].set(jnp.nan)
    teacher = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32).at[1].set(features[1])
    mask = jnp.array([True, True, True, False])

    def loss(features, teacher):
        return reduce(distillation.distill_terms(features, teacher, mask))

    part = distillation.distill_terms(features, teacher, mask)["cos"]
    np.testing.assert_allclose(part.values[:2], [1, 0], atol=1e-7)
    ours, theirs = jax.grad(loss, (0, 1))(features, teacher)
    assert not ours[0].any() and not ours[3].any() and not theirs.any()
    np.testing.assert_allclose(ours[1], 0, atol=1e-7)
    a, b = (np.asarray(x[2], np.float64) for x in (features, teacher))
    minus_cos = -(b - a * (a @ b) / (a @ a)) / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(ours[2], minus_cos / 3, rtol=1e-5, atol=1e-7)


def test_evaluate_is_the_weighted_sum_of_its_terms(batch, predictions):
    total, report = STEP(CONFIG, predictions, batch, 4, None)
    weights = {"text": 0.5, "distill": 1.0, "depth": 1.0, "ray": 2.0, "points": 0.4}
    for name, weight in weights.items():
        np.testing.assert_allclose(report[f"{name}/weight"], weight, rtol=1e-6)
    np.testing.assert_allclose(total, sum(w * report[name] for name, w in weights.items()), rtol=1e-6)
    assert report["total"] == total
    targets = make_targets(batch)
    confidence = predictions["depth_confidence"]
    parts = jax.jit(dense.depth_terms)(predictions["depth"], batch["depth"], targets["depth_mask"], confidence)
    np.testing.assert_allclose(report["depth"], reduce(parts), rtol=1e-6)
    assert report["depth/grad_s2/count"] == parts["grad_s2"].count()
    scales = sum(report[f"depth/grad_s{s}"] for s in range(4)) / 4
    np.testing.assert_allclose(report["depth"], report["depth/reg"] + report["depth/conf"] + scales, rtol=1e-6)
    counts = COUNTS(CONFIG, batch)
    assert {f"{key}/count" for key in counts} == {key for key in report if key.endswith("/count")}
    assert all(report[f"{key}/count"] == count for key, count in counts.items())


def test_micro_batches_add_up(batch, predictions):
    whole, _ = STEP(CONFIG, predictions, batch, 4, None)
    counts = COUNTS(CONFIG, batch)
    total = 0.0
    for row in range(3):
        micro = [{key: value[row : row + 1] for key, value in tree.items()} for tree in (predictions, batch)]
        total += STEP(CONFIG, *micro, 4, None, counts)[0]
    np.testing.assert_allclose(total, whole, rtol=1e-6)
    with pytest.raises(ValueError, match="quantile"):
        objective.evaluate(objective.ObjectiveConfig(quantile=0.98), predictions, batch, 0, counts=counts)


def test_weight_zero_is_not_in_the_program(batch, predictions):
    config = objective.ObjectiveConfig(distill=0.0, depth=((0, 0.0), (5, 0.0)), ray=0.0, points=0.0)
    assert objective.active_terms(config) == ("text",)
    only_text = {"answer_logits": predictions["answer_logits"]}
    lowered = jax.jit(objective.evaluate, static_argnums=0).lower(config, only_text, batch, 0).as_text()
    assert "8x6" not in lowered.split("func.func public @main", 1)[1].split("{\n", 1)[1], "a label is read"
    total, report = objective.evaluate(config, only_text, batch, 0)
    assert total == report["text"] and set(report) == {"text", "text/ce", "text/ce/count", "text/weight", "total"}
    nothing = objective.ObjectiveConfig(text=0.0, distill=0.0, depth=0.0, ray=0.0, points=0.0)
    assert objective.evaluate(nothing, {}, batch, 0)[0] == 0
    assert set(objective.evaluate(CONFIG, predictions, batch, 0, names=("ray",))[1]) > {"ray", "total"}


def test_mistakes_are_named(batch, predictions):
    with pytest.raises(ValueError, match=r"'points' needs the predictions \['points_confidence'\]"):
        missing = {key: value for key, value in predictions.items() if key != "points_confidence"}
        objective.evaluate(CONFIG, missing, batch, 0, names=("points",))
    with pytest.raises(ValueError, match=r"Unknown loss terms \['dpth'\]"):
        objective.evaluate(CONFIG, predictions, batch, 0, names=("dpth",))
    with pytest.raises(ValueError, match="teacher_features"):
        bare = {key: value for key, value in batch.items() if key != "teacher_features"}
        objective.evaluate(CONFIG, predictions, bare, 0, names=("distill",))
    for wrong in (-1.0, float("nan"), (), ((0, 1.0), (0, 2.0)), ((0, 1.0, 2.0),), "one"):
        with pytest.raises(ValueError, match=r"config\.losses\.depth"):
            objective.ObjectiveConfig(depth=wrong)
    with pytest.raises(ValueError, match="quantile"):
        objective.ObjectiveConfig(quantile=1.0)
    loaded = from_mapping(objective.ObjectiveConfig, {"ray": [[0, 0], [10, 1]], "text": 2}, "config.objective")
    assert loaded.ray == ((0.0, 0.0), (10.0, 1.0)) and loaded.text == 2.0 and hash(loaded)


def test_quantile_filter_applies_to_reg_and_conf_only(predictions, batch):
    config = objective.ObjectiveConfig(quantile=0.9)
    many = [{k: np.tile(v, (20,) + (1,) * (v.ndim - 1)) for k, v in tree.items()} for tree in (predictions, batch)]
    report = STEP(config, *many, 0, ("depth",))[1]
    number = float(report["depth/grad_s0/count"])
    assert number > 1000 and abs(float(report["depth/reg/count"]) / number - 0.9) < 0.02
    assert report["depth/conf/count"] < number


def test_rematerialised_terms_are_the_same(batch, predictions):
    """Values, counts and gradients."""
    config = objective.ObjectiveConfig(text=0.5, ray=2.0)
    results = []
    for chosen in (config, dataclasses.replace(config, remat=True)):
        run = lambda p, chosen=chosen: objective.evaluate(chosen, p, batch, 3)
        results.append(jax.jit(jax.value_and_grad(run, has_aux=True))(predictions))
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    for one, other in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


def test_values_of_rows_are_those_of_the_rows_alone_and_add_up(batch, predictions):
    for parts in objective.term_parts(CONFIG, predictions, batch).values():
        for name, part in parts.items():
            found = np.asarray(row_values(part), np.float64)
            counts = np.asarray(part.count_mask, np.float64).reshape(len(found), -1).sum(1)
            values = np.asarray(part.values, np.float64)
            for row, count in enumerate(counts):
                expected = values[row][np.asarray(part.mask)[row]].sum() / count if count else np.nan
                np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-7, err_msg=name)
            assert np.isnan(found[counts == 0]).all()
            mean = np.nansum(found * counts) / counts.sum()
            np.testing.assert_allclose(mean, float(part_value(part)), rtol=1e-5, atol=1e-6, err_msg=name)
