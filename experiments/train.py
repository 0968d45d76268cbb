"""Trains one phase or a whole run: `python -m experiments.train --config FILE --workdir DIR [--config.key=value]`.

A run makes its data, goes through its phases (each in WORKDIR/PHASE), evaluates the last and
writes the report. Started again with the same arguments it goes on where it was stopped.
"""

from __future__ import annotations

from experiments import cpu_settings

if __name__ == "__main__":
    cpu_settings.apply()  # may start the program again, so it stands before the slow imports

import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from data_pipelines.loader import make_loader
from data_pipelines.manifest import read_manifest
from data_pipelines.paths import local_path
from experiments import (
    failures,
    hosts,
    online,
    phases,
    resume,
    startup,
    stopping,
    training_cards,
    vision_features,
    workdir_lock,
)
from experiments import label as label_lib
from experiments import prepare as prepare_lib
from experiments.starting import Start, check_labels, processor_for, resolve_sizes, write_processor
from spatialsv_jax import assembly
from spatialsv_jax.losses.objective import active_terms
from spatialsv_jax.training import loop, state, step
from spatialsv_jax.training.checkpoints import Checkpoints
from spatialsv_jax.training.metric_writer import MetricWriter, RecordLog

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file; it may take an argument as FILE:ARG.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives.")
_JOB = hosts.define_flags()
flags.adopt_module_key_flags(hosts)


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict:
    """Runs a config from data to report.

    Args:
      config: one phase (configs/common.py), or a run with `prepare`, `phases` and `evaluation`.
      workdir: where everything goes; made when missing.

    Returns:
      The evaluation of the last model phase (the contents of evaluation.json); {} without one and on other
      hosts than the first.

    Raises:
      ValueError: a wrong config, data or checkpoint, or another job in the workdir; the message names the key or file.
      NonFiniteError: a loss became NaN or infinite.
    """
    workdir = local_path(workdir, "--workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    with workdir_lock.hold(workdir, hosts.say) if hosts.is_first() else contextlib.nullcontext():
        return _train_and_evaluate(config, workdir)


def _train_and_evaluate(config: ConfigDict, workdir: Path) -> dict:
    run = phases.as_run(config)
    local_path(run.reuse, "config.reuse")
    folders = {name: workdir / name if "phases" in config else workdir for name in run.order}
    for name in run.order:  # every mistake shows before any work starts
        where = f"config.phases.{name}" if "phases" in config else "config"
        run.phases[name] = phase = resolve_sizes(run.phases[name], where, run.phases)
        if phase.stage == "train":
            phases.check_phase(phase, where)
            check_labels(phase, where, run.order)
    places = dict(folders)
    for name, arguments in run.prepare.items():
        places[name] = Path(run.reuse or workdir).absolute() / "data" / name
        hosts.on_first(functools.partial(prepare_lib.prepare_rooms, str(places[name]), **arguments))
    for name in run.order:
        phase = run.phases[name]
        hosts.say(f"\n== {name} ==")
        wanted = phase if phase.stage == "label" else phases.resolve_places(phase, places)
        if run.reuse and resume.is_finished(wanted, Path(run.reuse) / name):
            places[name] = folders[name] = Path(run.reuse).absolute() / name
            hosts.say(f"Taken over from {folders[name]}.")
        elif phase.stage == "label":
            label_lib.label_rooms(places[phase.teacher], places[phase.data], folders[name], tuple(phase.splits))
            hosts.write_json(folders[name] / "config.json", phase.to_dict())
            hosts.write_json(folders[name] / "finished.json", {})
        else:
            train_phase(wanted, folders[name])
        hosts.wait()
    hosts.write_json(
        workdir / "run.json", {"phases": {name: os.path.relpath(folders[name], workdir) for name in run.order}}
    )
    return _evaluate(run, folders, places, workdir)


def train_phase(config: ConfigDict, workdir: Path) -> None:
    """Trains one phase to its last step, going on from the newest checkpoint in `workdir`."""
    workdir.mkdir(parents=True, exist_ok=True)
    settings = assembly.read_settings(config)
    data_config = phases.data_settings(config)
    manifests = {source["path"]: read_manifest(source["path"]) for source in data_config.sources}
    processor = processor_for(config, settings, manifests)
    mesh = phases.phase_mesh(settings, sum(source["per_batch"] for source in data_config.sources))
    teacher = online.open_teacher(settings, data_config, mesh)
    data_used = resume.data_used(config, manifests, teacher.network.checkpoint if teacher else "")
    resume.check_unchanged(config, workdir, processor, data_used)
    if resume.finished_step(workdir) >= settings.training.steps:
        hosts.say(f"{config.name}: already trained to step {settings.training.steps}.")
        return
    hosts.wait()  # all have read what an earlier start left, before the first one writes
    hosts.write_json(workdir / "config.json", json.loads(config.to_json_best_effort()))
    hosts.on_first(lambda: write_processor(processor, workdir / "processor"))
    jax.config.update(
        "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(workdir.parent / ".jax_cache"))
    )

    hosts_of = (jax.process_index(), jax.process_count())
    open_loader = functools.partial(
        make_loader,
        data_config,
        processor,
        *hosts_of,
        lengths=workdir / "question_lengths",
        teacher=teacher and teacher.network,
        teacher_size=teacher.size if teacher else (0, 0),
    )
    loader = open_loader()
    model = assembly.build_model(settings, processor)
    batches = loader.examples()
    for batch in batches if settings.model == "mllm" else ():
        settings.language.check_length(batch["prefix_tokens"].shape[1] + batch["question_tokens"].shape[2])
    init, apply, logical_axes = model_functions(model, settings, batches[0], config.seed)
    parts = step.make_parts(settings, apply, config.seed, teacher and teacher.teach)
    shapes, report = state.state_shapes(
        init, parts.tx, settings.frozen_groups, logical_axes, mesh, averaged=settings.ema.decay > 0
    )
    checkpoints = Checkpoints(
        workdir / "checkpoints", settings.checkpoint.keep, say=hosts.say, afterwards=cpu_settings.release
    )
    start = None
    if checkpoints.latest_step() is None:
        start = Start(config.init_from, settings.lifting.fresh)
        start.check(shapes.params)  # before a minute of compiling
        hosts.on_first(lambda: start.remember(workdir / "processor", shapes.params))
    hosts.write_json(workdir / "buckets.json", [dataclasses.asdict(bucket) for bucket in loader.choice.buckets])
    meta = {"data": data_used, "objective": settings.objective_name} | ({"teacher": teacher.facts} if teacher else {})

    def begin() -> state.TrainState:
        if start is None:
            return resume.go_on(checkpoints, shapes)
        return state.create_state(init, parts.tx, settings.frozen_groups, shapes, start.parameters(shapes.params))

    train_state = None
    if data_config.vision_cache:
        train_state = begin()  # the encoder is needed before the steps' shapes are known
        root = workdir / "vision_cache" if data_config.vision_cache == "auto" else Path(data_config.vision_cache)
        encoder = train_state.params["backbone"]["vision"]
        loader = open_loader(vision=vision_features.Filler(root, settings, model, processor, encoder, data_config))
        batches = loader.examples()
    named_memory = functools.partial(
        failures.named_memory,
        lambda: failures.memory_parts(shapes, batches, settings.frozen_groups, teacher.shapes if teacher else ()),
    )
    with named_memory():
        compiled = startup.CompiledSteps(parts, shapes, batches, mesh, teacher)
    probe = None
    if settings.training.gradient_norm_every:
        norms = jax.jit(lambda s, b, t: step.trunk_gradient_norms(parts, s, b, t))

        def probe(train_state, batch):
            with jax.set_mesh(mesh):
                return norms(train_state, batch, teacher and teacher.params)

    cards = None
    if settings.training.cards_every:
        cards = training_cards.Cards(model, settings, loader, processor, mesh)

    table = startup.Table(
        config.name or workdir.name, settings, shapes, report, loader, compiled.steps, mesh, batches, teacher
    )
    hosts.say(table.text())

    with named_memory():
        train_state = begin() if train_state is None else train_state
    start = None  # its host copy
    first = int(train_state.step)
    writer = records = None
    if hosts.is_first():
        writer = MetricWriter(
            workdir, first, settings.training.tensorboard, settings.training.wandb, config.to_dict(), hosts.say
        )
    if settings.training.log_records:
        records = RecordLog(workdir, first)
    cpu_settings.release()
    began = time.perf_counter()
    with stopping.stepping() as stop, named_memory():
        try:
            train_state = loop.run(
                train_state,
                compiled,
                loader.iterate(first),
                mesh=mesh,
                config=settings.training,
                checkpoint_config=settings.checkpoint,
                checkpoints=checkpoints,
                writer=writer,
                meta=meta,
                flops=lambda step: table.flops[loader.mixture.schedule.at(step)[0]],
                explain=lambda s, bad: failures.explain_nonfinite(
                    parts, s, bad, loader, mesh, teacher and teacher.params
                ),
                probe=probe,
                cards=cards,
                title=hosts.label() + (config.name or workdir.name),
                stop=stop,
                records=records,
            )
        finally:
            for log in (writer, records):
                if log is not None:
                    log.close()
            checkpoints.close()
            loader.close()
    seen = {name: int(train_state.seen[name]) for name in state.SEEN}
    hosts.say(
        "Examples seen: " + ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in seen.items()) + "."
    )
    hosts.write_json(
        workdir / "finished.json",
        {"steps": settings.training.steps, "seconds": time.perf_counter() - began, "seen": seen},
    )


