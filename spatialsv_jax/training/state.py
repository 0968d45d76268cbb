"""The training state and the split of parameters into trainable and frozen ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from spatialsv_jax.partitioning import ONE_STREAM
from spatialsv_jax.training import sharding as sharding_lib
from spatialsv_jax.training.optimizer import group_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    `first_nonfinite` is the step that ended training, -1 so far: the first whose total or gradient was not finite (or
    spiked) when no more steps could be skipped. From then on no update is applied, so that the parameters stay the last
    good ones. `seen` counts what all global batches so far held (`SEEN`). `ema` is the average of the trainable
    parameters, {} without one. `skipped` counts the steps without update so far, `recent_norms` are the gradient norms
    of the last `RECENT` steps with one, the newest last (kept with a skip budget alone; -1 = none yet).
    """

    step: jax.Array  # int32[]
    params: Any
    opt_state: Any
    first_nonfinite: jax.Array  # int32[]
    seen: Any  # int32[] each
    ema: Any
    skipped: jax.Array  # int32[]
    recent_norms: jax.Array  # float32[RECENT]


RECENT = 32
# Fields that states of checkpoint format 2 lack, as they begin.
BEGINNINGS = {"skipped": np.zeros((), np.int32), "recent_norms": np.full(RECENT, -1, np.float32)}

# labelled, unlabelled: rows with and without text; with_geometry, with_features: rows whose 3D labels or teacher
# features counted; questions: of the labelled rows.
SEEN = ("labelled", "unlabelled", "with_geometry", "with_features", "questions")


def count_examples(batch: Mapping) -> dict[str, jax.Array]:
    """What a global batch holds, int32[] for each of `SEEN`."""
    has_text = jnp.asarray(batch["has_text"])
    counted = {
        "labelled": has_text,
        "unlabelled": ~has_text & jnp.asarray(batch["view_valid"]).any(-1),
        "with_geometry": batch["has_geometry"],
        "with_features": batch["has_features"],
        "questions": jnp.asarray(batch["question_valid"]) & has_text[:, None],
    }
    return {name: jnp.sum(counted[name], dtype=jnp.int32) for name in SEEN}


def count_tokens(batch: Mapping) -> jax.Array:
    """Language tokens of a global batch without padding, int32[]; a prefix counts once for all its questions."""
    return sum(jnp.sum(batch[name], dtype=jnp.int32) for name in ("prefix_mask", "question_mask"))


def split_params(params: dict, frozen_groups: tuple[str, ...]) -> tuple[dict, dict]:
    """(trainable, frozen) nested dicts; a group is frozen as a whole."""
    flat = traverse_util.flatten_dict(params)
    frozen = {path: leaf for path, leaf in flat.items() if group_of(path) in frozen_groups}
    trainable = {path: leaf for path, leaf in flat.items() if path not in frozen}
    return traverse_util.unflatten_dict(trainable), traverse_util.unflatten_dict(frozen)


def merge_params(trainable: dict, frozen: dict) -> dict:
    """Inverse of `split_params`."""
    return traverse_util.unflatten_dict({**traverse_util.flatten_dict(trainable), **traverse_util.flatten_dict(frozen)})


def state_shapes(
    init_params: Callable, tx: optax.GradientTransformation, frozen_groups, logical_axes, mesh, averaged: bool = False
):
    """The abstract state with shardings, without allocating anything; `averaged`: with an averaged model.

    Returns:
      (TrainState of ShapeDtypeStructs with shardings, ShardingReport).
    """
    params = jax.eval_shape(init_params)
    params_sharding, report = sharding_lib.parameter_shardings(params, logical_axes, mesh)
    params = sharding_lib.with_shardings(params, params_sharding)
    trainable, _ = split_params(params, frozen_groups)
    opt_state = jax.eval_shape(tx.init, trainable)
    opt_sharding = sharding_lib.like_parameters(opt_state, params, mesh)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    opt_state = sharding_lib.with_shardings(opt_state, opt_sharding)
    average = split_params(params, frozen_groups)[0] if averaged else {}
    norms = jax.ShapeDtypeStruct((RECENT,), jnp.float32, sharding=everywhere)
    return TrainState(scalar, params, opt_state, scalar, dict.fromkeys(SEEN, scalar), average, scalar, norms), report


