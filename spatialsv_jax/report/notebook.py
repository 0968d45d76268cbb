"""What notebooks show: tables and parts of pages, metrics of one run or several, maps below their pictures, shares.

Tables and parts have `_repr_html_`, figures are matplotlib's: as the last line of a cell, or given to `display`, they appear.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spatialsv_jax.report import markup
from spatialsv_jax.report.charts import COLOURS
from spatialsv_jax.report.curves import SERIES_COLOURS, series, smooth
from spatialsv_jax.report.images import value_range

Map = tuple[np.ndarray, np.ndarray]  # values float[V,H,W] and where they count bool[V,H,W]
_CSS = """
.spatialsv .clouds { display: flex; flex-wrap: wrap; gap: 12px; } .spatialsv figure { margin: 0; }
.spatialsv .right { color: #1f8a56; } .spatialsv .wrong { color: #c2452d; } .spatialsv .crisp { image-rendering: pixelated; }
.spatialsv .ci { opacity: .65; font-size: 90%; } .spatialsv .tag { opacity: .65; margin-left: 6px; }
"""


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a page (HTML), with the few rules of style that a notebook lacks."""

    body: str

    def _repr_html_(self) -> str:
        return f'<div class="spatialsv"><style>{_CSS}</style>{self.body}</div>'


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of plain values.

    Attributes:
      headers: of the columns.
      rows: of each row its cells: texts, numbers (four digits), truth values, None (a dash), or an estimate of a result
        file: a mapping with `value` and `interval_95`, shown with its interval.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[object]]

    def _repr_html_(self) -> str:
        rows = [[_cell(value) for value in row] for row in self.rows]
        return Part(markup.table([markup.esc(header) for header in self.headers], rows))._repr_html_()


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return markup.number(value["value"]) + markup.interval(value["interval_95"])
    if value is None:
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return f"{float(value):.4g}"
    return markup.esc(value)


def diagnosed_run(result: Mapping, path: Path, step: int, available: int, max_scenes: int | None) -> str:
    """The name of a model's run in a diagnosis, so that no other model's numbers are shown beside it.

    Args:
      result: contents of diagnosis.json.
      path, step: of the model (`LoadedModel`).
      available: records of the diagnosed split.
      max_scenes: how many of them are asked for; None = all.

    Raises:
      ValueError: the diagnosis is of other models, steps or numbers of records; with what it holds and what to do.
    """
    again = "Or set OUT to a folder without diagnosis.json: then the model is diagnosed."
    runs = {name: (run["trained"].get("path"), run["trained"]["step"]) for name, run in result["runs"].items()}
    wanted = (str(Path(path).resolve()), step)
    if wanted not in runs.values():
        held = "; ".join(f"{name}: step {at} of {place or 'a folder not noted'}" for name, (place, at) in runs.items())
        raise ValueError(
            f"The diagnosis in OUT is not of WORKDIR (step {step} of {wanted[0]}), but of {held}. Set WORKDIR to a model that it "
            f"is of. {again}"
        )
    asked = available if max_scenes is None else min(max_scenes, available)
    if result["data"]["records"] != asked:
        held = result["data"]["records"]
        raise ValueError(
            f"The diagnosis in OUT is of {held} of {available} records, but MAX_SCENES = {max_scenes} asks for {asked}. Set "
            f"MAX_SCENES = {held}. {again}"
        )
    return next(name for name, own in runs.items() if own == wanted)


