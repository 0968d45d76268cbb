"""What a config's training step needs on a slice that is not there: memory, work, communication, time.

    python -m experiments.plan --config FILE --topology v5e:8x8 [--mesh data=1,fsdp=64] [--out plan.json] [--config.key=value]
    python -m experiments.plan --label DA3-LARGE --topology v5e:4x4        (`plan_label`)

The real step is compiled ahead of time for the slice, for TPUs up to the code of its kernels (`--whole`: with it); no data set,
tokenizer or accelerator is needed. When it does not fit, changes are tried and ranked. docs/scaling.md says how to read the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments import plan_label, plan_step, startup
from experiments.configs import common
from experiments.plan_changes import Change, changes, on_slices
from spatialsv_jax import target
from spatialsv_jax.losses.objective import TERMS
from spatialsv_jax.planning import hlo, libtpu_log, memory, scheduled
from spatialsv_jax.planning.chips import Topology, parse_topology
from spatialsv_jax.planning.devices import abstract_devices, compiles, simulate, stand_ins
from spatialsv_jax.planning.plan import CODE_NOTE, NOT_VERIFIED, Plan, gib, is_lifting
from spatialsv_jax.planning.roofline import roofline
from spatialsv_jax.training import flops, sharding
from spatialsv_jax.training.state import split_params

BYTE_TEXT = "The prefix's text is spelled in bytes, some tokens longer than with the published tokenizer."


def text_only(config: ConfigDict) -> ConfigDict:
    """The same phase with the text loss alone and no lifting."""
    config = config.copy_and_resolve_references()
    config.lifting.update(heads=(), distill_features=0)
    config.losses.update({name: 0.0 for name in TERMS if name != "text"})
    config.ema.decay = 0.0
    if config.get("online", {}).get("teacher"):
        config.online = common.get_config().online
        for source in config.data.sources.values():
            words = {
                key: word for key, word in (("labels", "measured"), ("features", "none")) if source[key] == "online"
            }
            source.update({**words, "confidence_quantile": 0.0, "confidence_weights": False} if words else {})
    return config


def plan(
    config: ConfigDict,
    topology: Topology,
    compile: bool = True,
    name: str = "",
    skip_above: float = math.inf,
    whole: bool = False,
) -> Plan:
    """The plan of one phase.

    Args:
      config: the phase, with its mesh.
      topology: the slices.
      compile: whether to compile; False estimates memory from the traced step and knows no collectives.
      name: in the plan.
      skip_above: a step whose estimate is more than this many times a device's memory is not compiled.
      whole: whether to make a TPU program's kernels too, which takes minutes more and tells the size of its code.

    Raises:
      ValueError: a wrong setting, a mesh that fits neither slice nor batch, a missing package.
    """
    notes = [] if config.model != "mllm" or config.init_from else [BYTE_TEXT]
    if topology.chip.platform == "gpu":
        notes.append(NOT_VERIFIED)
    devices = abstract_devices(topology) if compiles(topology) else stand_ins(topology)
    # cuDNN's attention can only be traced where a GPU is: TPUs' fused kernel stands in for it.
    platform = "tpu" if topology.chip.platform == "gpu" else topology.chip.platform
    with target.compiling_for(platform):
        planned = plan_step.plan_step(config, devices)
        began = time.perf_counter()
        traced = startup.trace_step(planned.parts, planned.shapes, planned.batch, planned.mesh, planned.online)
        costs = flops.costs(traced.jaxpr, _shares(planned))
        known = memory.inputs(planned.shapes, planned.batch, planned.mesh)
        teacher = planned.online.shapes if planned.online else ()
        frozen = planned.parts.frozen_groups
        estimate = memory.estimated(known, traced.jaxpr, planned.shapes, frozen, planned.mesh, teacher)
        found, available, moved, seconds = estimate, topology.chip.memory_bytes, None, None
        if compile and compiles(topology) and not (available and estimate.peak > skip_above * available):
            if topology.chip.platform == "tpu" and not whole:
                found, available, moved = _scheduled(config, known, topology, planned.mesh, estimate.teacher)
                notes += [CODE_NOTE] * (found.source == "scheduled")
            else:
                found, available, moved = _compiled(traced, known, topology, planned.mesh, estimate.teacher)
            seconds = time.perf_counter() - began
    return Plan(
        name=name or config.name,
        objective=planned.settings.objective_name,
        topology=topology,
        mesh=dict(planned.mesh.shape),
        rows=planned.rows,
        tokens=planned.tokens,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(planned.shapes.params)),
        settings=_settings(config),
        memory=found,
        estimate=estimate.peak,
        available=available,
        costs=costs,
        text_only=_without_lifting(costs, planned),
        collectives=moved,
        times=roofline(costs, moved, topology, _update_bytes(planned)),
        replicated={**planned.report.replicated, **planned.report.large},
        compile_seconds=seconds,
        notes=tuple(notes),
    )


def _shares(planned) -> list[float | None]:
    """For each input of the step the share that a device computes with: of the state all but what tensor splits off."""
    tensor = planned.mesh.shape["tensor"]
    split = lambda leaf: "tensor" in jax.tree.leaves(tuple(leaf.sharding.spec))
    share = lambda tree: [1 / tensor if split(leaf) else 1.0 for leaf in jax.tree.leaves(tree)]
    teacher = planned.online.shapes if planned.online else ()
    return share(planned.shapes) + [None] * len(planned.batch) + share(teacher)


def _without_lifting(costs: dict, planned) -> dict:
    """Work of the same step with text alone: all parts but lifting's, and the update of what is then trained."""
    trainable, _ = split_params(planned.shapes.params, planned.parts.frozen_groups)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    share = 1 - count(trainable.get("lifting", {})) / max(count(trainable), 1)
    left = lambda part: is_lifting(part) or (planned.online is not None and part == "teacher")
    kept = {part: cost for part, cost in costs.items() if not left(part)}
    if "optimizer" in kept:
        update = flops.Cost()
        update.add(kept["optimizer"], share)
        kept["optimizer"] = update
    return kept


