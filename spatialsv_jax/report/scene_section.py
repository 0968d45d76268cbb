"""One scene of a page: its views with depth maps, clouds, cameras from above, questions, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spatialsv_jax import geometry as geometry_lib
from spatialsv_jax.report import exports, images, markup, viewer_data
from spatialsv_jax.report.figure import Geometry, SceneFigure, ShownPoints, geometries, shown_points
from spatialsv_jax.report.markup import esc

DEPTH_COLOURS, ERROR_COLOURS, CONFIDENCE_COLOURS = "turbo_r", "magma", "viridis"
MOST_QUESTIONS = 24  # in the table of a scene; the viewer has all


def write_scene(
    figure: SceneFigure, folder: Path, stem: str, kinds: Sequence[str] = exports.DEFAULT
) -> tuple[str, list[dict]]:
    """Writes the scene's files and returns its HTML, and its entry for the viewer (none without a cloud).

    Args:
      figure: what to show.
      folder: existing folder for `scenes/STEM.js` and the exports.
      stem: start of the file names, [a-z0-9_-] only.
      kinds: formats of exports.EXPORTS to write.
    """
    shown = shown_points(figure)
    clouds = drawn_clouds(figure, shown)
    links, entries = [], []
    if shown is not None and any(cloud.present.any() for cloud in shown.clouds.values()):
        entries = [viewer_data.write_scene(figure, shown, folder, stem)]
        paths = [
            path.relative_to(folder).as_posix() for path in exports.write_exports(figure, shown, folder, stem, kinds)
        ]
        links = [f'<a href="{esc(path)}">{esc(path)}</a>' for path in paths]
    tags = "".join(f'<span class="tag">{esc(tag)}</span>' for tag in figure.tags)
    note = f'<p class="soft small">{esc(figure.note)}</p>' if figure.note else ""
    html = (
        f'<section class="scene"><h3>{esc(figure.title)}{tags}</h3>{note}{_views(figure)}'
        f'<div class="clouds">{_cloud_figures(clouds)}{_plan_figure(figure)}</div>'
        f'<p class="files">{" ".join(links)}</p>{_questions(figure)}</section>'
    )
    return html, entries


def drawn_clouds(figure: SceneFigure, shown: ShownPoints | None) -> dict[str, tuple]:
    """Cloud name -> (points, colours, normals, radii), the true one first."""
    found = {}
    for geometry in geometries(figure).values() if shown is not None else ():
        for name, points in geometry.points.items():
            mask = geometry.points_valid & np.isfinite(points).all(-1)
            points = np.where(mask[..., None], points, 0.0)
            normals, _ = geometry_lib.surface_normals(points, mask)
            present = shown.clouds[name].present
            places = shown.pixel[present]
            found[name] = (
                shown.clouds[name].points[present],
                shown.colours[present],
                normals.reshape(-1, 3)[places],
                images.splat_radii(points).reshape(-1)[places],
            )
    return found


class MapRow(NamedTuple):
    """Maps of all views in one colour scale."""

    label: str
    pictures: list[np.ndarray]  # uint8[H,W,4] per view
    colours: str
    scale: tuple[float, float]


def map_rows(figure: SceneFigure) -> list[MapRow]:
    """True and predicted depth in one scale, the error between them, the confidence: those that there are."""
    truth, guess = figure.true, figure.predicted
    base, rows = truth if truth is not None else guess, []

    def add(label: str, values: np.ndarray, mask: np.ndarray, scale: tuple[float, float], colours: str) -> None:
        pictures = [images.colourise(values[v], mask[v], scale, colours) for v in range(len(values))]
        rows.append(MapRow(label, pictures, colours, scale))

    if base is not None:
        scale = images.value_range((base.depth, base.valid))
        for label, one in (("true depth", truth), ("predicted depth", guess)):
            if one is not None:
                add(label, one.depth, one.valid, scale, DEPTH_COLOURS)
    if guess is not None and truth is not None:
        error = np.abs(guess.depth - truth.depth) / np.where(truth.valid, truth.depth, 1.0)
        add("relative error", error, truth.valid, (0.0, 0.5), ERROR_COLOURS)
    if guess is not None and guess.confidence is not None:
        scale = images.value_range((guess.confidence, guess.valid))
        add("confidence", guess.confidence, guess.valid, scale, CONFIDENCE_COLOURS)
    return rows


def _views(figure: SceneFigure) -> str:
    count = len(figure.images)
    pictures = [
        _img(images.shrink(np.asarray(picture)), f"view {v + 1}", "PNG" if max(picture.shape) <= 128 else "JPEG")
        for v, picture in enumerate(figure.images)
    ]
    rows = [("", "".join(f'<div class="row">view {v + 1}</div>' for v in range(count))), ("picture", "".join(pictures))]
    for row in map_rows(figure):
        maps = [  # each in the proportions of its view, whose whole it shows
            _img(map_, f"{row.label}, view {v + 1}", shape=np.shape(figure.images[v])[:2])
            for v, map_ in enumerate(row.pictures)
        ]
        rows.append((row.label + _legend(row.colours, *row.scale), "".join(maps)))
    cells = "".join(f'<div class="row">{label}</div>{cells}' for label, cells in rows)
    columns = f"118px repeat({count}, minmax(0, 190px))"
    return f'<div class="views" style="grid-template-columns: {columns}">{cells}</div>'


def _img(picture: np.ndarray, label: str, form: str = "PNG", shape: tuple[int, int] | None = None) -> str:
    """A picture, shown in the proportions of `shape` (height, width) if that is given."""
    crisp = ' class="crisp"' if max(picture.shape[:2]) <= 200 else ""
    style = f' style="aspect-ratio: {shape[1]} / {shape[0]}"' if shape else ""
    return f'<img{crisp}{style} alt="{esc(label)}" src="{images.data_uri(picture, form)}">'


def _legend(colours: str, low: float, high: float) -> str:
    bar = f'<div class="legend" style="background:{images.gradient_css(colours)}"></div>'
    return f'{bar}<div class="ends"><span>{low:.2f}</span><span>{high:.2f}</span></div>'


def cloud_pictures(clouds: dict[str, tuple]) -> dict[str, list[np.ndarray]]:
    """Cloud name -> two pictures uint8[300,400,3] of it, from the same places for all; `clouds`: of `drawn_clouds`."""
    viewpoints = images.two_viewpoints(next(iter(clouds.values()))[0]) if clouds else []
    return {
        name: [images.render_cloud(points, colours, view, radius=radii * 1.15, normals=normals) for view in viewpoints]
        for name, (points, colours, normals, radii) in clouds.items()
    }


def _cloud_figures(clouds: dict[str, tuple]) -> str:
    cells = []
    for name, pictures in cloud_pictures(clouds).items():
        shown = "".join(_img(picture, f"{name} points", "JPEG") for picture in pictures)
        cells.append(f'<figure class="stack">{shown}<figcaption>{esc(name)}</figcaption></figure>')
    return "".join(cells)


def _plan_figure(figure: SceneFigure) -> str:
    if figure.predicted is None:
        return ""
    plan = camera_plan(figure.true, figure.predicted, figure.scene_scale_m)
    return f"<figure>{plan}<figcaption>{_plan_caption(figure)}</figcaption></figure>"


def _plan_caption(figure: SceneFigure) -> str:
    missing = int((~figure.predicted.camera_ok).sum())
    lost = f" No camera fits the rays of {missing} view{'s' if missing > 1 else ''}." if missing else ""
    guess = '<span style="color:var(--guess)">predicted</span>'
    if figure.true is None:
        return f"Cameras from above: {guess}.{lost}"
    return f'Cameras from above: <span style="color:var(--truth)">true</span> and {guess}.{lost}'


def camera_plan(true: Geometry | None, predicted: Geometry, scene_scale_m: float = 0.0, size: int = 300) -> str:
    """The cameras seen from above (x to the right, z up the page) over the true points, as SVG.

    Args:
      true, predicted: cameras and points; the points of `true` (else of `predicted`) are drawn as grey dots.
      scene_scale_m: metres per scene unit, for the scale bar; 0 = unknown.
      size: side of the square picture.
    """
    base = true if true is not None else predicted
    cloud = next(iter(base.points.values()), None) if base.points else None
    cloud = np.zeros((0, 3)) if cloud is None else cloud[base.points_valid]
    cloud = cloud[np.isfinite(cloud).all(-1)]
    dots = cloud[:: max(1, len(cloud) // 700)]
    sets = [("truth", true), ("guess", predicted)]
    centres = [g.camera_to_world[g.camera_ok][:, :3, 3] for _, g in sets if g is not None]
    spread = np.concatenate([dots[:, [0, 2]], *(centre[:, [0, 2]] for centre in centres), np.zeros((1, 2))])
    low, high = np.percentile(dots[:, [0, 2]], [1, 99], axis=0) if len(dots) else spread[[0, 0]]
    low, high = (np.minimum(low, spread[len(dots) :].min(0)), np.maximum(high, spread[len(dots) :].max(0)))
    high, low = np.clip(high, -20, 20), np.clip(low, -20, 20)
    extent = max(float((high - low).max()), 1e-3) * 1.12
    middle = (low + high) / 2

    def place(points: np.ndarray) -> np.ndarray:
        flat = (points[..., [0, 2]] - middle) / extent
        return np.stack([0.5 + flat[..., 0], 0.5 - flat[..., 1]], -1) * size

    parts = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.1"/>' for x, y in place(dots) if 0 <= x <= size and 0 <= y <= size
    ]
    parts = [f'<g fill="var(--base)" fill-opacity=".35">{"".join(parts)}</g>']
    for name, geometry in sets:
        if geometry is not None:
            parts += [_wedge(geometry, int(view), name, place, extent) for view in np.flatnonzero(geometry.camera_ok)]
    unit = 1.0 if extent > 1.6 else 0.25
    label = f"{unit:g} scene unit" + (f" = {unit * scene_scale_m:.2f} m" if scene_scale_m > 0 else "")
    bar = unit / extent * size
    parts.append(f'<path d="M12 {size - 12}h{bar:.1f}" stroke="var(--soft)" stroke-width="2"/>')
    parts.append(f'<text x="12" y="{size - 18}" font-size="10.5" fill="var(--soft)">{label}</text>')
    return f'<svg class="plan" viewBox="0 0 {size} {size}" role="img" aria-label="cameras from above">{"".join(parts)}</svg>'


def _wedge(geometry: Geometry, view: int, name: str, place, extent: float) -> str:
    """A camera as a triangle that opens as wide as its picture, with the view's number."""
    pose, camera = geometry.camera_to_world[view], geometry.intrinsics[view]
    width = geometry.depth.shape[2]
    reach = 0.09 * extent
    edges = [np.array([(u - camera[0, 2]) / camera[0, 0], 0.0, 1.0]) * reach for u in (0, width)]
    corners = np.stack([pose[:3, 3], *(pose[:3, :3] @ edge + pose[:3, 3] for edge in edges)])
    (x0, y0), (x1, y1), (x2, y2) = place(corners)
    style = 'fill-opacity=".25"' if name == "guess" else 'fill-opacity=".08" stroke-dasharray="3 2"'
    shape = f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}Z" fill="var(--{name})" stroke="var(--{name})" stroke-width="1.4" {style}/>'
    tip_x, tip_y = (x1 + x2) / 2 + 0.35 * ((x1 + x2) / 2 - x0), (y1 + y2) / 2 + 0.35 * ((y1 + y2) / 2 - y0)
    text = f'<text x="{tip_x:.1f}" y="{tip_y + 4:.1f}" font-size="11" text-anchor="middle" fill="var(--{name})">{view + 1}</text>'
    return shape + text


