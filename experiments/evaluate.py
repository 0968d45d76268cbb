"""Evaluates a model on prepared data: `python -m experiments.evaluate --model DIR [--data DIR] [--out DIR]`.

Writes OUT/evaluation.json, OUT/predictions.jsonl (one line per question) and OUT/report/index.html. With --benchmark NAME
--raw DIR it asks a published benchmark instead, see `evaluate_benchmark`.
Everything but the time in evaluation.json is the same on every run of the same command.
"""

from __future__ import annotations

from experiments import cpu_settings

if __name__ == "__main__":
    cpu_settings.apply()  # as in training, so that numbers repeat

import argparse
import datetime
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from data_pipelines import storage
from data_pipelines.manifest import MANIFEST_NAME
from experiments import model_and_data, reporting
from experiments.evaluation_groups import Groups, choose
from experiments.scene_figures import scene_figure
from spatialsv_jax.evaluation import runner
from spatialsv_jax.evaluation.geometry_scores import GeometryScores
from spatialsv_jax.evaluation.statistics import plain, write_json, write_json_lines
from spatialsv_jax.metrics.camera import AUC_THRESHOLDS_DEG
from spatialsv_jax.report import exports as export_formats


def evaluate_run(
    model: str,
    data: str | None = None,
    split: str = "test",
    out: str | None = None,
    max_scenes: int | None = None,
    report: bool = True,
    report_scenes: int = 6,
    report_like: str | None = None,
    exports: Sequence[str] | None = None,
    blind: bool = True,
    batch_size: int = 8,
    seed: int = 0,
    command: str | None = None,
    dtype: str | None = None,
    fsdp: int = 0,
    tensor: int = 1,
    depth_alignments: Sequence[str] = (),
    pose_auc: Sequence[int] = AUC_THRESHOLDS_DEG,
) -> dict:
    """Evaluates, writes the files, and returns the contents of evaluation.json.

    In a job of several hosts all call it: each asks the model about its share of the records, on its own devices, and the
    first alone writes; the others get {}.

    Args:
      model: a run, a phase's workdir or a checkpoint step.
      data: a prepared data set; by default the first source of the model's config.
      split: which split to evaluate; the constant predictor is fitted on `train` of the same data, and there is none without it.
      out: where to write; by default the folder of the run whose result this is: its last phase at its last
        step on its own test rooms. Anything else goes to `evaluation/` in the phase's folder.
      max_scenes: a random choice of that many records; None = all.
      report: whether to write the page.
      report_scenes: scenes that the page shows.
      report_like: another report, whose scenes the page shows instead, as far as they are evaluated.
      exports: formats of report.exports to write for every scene; None = all that need no further package.
      blind: whether to ask everything again with black pictures.
      batch_size: rows of a batch; a record with many questions may take several rows.
      seed: of the choice of records.
      command: what to record as the command; by default this process's.
      dtype, fsdp, tensor: type of the parameters and the mesh that they are split over, see `placing`.
      depth_alignments, pose_auc: further conventions of the geometry scores (docs/geometry_metrics.md).

    Raises:
      FileNotFoundError, PrepareError, ValueError: no model or data there, data that does not fit the model, or a
        `report_like` of other data.
    """
    from experiments import gathering, hosts, placing
    from spatialsv_jax import loading

    began = time.perf_counter()
    wanted = _like(report_like) if report and report_like else None
    kinds = export_formats.DEFAULT if exports is None else tuple(exports)
    export_formats.check_kinds(kinds)
    loaded = loading.load(model, placing.mesh_of(fsdp, tensor), dtype)
    own = model_and_data.is_ours(loaded)
    if not own:
        model_and_data.need_of_others(loaded.path, data=data, out=out)
    model_and_data.use_compile_cache(_run_folder(loaded.path) if own else Path(out))
    out_folder = Path(out) if out else _default_folder(loaded, data, split)
    data = data or model_and_data.training_data(loaded.config)
    records = storage.open_split(data, split)
    if wanted is not None:
        _check_like(report_like, str(data), records.manifest["data_sha256"])
    training = storage.open_split(data, "train") if "train" in records.manifest["splits"] else None
    if training is None:  # as in published tests
        print(f"{data} has no split 'train': no constant predictor stands beside the scores.", flush=True)
    chosen = choose(len(records), max_scenes, seed)
    groups = Groups(loaded, records, chosen, training=training, batch_size=batch_size, seed=seed)
    chosen = groups.indices
    geometry = GeometryScores(groups.constants, depth_alignments, pose_auc)
    own_places = gathering.own_places(len(chosen))
    found = runner.score(groups.outcomes(own_places, blind), geometry)
    found = tqdm(found, total=len(own_places), desc="evaluate", disable=not hosts.is_first())
    scored = gathering.gather(list(found), groups.meter, out_folder)
    if scored is None:
        return {}
    result = runner.evaluate(scored, geometry)
    constant = groups.constants[0] if groups.constants else None
    scenes = [row["scene"] for row in records.rows]
    evaluation = {
        "format_version": runner.FORMAT_VERSION,
        "trained": runner.describe_model(loaded, str(model)),
        "data": {
            "path": str(data),
            "split": split,
            "records": len(chosen),
            "scenes": len({scenes[index] for index in chosen}),
            "constant_predictor": constant
            and {"records": constant.records, "scenes": len(constant.scenes), "split": "train"},
            "picture_sizes": groups.describe(),
            "data_sha256": records.manifest["data_sha256"],
        },
        **result.scores,
        "conventions": runner.conventions(),
        "provenance": runner.provenance(
            loaded.config,
            Path(data) / MANIFEST_NAME,
            command or model_and_data.typed_command(),
            seed,
        ),
    }
    if wanted is None:
        shown, evaluation["scene_choice"] = runner.choose_scenes(result.quality, report_scenes)
    else:
        here = {records.rows[index]["id"]: place for place, index in enumerate(chosen)}
        shown = [(here[name], f"as in {report_like}") for name in wanted if name in here]
        evaluation["scene_choice"] = f"The {len(shown)} of {len(wanted)} scenes of {report_like} that were evaluated."
    evaluation["time"] = {
        "finished_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - began, 1),
        "generated_tokens": groups.meter.tokens,
        "generated_tokens_per_s": round(groups.meter.per_second, 1),
    }
    out_folder.mkdir(parents=True, exist_ok=True)
    write_json_lines(out_folder / "predictions.jsonl", result.rows)
    write_json(out_folder / "evaluation.json", evaluation)
    if report:
        _write_report(out_folder / "report", plain(evaluation), groups, shown, result.quality, loaded.path, kinds)
    print(_summary(evaluation, out_folder, report), flush=True)
    return plain(evaluation)


