"""The page of an evaluation: what was trained, key figures, tables with intervals, scenes, curves, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spatialsv_jax.report import curves, exports, markup, viewer_data
from spatialsv_jax.report.figure import SceneFigure
from spatialsv_jax.report.markup import esc, interval, number, percent, table
from spatialsv_jax.report.scene_section import write_scene

OBJECTIVES = {
    "tasks": "text, depth, ray and points: the objective that the paper's abstract stresses",
    "full": "text, depth, ray, points and feature distillation: the paper's equation 6",
    "text_only": "text alone: the paper's fine-tuning baseline",
}


def write_report(
    folder: Path,
    evaluation: Mapping,
    scenes: Sequence[SceneFigure],
    phases: Mapping[str, Sequence[Mapping]],
    kinds: Sequence[str] = exports.DEFAULT,
) -> Path:
    """Writes `folder/index.html`, the viewer's files and the point-cloud files beside it.

    Args:
      folder: made when missing.
      evaluation: the contents of evaluation.json.
      scenes: what to show, in order.
      phases: phase name -> metric rows (`curves.phases_of`).
      kinds: formats of exports.EXPORTS to write for every scene.

    Returns:
      The page's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cards, entries = _scenes(scenes, folder, evaluation, kinds)
    run = {
        "name": evaluation["trained"]["name"],
        "data_sha256": evaluation["data"].get("data_sha256"),
        "scenes": entries,
    }
    viewer = viewer_data.write_runs(folder, [run])
    sections = [_head(evaluation), _tiles(evaluation), _trained(evaluation), viewer and f"<h2>In 3D</h2>{viewer}"]
    sections += [_answers(evaluation["questions"]), _geometry(evaluation), cards]
    sections += [_curves(phases), _breakdown(evaluation.get("breakdown", {})), _provenance(evaluation)]
    page = folder / "index.html"
    temporary = folder / ".index.html.partial"
    title = f"{evaluation['trained']['name']} – evaluation"
    temporary.write_text(markup.document(title, "\n".join(part for part in sections if part)), "utf-8")
    temporary.replace(page)
    return page


def _head(evaluation: Mapping) -> str:
    trained, data = evaluation["trained"], evaluation["data"]
    seen = "that the model was trained on" if data["split"] == "train" else "the model never saw"
    return (
        f"<h1>{esc(trained['name'])}: what it sees, what it answers</h1>"
        f'<p class="soft">{data["records"]} records of {data["scenes"]} scenes {seen} '
        f"({esc(data['split'])} split), {evaluation['questions']['n']} questions. "
        f"Trained with objective <b>{esc(trained['objective'])}</b>, {esc(trained['labels'])}.</p>"
    )


def _tiles(evaluation: Mapping) -> str:
    items = []
    questions, depth = evaluation["questions"], evaluation["depth"]
    if questions["micro"]["value"] is not None:
        blind = percent(questions["blind_micro"]["value"])
        items.append((f"{percent(questions['micro']['value'])} %", "questions right", f"blind run {blind} %"))
    own, base = depth["model"]["none"]["abs_rel"], depth["constant"]["none"]["abs_rel"]
    if own is not None:
        items.append((number(own), "depth AbsRel, no alignment", f"best constant map {number(base)}"))
    settings = evaluation["camera"]["by_setting"]
    name, camera = ("walk", settings["walk"]) if "walk" in settings else ("all", evaluation["camera"]["all"])
    if camera["model"]["n_pairs"]:
        where = "walk-through views" if name == "walk" else "all views"
        mean = camera["mean_pose"]
        items.append(
            (
                number(camera["model"]["auc30_hist_max"]),
                f"camera AUC@30, {where}",
                f"mean pose {number(mean['auc30_hist_max'])}",
            )
        )
        own, base = camera["model"]["rotation_error_deg"], mean["rotation_error_deg"]
        items.append((f"{number(own, 1)}°", f"mean rotation error, {where}", f"mean pose {number(base, 1)}°"))
    return markup.tiles(items)


def _trained(evaluation: Mapping) -> str:
    trained, provenance = evaluation["trained"], evaluation["provenance"]
    weights = ", ".join(f"{name} {_weight(value)}" for name, value in trained["weights"].items())
    meaning = OBJECTIVES.get(trained["objective"], "the terms named")
    pairs = [
        ("objective", f"<b>{esc(trained['objective'])}</b>: {esc(meaning)}"),
        ("weights", esc(weights)),
        ("checkpoint", f"{esc(trained['model'])}, step {trained['step']}"),
        ("starts from", esc(trained["init_from"] or "random parameters")),
        ("data", esc(evaluation["data"]["path"])),
        ("versions", esc(", ".join(f"{name} {version}" for name, version in provenance["versions"].items()))),
        ("command", f"<code>{esc(provenance['command'])}</code>"),
    ]
    return markup.facts(pairs)


def _weight(value) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else f"schedule {value}"


def _answers(questions: Mapping) -> str:
    if not questions["n"]:
        return ""
    rows, last = [], None
    for name, entry in sorted(
        questions["types"].items(), key=lambda item: (item[1]["group"], item[1]["metric"], item[0])
    ):
        heading = (
            f"{entry['group']}, {'accuracy in %' if entry['metric'] == 'accuracy' else 'mean relative accuracy in %'}"
        )
        if heading != last:
            rows.append([esc(heading)])
            last = heading
        habit = entry["most_frequent"]
        metric = entry["metric"]
        rows.append(
            [
                f'<span class="name">{esc(name.replace("_", " "))}</span>',
                str(entry["n"]),
                percent(entry[metric]) + interval(entry["interval_95"], 1, 100.0),
                _dots(entry),
                f'{percent(habit[metric])} <span class="ci">{esc(habit["answer"])}</span>',
                percent(entry["chance"]),
                percent(entry["blind"]["value"]),
                _signed(entry["gain_over_blind"]),
            ]
        )
    head = ["type", "n", "model", "0 to 100", "most frequent", "chance", "blind", "model − blind"]
    micro, macro = questions["micro"], questions["macro"]
    note = (
        f"<p>Micro mean over {micro['n']} word and letter questions {percent(micro['value'])} %{interval(micro['interval_95'], 1, 100.0)}, "
        f"macro mean over {macro['types']} types {percent(macro['value'])} %; blind {percent(questions['blind_micro']['value'])} %. "
        "Intervals are 95 %, clustered by scene.</p>"
        '<p class="key small soft"><i><b style="color:var(--model)">●</b> model with interval</i>'
        '<i><b style="color:var(--base)">|</b> most frequent answer</i><i><b style="color:var(--base)">○</b> blind</i></p>'
    )
    return f"<h2>Answers</h2>{note}{table(head, rows)}"


def _signed(entry: Mapping) -> str:
    if entry["value"] is None:
        return "–"
    return f"{entry['value'] * 100:+.1f}{interval(entry['interval_95'], 1, 100.0)}"


def _dots(entry: Mapping) -> str:
    """Model, interval, habit and blind run on one line from 0 to 100."""
    place = lambda share: f"{5 + 160 * share:.1f}"
    parts = ['<path d="M5 10H165" stroke="var(--line)" stroke-width="2"/>']
    low, high = entry["interval_95"] or (entry[entry["metric"]],) * 2
    parts.append(
        f'<path d="M{place(low)} 10H{place(high)}" stroke="var(--model)" stroke-width="4" stroke-opacity=".35"/>'
    )
    habit, blind = entry["most_frequent"][entry["metric"]], entry["blind"]["value"]
    parts.append(f'<path d="M{place(habit)} 4V16" stroke="var(--base)" stroke-width="2"/>')
    if blind is not None:
        parts.append(
            f'<circle cx="{place(blind)}" cy="10" r="3.5" fill="none" stroke="var(--base)" stroke-width="1.5"/>'
        )
    parts.append(f'<circle cx="{place(entry[entry["metric"]])}" cy="10" r="4" fill="var(--model)"/>')
    return f'<svg class="dots" viewBox="0 0 170 20" aria-hidden="true">{"".join(parts)}</svg>'


def _geometry(evaluation: Mapping) -> str:
    depth, points, heads = evaluation["depth"], evaluation["points"], evaluation["heads_agreement"]
    parts = []
    if depth["model"]["none"]["n"]:
        rows = []
        labels = {"none": "no alignment", "median_ratio": "one scale per record (median ratio)"}
        for alignment in depth["model"]:
            rows.append([esc(labels.get(alignment, alignment.replace("_", " ")))])
            for name, shown in (("model", "model"), ("constant", "best constant map")):
                entry = depth[name][alignment]
                rows.append([shown, str(entry["n"]), number(entry["abs_rel"]) + interval(entry["abs_rel_interval_95"])])
                rows[-1] += [number(entry[key]) for key in ("rmse", "rmse_log", "log10", "delta_1", "delta_2")]
        head = ["depth", "records", "AbsRel", "RMSE", "RMSE log", "log10", "δ &lt; 1.25", "δ &lt; 1.25²"]
        ratio = depth["abs_rel_over_constant"]
        note = "" if ratio is None else f"<p>AbsRel is {number(ratio, 2)} times that of the best constant map.</p>"
        parts.append(f"<h3>Depth</h3>{note}{table(head, rows)}")
    camera = evaluation["camera"]
    if camera["all"]["model"]["n_pairs"]:
        rows = []
        for name, entry in [("all settings", camera["all"]), *camera["by_setting"].items()]:
            failed = f", {entry['failed_views']} views without a camera" if entry["failed_views"] else ""
            rows.append([f"{esc(name)}{failed}"])
            for kind, label in (
                ("model", "model"),
                ("mean_pose", "mean pose"),
                ("mean_pose_of_setting", "mean pose of the setting"),
            ):
                if entry[kind]["n_pairs"]:
                    rows.append(_camera_row(label, entry[kind]))
        head = [
            "camera",
            "pairs",
            "rotation, mean",
            "rotation, median",
            "translation, mean",
            "AUC@30",
            "RRA@15",
            "RTA@15",
        ]
        parts.append(f"<h3>Cameras, closed form from the ray maps</h3>{table(head, rows)}")
    shown = [(name, entry) for name, entry in points.items() if entry["n"]]
    if shown:
        keys = ("accuracy_mean", "completeness_mean", "chamfer_sum", "f_score_0.05")
        rows = [
            [esc(name.replace("_", " ")), str(entry["n"]), *(number(entry[key]) for key in keys)]
            for name, entry in shown
        ]
        head = ["points", "records", "accuracy", "completeness", "Chamfer, sum", "F at 0.05"]
        parts.append(f"<h3>Points</h3>{table(head, rows)}")
    if heads["n"]:
        parts.append(
            f"<p>Agreement of the heads: the points head and the depth and ray heads together lie {number(heads['median'])} scene units "
            f"apart (median), {number(heads['percentile_90'])} at the 90th percentile; relative to the distance {percent(heads['relative_median'])} %.</p>"
        )
    parts.append(_confidence(evaluation["confidence"]))
    body = "".join(part for part in parts if part)
    units = "<p>Lengths are in scene units (mean distance of a scene's points from its first camera = 1).</p>"
    return f"<h2>Geometry</h2>{units}{body}" if body else ""


