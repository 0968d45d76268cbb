"""The page of a probe: one table, one figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spatialsv_jax.report import charts, markup
from spatialsv_jax.report.markup import esc, interval, number, percent, table


def write_page(folder: Path, result: Mapping) -> Path:
    """Writes `folder/probe.png` and `folder/index.html`, which holds it too.

    The figure shows the RMSE of each model at each choice of layers; with several models that answer, against accuracy.

    Args:
      folder: exists.
      result: the contents of probe.json.

    Returns:
      The page's path.
    """
    rows = result["rows"]
    cells = []
    for row in rows:
        accuracy = row["accuracy"]
        shown = "–" if accuracy is None else percent(accuracy["value"]) + interval(accuracy["interval_95"], 1, 100.0)
        pair = row["against_first"]
        cells.append(
            [
                esc(row["model"]),
                esc(f"{row['layers']} {tuple(row['taps'])}"),
                number(row["rmse"]["value"]) + interval(row["rmse"]["interval_95"]),
                number(row["rmse_over_constant"], 2),
                number(row["abs_rel"]["value"]),
                number(pair["value"]) + interval(pair["interval_95"]),
                esc(pair["verdict"]),
                shown,
            ]
        )
    head = [
        "model",
        "layers",
        "RMSE",
        "of the constant map's",
        "AbsRel",
        "RMSE against the first",
        "verdict",
        "accuracy %",
    ]
    path, caption = _figure(folder / "probe.png", rows)
    rules = "".join(f"<dt>{esc(name)}</dt><dd>{esc(text)}</dd>" for name, text in result["method"].items())
    facts = [(name.replace("_", " "), f"<code>{esc(value)}</code>") for name, value in result["provenance"].items()]
    body = (
        "<h1>What do the features know of depth?</h1>"
        f'<p class="soft">{rows[0]["rmse"]["n"]} records of {rows[0]["rmse"]["scenes"]} scenes, split {esc(result["data"]["split"])} of '
        f"{esc(result['data']['path'])}. Depth in scene units, no alignment; the best constant map has RMSE "
        f"{number(rows[0]['constant_rmse']['value'])}. Intervals are 95 %, by scene.</p>"
        f"{''.join(f'<p>{esc(note)}</p>' for note in notes(result['records']))}"
        f"{table(head, cells)}{charts.figure_html(path, caption)}"
        f'<h2>How these numbers were made</h2>{markup.facts(facts)}<dl class="facts">{rules}</dl>'
    )
    page = folder / "index.html"
    temporary = folder / ".index.html.partial"
    temporary.write_text(markup.document("Probe", body), "utf-8")
    temporary.replace(page)
    return page


def notes(records: Mapping) -> list[str]:
    """Sentences on the records that not all probes measured, or not at the same pixels; [] where all is alike.

    Args:
      records: of probe.json.
    """
    found = []
    if count := records["left_out"]["n"]:
        found.append(
            f"{_records(count)} left out, with valid depth in some of the probes alone; {records['common']} are in all."
        )
    if count := records["other_pixels"]["n"]:
        found.append(
            f"{_records(count)} of {records['common']} measured at other pixels than in the first probe: the models are "
            "shown different parts of the pictures."
        )
    return found


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


def _figure(path: Path, rows) -> tuple[Path, str]:
    models = list(dict.fromkeys(row["model"] for row in rows))
    layers = list(dict.fromkeys(row["layers"] for row in rows))
    value = lambda entry: (entry["value"], entry["interval_95"])
    known = [row for row in rows if row["accuracy"] is not None and row["accuracy"]["value"] is not None]
    if len({row["model"] for row in known}) > 1:
        points = [(row["model"], value(row["rmse"]), value(row["accuracy"])) for row in known]
        groups = [row["layers"] for row in known]
        charts.points_chart(path, points, "RMSE of the probe", "accuracy of the model", groups)
        return path, "RMSE of each probe against the accuracy of its model; colours are layers."
    table = {(row["model"], row["layers"]): value(row["rmse"]) for row in rows}
    series = {model: [table.get((model, layer), (None, None)) for layer in layers] for model in models}
    charts.stepped_chart(path, series, layers, "layers that the probe reads", "RMSE of the probe")
    return path, "RMSE of the probes by layers."
