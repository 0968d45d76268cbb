"""One training step as a pure function, and the probe of each term's gradient at the trunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from spatialsv_jax.losses import objective as objective_lib
from spatialsv_jax.training.optimizer import group_of
from spatialsv_jax.training.state import TrainState, merge_params, split_params


@dataclasses.dataclass(frozen=True)
class StepParts:
    """What a step is made of; all static.

    Attributes:
      apply: (params, batch) -> predictions (spec.PREDICTIONS).
      objective: weights and constants of the loss terms.
      tx: the optimizer over the trainable parameters.
      frozen_groups: parameter groups without gradient and optimizer state.
      rates: learning rate of each group by step (reported only).
    """

    apply: Callable
    objective: objective_lib.ObjectiveConfig
    tx: optax.GradientTransformation
    frozen_groups: tuple[str, ...]
    rates: dict[str, Callable]


def evaluate_losses(parts: StepParts, params, batch, step, names: tuple[str, ...] | None = None):
    """(total, report) of one batch, see losses.objective.evaluate."""
    return objective_lib.evaluate(parts.objective, parts.apply(params, batch), batch, step, names=names)


def train_step(parts: StepParts, state: TrainState, batch) -> tuple[TrainState, dict[str, jax.Array]]:
    """Forward, backward, update. A non-finite total or gradient stops all further updates."""
    trainable, frozen = split_params(state.params, parts.frozen_groups)

    def loss(trainable):
        return evaluate_losses(parts, merge_params(trainable, frozen), batch, state.step)

    (total, report), gradients = jax.value_and_grad(loss, has_aux=True)(trainable)
    norm = optax.tree.norm(gradients)
    good = jnp.isfinite(total) & jnp.isfinite(norm) & (state.first_nonfinite < 0)
    updates, opt_state = parts.tx.update(gradients, state.opt_state, trainable)
    updates = jax.tree.map(lambda update: jnp.where(good, update, jnp.zeros_like(update)), updates)
    new = TrainState(
        step=state.step + 1,
        params=merge_params(optax.apply_updates(trainable, updates), frozen),
        opt_state=opt_state,
        first_nonfinite=jnp.where(good | (state.first_nonfinite >= 0), state.first_nonfinite, state.step),
    )
    trained = {group_of(path) for path in traverse_util.flatten_dict(trainable)}
    rates = {f"learning_rate/{group}": rate(state.step) for group, rate in parts.rates.items() if group in trained}
    return new, {**report, **rates, "gradient_norm/all": norm, "first_nonfinite": new.first_nonfinite}


def trunk_gradient_norms(parts: StepParts, state: TrainState, batch) -> dict[str, jax.Array]:
    """Norm of each weighted term's gradient with respect to the trainable backbone (the trunk).

    One backward pass per term, run one after the other so that memory stays that of one.
    """
    names = objective_lib.active_terms(parts.objective)
    trainable, frozen = split_params(state.params, parts.frozen_groups)
    trunk = {"backbone": trainable["backbone"]} if "backbone" in trainable else trainable
    rest = {key: value for key, value in trainable.items() if key not in trunk}

    def weighted(trunk, selected):
        params = merge_params({**trunk, **rest}, frozen)
        _, report = evaluate_losses(parts, params, batch, state.step)
        values = jnp.stack([report[name] * report[f"{name}/weight"] for name in names])
        return jnp.sum(values * selected)

    norm = lambda selected: optax.tree.norm(jax.grad(weighted)(trunk, selected))
    norms = jax.lax.map(norm, jnp.eye(len(names), dtype=jnp.float32))
    return {f"gradient_norm/{name}": norms[index] for index, name in enumerate(names)}


def jit_step(parts: StepParts, shapes: TrainState) -> Callable:
    """`train_step` compiled for the state's shardings, the state donated."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    return jax.jit(
        lambda state, batch: train_step(parts, state, batch), donate_argnums=0, out_shardings=(shardings, None)
    )
