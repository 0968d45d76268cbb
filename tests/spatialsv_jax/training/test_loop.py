"""The rates in a metric line: tokens of all hosts' rows and products that count once."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_cases import make_step, one_device, tiny_batch, tiny_config

from spatialsv_jax.training import flops, loop, sharding, state, step
from spatialsv_jax.training.checkpoints import CheckpointConfig


@dataclasses.dataclass
class Lines:
    """A writer that keeps what it is given."""

    rows: list
    pictures: list = dataclasses.field(default_factory=list)

    def write(self, step, scalars):
        self.rows.append((step, scalars))

    def write_pictures(self, step, pictures):
        self.pictures.append((step, pictures))


def test_tokens_are_those_of_the_global_batch_that_the_step_counted():
    """Of every step since the last line, not of this process's rows times the number of processes."""
    mesh, lines = one_device(), Lines([])
    batch = {"prefix_mask": np.ones((2, 5), bool)}

    def step_fn(at, batch):
        metrics = {"total": 0.0, "first_nonfinite": -1, "tokens": 1000 + at.step}
        return dataclasses.replace(at, step=at.step + 1), jax.tree.map(jnp.asarray, metrics)

    begun = state.TrainState(jnp.int32(0), {}, {}, jnp.int32(-1), {}, {}, jnp.int32(0), jnp.zeros(1))
    nothing = SimpleNamespace(save=lambda state, meta: None, wait=lambda: None)
    loop.run(
        begun, step_fn, ((number, batch) for number in range(7)), mesh=mesh, config=loop.LoopConfig(steps=7, log_every=3, cards_every=2),
        checkpoint_config=CheckpointConfig(), checkpoints=nothing, writer=lines, meta={}, flops=lambda step: 1e12 * (step + 1),
        explain=lambda state, bad: "", cards=lambda at: {"seen": int(at.step)},
    )  # fmt: skip
    assert lines.pictures == [(1, {"seen": 2}), (3, {"seen": 4}), (5, {"seen": 6})]  # of the state after the step
    assert [number for number, _ in lines.rows] == [0, 3, 6]
    for (_, row), tokens, done, steps in zip(lines.rows, (1000, 3006, 3015), (1, 9, 18), (1, 3, 3), strict=True):
        seconds = row["step_time_s"] * steps
        np.testing.assert_allclose(row["tokens_per_s"] * seconds, tokens, rtol=1e-9)
        np.testing.assert_allclose(row["tflops_per_s"] * seconds, done, rtol=1e-9)


def test_tokens_of_rows_on_many_devices_are_counted_without_padding():
    mesh, batch = sharding.make_mesh(sharding.MeshConfig(data=8)), tiny_batch()
    rng = np.random.default_rng(0)
    for name in ("prefix_mask", "question_mask"):
        shape = batch[name].shape
        lengths = rng.integers(0, shape[-1] + 1, shape[:-1])
        batch[name] = np.arange(shape[-1]) < lengths[..., None]
    counted = jax.jit(state.count_tokens)(sharding.put_batch(batch, mesh))
    assert int(counted) == sum(int(batch[name].sum()) for name in ("prefix_mask", "question_mask"))


def test_products_that_rematerialisation_repeats_can_be_taken_off():
    useful, repeated = [], []
    text = dict(losses=dict(depth=0.0, ray=0.0, points=0.0), lifting=dict(heads=()))
    for remat in ("none", "full"):
        batch = tiny_batch(rows=2)
        parts, shapes, _ = make_step(tiny_config(**text, language=dict(remat=remat)), one_device(), batch)
        costs = flops.costs(step.jit_step(parts, shapes).trace(shapes, batch).jaxpr).values()
        repeated.append(sum(cost.recomputed for cost in costs))
        useful.append(sum(cost.matrix for cost in costs) - repeated[-1])
    assert repeated[0] == 0 < repeated[1] and useful[0] == useful[1]


def test_cards_need_tensorboard():
    with pytest.raises(ValueError, match="cards_every is 3, but tensorboard is False"):
        loop.LoopConfig(cards_every=3, tensorboard=False)