def _scheduled(config: ConfigDict, known, topology: Topology, mesh, teacher: int):
    """(memory, bytes that a device has, collectives or None) of a phase's step, compiled up to its kernels."""
    settings = config.copy_and_resolve_references().to_dict()
    try:
        found = scheduled.schedule(plan_step.lower, settings, topology)
    except scheduled.Refused as error:
        refused = memory.refused(known, str(error), teacher)
        if refused is None:
            raise RuntimeError(f"libtpu does not compile the step for {topology}: {error}") from error
        return *refused, None
    moved = hlo.collectives(found.text, mesh.size, topology.slices)
    return memory.scheduled(known, found, teacher), topology.chip.memory_bytes, moved


def _compiled(traced, known, topology: Topology, mesh, teacher: int = 0):
    """(memory, bytes that a device has, collectives or None) of a traced step."""
    available, slices = topology.chip.memory_bytes, topology.slices
    try:
        with libtpu_log.written() as log, jax.set_mesh(mesh):
            compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        refused = memory.refused(known, str(error), teacher)
        if refused is None:
            raise
        return *refused, None
    found = memory.compiled(known, compiled.memory_analysis(), libtpu_log.gaps(log.text))
    return (
        dataclasses.replace(found, teacher=teacher),
        available,
        hlo.collectives(compiled.as_text(), mesh.size, slices),
    )


def _update_bytes(planned) -> float:
    """Bytes of the optimizer's update on all devices: gradients read, parameters and state read and written."""
    trainable, _ = split_params(planned.shapes.params, planned.parts.frozen_groups)
    size = sharding.bytes_per_device
    return (3 * size(trainable) + 2 * size((planned.shapes.opt_state, planned.shapes.ema))) * planned.mesh.size


def _settings(config: ConfigDict) -> dict:
    """What of the config decides memory."""
    found = {}
    for section, keys in (
        ("language", ("remat", "dtype", "lora_rank", "attention")),
        ("training", ("microbatches",)),
        ("lifting", ("heads", "remat", "chunk_views", "loop_heads", "dtype")),
        ("losses", ("remat",)),
        ("vision", ("trainable",)),
        ("optimizer", ("name", "moments")),
    ):
        found.update({f"{section}.{key}": config[section][key] for key in keys if key in config[section]})
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def advise(
    config: ConfigDict, topology: Topology, refused: Plan, compiled: int = 2, say=print, whole: bool = False
) -> list[tuple[Change, Plan]]:
    """Changes that may make a step fit, best first.

    Every change is estimated. Then the most promising one is compiled, and the next, until one fits or `compiled` of them
    are: those first that fit if their estimates are as low as those of the steps that were compiled, of these what
    leaves the training's result as it is, then the quickest; behind them those that need least.

    Args:
      config: the phase, with its mesh.
      topology: the slice.
      refused: the plan of the step as it is, which does not fit.
      compiled: so many at most.
      say: told what happens.
      whole: as in `plan`.

    Returns:
      (change, plan), those that fit first, then those of which it is not known.
    """
    waiting, done = [], []
    for change in changes(config, topology.devices, topology.hosts):
        try:
            waiting.append((change, plan(change.apply(config), topology, compile=False)))
        except ValueError as error:
            say(f"  not possible: {change}: {error}")
    low = max(1.0, refused.memory.peak / refused.estimate)

    def order(entry):
        change, found = entry
        expected = found.memory.peak * (low if found.memory.source == "estimate" else 1.0)
        likely = expected <= found.available
        return (not likely, not change.same_result, (found.times.seconds or 0.0) if likely else expected, expected)

    while waiting and compiles(topology) and len(done) < compiled:
        waiting.sort(key=order)
        change, estimate = waiting.pop(0)
        say(f"  compiling: {change} (estimated {gib(estimate.memory.peak)})")
        try:
            done.append((change, plan(change.apply(config), topology, whole=whole)))
        except RuntimeError as error:  # the compiler's own; the plan and the other changes stand
            say(f"  not compiled: {change}: {next(iter(str(error).splitlines()), type(error).__name__)}")
            done.append((change, estimate))
        if done[-1][1].fits:
            break
        low = max(low, done[-1][1].memory.peak / estimate.memory.peak)
    rank = {True: 0, None: 1, False: 2}
    return sorted(
        done + waiting, key=lambda entry: (rank[entry[1].fits], entry[1].memory.source == "estimate", order(entry))
    )