def create_state(init_params: Callable, tx, frozen_groups, shapes: TrainState, given: dict | None = None) -> TrainState:
    """Creates the state on its devices, each shard where it belongs.

    Args:
      init_params: makes all parameters; a small model on one host is drawn outside the compiled program (see
        `partitioning.create`).
      tx: the optimizer.
      frozen_groups: parameter groups without optimizer state.
      shapes: from `state_shapes`.
      given: parameters (any part of the tree, device arrays in their places) that are taken instead of drawn
        ones. Their memory is taken over.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    given = traverse_util.flatten_dict(given or {}, sep="/")
    missing = set(traverse_util.flatten_dict(shapes.params, sep="/")) - set(given)
    drawn = None
    if missing and jax.process_count() == 1 and sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) < ONE_STREAM:
        flat, places = (traverse_util.flatten_dict(tree, sep="/") for tree in (init_params(), shardings.params))
        drawn = {path: jax.device_put(flat[path], places[path]) for path in missing}

    def create(given, drawn):
        if missing and drawn is None:
            drawn = traverse_util.flatten_dict(init_params(), sep="/")
        params = traverse_util.unflatten_dict({**(drawn or {}), **given}, sep="/")
        trainable, _ = split_params(params, frozen_groups)
        zero = jnp.zeros((), jnp.int32)
        average = trainable if shapes.ema else {}
        rest = {name: jnp.asarray(value) for name, value in BEGINNINGS.items()}
        return TrainState(zero, params, tx.init(trainable), zero - 1, dict.fromkeys(SEEN, zero), average, **rest)

    return jax.jit(create, out_shardings=shardings, donate_argnums=(0, 1))(given, drawn)


def check_loaded(params: dict, loaded: dict, new_prefixes: tuple[str, ...]) -> None:
    """Raises unless `loaded` has every parameter of `params` (arrays or shapes) in its shape, and no other.

    Under `new_prefixes` (the lifting part of another objective) anything goes.

    Raises:
      ValueError: naming every missing, unexpected and misshapen parameter at once.
    """
    target, source = traverse_util.flatten_dict(params, sep="/"), traverse_util.flatten_dict(loaded, sep="/")
    is_new = lambda name: name.split("/")[0] in new_prefixes
    problems = [f"missing: {name}" for name in target if name not in source and not is_new(name)]
    problems += [f"unexpected: {name}" for name in source if name not in target and not is_new(name)]
    problems += [
        f"shape of {name}: checkpoint {source[name].shape}, model {target[name].shape}"
        for name in target
        if name in source and source[name].shape != target[name].shape and not is_new(name)
    ]
    if problems:
        raise ValueError("The checkpoint to start from is of another architecture:\n  " + "\n  ".join(sorted(problems)))


def place(loaded: dict, params: dict, new_prefixes: tuple[str, ...]) -> dict:
    """The `loaded` parameters that fit, in the places and types of `params` (shapes with shardings), for `create_state`.

    Those under `new_prefixes` of other shapes are left out.

    Raises:
      ValueError: see `check_loaded`.
    """
    check_loaded(params, loaded, new_prefixes)
    target, source = traverse_util.flatten_dict(params, sep="/"), traverse_util.flatten_dict(loaded, sep="/")
    fitting = {
        name: jax.device_put(source[name].astype(leaf.dtype), leaf.sharding)
        for name, leaf in target.items()
        if name in source and source[name].shape == leaf.shape
    }
    return traverse_util.unflatten_dict(fitting, sep="/")