def _camera_row(label: str, entry: Mapping) -> list[str]:
    degrees = [
        f"{number(entry[key], 1)}°"
        for key in ("rotation_error_deg", "rotation_error_median_deg", "translation_error_deg")
    ]
    return [
        label,
        str(entry["n_pairs"]),
        *degrees,
        *(number(entry[key]) for key in ("auc30_hist_max", "rra_15", "rta_15")),
    ]


def _confidence(confidence: Mapping) -> str:
    names = [name for name, entry in confidence.items() if entry["n"]]
    if not names:
        return ""
    rows = []
    for decile in range(max(len(confidence[name]["bins"]) for name in names)):
        cells = [str(decile + 1)]
        for name in names:
            bins = confidence[name]["bins"]
            cells += (
                [number(bins[decile]["confidence_mean"], 2), number(bins[decile]["error_mean"])]
                if decile < len(bins)
                else ["", ""]
            )
        rows.append(cells)
    head = ["decile"] + [cell for name in names for cell in (f"{name}: confidence", f"{name}: error")]
    ranks = ", ".join(f"{name} {number(confidence[name]['spearman'], 2)}" for name in names)
    note = f"<p>Does the confidence tell where the error is? Rank correlation of the two (−1 is best): {ranks}.</p>"
    return (
        f"<h3>Confidence</h3>{note}<details><summary>error by confidence decile</summary>{table(head, rows)}</details>"
    )


def _scenes(scenes: Sequence[SceneFigure], folder: Path, evaluation: Mapping, kinds) -> tuple[str, list[dict]]:
    """The scenes' cards, and their entries for the viewer."""
    if not scenes:
        return "", []
    shown = [write_scene(scene, folder, f"scene{index + 1}", kinds) for index, scene in enumerate(scenes)]
    lattice = "Dots in the confidence: pixels that the gradient term reads at coarser scales too (docs/method.md, 3.3)."
    note = f"<p>{esc(evaluation['scene_choice'])} Clouds open in any GLB or PLY viewer. {lattice}</p>"
    cards = "".join(html for html, _ in shown)
    return f"<h2>Scenes</h2>{note}{cards}", [entry for _, entries in shown for entry in entries]


def _curves(phases: Mapping[str, Sequence[Mapping]]) -> str:
    parts = []
    for index, (name, rows) in enumerate(phases.items()):
        svg = curves.curves_svg(rows, f"phase{index}")
        if svg:
            parts.append(f"<h3>{esc(name)}</h3>{svg}")
    return f"<h2>Training</h2>{''.join(parts)}" if parts else ""


def _breakdown(breakdown: Mapping) -> str:
    rows = []
    for kind, cells in breakdown.items():
        rows.append([esc(kind)])
        for name, entry in cells.items():
            rows.append(
                [
                    esc(name),
                    str(entry["records"]),
                    str(entry["questions"]["n"]),
                    percent(entry["questions"]["micro"]["value"])
                    + interval(entry["questions"]["micro"]["interval_95"], 1, 100.0),
                    number(entry["depth"]["model"]["none"]["abs_rel"]),
                    number(entry["depth"]["constant"]["none"]["abs_rel"]),
                    number(entry["camera"]["model"]["auc30_hist_max"]),
                ]
            )
    head = ["", "records", "questions", "accuracy %", "AbsRel", "AbsRel, constant", "AUC@30"]
    return f"<h2>By data set and setting</h2>{table(head, rows)}" if rows else ""


def _provenance(evaluation: Mapping) -> str:
    provenance = evaluation["provenance"]
    pairs = [
        (name.replace("_", " "), f"<code>{esc(value)}</code>")
        for name, value in provenance.items()
        if name != "versions"
    ]
    rules = "".join(f"<dt>{esc(name)}</dt><dd>{esc(text)}</dd>" for name, text in evaluation["conventions"].items())
    return (
        f"<h2>How these numbers were made</h2>{markup.facts(pairs)}"
        f'<details><summary>conventions</summary><dl class="facts">{rules}</dl></details>'
    )