def _write_report(folder: Path, evaluation: dict, groups: Groups, shown, quality, model: Path, kinds) -> None:
    from spatialsv_jax.report import curves, page

    places = [place for place, _ in shown]
    order = sorted(places)
    found = dict(zip(order, groups.outcomes(order, blind=False), strict=True))
    figures = [scene_figure(found[place], why, quality[place]["abs_rel"]) for place, why in shown]
    page.write_report(folder, evaluation, figures, curves.phases_of(model), kinds)


def _like(report: str) -> list[str]:
    """The ids of a report's scenes."""
    from spatialsv_jax.report import viewer_data

    return [scene["id"] for run in viewer_data.read_runs(Path(report)) for scene in run["scenes"]]


def _check_like(report: str, data: str, data_sha256: str) -> None:
    """Raises ValueError where the report is of other data; says so where it does not say of which."""
    from experiments import hosts
    from spatialsv_jax.report import viewer_data

    hashes = [(report, run.get("data_sha256")) for run in viewer_data.read_runs(Path(report))]
    for name in viewer_data.check_same_data([*hashes, (data, data_sha256)]):
        hosts.say(f"{name} does not say of which data its scenes are: taken for those of {data} where names are equal.")


def _run_folder(phase: Path) -> Path:
    return phase.parent if (phase.parent / "run.json").exists() else phase


def _default_folder(loaded, data: str | None, split: str) -> Path:
    """Where an evaluation goes that was not told: never over the run's own result unless it is that."""
    from spatialsv_jax import loading
    from spatialsv_jax.training.checkpoints import Checkpoints

    run = _run_folder(loaded.path)
    newest = Checkpoints(loaded.path / "checkpoints", create=False).latest_step()
    if loaded.step == newest and split == "test" and data is None and loading.locate(run).workdir == loaded.path:
        return run
    name = "" if data is None else f"{Path(data).absolute().name}-"
    return loaded.path / "evaluation" / f"{name}{split}-{loaded.step}"


