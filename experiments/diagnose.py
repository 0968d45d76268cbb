"""Where and why models fail: `python -m experiments.diagnose --model DIR [DIR ...] [--data DIR] [--out DIR]`.

Runs each model over the same questions and compares its answers with its reconstruction. Writes OUT/diagnosis.json,
OUT/questions.jsonl (one line per question and model), figures (PNG) and OUT/index.html. docs/diagnosis.md says what
each number means.
"""

from __future__ import annotations

from experiments import cpu_settings

if __name__ == "__main__":
    cpu_settings.apply()  # as in training, so that numbers repeat

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines import storage
from data_pipelines.manifest import MANIFEST_NAME
from experiments import diagnosis_objects, diagnosis_rows, model_and_data, reporting
from experiments.evaluation_groups import Groups, choose
from spatialsv_jax.evaluation import diagnosis as diagnosis_lib
from spatialsv_jax.evaluation import object_errors, runner, sparsification
from spatialsv_jax.evaluation.head_agreement import AGREEMENT_METHOD, GAPS
from spatialsv_jax.evaluation.statistics import calibration, mean_with_interval, plain, write_json, write_json_lines

# 2: confidence has deciles of disagreement; bins null with a reason where there is nothing to sort.
# 3: stratified bins hold parts of questions; trained.path is the model's folder.
FORMAT_VERSION = 3
CONVENTIONS = {
    **diagnosis_lib.CONVENTIONS,
    "heads": AGREEMENT_METHOD,
    "confidence": f"error of up to {diagnosis_rows.MOST_PIXELS} pixels a record (fixed stride): |d - g| / g for depth, norm of the "
    "residual for ray and points; deciles and rank correlation over the pixels of all records together; "
    "'disagreement' takes minus the gap of depth and points (see heads) for a confidence in the depth: deciles from the largest "
    "gap on, with gap_mean instead of confidence_mean. bins are null, with a reason, where the run or the data has no such pixel",
    "sparsification": sparsification.SPARSIFICATION_METHOD,
    "objects": object_errors.OBJECTS_METHOD,
}


def diagnose_models(
    models: Sequence[str],
    data: str | None = None,
    split: str = "test",
    out: str | None = None,
    names: Sequence[str] = (),
    max_scenes: int | None = None,
    measure: str = "rmse",
    resamples: int = 1000,
    cards: int = 12,
    batch_size: int = 8,
    seed: int = 0,
    dtype: str | None = None,
    fsdp: int = 0,
    tensor: int = 1,
    command: str | None = None,
) -> dict:
    """Diagnoses, writes the files, and returns the contents of diagnosis.json.

    Args:
      models: runs, phases, checkpoint steps or Hugging Face folders.
      data: a prepared data set; by default the first source of the first model's config.
      split: of it.
      out: where to write; by default `diagnosis/` in the first model's phase.
      names: what to call the models; by default what evaluations call them.
      max_scenes: a random choice of that many records; None = all.
      measure: depth error that questions are sorted by, "rmse" or "abs_rel".
      resamples: of the intervals of correlations.
      cards: wrong answers shown with their things, for each model.
      batch_size, seed, dtype, fsdp, tensor: as `experiments.evaluate`.
      command: what to record as the command; by default this process's.

    Raises:
      FileNotFoundError, PrepareError, ValueError: no model or data there, or data that does not fit a model.
    """
    from experiments import placing
    from spatialsv_jax import loading

    model_and_data.check_names(models, names)
    result: dict = {"format_version": FORMAT_VERSION, "measure": measure, "data": {}, "across_runs": {}, "runs": {}}
    lines, pictures, folder = [], {}, Path(out) if out else None
    for place, model in enumerate(models):
        loaded = loading.load(model, placing.mesh_of(fsdp, tensor), dtype)
        if place == 0:
            if not model_and_data.is_ours(loaded):
                model_and_data.need_of_others(loaded.path, data=data, out=out)
            data = data or model_and_data.training_data(loaded.config)
            folder = folder or loaded.path / "diagnosis"
            model_and_data.use_compile_cache(folder)
            records = storage.open_split(data, split)
            chosen = choose(len(records), max_scenes, seed)
            scenes = {records.rows[index]["scene"] for index in chosen}
            result["data"] = {
                "path": str(data), "split": split, "records": len(chosen), "scenes": len(scenes),
                "data_sha256": records.manifest["data_sha256"],
            }  # fmt: skip
            config = loaded.config
        trained = {**runner.describe_model(loaded, str(model)), "path": str(loaded.path.resolve())}
        called = names[place] if names else trained["name"]
        name = model_and_data.unused_name(called, trained["step"], result["runs"])
        groups = Groups(loaded, records, chosen, training=None, batch_size=batch_size, seed=seed)
        found = diagnosis_rows.collect(groups.outcomes(range(len(chosen)), blind=False), len(chosen), name)
        result["runs"][name] = {"trained": trained, **summarise(found, measure, resamples)}
        pictures[name] = _cards(groups, found, cards)
        result["runs"][name]["cards"] = [row["id"] for row, _ in pictures[name]]
        lines += [{"model": name, **row} for row in found.questions]
    runs = result["runs"].values()
    result["across_runs"] = diagnosis_lib.across_runs(
        [run["depth"][measure]["value"] for run in runs], [run["accuracy"]["value"] for run in runs]
    )
    result["conventions"] = CONVENTIONS
    typed = command or model_and_data.typed_command()
    result["provenance"] = runner.provenance(config, Path(data) / MANIFEST_NAME, typed, seed)
    folder.mkdir(parents=True, exist_ok=True)
    result = plain(result)
    write_json(folder / "diagnosis.json", result)
    write_json_lines(folder / "questions.jsonl", lines)
    from spatialsv_jax.report import diagnosis_page

    diagnosis_page.write_page(folder, result, pictures)
    print(_summary(result, folder), flush=True)
    return result


def summarise(found: diagnosis_rows.Findings, measure: str, resamples: int) -> dict:
    """The part of diagnosis.json about one run.

    Args:
      found: of the run.
      measure, resamples: see `diagnose_models`.
    """
    exact = [row for row in found.questions if row["form"] != "number"]
    scenes = [row["scene"] for row in found.records]
    depth = [(row["depth"], row["scene"]) for row in found.records if row["depth"] is not None]
    heads = [(row["heads"], row["scene"]) for row in found.records if row["heads"]]
    confidence = {}
    for name in found.pixels:
        curves = [row["sparsification"].get(name) for row in found.records]
        confidence[name] = {**_calibrated(found, name), "sparsification": sparsification.summarise(curves, scenes)}
    return {
        "accuracy": mean_with_interval([row["score"] for row in exact], [row["scene"] for row in exact], share=True),
        "depth": {
            name: mean_with_interval([entry[name] for entry, _ in depth], [scene for _, scene in depth], error=True)
            for name in diagnosis_rows.MEASURES
        },
        "within_run": diagnosis_lib.within_run(found.questions, measure, resamples),
        "heads": {
            "records": len(heads),
            **{
                gap: {
                    kind: mean_with_interval(
                        [entry[gap][kind] for entry, _ in heads], [scene for _, scene in heads], error=True
                    )
                    for kind in ("median", "mean")
                }
                for gap in GAPS
            },
        },
        "confidence": confidence,
        "objects": object_errors.summarise(found.questions, resamples),
    }


def _calibrated(found: diagnosis_rows.Findings, name: str) -> dict:
    """`statistics.calibration` over the pixels of all records, and why there is none."""
    pairs = found.pixels[name]
    if not pairs:
        return {"n": 0, "spearman": None, "bins": None, "reason": found.why_missing(name)}
    result = calibration(*(np.concatenate([pair[side] for pair in pairs]) for side in (0, 1)))
    if name == diagnosis_rows.DISAGREEMENT:
        for entry in result["bins"]:
            entry["gap_mean"] = -entry.pop("confidence_mean")
    return {**result, "reason": None}


