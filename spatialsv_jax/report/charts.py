"""Plain charts as PNG files: values with intervals, points, curves. Texts are shown as they are, without mathematics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spatialsv_jax.report.images import data_uri_of
from spatialsv_jax.report.markup import esc

COLOURS = ("#2f6fdb", "#d9622b", "#2a9d74", "#a24cc8", "#b58a00", "#7a8190", "#c2577f", "#3aa6b9")
Valued = tuple[float | None, Sequence[float] | None]  # a value and its interval


def stepped_chart(path: Path, series: Mapping[str, Sequence[Valued]], ticks: Sequence[str], x: str, y: str) -> Path:
    """Lines over a few named steps with error bars, one line for each series; a None leaves a gap."""
    figure, axis = _empty(1.3 + 1.0 * len(ticks), 3.2)
    for place, (name, values) in enumerate(series.items()):
        shift = 0.08 * (place - (len(series) - 1) / 2)
        kept = [(index + shift, *entry) for index, entry in enumerate(values) if entry[0] is not None]
        _bars(axis, [(at, value, interval) for at, value, interval in kept], COLOURS[place % len(COLOURS)], name)
        axis.plot([at for at, *_ in kept], [value for _, value, _ in kept], color=COLOURS[place % len(COLOURS)], lw=1.2)
    axis.set_xticks(range(len(ticks)), [_text(tick) for tick in ticks])
    return _finish(figure, axis, path, x, y, len(series) > 1)


def forest_chart(path: Path, rows: Sequence[tuple[str, float, Sequence[float] | None, str]], x: str) -> Path:
    """One line for each row (label, value, interval, colour), from the top down, beside a line at 0."""
    figure, axis = _empty(7.0, 0.9 + 0.26 * max(len(rows), 1))
    for place, (_, value, interval, colour) in enumerate(rows):
        if interval is not None:
            axis.plot(interval, [place, place], color=colour, lw=2.4, alpha=0.45, solid_capstyle="butt")
        axis.plot([value], [place], "o", color=colour, ms=4.5)
    axis.axvline(0, color="#1d2129", lw=0.8)
    axis.set_yticks(range(len(rows)), [_text(label) for label, *_ in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    return _finish(figure, axis, path, x, "", False)


def points_chart(
    path: Path, rows: Sequence[tuple[str, Valued, Valued]], x: str, y: str, groups: Sequence[str] | None = None
) -> Path:
    """One named point for each row (label, x, y) with both intervals; `groups` share a colour and a legend."""
    figure, axis = _empty(6.2, 4.2)
    names = list(dict.fromkeys(groups or [""]))
    for place, (label, (at, wide), (value, interval)) in enumerate(rows):
        colour = COLOURS[names.index(groups[place] if groups else "") % len(COLOURS)]
        if wide is not None:
            axis.plot(wide, [value, value], color=colour, lw=1, alpha=0.5)
        _bars(axis, [(at, value, interval)], colour, None)
        axis.annotate(_text(label), (at, value), xytext=(5, 5), textcoords="offset points", fontsize=8)
    for place, name in enumerate(names if groups else ()):
        axis.plot([], [], "o", color=COLOURS[place % len(COLOURS)], label=_text(name))
    return _finish(figure, axis, path, x, y, bool(groups))


def curves_chart(path: Path, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> Path:
    """Curves (x values, y values); one whose name ends in "oracle" is dashed in the colour of the one before."""
    figure, axis = _empty(6.2, 3.6)
    place = -1
    for name, (across, up) in series.items():
        dashed = name.endswith("oracle")
        place += not dashed
        axis.plot(
            across, up, color=COLOURS[max(place, 0) % len(COLOURS)], ls="--" if dashed else "-", label=_text(name)
        )
    return _finish(figure, axis, path, x, y, len(series) > 1)


def figure_html(path: Path, caption: str) -> str:
    """The PNG file within a page, so that the page needs no other file; the caption is escaped."""
    return (
        f'<figure><img src="{data_uri_of(path.read_bytes())}" alt="{esc(caption)}" style="width:auto;max-width:100%;background:#fff">'
        f"<figcaption>{esc(caption)}</figcaption></figure>"
    )


def _empty(width: float, height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(width, 14), height), dpi=110, layout="constrained")
    return figure, figure.subplots()


def _bars(axis, rows: Sequence[tuple[float, float, Sequence[float] | None]], colour: str, label: str | None) -> None:
    axis.plot(
        [at for at, *_ in rows], [value for _, value, _ in rows], "o", color=colour, ms=5, label=label and _text(label)
    )
    for at, _, interval in rows:
        if interval is not None:
            axis.plot([at, at], interval, color=colour, lw=2.2, alpha=0.45, solid_capstyle="butt")


def _finish(figure, axis, path: Path, x: str, y: str, legend: bool) -> Path:
    axis.set_xlabel(_text(x))
    axis.set_ylabel(_text(y))
    axis.grid(alpha=0.18, lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if legend:
        axis.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})
    return path


def _text(text: str) -> str:
    """A dollar sign would start a formula."""
    return str(text).replace("$", r"\$")
