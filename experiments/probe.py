"""What features know of depth: `python -m experiments.probe --model M [M ...] --layers spread last --out DIR`.

Freezes each model and trains one depth DPT on its visual tokens' states at the chosen layers (config probe_depth), then
measures the depth of unseen scenes. Writes OUT/probe.json, OUT/probe.png and OUT/index.html, prints the table; each probe
is a phase of its own in OUT. Started again it goes on where it was stopped. docs/diagnosis.md.
"""

from __future__ import annotations

from experiments import cpu_settings

if __name__ == "__main__":
    cpu_settings.apply()  # as in training, so that numbers repeat

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from data_pipelines import storage
from data_pipelines.manifest import MANIFEST_NAME
from experiments import reporting
from experiments.configs import probe_depth
from spatialsv_jax import metrics
from spatialsv_jax.evaluation import comparison, runner
from spatialsv_jax.evaluation.statistics import mean_with_interval, plain, write_json

FORMAT_VERSION = 1
PAPER_WIDTH = 512  # models of this width or more get heads of the paper's size
MEASURES = ("rmse", "abs_rel")
METHOD = {
    "probe": "encoder, projector and language model frozen; one depth DPT with fresh projectors reads the visual tokens' states "
    "at four layers and is trained on the training split with the depth terms alone",
    "layers": "state indices of transformers: 0 = what the language model reads, i = after layer i, last = after the final norm; "
    "one index stands for four times the same; spread = the model's own taps, else the rule of docs/method.md",
    "label_size": "depth maps have one size for all models, so that all are measured at the same pixels",
    "rmse": "of a record's depth in scene units without alignment, mean over records with an interval by scene; constant = the "
    "best constant map of the training records; against_first = this minus the first row, paired by record",
    "accuracy": "of the frozen model itself over word and letter questions of the same records, asked once per model",
}


def probe_models(
    models: Sequence[str],
    out: str,
    layers: Sequence[str] = ("spread",),
    data: str | None = None,
    split: str = "test",
    names: Sequence[str] = (),
    steps: int = 1000,
    rows: int = 4,
    rate: float | None = None,
    label_size: tuple[int, int] | None = None,
    answers: bool = True,
    max_scenes: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    command: str | None = None,
) -> dict:
    """Probes, writes the files, and returns the contents of probe.json.

    Args:
      models: runs, phases, checkpoint steps or Hugging Face folders.
      out: where probes and results go.
      layers: "spread", "last", an index, or four indices joined by commas; one probe of each model for each.
      data: prepared data with depth; by default the first source of the first model's config.
      split: that is measured; the training split trains.
      names: what to call the models; by default their folders.
      steps, rows: optimizer steps of a probe, and samples of a batch.
      rate: peak learning rate of the DPT; None = the config's.
      label_size: (H, W) of the depth maps, the same for all models; None = the first model's.
      answers: whether to ask the models their questions too.
      max_scenes, batch_size, seed: as `experiments.evaluate`.
      command: what to record as the command; by default this process's.

    Raises:
      FileNotFoundError, PrepareError, ValueError: no model or data there, layers that a model lacks, data without depth.
    """
    from experiments import train

    called = _names(models, names)
    data = data or _data_of(models[0])
    training, records = storage.open_split(data, "train"), storage.open_split(data, split)
    if not any(row["views"] for row in training.rows):
        raise ValueError(f"{data} has no pictures in its training split; a probe needs views with depth.")
    phases, rows_of, label_size = {}, [], tuple(label_size or _label_size(models[0]))
    for model, name in zip(models, called, strict=True):
        base = _phase(model, str(data), training, label_size, steps, rows, rate, seed)
        for layer in layers:
            phase = base.copy_and_resolve_references()
            phase.lifting.taps = taps_of(layer, phase.language.layers, _own_taps(model))
            place = f"{_safe(name)}-{_safe(layer)}"
            if place in phases:
                raise ValueError(f"--names and --layers give two probes called '{place}'; give other names.")
            phases[place] = phase
            rows_of.append((name, layer, place))
    run = {"name": "probe", "reuse": "", "prepare": {}, "phases": phases, "order": tuple(phases)}
    evaluation = dict(split=split, scenes=-1, report_scenes=0)
    train.train_and_evaluate(ConfigDict({**run, "evaluation": evaluation}), out)

    result: dict = {"format_version": FORMAT_VERSION, "data": {"path": str(data), "split": split}}
    result |= {"label_size": label_size, "rows": []}
    asked, errors = {}, []
    for name, layer, place in rows_of:
        ask = answers and name not in asked
        measured = measure(Path(out) / place, training, records, ask, max_scenes, batch_size, seed)
        if ask:
            asked[name] = measured["accuracy"]
        errors.append(measured.pop("errors"))
        if not errors[-1]["scene"]:
            raise ValueError(f"No record of the {split} split of {data} has depth; a probe has nothing to measure.")
        result["rows"].append({**measured, "model": name, "layers": layer, "accuracy": asked.get(name)})
    for row, own in zip(result["rows"], errors, strict=True):
        row["against_first"] = comparison.paired_difference(
            np.array([errors[0]["rmse"]]), np.array([own["rmse"]]), own["scene"], smaller_is_better=True
        )
    result["method"] = METHOD
    result["provenance"] = runner.provenance(
        phases, Path(data) / MANIFEST_NAME, command or shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]), seed
    )  # fmt: skip
    result = plain(result)
    write_json(Path(out) / "probe.json", result)
    from spatialsv_jax.report import probe_page

    probe_page.write_page(Path(out), result)
    print(summary(result), flush=True)
    print(f"wrote {Path(out) / 'probe.json'}, {Path(out) / 'probe.png'} and {Path(out) / 'index.html'}", flush=True)
    return result


