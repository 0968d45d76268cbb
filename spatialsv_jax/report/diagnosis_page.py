"""The page of a diagnosis: runs against each other, then for each run bins, correlations, heads and confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spatialsv_jax.report import charts, diagnosis_cards, markup
from spatialsv_jax.report.markup import esc, interval, number, percent, table

BIN_NAMES = ("best quarter", "second", "third", "worst quarter")
HEAD_NAMES = {"disagreement": "depth error by the gap of depth and points"}
GAP_NAMES = {
    "depth_points": "depth against points, along the ray (share of the depth)",
    "ray_points": "rays against points (degrees)",
    "all": "points against depth and rays together (scene units)",
}


def write_page(folder: Path, diagnosis: Mapping, cards: Mapping[str, Sequence] | None = None) -> Path:
    """Writes the figures (PNG) and `folder/index.html`, which holds them too.

    Args:
      folder: made when missing.
      diagnosis: the contents of diagnosis.json.
      cards: run -> cards, see `diagnosis_cards.objects_section`.

    Returns:
      The page's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = diagnosis["data"]
    parts = [
        "<h1>Is it right where its depth is right?</h1>",
        f'<p class="soft">{data["records"]} records of {data["scenes"]} scenes, split {esc(data["split"])} of '
        f"{esc(data['path'])}. Depth error: {esc(diagnosis['measure'])}, scene units, no alignment. Intervals are 95 %, by scene.</p>",
        _across(folder, diagnosis),
    ]
    for place, (name, run) in enumerate(diagnosis["runs"].items(), 1):
        parts.append(f"<h2>{esc(name)}</h2>")
        parts += [_bins(folder, place, run), _correlations(run), _strata(folder, place, run)]
        parts += [_heads(run), _confidence(folder, place, run)]
        parts.append(diagnosis_cards.objects_section(run["objects"], (cards or {}).get(name, ())))
    rules = "".join(f"<dt>{esc(name)}</dt><dd>{esc(text)}</dd>" for name, text in diagnosis["conventions"].items())
    facts = [(name.replace("_", " "), f"<code>{esc(value)}</code>") for name, value in diagnosis["provenance"].items()]
    parts.append(
        f"<h2>How these numbers were made</h2>{markup.facts(facts)}"
        f'<details><summary>conventions</summary><dl class="facts">{rules}</dl></details>'
    )
    page = folder / "index.html"
    temporary = folder / ".index.html.partial"
    temporary.write_text(markup.document("Diagnosis", "\n".join(part for part in parts if part)), "utf-8")
    temporary.replace(page)
    return page


def _across(folder: Path, diagnosis: Mapping) -> str:
    found, measure = diagnosis["across_runs"], diagnosis["measure"]
    rows, shown = [], []
    for name, run in diagnosis["runs"].items():
        accuracy, errors = run["accuracy"], run["depth"]
        rows.append(
            [
                esc(name),
                esc(run["trained"]["objective"]),
                str(run["trained"]["step"]),
                percent(accuracy["value"]) + interval(accuracy["interval_95"], 1, 100.0),
                *(number(errors[key]["value"]) + interval(errors[key]["interval_95"]) for key in errors),
            ]
        )
        if errors[measure]["value"] is not None and accuracy["value"] is not None:
            pair = tuple((entry["value"], entry["interval_95"]) for entry in (errors[measure], accuracy))
            shown.append((name, *pair))
    head = ["run", "objective", "step", "accuracy %", "depth RMSE", "depth AbsRel"]
    if found["spearman"] is None:
        text = f"{found['runs']} runs with a depth head and answers: a correlation needs at least 3 that differ."
    else:
        text = (
            f"Over {found['runs']} runs: Spearman {found['spearman']:.2f} (p = {found['p_spearman']:.3f}), Pearson "
            f"{found['pearson']:.2f}; negative = the better the depth, the more answers are right."
        )
    if found["left_out"]:
        text += f" {found['left_out']} without depth head or without word and letter questions left out."
    figure = ""
    if shown:
        chart = charts.points_chart(folder / "across_runs.png", shown, f"depth {measure}", "accuracy")
        figure = charts.figure_html(chart, "Each run's mean depth error and accuracy, with intervals by scene.")
    return f"<h2>Across runs</h2><p>{text}</p>{table(head, rows)}{figure}"


