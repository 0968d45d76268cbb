"""The page of a comparison: variants, pairs with verdicts, types, what was forgotten, shares of the gradients."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from spatialsv_jax.report import charts, markup
from spatialsv_jax.report.markup import esc, interval, number, percent, table

VERDICTS = ("better", "worse", "doubtful", "within noise", "unknown")
_COLOURS = {"better": "#1f8a56", "worse": "#c2452d", "doubtful": "#b58a00"}


def write_page(folder: Path, result: Mapping) -> Path:
    """Writes the figures (PNG) and `folder/index.html`, which holds them too.

    Args:
      folder: exists.
      result: the contents of comparison.json.

    Returns:
      The page's path.
    """
    first = next(iter(result["variants"]))
    parts = [
        "<h1>Which differences are more than noise?</h1>",
        _head(result),
        _asked(result),
        _variants(result),
        _pairs(folder, result),
    ]
    for place, (name, types) in enumerate(result["by_type"].items(), 1):
        parts.append(
            _types(folder / f"types_{place}.png", f"{name} minus {first}, by question type", types, first, name)
        )
    parts += [_depth(result), _forgetting(folder, result), _shares(result)]
    rules = "".join(f"<dt>{esc(name)}</dt><dd>{esc(text)}</dd>" for name, text in result["method"].items())
    parts.append(
        f'<h2>How these numbers were made</h2><p><code>{esc(result["command"])}</code></p><dl class="facts">{rules}</dl>'
    )
    page = folder / "index.html"
    temporary = folder / ".index.html.partial"
    temporary.write_text(markup.document("Comparison", "\n".join(part for part in parts if part)), "utf-8")
    temporary.replace(page)
    return page


def _head(result: Mapping) -> str:
    lost = ", ".join(f"{esc(folder)} {count}" for folder, count in result["left_out"].items() if count)
    left = f" Questions that not all runs answered, left out: {lost}." if lost else ""
    return (
        f'<p class="soft">{result["questions"]} questions of {result["scenes"]} scenes that all runs answered, '
        f"{result['number_questions']} of them with numbers (by type only). Score: {esc(result['score'])}.{left} "
        "Intervals are 95 %.</p>"
    )


def _asked(result: Mapping) -> str:
    """What the runs were asked differently."""
    rows = [
        [esc(field), esc(folder), f"<code>{esc(json.dumps(value, ensure_ascii=False))}</code>"]
        for field, said in result["asked_differently"].items()
        for folder, value in said.items()
    ]
    text = "<p>The runs were not asked alike: a difference may be that of prompts, pictures or decoding.</p>"
    return text + table(["", "run", "how"], rows) if rows else ""


def _variants(result: Mapping) -> str:
    rows = []
    for name, entry in result["variants"].items():
        seeds = ", ".join(percent(value) for value in entry["seeds"])
        score = percent(entry["value"]) + interval(entry["interval_95"], 1, 100.0)
        rows.append([esc(name), score, str(len(result["runs"][name])), seeds, number(entry["seed_spread"], 2, 100.0)])
    head = ["variant", "score % (interval by scene)", "seeds", "score of each", "standard deviation"]
    return table(head, rows)


def _pairs(folder: Path, result: Mapping) -> str:
    rows, drawn = [], []
    for pair in result["pairs"]:
        name = f"{pair['second']} − {pair['first']}"
        rows.append([esc(name), *_cells(pair), esc(pair["noise"]), _verdict(pair)])
        if pair["value"] is not None:
            drawn.append(_row(name, pair))
    if not rows:
        return ""
    head = ["pair", "difference, points", "scenes alone", "p", "the interval holds", "verdict"]
    lone = ""
    if any(pair["noise"] == "scenes" for pair in result["pairs"]):
        lone = (
            "<p>Where the interval holds scenes alone, it says whether these very checkpoints differ on rooms like these; "
            "whether training again gives the same order takes several seeds of each variant.</p>"
        )
    figure = ""
    if drawn:
        chart = charts.forest_chart(folder / "pairs.png", drawn, "difference of scores, points")
        figure = charts.figure_html(chart, "Differences with their intervals; grey holds 0.")
    return f"<h2>Pairs</h2>{lone}{table(head, rows)}{figure}"


def _cells(pair: Mapping) -> list[str]:
    signed = "–" if pair["value"] is None else f"{100 * pair['value']:+.1f}"
    p = "–" if pair["p"] is None else f"{pair['p']:.3f}"
    return [signed + interval(pair["interval_95"], 1, 100.0), interval(pair["interval_scenes"], 1, 100.0), p]


def _verdict(pair: Mapping) -> str:
    kind = {"better": "right", "worse": "wrong"}.get(pair["verdict"])
    return f'<span class="{kind}">{esc(pair["verdict"])}</span>' if kind else esc(pair["verdict"])


def _row(name: str, pair: Mapping) -> tuple:
    bounds = pair["interval_95"] and [100 * bound for bound in pair["interval_95"]]
    return name, 100 * pair["value"], bounds, _COLOURS.get(pair["verdict"], "#7a8190")


def _types(path: Path, title: str, types: Mapping, first: str, second: str, more: tuple[str, ...] = ()) -> str:
    rows = [
        [esc(name), str(entry["n"]), percent(entry["first"]), percent(entry["second"]), *(percent(entry[key]) for key in more),
         *_cells(entry), number(entry["p_holm"]), _verdict(entry)]
        for name, entry in types.items()
    ]  # fmt: skip
    head = ["type", "n", f"{esc(first)} %", f"{esc(second)} %", *(f"{key} %" for key in more)]
    head += ["difference, points", "scenes alone", "p", "p, Holm", "verdict"]
    drawn = [_row(f"{name}, {entry['n']}", entry) for name, entry in types.items()]
    figure = charts.figure_html(charts.forest_chart(path, drawn, "difference, points"), title) if drawn else ""
    return f"<h2>{esc(title)}</h2>{table(head, rows)}{figure}"


def _depth(result: Mapping) -> str:
    rows = [
        [esc(f"{pair['second']} − {pair['first']}"), str(pair["n"]), str(pair["left_out"]), number(pair["first_rmse"]), number(pair["second_rmse"]),
         number(pair["value"], 4) + interval(pair["interval_95"], 4), esc(pair["noise"]), _verdict(pair)]
        for pair in result["depth_rmse"]
    ]  # fmt: skip
    head = ["pair", "records", "left out", "first", "second", "difference", "the interval holds", "verdict"]
    missing = ", ".join(map(esc, result["without_depth"]))
    note = f"<p>No record with a lifted depth of every seed: {missing}.</p>" if missing else ""
    return f"<h2>RMSE of the lifted depth</h2>{note}{table(head, rows) if rows else ''}" if rows or note else ""


def _forgetting(folder: Path, result: Mapping) -> str:
    parts = [
        _types(folder / f"forgetting_{place}.png", f"{name} against the base model", types, "base", name, ("lost", "gained"))
        for place, (name, types) in enumerate(result["forgetting"].items(), 1)
    ]  # fmt: skip
    return "".join(parts)


def _shares(result: Mapping) -> str:
    shares = result["gradient_shares"]
    missing = ", ".join(esc(name) for name in result["without_gradient_norms"])
    note = (
        f"<p>No gradient norms were probed (training.gradient_norm_every) or found for {missing}.</p>"
        if missing
        else ""
    )
    if not shares:
        return f"<h2>Shares of the gradient norms</h2>{note}"
    terms = list(dict.fromkeys(term for entry in shares.values() for term in entry["mean"]))
    rows = []
    for name, entry in shares.items():
        cells = []
        for term in terms:
            parts = [entry[part].get(term) for part in ("mean", "first_quarter", "last_quarter")]
            cells.append(percent(parts[0]) + (interval(parts[1:], 1, 100.0) if parts[0] is not None else ""))
        rows.append([esc(name), str(entry["probes"]), *cells])
    text = "<p>In percent; in grey the first and the last quarter of the probed steps.</p>"
    return f"<h2>Shares of the gradient norms</h2>{note}{text}{table(['variant', 'probes', *map(esc, terms)], rows)}"
