"""Four parameter groups with their own rates; AdamW (the paper's) or Muon for the matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

GROUPS = ("vision", "projector", "language", "adapters", "lifting")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Defaults of the paper (docs/method.md, 5): AdamW, linear warm-up over 3 % of the steps, cosine to 0, weight decay 0, clip 1.

    `vision`, `projector`, `language`, `adapters` (of LoRA), `lifting` are peak learning rates. With `name = "muon"`
    they hold for the matrices; embeddings, norms, biases and convolutions take Adam at
    `adam_factor` times the rate. `newton_schulz_steps` orthogonalise a matrix; `preconditioning`
    scales it before them: "frobenius" by its norm, "aol" row by row (Turbo-Muon), which is worth a step or two.
    `moments` is the type that moments are kept in: "bfloat16" halves them (see `half_moments`); weights stay float32.
    """

    name: str = "adamw"
    vision: float = 0.0
    projector: float = 1e-5
    language: float = 1e-5
    adapters: float = 1e-4
    lifting: float = 1e-5
    warmup_share: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    adam_factor: float = 1.0
    newton_schulz_steps: int = 5
    preconditioning: str = "frobenius"
    moments: str = "float32"

    def __post_init__(self):
        if self.name not in ("adamw", "muon"):
            raise ValueError(f"config.optimizer.name is '{self.name}'; choose adamw or muon.")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"config.optimizer.warmup_share is {self.warmup_share}; it is a share in [0, 1).")
        if self.newton_schulz_steps < 1:
            raise ValueError(f"config.optimizer.newton_schulz_steps is {self.newton_schulz_steps}, expected 1 or more.")
        if self.preconditioning not in ("frobenius", "aol"):
            raise ValueError(f"config.optimizer.preconditioning is '{self.preconditioning}'; choose frobenius or aol.")
        if self.moments not in ("float32", "bfloat16"):
            raise ValueError(f"config.optimizer.moments is '{self.moments}'; choose float32 or bfloat16.")


def group_of(path: tuple[str, ...]) -> str:
    """The parameter group of a path: backbone/vision, backbone/projector, backbone/language, its adapters, lifting.

    Raises:
      ValueError: a path that belongs to none.
    """
    if path[:2] == ("backbone", "language") and any(part.endswith("_lora") for part in path):
        return "adapters"
    if path[0] == "backbone" and path[1] in GROUPS:
        return path[1]
    if path[0] in ("lifting", "teacher"):
        return "lifting"
    raise ValueError(f"Parameter {'/'.join(path)} belongs to none of the groups {GROUPS}.")


def group_labels(params) -> dict:
    """The tree of group names beside `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: group_of(tuple(key.key for key in path)), params)


def schedule(peak: float, steps: int, warmup_share: float) -> Callable:
    """Linear warm-up from 0, then cosine to 0 at `steps`."""
    warmup = max(1, round(steps * warmup_share))
    return optax.schedules.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), 0.0)


def schedules(config: OptimizerConfig, steps: int) -> dict[str, Callable]:
    """Learning rate of every group by step."""
    return {group: schedule(getattr(config, group), steps, config.warmup_share) for group in GROUPS}


def matrix_dimensions(params):
    """Which parameters Muon treats: kernels that are matrices, stacked over scanned layers or not.

    Embedding tables, norms, biases and convolution kernels are left to Adam, the DPTs' 1 x 1
    convolutions among them. Sharded matrices are fine: Newton-Schulz is ordinary matrix products.
    """

    def dimensions(path, leaf):
        names = [key.key for key in path]
        is_dpt = names[0] == "lifting" and not any("projector" in name for name in names)
        if names[-1] != "kernel" or leaf.ndim not in (2, 3) or is_dpt:
            return None
        return MuonDimensionNumbers(reduction_axis=leaf.ndim - 2, output_axis=leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(dimensions, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Global-norm clip over all groups, then one optimizer per group.

    The tree it is initialised with holds trainable parameters only, so frozen ones have no state.
    """
    transforms = {}
    for group, rate in schedules(config, steps).items():
        if config.name == "adamw":
            transforms[group] = optax.adamw(rate, config.b1, config.b2, weight_decay=config.weight_decay)
        else:
            adam_rate = lambda step, rate=rate: config.adam_factor * rate(step)
            transforms[group] = optax.contrib.muon(
                rate,
                ns_steps=config.newton_schulz_steps,
                preconditioning=config.preconditioning,
                weight_decay=config.weight_decay,
                adam_b1=config.b1,
                adam_b2=config.b2,
                adam_learning_rate=adam_rate,
                muon_weight_dimension_numbers=matrix_dimensions,
            )
    grouped = optax.partition(transforms, group_labels)
    if config.moments == "bfloat16":
        grouped = half_moments(grouped)
    return optax.chain(optax.clip_by_global_norm(config.clip), grouped)


def at_step(opt_state, step: jax.Array):
    """The optimizer state with its learning rate schedules at `step` (int32[]).

    optax counts updates, of which a skipped step makes none; warm-up and cosine go by the training step. Adam's bias
    corrections stay with the number of updates that entered the moments.
    """
    is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)
    return jax.tree.map(
        lambda node: node._replace(count=step) if is_schedule(node) else node, opt_state, is_leaf=is_schedule
    )


class HalfMoments(NamedTuple):
    """State of `half_moments`: updates so far, and the inner state with bfloat16 in place of float32."""

    count: jax.Array  # int32[]
    inner: Any


def half_moments(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` with its moments kept in bfloat16; its arithmetic stays float32.

    Rounding is stochastic: with b2 = 0.999 a step moves the second moment by less than half of bfloat16's spacing, so
    that rounding to nearest would freeze it. What is drawn is a function of the number of updates and of the moment.
    """

    def init(params):
        state = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if _is_moment(leaf) else leaf, inner.init(params))
        return HalfMoments(jnp.zeros((), jnp.int32), state)

    def update(updates, state, params=None):
        whole = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf, state.inner)
        updates, whole = inner.update(updates, whole, params)
        key = jax.random.fold_in(jax.random.key(0), state.count)
        leaves, tree = jax.tree.flatten(whole)
        rounded = [
            _round_stochastically(leaf, jax.random.fold_in(key, number)) if _is_moment(leaf) else leaf
            for number, leaf in enumerate(leaves)
        ]
        return updates, HalfMoments(state.count + 1, jax.tree.unflatten(tree, rounded))

    return optax.GradientTransformation(init, update)


def _is_moment(leaf) -> bool:
    return leaf.dtype == jnp.float32 and leaf.ndim > 0


def _round_stochastically(x: jax.Array, key: jax.Array) -> jax.Array:
    """float32 to one of the two bfloat16 beside it, with the odds that keep the mean."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    drawn = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    cut = jax.lax.bitcast_convert_type((bits + drawn) & np.uint32(0xFFFF0000), jnp.float32)
    # Infinities and NaN are passed on as they are.
    return jnp.where(jnp.isfinite(x), cut, x).astype(jnp.bfloat16)