def _questions(figure: SceneFigure) -> str:
    rows = spread(figure.questions, MOST_QUESTIONS)
    if not rows:
        return ""
    cells = []
    for row in rows:
        correct = row.get("correct")
        mark = "" if correct is None else "right" if correct is True or correct == 1 else "wrong"
        if isinstance(correct, float) and 0 < correct < 1:
            mark = ""
        cells.append(
            [
                esc(row["question"]),
                esc(row.get("question_type", "")),
                f'<span class="{mark}">{esc(row["prediction"]) or "(nothing)"}</span>',
                "–" if row.get("ground_truth") is None else esc(row["ground_truth"]),
            ]
        )
    known = [row["correct"] for row in rows if row.get("correct") is not None]
    of_all = f" of {len(figure.questions)}, some of every type" if len(figure.questions) > len(rows) else ""
    score = f", mean score {np.mean([float(value) for value in known]):.2f}" if known else ""
    summary = f"{len(rows)} questions{of_all}{score}"
    body = markup.table(["question", "type", "answer", "truth"], cells, text_columns=(0, 1, 2, 3))
    return f"<details{' open' if len(rows) <= 16 else ''}><summary>{esc(summary)}</summary>{body}</details>"


def spread(rows: Sequence[Mapping], count: int) -> list[Mapping]:
    """At most `count` rows, taken in turn from every question type."""
    if len(rows) <= count:
        return list(rows)
    turns: dict[str, int] = {}
    keyed = []
    for place, row in enumerate(rows):
        kind = row.get("question_type", "")
        turn = turns[kind] = turns.get(kind, -1) + 1
        keyed.append((turn, place))
    return [rows[place] for _, place in sorted(keyed)[:count]]
