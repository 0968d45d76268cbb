"""Pictures per second that training asks of its input, from counted FLOPs and stated assumptions.

The step of the recipe (`experiments/configs/qwen2_5_vl_3b.py`: encoder frozen, three heads, recomputation) is traced at
full size, with the recipe's number of questions in a row and otherwise the batch's shapes; nothing is computed.
Recomputation is counted, so the utilisation is that of hardware FLOPs. With the encoder's features cached
(`config.data.vision_cache`) the encoder is no part of the step, which then asks for more; what reading features costs
the host is not measured here.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from experiments.configs import qwen2_5_vl_3b
from experiments.train import model_functions
from spatialsv_jax import assembly
from spatialsv_jax.model import SpatialMLLM
from spatialsv_jax.spec import BATCH
from spatialsv_jax.training import flops, optimizer, sharding, state, step

UTILISATION = 0.4  # assumed share of the peak; a faster step asks for more


@dataclasses.dataclass(frozen=True)
class Machine:
    """What trains, by its published figures.

    Attributes:
      name: as it is called.
      chips, hosts: how many.
      peak: dense bfloat16 FLOP/s of a chip.
      threads: hardware threads (vCPUs) of a host, two to a core.
    """

    name: str
    chips: int
    hosts: int
    peak: float
    threads: int


MACHINES = (
    Machine("v5e-16, hosts of 4 chips", 16, 4, 197e12, 112),
    Machine("v5e-16, hosts of 8 chips", 16, 2, 197e12, 224),
    Machine("8 H100, one host", 8, 1, 989e12, 208),
)


@dataclasses.dataclass(frozen=True)
class Step:
    """What a row costs in a training step of the 3B recipe.

    Attributes:
      pixels, cached: FLOPs of a row from pictures and from cached features.
      questions: in a row.
      feature_bytes: of the cached features of a row.
    """

    pixels: float
    cached: float
    questions: int
    feature_bytes: int


def of_recipe(batch: Mapping[str, np.ndarray], questions: int) -> dict[str, np.ndarray]:
    """The batch with so many questions in a row: some of its own left out or again."""
    places = {name: BATCH[name].shape.index("Q") for name in batch if name in BATCH and "Q" in BATCH[name].shape}
    chosen = np.arange(questions) % batch["question_tokens"].shape[1]
    return {name: np.take(value, chosen, places[name]) if name in places else value for name, value in batch.items()}


def step_cost(batch: Mapping[str, np.ndarray], processor) -> Step:
    """The cost of one such row, with the recipe's number of questions."""
    config = qwen2_5_vl_3b.get_config()
    batch = of_recipe(batch, config.data.questions)
    config.data.views = batch["view_valid"].shape[1]
    config.data.label_size = batch["depth"].shape[-2:]
    config.vision.image_size = tuple(processor.image_size)
    config.mesh.update(data=1, fsdp=1)
    rows = 2  # the optimizer's share does not grow with the rows and is taken off
    settings = assembly.read_settings(config)
    # Not assembly.build_model: the table of words is the published one, whatever tokenizer made the batch.
    model = SpatialMLLM(settings.vision, settings.language, settings.lifting, settings.family)
    rows_of = {name: value[:rows] for name, value in batch.items()}
    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in rows_of.items()}
    init, apply, axes = model_functions(model, settings, rows_of, 0)
    transform = optimizer.make_optimizer(settings.optimizer, 1000)
    rates = optimizer.schedules(settings.optimizer, 1000)
    parts = step.StepParts(apply, settings.losses, transform, settings.frozen_groups, rates)
    mesh = sharding.make_mesh(settings.mesh, rows=rows)
    states, _ = state.state_shapes(init, transform, settings.frozen_groups, axes, mesh)
    encode = lambda params, batch: model.apply({"params": params}, batch, method="encode_pictures")
    features = jax.eval_shape(encode, states.params, shapes)
    bare = shapes["pixel_values"]
    without = {
        **shapes,
        "pixel_values": jax.ShapeDtypeStruct((*bare.shape[:-1], 0), bare.dtype),
        "vision_features": jax.ShapeDtypeStruct(features.shape, features.dtype),
    }

    def count(shapes: dict) -> float:
        with jax.set_mesh(mesh):
            counted = flops.count_traced(step.jit_step(parts, states).trace(states, shapes).jaxpr)
        return sum(amount for part, amount in counted.items() if part != "optimizer") / rows

    stored = int(np.prod(features.shape[1:])) * features.dtype.itemsize
    return Step(count(shapes), count(without), config.data.questions, stored)


def text(batch: Mapping[str, np.ndarray], processor, seconds: float, options: argparse.Namespace) -> str:
    """The demand of each machine beside what our loader gives.

    Args:
      batch: one of our batches.
      processor: of the family.
      seconds: CPU time of a record on this machine's core.
      options: with `views`.
    """
    cost = step_cost(batch, processor)
    lines = [
        f"demand: {cost.pixels / 1e12:.1f} TFLOP a record, {cost.cached / 1e12:.1f} with cached features (Qwen2.5-VL-3B, "
        f"{batch['prefix_tokens'].shape[1]} prompt tokens, {cost.questions} questions of at most "
        f"{batch['question_tokens'].shape[2]}), {UTILISATION:.0%} of the peak"
    ]
    for machine in MACHINES:
        records, cached = (machine.chips * machine.peak * UTILISATION / of for of in (cost.pixels, cost.cached))
        cores = records * seconds / machine.hosts
        lines.append(
            f"  {machine.name}: {records:.1f} records/s = {records * options.views:.0f} images/s; {cores:.2f} cores like "
            f"this one a host, which has {machine.threads // 2} ({cores / (machine.threads // 2):.1%}); with cached features "
            f"{cached:.1f} records/s, {cached * cost.feature_bytes / machine.hosts / 2**20:.0f} MiB/s of them a host"
        )
    return "\n".join(lines)