def _cards(groups: Groups, found: diagnosis_rows.Findings, count: int) -> list[tuple[dict, list]]:
    """The chosen rows with their pictures; their records go through the model once more."""
    chosen = diagnosis_objects.choose_cards(found.questions, count)
    places = sorted({row["record"] for row in chosen})
    again = groups.outcomes(places, blind=False, ask=False) if places else ()
    records = {
        place: (outcome, diagnosis_rows.things_of(outcome)) for place, outcome in zip(places, again, strict=True)
    }
    return [(row, diagnosis_objects.card_pictures(*records[row["record"]], row)) for row in chosen]


def _summary(result: dict, folder: Path) -> str:
    lines = []
    for name, run in result["runs"].items():
        pooled = run["within_run"]["pooled"]
        lines.append(
            f"{name}: accuracy {_shown(run['accuracy'])}, depth {result['measure']} {_shown(run['depth'][result['measure']])}"
        )
        gap = pooled["stratified_bins"]["best_minus_worst"]
        lines.append(f"  best minus worst quarter within type and view count {_shown(gap)}")
        lines.append(
            f"  correlation of depth error and answer {_shown(pooled['correlation'])}, within type and view count "
            f"{_shown(pooled['within_strata'])}, at fixed object count and occlusion {_shown(pooled['controlled']['correlation'])}"
        )
    across = result["across_runs"]
    if across["spearman"] is not None:
        lines.append(f"across {across['runs']} runs: Spearman {across['spearman']:.2f}, p = {across['p_spearman']:.3f}")
    lines.append(f"wrote {folder / 'diagnosis.json'}, {folder / 'questions.jsonl'} and {folder / 'index.html'}")
    return "\n".join(lines)


def _shown(entry: dict) -> str:
    if entry["value"] is None:
        return "none"
    pair = entry["interval_95"]
    return f"{entry['value']:.3f}" + (f" ({pair[0]:.3f} to {pair[1]:.3f})" if pair else "")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from experiments import placing

    result = argparse.ArgumentParser(prog="python -m experiments.diagnose", description="Says where models fail.")
    result.add_argument(
        "--model", required=True, nargs="+", help="runs, phases, checkpoint steps or Hugging Face folders"
    )
    result.add_argument("--data", help="prepared data (default: the first model's training data set)")
    result.add_argument("--split", default="test", help="train, validation, test or ood (default test)")
    result.add_argument("--out", help="where to write (default: diagnosis/ in the first model's phase)")
    result.add_argument("--names", nargs="*", default=[], help="what to call the models, in order")
    result.add_argument("--max_scenes", type=int, help="a random choice of that many records (default: all)")
    result.add_argument("--measure", choices=diagnosis_rows.MEASURES, default="rmse", help="depth error (default rmse)")
    result.add_argument("--resamples", type=int, default=1000, help="for the correlations' intervals (default 1000)")
    result.add_argument("--cards", type=int, default=12, help="wrong answers shown with their things (default 12)")
    result.add_argument("--batch_size", type=int, default=8, help="rows of a batch (default 8)")
    result.add_argument("--seed", type=int, default=0, help="of the choice of records (default 0)")
    placing.add_flags(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 for a mistake in its arguments or files."""
    flags = parser().parse_args(argv)
    reporting.check_counts(parser(), flags, "max_scenes", "batch_size")
    reporting.check_counts(parser(), flags, "resamples", "cards", least=0)
    from experiments import failures

    def work() -> None:
        with failures.named_memory(dict):
            diagnose_models(
                models=flags.model,
                data=flags.data,
                split=flags.split,
                out=flags.out,
                names=flags.names,
                max_scenes=flags.max_scenes,
                measure=flags.measure,
                resamples=flags.resamples,
                cards=flags.cards,
                batch_size=flags.batch_size,
                seed=flags.seed,
                dtype=flags.dtype,
                fsdp=flags.fsdp,
                tensor=flags.tensor,
            )

    return reporting.exit_code(work, failures.REPORTED)


if __name__ == "__main__":
    sys.exit(main())