def panels(runs: Mapping[str, Sequence[Mapping]], names: Sequence[str], title: str = "", columns: int = 4):
    """One small plot for each metric that any run logged; pale what was logged, strong its running mean.

    Args:
      runs: run -> rows of `curves.read_metrics`; several share the panels, a colour and a line of the legend each.
      names: metrics, in order.
      title: of the figure.
      columns: panels in a line.

    Returns:
      A matplotlib figure; empty but for its title where nothing was logged.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawn = [name for name in names if any(len(series(rows, name)[0]) for rows in runs.values())]
    columns = max(1, min(columns, len(drawn)))
    lines = -(-len(drawn) // columns)
    figure = Figure(figsize=(3.2 * max(columns, 2), 0.7 + 2.1 * lines), layout="constrained")
    figure.suptitle(_text(title if drawn else f"{title}: nothing was logged"), fontsize=11)
    axes = figure.subplots(lines, columns, squeeze=False).flat if drawn else ()
    for place, axis in enumerate(axes):
        if place >= len(drawn):
            axis.set_axis_off()
            continue
        for number, (run, rows) in enumerate(runs.items()):
            steps, values = series(rows, drawn[place])
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
            axis.plot(steps, smooth(values), color=colour, label=_text(run), marker="." if len(steps) == 1 else "")
        axis.set_title(drawn[place], fontsize=9, loc="left")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.grid(alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    if drawn and len(runs) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(runs), frameon=False, fontsize=9)
    return figure


def map_rows(pictures: Sequence[np.ndarray], maps: Mapping[str, Map], shared: Sequence[str] = ()):
    """The pictures of V views, and below them a row with a colour bar for each kind of map; grey = does not count.

    Args:
      pictures: uint8[h,w,3] of each view; none = no such row.
      maps: what -> (values, mask). Colours run from the 2nd to the 98th percentile of the values that count, of truth
        values from 0 to 1.
      shared: maps that have one scale together, as truth and prediction; those that are missing are passed over.

    Returns:
      A matplotlib figure.

    Raises:
      ValueError: neither picture nor map, or different numbers of views.
    """
    from matplotlib.figure import Figure

    counts = {len(pictures)} - {0} | {len(values) for values, _ in maps.values()}
    if len(counts) != 1:
        raise ValueError(f"Pictures and maps are of {sorted(counts)} views, expected one number of them, at least 1.")
    views, top = counts.pop(), len(pictures) > 0
    both = [maps[name] for name in shared if name in maps]
    together = value_range(*both) if both else (0.0, 1.0)
    figure = Figure(figsize=(2.0 * views + 1.0, 1.8 * (top + len(maps))), layout="constrained")
    lines = figure.subplots(top + len(maps), views + 1, squeeze=False, width_ratios=[1.0] * views + [0.06])
    for axis in lines[:, :views].flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_facecolor("lightgrey")
    for picture, axis in zip(pictures, lines[0], strict=False):
        axis.imshow(picture)
    if top:
        lines[0, views].set_axis_off()
    for (name, (values, mask)), axes in zip(maps.items(), lines[top:], strict=True):
        if np.asarray(values).dtype == bool:
            low, high = 0.0, 1.0
        else:
            low, high = together if name in shared else value_range((values, mask))
        for view, axis in enumerate(axes[:views]):
            shown = np.where(mask[view], values[view], np.nan)
            drawn = axis.imshow(shown, vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
        figure.colorbar(drawn, cax=axes[views])
        axes[0].set_ylabel(_text(name), fontsize=9)
    return figure


def stacked(shares: Mapping[str, Mapping[str, float]], x: str):
    """One bar for each run, made of its parts, which are named as loss terms are.

    Args:
      shares: run -> part -> length.
      x: what the lengths are.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 1.1 + 0.36 * len(shares)), layout="constrained")
    axis = figure.subplots()
    left = np.zeros(len(shares))
    for place, name in enumerate(dict.fromkeys(part for parts in shares.values() for part in parts)):
        lengths = np.array([parts.get(name, 0.0) for parts in shares.values()])
        colour = SERIES_COLOURS.get(name, COLOURS[place % len(COLOURS)])
        axis.barh(range(len(shares)), lengths, left=left, color=colour, label=_text(name))
        left += lengths
    axis.set_yticks(range(len(shares)), [_text(run) for run in shares])
    axis.invert_yaxis()
    axis.set_xlabel(_text(x))
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _text(text: str) -> str:
    """A dollar sign would start a formula."""
    return str(text).replace("$", r"\$")