def _bins(folder: Path, place: int, run: Mapping) -> str:
    pooled = run["within_run"]["pooled"]
    kinds = {"all questions": pooled["bins"], "within type and view count": pooled["stratified_bins"]}
    filled = {name: entry for name, entry in kinds.items() if entry["bins"]}
    within = run["within_run"]
    counts = f"<p>{within['questions']} questions, {within['without_quality']} of them without a lifted and a measured depth, "
    counts += f"{within['number_questions']} with numbers (below, by type, only).</p>"
    if not filled:
        return f"<h3>Quarters by depth error</h3>{counts}<p>Too few different depth errors for quarters.</p>"
    rows = []
    for name, entry in filled.items():
        difference = entry["best_minus_worst"]
        gap = "–" if difference["value"] is None else f"{difference['value'] * 100:+.1f}"
        note = f", {entry['left_out']} in strata too small" if entry["left_out"] else ""
        rows.append(
            [f"{esc(name)}: best minus worst {gap}{interval(difference['interval_95'], 1, 100.0)} points{note}"]
        )
        for label, cell in zip(BIN_NAMES, entry["bins"], strict=True):
            score = cell["score"]
            error = f"{number(cell['quality_low'])} to {number(cell['quality_high'])}"
            rows.append(
                [label, str(score["n"]), error, percent(score["value"]) + interval(score["interval_95"], 1, 100.0)]
            )
    series = {
        name: [(cell["score"]["value"], cell["score"]["interval_95"]) for cell in reversed(entry["bins"])]
        for name, entry in filled.items()
    }
    chart = charts.stepped_chart(
        folder / f"bins_{place}.png", series, tuple(reversed(BIN_NAMES)), f"depth {within['measure']} of the question's views", "accuracy"
    )  # fmt: skip
    figure = charts.figure_html(chart, "Accuracy in quarters of depth error, from the worst to the best.")
    return f"<h3>Quarters by depth error</h3>{counts}{table(['', 'questions', 'error', 'accuracy %'], rows)}{figure}"


def _value(entry: Mapping) -> str:
    return number(entry["value"], 2) + interval(entry["interval_95"], 2)


def _correlations(run: Mapping) -> str:
    pooled = run["within_run"]["pooled"]
    controlled = pooled["controlled"]
    cases = [
        ("all questions", pooled["correlation"]),
        ("within question type and view count", pooled["within_strata"]),
        ("the same, where difficulty is known", controlled["same_questions_uncontrolled"]),
        ("the same, at fixed object count and occlusion", controlled["correlation"]),
    ]
    rows = [[esc(name), str(entry["n"]), str(entry["scenes"]), _value(entry)] for name, entry in cases]
    for side, key in (("depth error", "difficulty_and_quality"), ("answer", "difficulty_and_score")):
        for name, entry in controlled[key].items():
            rows.append(
                [esc(f"{name.replace('_', ' ')} and {side}"), str(entry["n"]), str(entry["scenes"]), _value(entry)]
            )
    head = ["rank correlation of depth error and answer", "questions", "scenes", "value"]
    note = "<p>Negative: right where the depth is right. An interval that holds 0 says nothing either way.</p>"
    return f"<h3>Correlation</h3>{note}{table(head, rows)}"


