"""Our side of `benchmarks.train_step`: the step of `experiments.train` on the samples of a `Task`."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.train_step_data import ANSWER, FRAMES, MERGE, PATCH, QUESTION, SIZES, WINDOW, Task
from spatialsv_jax.backbones.decoder import LanguageConfig
from spatialsv_jax.backbones.qwen2_5_vl.model import VisionConfig
from spatialsv_jax.lifting.heads import LiftingConfig
from spatialsv_jax.losses.objective import ObjectiveConfig
from spatialsv_jax.model import SpatialMLLM
from spatialsv_jax.spec import fake_batch
from spatialsv_jax.training import flops, optimizer, sharding, state, step

SEED, RATE, STEPS = 0, 1e-5, 10_000
RATES = optimizer.OptimizerConfig(language=RATE, projector=RATE, warmup_share=0.0)


def rate(number: int) -> float:
    """Learning rate of step `number`."""
    return optimizer.schedules(RATES, STEPS)["language"](number)


def settings(task: Task) -> tuple[VisionConfig, LanguageConfig]:
    """The model's sizes."""
    size = SIZES[task.size]
    vision = VisionConfig((task.side, task.side), PATCH, FRAMES, merge=MERGE, window_size=WINDOW, **size.vision)
    language = LanguageConfig(
        rope_theta=1e6, qkv_bias=True, dtype=task.dtype, remat=task.remat,
        unroll=1 if task.is_large else size.language["layers"], **size.language,
    )  # fmt: skip
    return vision, language


def model_of(task: Task) -> SpatialMLLM:
    """The model without lifting."""
    vision, language = settings(task)
    return SpatialMLLM(vision, language, LiftingConfig(heads=()), "qwen2_5_vl")


def batch_of(task: Task, packed: bool) -> dict[str, np.ndarray]:
    """A global batch: rows of all questions of a scene, or a row for each question."""
    tokens, positions, slots, start = task.prefix_tokens()
    questions, pictures = task.question_tokens(), task.pictures()
    if not packed:
        questions = questions.reshape(-1, 1, QUESTION)
        pictures = pictures.repeat(task.questions, axis=0)
    rows, views = len(questions), task.views
    sizes = dict(
        B=rows, V=views, H=2, W=2, P=task.grid**2, S=len(tokens), K=3, Q=questions.shape[1], T=QUESTION, A=ANSWER,
        N=SIZES[task.size].language["vocab_size"],
    )  # fmt: skip
    batch = fake_batch(sizes, (task.side, task.side, 3))
    repeat = lambda value: np.broadcast_to(value, (rows, *value.shape)).copy()
    batch.update(
        prefix_tokens=repeat(tokens),
        prefix_positions=repeat(positions),
        image_token_index=repeat(slots),
        question_tokens=questions,
        question_start=np.full(rows, start, np.int32),
        pixel_values=pictures,
    )
    return batch


def parameters(task: Task) -> dict:
    """The random weights that both sides train, on the device; of a row of the unpacked batch."""
    one = {name: value[:1] for name, value in batch_of(task, packed=False).items()}
    return jax.jit(lambda: model_of(task).init_params(jax.random.key(SEED), one, label_hw=(2, 2)))()


class Ours:
    """A training state and its compiled step; `beside` is another row whose state it goes on with."""

    def __init__(self, task: Task, packed: bool, beside: Ours | None = None):
        self.batch = batch_of(task, packed)
        model = model_of(task)
        apply = lambda params, batch: model.apply({"params": params}, batch, label_hw=(2, 2), lift=False)
        weights = {name: 0.0 for name in ("distill", "depth", "ray", "points")}
        tx = optimizer.make_optimizer(RATES, STEPS)
        parts = step.StepParts(
            apply, ObjectiveConfig(text=1.0, **weights), tx, ("vision",), optimizer.schedules(RATES, STEPS)
        )
        mesh = sharding.make_mesh(sharding.MeshConfig(data=1), devices=jax.devices()[:1])
        one = {name: value[:1] for name, value in self.batch.items()}
        init = lambda: model.init_params(jax.random.key(SEED), one, label_hw=(2, 2))
        axes = model.logical_axes(one, label_hw=(2, 2))
        shapes, _ = state.state_shapes(init, tx, ("vision",), axes, mesh)
        if beside is None:
            self._shared = {"state": state.create_state(init, tx, ("vision",), shapes, parameters(task))}
        else:
            self._shared = beside._shared
        self._rows = sharding.put_batch(self.batch, mesh)
        self._evaluate = jax.jit(lambda params, batch: step.evaluate_losses(parts, params, batch, 0)[0])
        traced = step.jit_step(parts, shapes).trace(shapes, self._rows)
        costs = flops.costs(traced.jaxpr).values()
        self._flops = sum(cost.matrix - cost.recomputed for cost in costs)
        self._again = sum(cost.recomputed for cost in costs)
        self._step, self._metrics = traced.lower().compile(), None

    def loss(self) -> float:
        """Of the batch, before any step."""
        return float(self._evaluate(self._shared["state"].params, self._rows))

    def step(self) -> None:
        """One optimizer step."""
        self._shared["state"], self._metrics = self._step(self._shared["state"], self._rows)

    def wait(self) -> None:
        """Until the device has done all steps."""
        jax.block_until_ready(self._metrics)

    def facts(self) -> dict:
        """Tokens that the language model reads in a step, the step's FLOPs, and those that it does a second time."""
        tokens = self.batch["prefix_tokens"].size + self.batch["question_tokens"].size
        return {"tokens": tokens, "flops": self._flops, "recomputed_flops": self._again}

    def memory(self) -> dict:
        """Bytes of the device in use at most, where it says."""
        stats = jax.devices()[0].memory_stats() or {}
        return {"peak_bytes": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {}