def _phase(
    model: str, data: str, training, label_size: tuple[int, int], steps: int, rows: int, rate: float | None, seed: int
) -> ConfigDict:
    from experiments.starting import resolve_sizes

    views = min(4, max(row["views"] for row in training.rows))
    config = resolve_sizes(probe_depth.phase(model, data, label_size, views, steps, rows), "the probe")
    config.seed = seed
    if config.language.width >= PAPER_WIDTH:
        probe_depth.paper_scale(config)
    if rate is not None:
        config.optimizer.lifting = rate
    return config


def measure(phase: Path, training, records, ask: bool, max_scenes: int | None, batch_size: int, seed: int) -> dict:
    """Depth errors of a probe's records, the constant map's, and the accuracy of the model where it is asked.

    Returns:
      {"taps", "step", "rmse", "abs_rel", "constant_rmse": as `mean_with_interval`, "rmse_over_constant", "accuracy" or None,
      "errors": {"rmse", "scene": lists}}.
    """
    from experiments.evaluation_groups import Groups, choose
    from spatialsv_jax import loading

    loaded = loading.load(phase)
    chosen = choose(len(records), max_scenes, seed)
    groups = Groups(loaded, records, chosen, training, batch_size, seed)
    constants = {constant.depth.shape[-2:]: constant.depth for constant in groups.constants}
    if not constants:
        raise ValueError("No record of the training split has depth; a probe has nothing to learn from.")
    found: dict[str, list] = {"rmse": [], "abs_rel": [], "constant": [], "scene": []}
    score, asked = [], []
    for outcome in groups.outcomes(range(len(chosen)), blind=False, ask=ask):
        for line, extra in runner.question_rows(outcome, None):
            if extra["form"] != "number":
                score.append(float(line["correct"]))
                asked.append(line["scene"])
        truth, mask = outcome.labels["depth"], outcome.depth_mask
        if not mask.any():
            continue
        error = metrics.depth_metrics(outcome.maps["depth"], truth, mask)
        for name in MEASURES:
            found[name].append(error[name])
        constant = constants[truth.shape[-2:]]
        found["constant"].append(metrics.depth_metrics(constant[: len(truth)], truth, mask)["rmse"])
        found["scene"].append(outcome.record.scene)
    mean = {name: mean_with_interval(found[name], found["scene"]) for name in (*MEASURES, "constant")}
    own, base = mean["rmse"]["value"], mean["constant"]["value"]
    return {
        "taps": list(loaded.model.taps),
        "step": int(loaded.step),
        **{name: mean[name] for name in MEASURES},
        "constant_rmse": mean["constant"],
        "rmse_over_constant": own / base if own is not None and base else None,
        "accuracy": mean_with_interval(score, asked, share=True) if ask else None,
        "errors": {"rmse": found["rmse"], "scene": found["scene"]},
    }


def taps_of(layer: str, layers: int, own: Sequence[int] = ()) -> tuple[int, ...]:
    """The four taps that a word of --layers names; () = the rule for the model's depth.

    Args:
      layer: "spread", "last", an index, or four indices joined by commas.
      layers: of the language model.
      own: the model's own taps, for "spread".

    Raises:
      ValueError: another word, or a state that the model lacks.
    """
    if layer == "spread":
        return tuple(own)
    words = [str(layers)] if layer == "last" else layer.split(",")
    if not all(word.isdigit() and int(word) <= layers for word in words) or len(words) not in (1, 4):
        raise ValueError(
            f"--layers {layer}: expected 'spread', 'last', an index from 0 to {layers} (the model has {layers} layers), or four "
            "indices joined by commas."
        )
    taps = tuple(int(word) for word in words)
    return taps * 4 if len(taps) == 1 else taps