def _summary(evaluation: dict, out: Path, report: bool) -> str:
    questions, depth, camera = evaluation["questions"], evaluation["depth"], evaluation["camera"]["all"]
    lines = [
        f"objective {evaluation['trained']['objective']}, {evaluation['data']['records']} records in {evaluation['time']['seconds']} s, "
        f"{evaluation['time']['generated_tokens_per_s']} tokens/s generated"
    ]
    if questions["micro"]["value"] is not None:
        blind = questions["blind_micro"]["value"]
        blind_text = "" if blind is None else f", blind {blind:.3f}"
        lines.append(f"accuracy {questions['micro']['value']:.3f} over {questions['micro']['n']} questions{blind_text}")
    own, base = depth["model"]["none"]["abs_rel"], depth["constant"]["none"]["abs_rel"]
    if own is not None:
        beside = "" if base is None else f", best constant map {base:.3f} ({own / base:.2f} of it)"
        lines.append(f"AbsRel {own:.3f}{beside}")
    if camera["model"]["n_pairs"]:
        lines.append(
            f"AUC@30 {camera['model']['auc30_hist_max']:.3f}, rotation error {camera['model']['rotation_error_deg']:.1f} degrees"
        )
    lines.append(
        f"wrote {out / 'evaluation.json'} and {out / 'predictions.jsonl'}"
        + (f" and {out / 'report/index.html'}" if report else "")
    )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from experiments import evaluate_benchmark, geometry_options, hosts, placing

    result = argparse.ArgumentParser(prog="python -m experiments.evaluate", description="Evaluates a model.")
    result.add_argument("--model", required=True, help="a run, a phase's workdir, or checkpoints/STEP")
    result.add_argument("--data", help="prepared data; default: the model's training data set")
    result.add_argument("--split", default="test", help="train, validation, test or ood (default test)")
    result.add_argument(
        "--out", help="where to write (default: the run's folder for its own result, else evaluation/ in the phase's)"
    )
    result.add_argument("--max_scenes", type=int, help="a random choice of that many records (default: all)")
    result.add_argument("--report_scenes", type=int, default=6, help="scenes on the page (default 6)")
    result.add_argument("--report_like", metavar="REPORT", help="show the scenes of this other report of the same data")
    result.add_argument(
        "--exports",
        nargs="*",
        metavar="FORMAT",
        help=f"of {', '.join(export_formats.EXPORTS)}, for every scene of the page; none after the flag = no exports "
        f"(default: {' '.join(export_formats.DEFAULT)})",
    )
    result.add_argument("--no_report", action="store_true", help="write no page")
    result.add_argument("--no_blind", action="store_true", help="skip the run with black pictures")
    result.add_argument("--batch_size", type=int, default=8, help="rows of a batch (default 8)")
    result.add_argument("--seed", type=int, default=0, help="of the choice of records (default 0)")
    geometry_options.add_flags(result)
    evaluate_benchmark.add_flags(result)
    placing.add_flags(result)
    hosts.add_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 for a mistake in its arguments or files."""
    flags = parser().parse_args(argv)
    reporting.check_counts(parser(), flags, "max_scenes", "batch_size")
    from experiments import evaluate_benchmark, failures, hosts, stopping

    evaluate_benchmark.check_flags(parser(), flags)

    def ask() -> None:
        if flags.benchmark:
            hosts.on_first(lambda: evaluate_benchmark.run_benchmark(flags))
            return
        evaluate_run(
            model=flags.model,
            data=flags.data,
            split=flags.split,
            out=flags.out,
            max_scenes=flags.max_scenes,
            report=not flags.no_report,
            report_scenes=flags.report_scenes,
            report_like=flags.report_like,
            exports=flags.exports,
            blind=not flags.no_blind,
            batch_size=flags.batch_size,
            seed=flags.seed,
            dtype=flags.dtype,
            fsdp=flags.fsdp,
            tensor=flags.tensor,
            depth_alignments=flags.depth_alignment,
            pose_auc=flags.pose_auc,
        )

    def work() -> None:
        hosts.join(flags.coordinator, flags.num_processes, flags.process_id)
        if warning := failures.check_accelerator():
            hosts.say(warning)
        with hosts.stopping(flags.grace_s), failures.named_memory(dict):
            ask()

    try:
        return reporting.exit_code(work, (*failures.REPORTED, ImportError), hosts.label)
    except stopping.Interrupted as reason:
        hosts.stopped(reason)


if __name__ == "__main__":
    sys.exit(main())