def model_functions(model, settings: assembly.Settings, batch: dict, seed: int):
    """(init() -> params, apply(params, batch) -> predictions, logical axes); `batch` is one that the loader gave."""
    label_hw = lambda batch: tuple(batch["depth"].shape[-2:])
    lift = settings.model == "teacher" or bool(set(active_terms(settings.losses)) - {"text"})
    one = {name: value[:1] for name, value in batch.items()}

    def init():
        return model.init_params(jax.random.key(seed), one, label_hw=label_hw(one))

    def apply(params, batch):
        return model.apply({"params": params}, batch, label_hw=label_hw(batch), lift=lift)

    return init, apply, model.logical_axes(one, label_hw=label_hw(one))


def _evaluate(run: ConfigDict, folders: dict[str, Path], places: dict[str, Path], out: Path) -> dict:
    """Evaluates the last phase that trained a language model."""
    from experiments import evaluate

    trained = [name for name in run.order if run.phases[name].stage == "train"]
    models = [name for name in trained if run.phases[name].model == "mllm"]
    if not models or run.evaluation.scenes < 0:
        return {}
    first = next(iter(run.phases[models[-1]].data.sources.values()))
    evaluation = evaluate.evaluate_run(
        model=str(folders[models[-1]]),
        data=str(places.get(first.path, first.path)),
        split=run.evaluation.split,
        out=str(out),
        max_scenes=run.evaluation.scenes or None,
        report_scenes=run.evaluation.report_scenes,
    )
    hosts.wait()
    return evaluation


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one line for an override of a key that the config lacks."""
    try:
        return app.parse_flags_with_usage(argv)
    except (KeyError, AttributeError) as error:
        given = ", ".join(arg for arg in argv if arg.startswith("--config."))
        sys.exit(f"error: an override names no key of the config: {str(error.args[0])}\nGiven: {given}")


def main(argv: list[str]) -> None:
    """The command line."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}.")
    if _CONFIG.value is None or not _WORKDIR.value:
        raise app.UsageError("--config FILE and --workdir DIR are needed.")
    logging.set_verbosity(logging.WARNING)  # Orbax and TFDS report every step of theirs
    try:
        hosts.join(*(_JOB[name].value for name in ("coordinator", "num_processes", "process_id")))
        if warning := failures.check_accelerator():
            hosts.say(warning)
        with hosts.stopping(_JOB["grace_s"].value):
            train_and_evaluate(_CONFIG.value, _WORKDIR.value)
    except (loop.Stopped, stopping.Interrupted) as reason:
        hosts.stopped(reason)
    except failures.REPORTED as error:
        if os.environ.get("SPATIALSV_TRACEBACK"):
            raise
        hosts.fail(error)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
