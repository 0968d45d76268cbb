"""The training step of a config for devices that are not there: the same functions that `experiments.train` uses."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.loader import DataConfig
from experiments import online as online_lib
from experiments import startup
from experiments.phases import data_settings
from experiments.starting import processor_for
from experiments.train import model_functions
from spatialsv_jax import assembly, target
from spatialsv_jax.interop import hub
from spatialsv_jax.losses.objective import active_terms
from spatialsv_jax.planning.chips import Topology
from spatialsv_jax.planning.devices import abstract_devices
from spatialsv_jax.processing import PROCESSORS, Processor
from spatialsv_jax.spec import BATCH, OPTIONAL
from spatialsv_jax.training import sharding, state, step


def phase_of(config: ConfigDict, name: str = "") -> ConfigDict:
    """The phase of a config to plan: `name`, or the last one that trains.

    Raises:
      ValueError: no such phase.
    """
    if "phases" not in config:
        return config.copy_and_resolve_references()
    trained = [phase for phase in config.order if config.phases[phase].stage == "train"]
    name = name or trained[-1]
    if name not in trained:
        raise ValueError(f"--phase is '{name}'; the config trains {', '.join(trained)}.")
    return config.phases[name].copy_and_resolve_references()


def planning_processor(config: ConfigDict, settings: assembly.Settings, folder: Path) -> Processor:
    """A processor without any tokenizer file: text is spelled in bytes, the vocabulary is the config's.

    With `config.init_from` the folder of a Hugging Face checkpoint it is the checkpoint's own.
    """
    if hub.is_checkpoint(config.init_from):
        return processor_for(config, settings, {})
    config = config.copy_and_resolve_references()
    config.init_from = ""
    if settings.model != "mllm" or not settings.language.vocab_size:
        return processor_for(config, settings, {})
    processor = PROCESSORS[settings.family].from_scratch(folder / "processor", settings.vision)
    processor.text = dataclasses.replace(processor.text, vocab_size=settings.language.vocab_size)
    return processor


def batch_shapes(settings: assembly.Settings, data: DataConfig, processor: Processor, rows: int) -> dict:
    """Shapes of a batch as the loader would give it.

    Args:
      settings: of the phase.
      data: its data settings; one bucket, the shapes stated there.
      processor: the family's.
      rows: B, of the global batch.
    """
    views, (height, width) = data.views, data.label_size
    prefix = processor.encode_prefix(views)
    pictures = [np.zeros((8, 8, 3), np.uint8)] * views
    pixels = processor.pixels(pictures, (height, width)).pixel_values
    sizes = dict(
        B=rows, V=views, H=height, W=width, P=prefix.image_token_index.shape[1], S=len(prefix.tokens),
        K=prefix.positions.shape[1], Q=data.questions, T=data.question_tokens, A=data.answer_tokens,
    )  # fmt: skip
    fields = {
        name: (tuple(int(a) if a.isdigit() else sizes[a] for a in field.shape), field.dtype)
        for name, field in BATCH.items()
        if name not in (*OPTIONAL, "pixel_values")
    }
    fields["pixel_values"] = ((rows, *pixels.shape), "float32")
    for name in ("feature_slots", "feature_valid"):
        if (value := getattr(prefix, name)) is not None:
            fields[name] = ((rows, *value.shape), value.dtype)
    if "distill" in active_terms(settings.losses):
        fields["teacher_features"] = ((rows, views, sizes["P"], settings.lifting.distill_features), "float32")
    if any(source.confidence_weights for source in data.source_configs):
        fields["label_weight"] = fields["depth"]
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in fields.items()}


def with_cached_features(model, batch: dict, seed: int, label_hw: tuple[int, int]) -> dict:
    """The batch with features of the frozen encoder in place of the pixels' channels (`data.vision_cache`)."""
    init = lambda b: model.init_params(jax.random.key(seed), b, label_hw=label_hw)
    encode = lambda b: model.apply({"params": init(b)}, b, method="encode_pictures")
    pixels = batch["pixel_values"]
    return batch | {
        "vision_features": jax.eval_shape(encode, batch),
        "pixel_values": jax.ShapeDtypeStruct((*pixels.shape[:-1], 0), pixels.dtype),
    }


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A step ready to be traced or compiled.

    Attributes:
      settings: of the phase.
      parts, shapes, batch, mesh: what `startup.compile_step` takes.
      report: how parameters are split.
      tokens: language tokens of a global batch, every one taken to be real.
      rows: of a global batch.
      online: the teacher in the step, without weights; None = there is none.
    """

    settings: assembly.Settings
    parts: step.StepParts
    shapes: state.TrainState
    batch: dict
    mesh: object
    report: sharding.ShardingReport
    tokens: int
    rows: int
    online: online_lib.Online | None = None


def lower(settings: dict, topology: Topology) -> jax.stages.Lowered:
    """The step of a phase, `ConfigDict.to_dict()`, lowered for TPUs that are not there; for `scheduled.schedule`."""
    with target.compiling_for(topology.chip.platform):
        planned = plan_step(ConfigDict(settings), abstract_devices(topology))
        traced = startup.trace_step(planned.parts, planned.shapes, planned.batch, planned.mesh, planned.online)
        with jax.set_mesh(planned.mesh):
            return traced.lower()


def plan_step(config: ConfigDict, devices: list) -> PlannedStep:
    """Everything of a phase's step but the compiling, on `devices`.

    Raises:
      ValueError: a wrong setting; rows that do not divide over the mesh.
    """
    settings = assembly.read_settings(config)
    data = data_settings(config)
    rows = sum(source.per_batch for source in data.source_configs)
    mesh = sharding.make_mesh(settings.mesh, devices=devices)
    sharding.check_rows(rows, mesh, settings.training.microbatches)
    with tempfile.TemporaryDirectory() as folder:
        processor = planning_processor(config, settings, Path(folder))
        batch = batch_shapes(settings, data, processor, rows)
        model = assembly.build_model(settings, processor)
    teacher = online_lib.outlined_teacher(settings, data, mesh)
    if teacher:
        batch |= online_lib.batch_shapes(teacher, rows, data.views, data.sample_settings.label_size, processor.grid_hw)
    if data.vision_cache and settings.model == "mllm":
        batch = with_cached_features(model, batch, config.seed, data.label_size)
    one = {name: np.zeros((1, *value.shape[1:]), value.dtype) for name, value in batch.items()}
    init, apply, logical_axes = model_functions(model, settings, one, config.seed)
    parts = step.make_parts(settings, apply, teach=teacher and teacher.teach)
    shapes, report = state.state_shapes(
        init, parts.tx, settings.frozen_groups, logical_axes, mesh, averaged=settings.ema.decay > 0
    )
    questions = batch["question_tokens"].shape
    tokens = rows * (batch["prefix_tokens"].shape[1] + questions[1] * questions[2])
    return PlannedStep(settings, parts, shapes, batch, mesh, report, tokens, rows, teacher)
