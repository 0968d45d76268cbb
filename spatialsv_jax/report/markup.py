"""Small pieces of HTML: escaping, numbers, tables, the style sheet. Everything that is text gets escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

CSS = """
:root { color-scheme: light dark; --ink:#1d2129; --soft:#5d6675; --line:#e2e5ea; --paper:#ffffff; --panel:#f6f7f9;
  --model:#2f6fdb; --base:#8d95a3; --good:#1f8a56; --bad:#c2452d; --truth:#1f9d6b; --guess:#e2702c; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ee; --soft:#98a2b3; --line:#2b313b; --paper:#14171c;
  --panel:#1b1f26; --model:#6ba0f5; --base:#79828f; --good:#4cc38a; --bad:#ef7d66; --truth:#41c790; --guess:#f2934f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 28px 80px; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 6px; font-weight: 650; letter-spacing: -.015em; }
h2 { font-size: 19px; margin: 52px 0 8px; font-weight: 640; letter-spacing: -.01em; }
h3 { font-size: 15px; margin: 26px 0 6px; font-weight: 640; }
p { margin: 6px 0 12px; max-width: 76ch; } .soft, figcaption, caption { color: var(--soft); }
.small, figcaption, caption { font-size: 13px; } a { color: var(--model); }
code { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin: 26px 0 8px; }
.tile { background: var(--panel); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-weight: 640; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: 13px; color: var(--soft); }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 14px 0; font-size: 14px; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 10px 0 6px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; padding-bottom: 6px; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 12.5px; } td:first-child, th:first-child { text-align: left; padding-left: 0; }
td.text, th.text { text-align: left; white-space: normal; } td.name { font-weight: 600; }
td .ci { color: var(--soft); font-size: 12px; } tr.group td { padding-top: 14px; color: var(--soft); font-size: 12.5px; }
.right { color: var(--good); } .wrong { color: var(--bad); }
section.scene { border-top: 1px solid var(--line); margin-top: 34px; padding-top: 4px; }
.tag { display: inline-block; font-size: 12px; border: 1px solid var(--line); border-radius: 99px; padding: 0 9px; color: var(--soft);
  margin-left: 6px; font-weight: 400; vertical-align: 1px; }
.views { display: grid; gap: 6px; margin: 14px 0; align-items: center; }
.views .row { font-size: 12.5px; color: var(--soft); line-height: 1.35; padding-right: 8px; }
.views img { width: 100%; display: block; border-radius: 4px; background: repeating-conic-gradient(var(--line) 0 25%, var(--panel) 0 50%) 0 0/12px 12px; }
.crisp { image-rendering: pixelated; }
.legend { height: 7px; border-radius: 4px; margin: 4px 0 1px; min-width: 70px; } .ends { display: flex; justify-content: space-between; }
.clouds { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 14px; margin: 16px 0; }
figure { margin: 0; } figure img { width: 100%; display: block; border-radius: 6px; } figcaption { margin-top: 4px; line-height: 1.4; }
.stack img + img { margin-top: 6px; }
svg { max-width: 100%; } svg.curves { width: 100%; height: auto; color: var(--ink); display: block; }
svg.plan { width: 100%; height: auto; background: var(--panel); border-radius: 6px; }
svg.dots { width: 170px; height: 20px; vertical-align: middle; } .key i { font-style: normal; margin-right: 14px; white-space: nowrap; }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--soft); font-size: 13.5px; }
.files a { margin-right: 14px; font-size: 13px; } pre { background: var(--panel); border-radius: 8px; padding: 12px 14px; overflow-x: auto; }
@media (max-width: 700px) { main { padding: 24px 16px 60px; } th, td { padding: 5px 7px; } }
@media print { main { max-width: none; } section.scene { break-inside: avoid-page; } }
"""


def esc(value: object) -> str:
    """Text made safe for HTML, quotes included."""
    return html.escape(str(value), quote=True)


def number(value: float | None, digits: int = 3, scale: float = 1.0) -> str:
    """A number with fixed digits, or an en dash for None."""
    return "–" if value is None else f"{value * scale:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage without the sign, or an en dash for None."""
    return number(value, digits, 100.0)


def interval(pair: Sequence[float] | None, digits: int = 3, scale: float = 1.0) -> str:
    """An interval in small grey type; empty for None."""
    if pair is None:
        return ""
    return f' <span class="ci">{pair[0] * scale:.{digits}f} to {pair[1] * scale:.{digits}f}</span>'


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", text_columns: tuple = ()) -> str:
    """An HTML table. Cells and headers are HTML already: escape text with `esc` before.

    A row with a single cell becomes a group heading over the whole width.
    """
    kind = [' class="text"' if index in text_columns else "" for index in range(len(headers))]
    head = "".join(f"<th{kind[index]}>{cell}</th>" for index, cell in enumerate(headers))
    lines = []
    for row in rows:
        if len(row) == 1:
            lines.append(f'<tr class="group"><td colspan="{len(headers)}">{row[0]}</td></tr>')
        else:
            lines.append("<tr>" + "".join(f"<td{kind[i]}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>")
    title = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="wide"><table>{title}<thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A definition list; names are escaped, values are HTML already."""
    rows = "".join(f"<dt>{esc(name)}</dt><dd>{value}</dd>" for name, value in pairs)
    return f'<dl class="facts">{rows}</dl>'


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Key figures: (value, what it is, what to compare it with), all plain text."""
    cells = "".join(
        f'<div class="tile"><b>{esc(value)}</b><span>{esc(name)}</span><span>{esc(note)}</span></div>'
        for value, name, note in items
    )
    return f'<div class="tiles">{cells}</div>'


def document(title: str, body: str) -> str:
    """A whole page: no link to another host."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{CSS}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )
