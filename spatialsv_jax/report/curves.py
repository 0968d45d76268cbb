"""Loss curves of every phase as inline SVG that follows the page's colours."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

TERMS = (
    *("text", "depth", "ray", "points", "distill"),
    *("consistency", "lifted_points", "scale_invariant", "pose", "scale", "ema"),  # extensions
)
SERIES_COLOURS = {
    "total": "#7a8190",
    "text": "#2f6fdb",
    "depth": "#d9622b",
    "ray": "#2a9d74",
    "points": "#a24cc8",
    "distill": "#b58a00",
    "consistency": "#5b8c5a",
    "lifted_points": "#8c5b5b",
    "scale_invariant": "#c2577f",
    "pose": "#3aa6b9",
    "scale": "#7d6b3f",
    "ema": "#5a5ad1",
    "all": "#7a8190",
}
_INK = "#010203"  # stands for the page's text colour until the SVG is finished
_MOST_POINTS = 400


def read_metrics(path: Path) -> list[dict]:
    """The rows of a metrics.jsonl, by step; a last line torn by a kill is left out.

    Raises:
      ValueError: another line is no JSON object, naming file and line.
    """
    rows = []
    lines = path.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not JSON: {error}.") from error
    return sorted(rows, key=lambda row: row["step"])


def phases_of(model: Path) -> dict[str, list[dict]]:
    """Metric rows of every phase of the run that `model` belongs to, in order of training.

    Args:
      model: a phase's folder, a checkpoint below it, or a run's folder (with run.json).

    Returns:
      phase name -> rows; empty when no metrics.jsonl is found.
    """
    for folder in (model, *list(model.absolute().parents)[:3]):
        listing = folder / "run.json"
        if listing.exists():
            names = json.loads(listing.read_text("utf-8"))["phases"]
            files = {name: folder / place / "metrics.jsonl" for name, place in names.items()}
            return {name: read_metrics(file) for name, file in files.items() if file.exists()}
    for folder in (model, *list(model.absolute().parents)[:2]):
        if (folder / "metrics.jsonl").exists():
            return {folder.name: read_metrics(folder / "metrics.jsonl")}
    return {}


def series(rows: Sequence[Mapping], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of one metric where it was logged and finite, thinned to at most 400 points."""
    pairs = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    pairs = [pair for pair in pairs if np.isfinite(pair[1])]
    pairs = pairs[:: max(1, -(-len(pairs) // _MOST_POINTS))] if pairs else []
    array = np.array(pairs, np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def smooth(values: np.ndarray) -> np.ndarray:
    """Exponential mean over about a 25th of the curve (at most ten points), its start corrected."""
    weight = min(0.9, max(0.0, 1 - 25 / max(len(values), 1)))
    out, mean, norm = np.empty(len(values)), 0.0, 0.0
    for index, value in enumerate(values):
        mean, norm = weight * mean + (1 - weight) * value, weight * norm + (1 - weight)
        out[index] = mean / norm
    return out


def spikes(rows: Sequence[Mapping], count: int = 3, recent: int = 32) -> list[tuple[int, float]]:
    """The logged steps whose gradient norm stands highest above the median of those logged before it.

    As `training.skip_spike` measures a step, but on what was logged.

    Args:
      rows: of `read_metrics`.
      count: at most that many.
      recent: norms in the median: the last ones before the step that are finite.

    Returns:
      (step, norm / median), the highest first; infinity where the norm was not finite. The first norm has none before it.
    """
    found, before = [], []
    for row in rows:
        if "gradient_norm/all" not in row:
            continue
        norm = row["gradient_norm/all"]
        if norm is None:  # JSON has no NaN
            found.append((row["step"], float("inf")))
            continue
        median = float(np.median(before[-recent:])) if before else 0.0
        if median > 0:
            found.append((row["step"], norm / median))
        before.append(norm)
    return sorted(found, key=lambda pair: -pair[1])[:count]


def curves_svg(rows: Sequence[Mapping], identifier: str) -> str:
    """One row of panels: total and text loss, 3D losses, gradient norms at the trunk. All axes are linear.

    Args:
      rows: of `read_metrics`.
      identifier: makes ids unique among the SVGs of a page.

    Returns:
      `<svg ...>` text, or "" where nothing was logged.
    """
    import matplotlib

    panels = [
        ("loss", [("total", "total"), ("text", "text")]),
        ("3D losses (log c may make them negative)", [(name, name) for name in TERMS[1:]]),
        ("gradient norm", [(f"gradient_norm/{name}", name) for name in (*TERMS, "all")]),
    ]
    filled = []
    for title, names in panels:
        drawn = [(label, *series(rows, name)) for name, label in names if _active(rows, name)]
        drawn = [(label, steps, values) for label, steps, values in drawn if len(steps)]
        if drawn:
            filled.append((title, drawn))
    if not filled:
        return ""
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": identifier,
        "font.size": 9,
        "font.family": "sans-serif",
        **{f"{name}color": _INK for name in ("text.", "axes.label", "axes.edge", "xtick.", "ytick.")},
    }
    with matplotlib.rc_context(settings):
        figure = _draw(filled)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), identifier)


def _active(rows: Sequence[Mapping], name: str) -> bool:
    return "/" in name or any(row.get(f"{name}/weight", 1.0) for row in rows if name in row)


def _draw(panels):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.55 * len(panels), 2.5), layout="constrained")
    for axis, (title, drawn) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, steps, values in drawn:
            colour = SERIES_COLOURS[label]
            axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(steps, smooth(values), color=colour, linewidth=1.5, label=label)
        low, high = np.percentile(np.concatenate([values for _, _, values in drawn]), [0, 99])
        margin = 0.06 * max(high - low, 1e-6)
        axis.set_ylim(low - margin, high + margin)
        if low < 0 < high:
            axis.axhline(0, color=_INK, linewidth=0.6, alpha=0.35)
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_xlabel("step")
        axis.grid(alpha=0.15, color=_INK, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8, loc="best")
    return figure


def _inline(svg: str, identifier: str) -> str:
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 class="curves" role="img"', svg, count=1)
    # ids of several inlined figures must not meet
    svg = svg.replace("*{stroke-linejoin", ".curves *{stroke-linejoin")
    return re.sub(r'(id="|url\(#|href="#)', lambda match: match[1] + f"{identifier}-", svg)
