"""One training step as a pure function, and the probe of each term's gradient at the trunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from spatialsv_jax.losses import objective as objective_lib
from spatialsv_jax.spec import ONLINE
from spatialsv_jax.training import ema as ema_lib
from spatialsv_jax.training import optimizer as optimizer_lib
from spatialsv_jax.training.accumulation import accumulate, in_turns
from spatialsv_jax.training.optimizer import group_of
from spatialsv_jax.training.state import RECENT, TrainState, count_examples, count_tokens, merge_params, split_params

# Norms that must be known before a step can be called a spike.
FEWEST_NORMS = 8


@dataclasses.dataclass(frozen=True)
class StepParts:
    """What a step is made of; all static.

    Attributes:
      apply: (params, batch) -> predictions (spec.PREDICTIONS).
      objective: weights and constants of the loss terms.
      tx: the optimizer over the trainable parameters.
      frozen_groups: parameter groups without gradient and optimizer state.
      rates: learning rate of each group by step, as `tx` applies it (reported only).
      ema: of the averaged model.
      microbatches: passes that a batch is cut into.
      skip_budget: steps that may be left out; 0 = the first bad step stops all updates.
      skip_spike: a gradient norm above this many times the median of recent ones is bad too; 0 = never.
      seed: of the noise on the averaged model's pictures.
      teach: (teacher's parameters, batch) -> the fields that a teacher in the step labels; None = there is none. Functions
        that take a state and a batch then take the teacher's parameters as well.
    """

    apply: Callable
    objective: objective_lib.ObjectiveConfig
    tx: optax.GradientTransformation
    frozen_groups: tuple[str, ...]
    rates: dict[str, Callable]
    ema: ema_lib.EmaConfig = ema_lib.EmaConfig()
    microbatches: int = 1
    skip_budget: int = 0
    skip_spike: float = 0.0
    seed: int = 0
    teach: Callable | None = None


def make_parts(settings, apply: Callable, seed: int = 0, teach: Callable | None = None) -> StepParts:
    """The parts of a phase's step.

    Args:
      settings: an `assembly.Settings`.
      apply: (params, batch) -> predictions.
      seed: `config.seed`.
      teach: see `StepParts`.
    """
    training = settings.training
    return StepParts(
        apply,
        settings.losses,
        optimizer_lib.make_optimizer(settings.optimizer, training.steps),
        settings.frozen_groups,
        optimizer_lib.schedules(settings.optimizer, training.steps),
        settings.ema,
        training.microbatches,
        training.skip_budget,
        training.skip_spike,
        seed,
        teach,
    )


def with_teacher(parts: StepParts, batch, teacher):
    """The batch with the labels of the teacher in the step, in place of what only the teacher reads.

    It sees `parts.microbatches` parts of the batch one after the other, before the first pass of the model: how many
    pixels of the whole batch count must be known by then.
    """
    if parts.teach is None:
        return batch
    with jax.named_scope("teacher"):  # plans and profiles list costs by this name
        if parts.microbatches == 1:
            made = parts.teach(teacher, batch)
        else:
            made = in_turns(lambda part: parts.teach(teacher, part), batch, parts.microbatches)
    return {name: value for name, value in {**batch, **made}.items() if name not in ONLINE}


def evaluate_losses(parts: StepParts, params, batch, step, names: tuple[str, ...] | None = None, counts=None):
    """(total, report) of one batch, see losses.objective.evaluate."""
    return objective_lib.evaluate(parts.objective, parts.apply(params, batch), batch, step, names=names, counts=counts)


def with_ema_targets(parts: StepParts, state: TrainState, batch):
    """The batch with what the averaged model says of it, if the objective asks for that."""
    if "ema" not in objective_lib.active_terms(parts.objective):
        return batch
    return _ema_targets(parts, state, ema_lib.with_noise(batch, state.step, parts.ema.noise, parts.seed))


def _ema_targets(parts: StepParts, state: TrainState, batch):
    if "ema" not in objective_lib.active_terms(parts.objective):
        return batch
    _, frozen = split_params(state.params, parts.frozen_groups)
    return ema_lib.with_targets(parts.apply, merge_params(state.ema, frozen), batch)


def report_losses(parts: StepParts, state: TrainState, batch, teacher=None) -> dict[str, jax.Array]:
    """The report of `state.step` on a batch, without an update."""
    batch = with_teacher(parts, batch, teacher)
    return _passes(parts, state, batch, lambda loss, trainable: loss(trainable))[1]


def value_and_gradients(parts: StepParts, state: TrainState, batch, places=None):
    """((total, report), gradients of the trainable parameters), in `parts.microbatches` passes.

    Args:
      parts, state, batch: as for `train_step`, the batch with its labels.
      places: tree of shardings for the gradients that are being summed up; None = as XLA likes.
    """
    return _passes(
        parts, state, batch, lambda loss, trainable: jax.value_and_grad(loss, has_aux=True)(trainable), places
    )


def _passes(parts: StepParts, state: TrainState, batch, evaluate: Callable, places=None):
    """evaluate(loss, trainable) of the whole batch, where loss is trainable -> (total, report)."""
    trainable, frozen = split_params(state.params, parts.frozen_groups)

    def evaluated(part, counts=None):
        def loss(trainable):
            return evaluate_losses(parts, merge_params(trainable, frozen), part, state.step, counts=counts)

        return evaluate(loss, trainable)

    if parts.microbatches == 1:
        return evaluated(with_ema_targets(parts, state, batch))
    counts = objective_lib.batch_counts(parts.objective, batch)
    if "ema" in objective_lib.active_terms(parts.objective):
        batch = ema_lib.with_noise(batch, state.step, parts.ema.noise, parts.seed)
    one = lambda part: evaluated(_ema_targets(parts, state, part), counts)
    summed = accumulate(one, batch, parts.microbatches, places and ((None, None), places))
    # Every pass reports its own part of the counts, and the same weights.
    return _corrected(summed, counts, parts.microbatches)


def _corrected(summed, counts, microbatches: int):
    if not isinstance(summed[0], tuple):
        total, report = summed
        report = {name: value / microbatches if name.endswith("/weight") else value for name, value in report.items()}
        return total, report | {f"{name}/count": count for name, count in counts.items()}
    return _corrected(summed[0], counts, microbatches), *summed[1:]


def train_step(
    parts: StepParts, state: TrainState, batch, places=None, teacher=None
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Forward, backward, update.

    A bad step (total or gradient not finite, or a spike) applies no update. Once more than `parts.skip_budget` were
    bad, no further update is applied: with a budget of 0 that is the first one.

    Args:
      parts: what the step is made of.
      state: the state.
      batch: the global batch.
      places: shardings of the trainable parameters, see `value_and_gradients`.
      teacher: parameters of the teacher in the step, where `parts` have one.
    """
    batch = with_teacher(parts, batch, teacher)
    trainable, frozen = split_params(state.params, parts.frozen_groups)
    examples, tokens = count_examples(batch), count_tokens(batch)
    (total, report), gradients = value_and_gradients(parts, state, batch, places)
    norm = optax.tree.norm(gradients)
    running = state.first_nonfinite < 0
    good = jnp.isfinite(total) & jnp.isfinite(norm)
    if parts.skip_spike:
        good &= ~_is_spike(norm, state.recent_norms, parts.skip_spike)
    skipped = state.skipped + (running & ~good)
    stops = running & (skipped > parts.skip_budget)
    good &= running
    scheduled = optimizer_lib.at_step(state.opt_state, state.step)
    updates, opt_state = parts.tx.update(gradients, scheduled, trainable)
    updates = jax.tree.map(lambda update: jnp.where(good, update, jnp.zeros_like(update)), updates)
    trained = optax.apply_updates(trainable, updates)
    average = ema_lib.move(state.ema, trained, state.step, parts.ema.decay) if state.ema else {}
    recent = state.recent_norms
    if parts.skip_budget:
        # After a skipped step training goes on, so what it made of the rest of the state is dropped too.
        keep = lambda new, old: jax.tree.map(lambda new, old: jnp.where(good, new, old), new, old)
        opt_state, average = keep(opt_state, state.opt_state), keep(average, state.ema)
        recent = keep(jnp.concatenate([recent[1:], norm[None].astype(recent.dtype)]), recent)
    new = TrainState(
        step=state.step + 1,
        params=merge_params(trained, frozen),
        opt_state=opt_state,
        first_nonfinite=jnp.where(stops, state.step, state.first_nonfinite),
        seen={name: state.seen[name] + number for name, number in examples.items()},
        ema=average,
        skipped=skipped,
        recent_norms=recent,
    )
    groups = {group_of(path) for path in traverse_util.flatten_dict(trainable)}
    rates = {f"learning_rate/{group}": rate(state.step) for group, rate in parts.rates.items() if group in groups}
    seen = {f"seen/{name}": number for name, number in new.seen.items()}
    health = {"gradient_norm/all": norm, "first_nonfinite": new.first_nonfinite, "skipped": skipped}
    return new, {**report, **rates, **seen, **health, "tokens": tokens}


def _is_spike(norm: jax.Array, recent: jax.Array, factor: float) -> jax.Array:
    """bool[]: more than `factor` times the median of the known (>= 0) recent norms, if those are enough."""
    known = jnp.sum(recent >= 0)
    ordered = jnp.sort(jnp.where(recent >= 0, recent, jnp.inf))
    lower, upper = (ordered[jnp.clip(place, 0, RECENT - 1)] for place in ((known - 1) // 2, known // 2))
    return (known >= FEWEST_NORMS) & (norm > factor * (lower + upper) / 2)


def trunk_gradient_norms(parts: StepParts, state: TrainState, batch, teacher=None) -> dict[str, jax.Array]:
    """Norm of each weighted term's gradient with respect to the trainable backbone (the trunk).

    One backward pass per term, run one after the other so that memory stays that of one.
    """
    batch = with_teacher(parts, batch, teacher)
    names = objective_lib.active_terms(parts.objective)
    trainable, frozen = split_params(state.params, parts.frozen_groups)
    trunk = {"backbone": trainable["backbone"]} if "backbone" in trainable else trainable
    rest = {key: value for key, value in trainable.items() if key not in trunk}
    if parts.microbatches == 1:
        batch, counts = with_ema_targets(parts, state, batch), None
    else:
        counts = objective_lib.batch_counts(parts.objective, batch)
        if "ema" in names:
            batch = ema_lib.with_noise(batch, state.step, parts.ema.noise, parts.seed)

    def weighted(trunk, selected, part):
        params = merge_params({**trunk, **rest}, frozen)
        _, report = evaluate_losses(parts, params, part, state.step, counts=counts)
        values = jnp.stack([report[name] * report[f"{name}/weight"] for name in names])
        return jnp.sum(values * selected)

    def norm(selected):
        if counts is None:
            return optax.tree.norm(jax.grad(weighted)(trunk, selected, batch))
        one = lambda part: jax.grad(weighted)(trunk, selected, _ema_targets(parts, state, part))
        return optax.tree.norm(accumulate(one, batch, parts.microbatches))

    norms = jax.lax.map(norm, jnp.eye(len(names), dtype=jnp.float32))
    return {f"gradient_norm/{name}": norms[index] for index, name in enumerate(names)}


def jit_step(parts: StepParts, shapes: TrainState) -> Callable:
    """`train_step` compiled for the state's shardings, the state donated: (state, batch), and the teacher's parameters with one."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    places = split_params(shardings.params, parts.frozen_groups)[0]
    return jax.jit(
        lambda state, batch, teacher=None: train_step(parts, state, batch, places, teacher),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