def parser() -> argparse.ArgumentParser:
    """The command line; overrides `--config.key=value` are read by ml_collections."""
    made = argparse.ArgumentParser(prog="python -m experiments.plan", description=__doc__.split("\n")[0])
    made.add_argument("--config", default="", help="config file, as for experiments.train")
    made.add_argument("--topology", required=True, help="v5e:8x8, v5p:4x4x4, v6e:16x16, h100:8, cpu:8")
    made.add_argument("--mesh", default="", help="data=..,fsdp=..,tensor=..,context=..,slices=..; the others are 1")
    made.add_argument("--phase", default="", help="of a run with several phases; the last one by default")
    made.add_argument("--out", default="", help="JSON file for the plan")
    made.add_argument("--against", default="", choices=("", "text_only"), help="compiles that too, for comparison")
    made.add_argument("--estimate", action="store_true", help="estimates memory, compiles nothing")
    made.add_argument(
        "--whole", action="store_true", help="TPUs: makes kernels too, which takes minutes more and tells their size"
    )
    made.add_argument(
        "--skip_above",
        type=float,
        default=math.inf,
        help="compiles no step whose estimate is above so many times the memory",
    )
    made.add_argument("--tries", type=int, default=2, help="changes to compile when the step does not fit")
    plan_label.add_flags(made)
    return made


def read_config(file: str, overrides: list[str]) -> ConfigDict:
    """The config of a file with `--config.key=value` overrides."""
    from ml_collections import config_flags

    values = flags.FlagValues()
    words = ["plan", f"--config={file}", *overrides]
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=words)
    try:
        values(words)
    except (KeyError, AttributeError) as error:
        raise ValueError(
            f"An override names no key of the config: {error.args[0]}. Given: {' '.join(overrides)}"
        ) from error
    return values["config"].value


def run(arguments: argparse.Namespace, overrides: list[str]) -> dict:
    """Makes, prints and writes a plan; returns its JSON."""
    topology = parse_topology(arguments.topology)
    simulate(topology)
    config = read_config(arguments.config, overrides)
    config, topology = on_slices(plan_step.phase_of(config, arguments.phase), arguments.mesh, topology)
    options = dict(compile=not arguments.estimate, whole=arguments.whole)
    found = plan(config, topology, skip_above=arguments.skip_above, **options)
    print(found.text(), flush=True)
    result = found.to_json()
    if arguments.against:
        other = plan(text_only(config), topology, name=f"{config.name}, text only", **options)
        print(f"\n{other.text()}")
        flops_of = lambda one: sum(cost.matrix for cost in one.costs.values())
        more = lambda figure: figure(found) / figure(other) - 1
        ratios = {"flops": more(flops_of), "peak_bytes": more(lambda one: one.memory.peak)}
        print(
            f"\n  against text alone: {ratios['flops']:+.1%} FLOPs, {ratios['peak_bytes']:+.1%} peak memory per device"
        )
        if found.memory.source == "scheduled":
            print("  The code of both is taken to be the same, so the second figure is too small: --whole tells.")
        result["against_text_only"] = {**ratios, "text_only": other.to_json()}
    if found.fits is False and arguments.tries:
        print("\n  It does not fit. Tried, best first:", flush=True)
        result["changes"] = []
        for change, one in advise(config, topology, found, arguments.tries, whole=arguments.whole):
            seconds = f", {one.times.seconds * 1e3:.0f} ms" if one.times.seconds else ""
            verdict = {True: "fits", False: "too much", None: "not known"}[one.fits]
            print(f"  {verdict}: {change}: {gib(one.memory.peak)} ({one.memory.source}){seconds}")
            result["changes"].append({"change": str(change), "same_result": change.same_result, **one.to_json()})
    return result


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    arguments, rest = parser().parse_known_args(argv)
    if unknown := [word for word in rest if not word.startswith("--config.")]:
        sys.exit(f"error: unknown arguments {unknown}. Overrides are written --config.key=value.")
    if bool(arguments.config) == bool(arguments.label):
        parser().error("give --config FILE for a training step, or --label TEACHER for labelling")
    try:
        result = plan_label.run(arguments) if arguments.label else run(arguments, rest)
        if arguments.out:
            Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
            Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")
    except (ValueError, OSError) as error:
        if os.environ.get("SPATIALSV_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
    except RuntimeError as error:  # of the compiler, not of what was asked
        if os.environ.get("SPATIALSV_TRACEBACK"):
            raise
        sys.exit(f"failed: {error}")


if __name__ == "__main__":
    main()