def _own_taps(model: str) -> tuple[int, ...]:
    from spatialsv_jax.interop import hub

    return () if hub.is_checkpoint(model) else tuple(_config_of(model)["lifting"]["taps"])


def _config_of(model: str) -> dict:
    import json

    from spatialsv_jax import loading

    return json.loads((loading.locate(model).workdir / "config.json").read_text())


def _label_size(model: str) -> tuple[int, int]:
    from spatialsv_jax import hf_models
    from spatialsv_jax.interop import hub

    if hub.is_checkpoint(model):
        return hf_models.label_size(hf_models.processor_of(hub.open_checkpoint(model)))
    return tuple(_config_of(model)["data"]["label_size"])


def _data_of(model: str) -> str:
    from spatialsv_jax.interop import hub

    if hub.is_checkpoint(model):
        raise ValueError(f"{model} is a checkpoint of others, with no data beside it: give --data.")
    sources = _config_of(model)["data"]["sources"]
    return sources[sorted(sources)[0]]["path"]


def _names(models: Sequence[str], names: Sequence[str]) -> list[str]:
    if names and len(names) != len(models):
        raise ValueError(f"--names has {len(names)} names, expected one for each of the {len(models)} models.")
    found = list(names) or [Path(model).absolute().name for model in models]
    if len(set(found)) != len(found):
        raise ValueError(f"Two models are called alike ({', '.join(found)}); tell them apart with --names.")
    return found


def _safe(name: str) -> str:
    """As the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


def summary(result: dict) -> str:
    """The table as text."""
    shown = lambda entry: "" if entry["interval_95"] is None else " ({:.3f} to {:.3f})".format(*entry["interval_95"])
    lines = ["model | layers | RMSE | of the best constant map | against the first | accuracy"]
    for row in result["rows"]:
        accuracy = (
            "-" if row["accuracy"] is None or row["accuracy"]["value"] is None else f"{row['accuracy']['value']:.3f}"
        )
        pair = row["against_first"]
        lines.append(
            f"{row['model']} | {row['layers']} {tuple(row['taps'])} | {row['rmse']['value']:.3f}{shown(row['rmse'])} | "
            f"{row['rmse_over_constant']:.2f} | {pair['value']:+.3f} {pair['verdict']} | {accuracy}"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(prog="python -m experiments.probe", description="Probes features for depth.")
    result.add_argument(
        "--model", required=True, nargs="+", help="runs, phases, checkpoint steps or Hugging Face folders"
    )
    result.add_argument(
        "--layers", nargs="+", default=["spread"], metavar="WHICH",
        help="spread, last, an index (0 = the language model's input), or four joined by commas (default spread)",
    )  # fmt: skip
    result.add_argument("--out", required=True, help="folder of probes and results")
    result.add_argument("--data", help="prepared data with depth (default: the first model's training data set)")
    result.add_argument("--split", default="test", help="that is measured (default test)")
    result.add_argument("--names", nargs="*", default=[], help="what to call the models, in order")
    result.add_argument("--steps", type=int, default=1000, help="of each probe (default 1000)")
    result.add_argument("--rows", type=int, default=4, help="samples of a training batch (default 4)")
    result.add_argument("--rate", type=float, help="peak learning rate of the DPT (default: the config's)")
    result.add_argument(
        "--label_size", type=int, nargs=2, metavar=("H", "W"), help="of the depth maps (default: the first model's)"
    )
    result.add_argument("--no_answers", action="store_true", help="do not ask the models their questions")
    result.add_argument("--max_scenes", type=int, help="a random choice of that many records (default: all)")
    result.add_argument("--batch_size", type=int, default=8, help="rows of a batch that is measured (default 8)")
    result.add_argument("--seed", type=int, default=0, help="of the probes and of the choice of records (default 0)")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 for a mistake in its arguments or files."""
    flags = parser().parse_args(argv)
    reporting.check_counts(parser(), flags, "steps", "rows", "max_scenes", "batch_size")
    from experiments import failures

    def work() -> None:
        probe_models(
            flags.model, flags.out, flags.layers, flags.data, flags.split, flags.names, flags.steps, flags.rows, flags.rate,
            flags.label_size, not flags.no_answers, flags.max_scenes, flags.batch_size, flags.seed,
        )  # fmt: skip

    return reporting.exit_code(work, failures.REPORTED)


if __name__ == "__main__":
    sys.exit(main())
