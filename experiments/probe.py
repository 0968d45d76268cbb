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
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from data_pipelines import storage
from data_pipelines.manifest import MANIFEST_NAME
from experiments import model_and_data, probe_records, reporting
from experiments.configs import probe_depth
from spatialsv_jax.evaluation import comparison, runner
from spatialsv_jax.evaluation.statistics import plain, write_json
from spatialsv_jax.report import probe_page

FORMAT_VERSION = 1
PAPER_WIDTH = 512  # models of this width or more get heads of the paper's size
METHOD = {
    "probe": "encoder, projector and language model frozen; one depth DPT with fresh projectors reads the visual tokens' states "
    "at four layers and is trained on the training split with the depth terms alone",
    "layers": "state indices of transformers: 0 = what the language model reads, i = after layer i, last = after the final norm; "
    "one index stands for four times the same; spread = the model's own taps, else the rule of docs/method.md",
    "label_size": "depth maps have one size for all models; families that show different parts of a picture (a crop, the "
    "whole) are measured at different pixels of it",
    "records": "the table is over the records that have valid depth in every probe, joined by id; left_out = those that some "
    f"probes measured and others not; other_pixels = of the former, those whose number of valid pixels or mean true depth differs by "
    f"more than {100 * probe_records.SAME:g} % from the first probe's",
    "rmse": "of a record's depth in scene units without alignment, mean over records with an interval by scene; constant = the "
    "best constant map of the training records; against_first = this minus the first row, paired by record",
    "accuracy": "of the frozen model itself over word and letter questions of all records of the choice, with depth or "
    "without, asked once per model",
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
      FileNotFoundError, PrepareError, ValueError: no model or data there, layers that a model lacks, data without depth, no
        record that all probes measured.
      FloatingPointError: a loss or a probe's depth is not finite.
    """
    from experiments import train

    called = model_and_data.distinct_names(models, names)
    data = data or _data_of(models[0])
    training, records = storage.open_split(data, "train"), storage.open_split(data, split)
    if not any(row["views"] for row in training.rows):
        raise ValueError(f"{data} has no pictures in its training split; a probe needs views with depth.")
    phases, rows_of, label_size = {}, [], tuple(label_size or _label_size(models[0]))
    for model, name in zip(models, called, strict=True):
        base = _phase(model, str(data), training, label_size=label_size, steps=steps, rows=rows, rate=rate, seed=seed)
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

    asked, found = {}, {}
    for name, _, place in rows_of:
        ask = answers and name not in asked
        found[place] = probe_records.measure(
            Path(out) / place, training, records, ask=ask, max_scenes=max_scenes, batch_size=batch_size, seed=seed
        )
        if ask:
            asked[name] = found[place].accuracy
        if not found[place].records:
            raise ValueError(f"No record of the {split} split of {data} has depth; a probe has nothing to measure.")
    common = probe_records.join({place: own.records for place, own in found.items()})
    result: dict = {"format_version": FORMAT_VERSION, "data": {"path": str(data), "split": split}}
    result |= {"label_size": label_size, "records": {"common": len(common.ids), **_listed(common)}, "rows": []}
    first = found[rows_of[0][2]]
    scenes = [first.records[record]["scene"] for record in common.ids]
    for name, layer, place in rows_of:
        row = {**probe_records.summarise(found[place], common.ids), "model": name, "layers": layer}
        row["accuracy"] = asked.get(name)
        row["against_first"] = comparison.paired_difference(
            *(probe_records.errors(own, common.ids, "rmse")[None] for own in (first, found[place])),
            scenes,
            smaller_is_better=True,
        )
        result["rows"].append(row)
    result["method"] = METHOD
    typed = command or model_and_data.typed_command()
    result["provenance"] = runner.provenance(phases, Path(data) / MANIFEST_NAME, typed, seed)
    result = plain(result)
    write_json(Path(out) / "probe.json", result)
    probe_page.write_page(Path(out), result)
    print(summary(result), flush=True)
    print(f"wrote {Path(out) / 'probe.json'}, {Path(out) / 'probe.png'} and {Path(out) / 'index.html'}", flush=True)
    return result


def _phase(
    model: str,
    data: str,
    training,
    *,
    label_size: tuple[int, int],
    steps: int,
    rows: int,
    rate: float | None,
    seed: int,
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

    return () if hub.is_checkpoint(model) else tuple(model_and_data.config_of(model)["lifting"]["taps"])


def _label_size(model: str) -> tuple[int, int]:
    from spatialsv_jax import hf_models
    from spatialsv_jax.interop import hub

    if hub.is_checkpoint(model):
        return hf_models.label_size(hf_models.processor_of(hub.open_checkpoint(model)))
    return tuple(model_and_data.config_of(model)["data"]["label_size"])


def _data_of(model: str) -> str:
    from spatialsv_jax.interop import hub

    if hub.is_checkpoint(model):
        model_and_data.need_of_others(model, data=None)
    return model_and_data.training_data(model_and_data.config_of(model))


def _listed(common: probe_records.Common) -> dict:
    """{"left_out", "other_pixels"} as {"n", "ids"}: number and ids of the records."""
    return {
        kind: {"n": len(ids), "ids": ids}
        for kind, ids in (("left_out", common.left_out), ("other_pixels", common.other_pixels))
    }


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
    return "\n".join([*lines, *probe_page.notes(result["records"])])


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
    reporting.check_positive(parser(), flags, "rate")
    from experiments import failures

    def work() -> None:
        probe_models(
            models=flags.model,
            out=flags.out,
            layers=flags.layers,
            data=flags.data,
            split=flags.split,
            names=flags.names,
            steps=flags.steps,
            rows=flags.rows,
            rate=flags.rate,
            label_size=flags.label_size,
            answers=not flags.no_answers,
            max_scenes=flags.max_scenes,
            batch_size=flags.batch_size,
            seed=flags.seed,
        )

    return reporting.exit_code(work, failures.REPORTED)


if __name__ == "__main__":
    sys.exit(main())