def _strata(folder: Path, place: int, run: Mapping) -> str:
    rows, drawn = [], []
    for title, cells in (("question type", run["within_run"]["by_type"]), ("views", run["within_run"]["by_views"])):
        rows.append([title])
        for name, cell in cells.items():
            bins = cell["bins"]
            scores = [percent(entry["score"]["value"]) for entry in bins["bins"]] or ["–"] * 4
            gap = bins["best_minus_worst"]
            shown = number(gap["value"], 1, 100.0) + interval(gap["interval_95"], 1, 100.0)
            score = percent(cell["score"]["value"]) + interval(cell["score"]["interval_95"], 1, 100.0)
            rows.append([esc(name), str(cell["n"]), score, *scores, shown, _value(cell["correlation"])])
            if gap["value"] is not None and title == "question type":
                scaled = gap["interval_95"] and [100 * bound for bound in gap["interval_95"]]
                drawn.append((f"{name}, {cell['n']}", 100 * gap["value"], scaled, charts.COLOURS[0]))
    head = ["", "n", "score %", "best", "second", "third", "worst", "best − worst", "correlation"]
    figure = ""
    if drawn:
        chart = charts.forest_chart(folder / f"types_{place}.png", drawn, "best minus worst quarter, points")
        figure = charts.figure_html(chart, "Score of the best minus the worst quarter by question type.")
    return f"<h3>By type and number of views</h3>{table(head, rows)}{figure}"


def _heads(run: Mapping) -> str:
    heads = run["heads"]
    if not heads["records"]:
        return "<h3>Do the heads agree?</h3><p>Needs the depth, ray and point heads, and posed views.</p>"
    rows = [
        [esc(text), *(number(heads[name][kind]["value"]) + interval(heads[name][kind]["interval_95"]) for kind in ("median", "mean"))]
        for name, text in GAP_NAMES.items()
    ]  # fmt: skip
    return f"<h3>Do the heads agree?</h3><p>{heads['records']} records.</p>{table(['gap', 'median', 'mean'], rows)}"


def _confidence(folder: Path, place: int, run: Mapping) -> str:
    found = {name: entry for name, entry in run["confidence"].items() if entry["sparsification"]["records"]}
    reasons = "".join(
        f"<p>{esc(HEAD_NAMES.get(name, name))}: {esc(entry['reason'])}</p>"
        for name, entry in run["confidence"].items()
        if entry["reason"]
    )
    if not found:
        return f"<h3>Does it know where it errs?</h3>{reasons}" if reasons else ""
    rows, curves = [], {}
    for name, entry in found.items():
        thinned, label = entry["sparsification"], HEAD_NAMES.get(name, name)
        cells = [
            number(thinned[key]["value"]) + interval(thinned[key]["interval_95"])
            for key in ("area", "oracle_area", "ause", "gain")
        ]
        rows.append([esc(label), str(thinned["records"]), number(entry["spearman"], 2), *cells])
        curves[label] = (thinned["fractions"], thinned["curve"])
        curves[f"{label}, oracle"] = (thinned["fractions"], thinned["oracle_curve"])
    head = ["sure by", "records", "rank correlation", "area", "oracle's", "AUSE", "gain"]
    chart = charts.curves_chart(
        folder / f"confidence_{place}.png", curves, "share of the least sure pixels taken away", "mean error of the rest / of all"
    )  # fmt: skip
    figure = charts.figure_html(chart, "Sparsification: 1 = no better than chance, the oracle knows the errors.")
    text = "<p>Rank correlation of confidence and error over pixels (−1 is best); gain: 1 = the oracle, 0 = chance.</p>"
    return f"<h3>Does it know where it errs?</h3>{text}{table(head, rows)}{reasons}{figure}{_deciles(found)}"


def _deciles(found: Mapping) -> str:
    sure_by = {"disagreement": ("gap_mean", "gap", 3)}  # key, title, digits
    columns = {name: sure_by.get(name, ("confidence_mean", "confidence", 2)) for name in found if found[name]["bins"]}
    most = max((len(found[name]["bins"]) for name in columns), default=0)
    rows: list[Sequence[str]] = []
    for decile in range(most):
        cells = [str(decile + 1)]
        for name, (key, _, digits) in columns.items():
            bins = found[name]["bins"]
            entry = bins[decile] if decile < len(bins) else None
            cells += ["", ""] if entry is None else [number(entry[key], digits), number(entry["error_mean"])]
        rows.append(cells)
    head = ["decile"]
    for name, (_, title, _) in columns.items():
        head += [f"{name}: {title}", f"{name}: error"]
    return f"<details><summary>error by decile, the least sure first</summary>{table(head, rows)}</details>"
