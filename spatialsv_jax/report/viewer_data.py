"""What the viewer on the page reads: `viewer.js`, one script a scene under `scenes/`, and `viewer.json`, which the page
holds as well.

`viewer.json`: `{"format": 1, "runs": [{"name", "data_sha256", "scenes": [...]}], "colours": {...}}`, a scene with `id`,
`tags`, `script` (its path from the page), `abs_rel`, `metres_per_unit`, `objects`, `questions` and `clouds`. `data_sha256`
is that of evaluation.json: scenes of one id are the same scene in runs of the same data alone. Older reports, and those of
no prepared data, lack it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spatialsv_jax.report import images, scene_blob
from spatialsv_jax.report.figure import SceneFigure, ShownPoints, geometries

FORMAT = 1
SCRIPT = Path(__file__).with_name("viewer.js")
QUESTION_KEYS = ("question", "question_type", "options", "prediction", "ground_truth", "correct", "views", "objects")


def write_scene(figure: SceneFigure, shown: ShownPoints, folder: Path, stem: str) -> dict:
    """Writes `folder/scenes/STEM.js` and returns the scene's entry of `viewer.json`."""
    (folder / "scenes").mkdir(parents=True, exist_ok=True)
    blob = scene_blob.encode(shown, {**_cameras(figure), "start": _start(figure, shown)})
    (folder / "scenes" / f"{stem}.js").write_text(scene_blob.as_script(blob), "ascii")
    questions = [{key: row[key] for key in QUESTION_KEYS if row.get(key) is not None} for row in figure.questions]
    return {
        "id": figure.title,
        "tags": list(figure.tags),
        "script": f"scenes/{stem}.js",
        "abs_rel": figure.abs_rel,
        "metres_per_unit": float(figure.scene_scale_m),
        "objects": list(figure.objects),
        "questions": [{**row, "correct": _share(row.get("correct"))} for row in questions],
        "clouds": [{"name": name, "predicted": cloud.predicted} for name, cloud in shown.clouds.items()],
    }


def write_runs(folder: Path, runs: Sequence[dict]) -> str:
    """Writes `viewer.json` and `viewer.js`, and returns the HTML that starts the viewer; "" without scenes.

    Args:
      folder: of the page.
      runs: `{"name", "scenes"}` each, with `data_sha256` where the scenes are of prepared data.
    """
    if not any(run["scenes"] for run in runs):
        return ""
    data = {"format": FORMAT, "runs": list(runs), "colours": {name: _stops(name) for name in ("magma", "viridis")}}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    (folder / "viewer.json").write_text(text, "utf-8")
    shutil.copyfile(SCRIPT, folder / SCRIPT.name)
    # In a script element nothing but "<" can end the element or open a comment.
    held = text.replace("<", "\\u003c")
    return (
        '<section id="viewer"><noscript><p>The point clouds need JavaScript; all else on this page does not.</p></noscript>'
        f'</section><script type="application/json" id="viewer-data">{held}</script><script src="{SCRIPT.name}"></script>'
    )


def read_runs(report: Path) -> list[dict]:
    """The runs of a report's `viewer.json`.

    Raises:
      FileNotFoundError: no viewer in this folder, or one of its scenes is missing.
      ValueError: the file is broken, of another format, or names scenes elsewhere.
    """
    path = report / "viewer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Give the folder of a report, such as runs/NAME/report.")
    try:
        data = json.loads(path.read_text("utf-8"))
        runs = data["runs"] if data["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is broken ({error!r}). Write the report again.") from error
    if runs is None:
        raise ValueError(f"{path} has format {data['format']}, expected {FORMAT}. Write the report again.")
    for run in runs:
        if not isinstance(run.get("data_sha256"), str | None):
            raise ValueError(f"{path} is broken (data_sha256 is {run['data_sha256']!r}). Write the report again.")
    for scene in (scene for run in runs for scene in run["scenes"]):
        script = Path(scene["script"])
        if script.is_absolute() or ".." in script.parts:
            raise ValueError(f"{path} names the scene {scene['script']}, which is not below the report.")
        if not (report / script).is_file():
            raise FileNotFoundError(f"{report / script} is missing. Copy the whole report.")
    return runs


def check_same_data(hashes: Sequence[tuple[str, str | None]]) -> list[str]:
    """Checks that what is shown together is of the same data: elsewhere a scene of the same id is another scene.

    Args:
      hashes: (what is shown, its data_sha256 or None where that is not known).

    Returns:
      What has no hash, so that nobody can tell, each once.

    Raises:
      ValueError: two are of different data.
    """
    (first, known), *others = [(name, value) for name, value in hashes if value] or [("", None)]
    for name, value in others:
        if value != known:
            raise ValueError(
                f"{first} is of other data than {name} (data_sha256 {known[:12]} and {value[:12]}), so scenes of the same "
                "name are not the same scenes. Evaluate both models on the same data."
            )
    return list(dict.fromkeys(name for name, value in hashes if not value))


def _share(correct) -> float | None:
    """The score of an answer between 0 and 1, None where it is not known."""
    return None if correct is None else float(correct)


def _cameras(figure: SceneFigure) -> dict:
    """Per kind the cameras: view, centre and the four corners of the picture at depth 1, scene units, 6 digits."""
    found = {}
    for name, geometry in geometries(figure).items():
        height, width = geometry.depth.shape[1:]
        corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
        found[name] = []
        for view in np.flatnonzero(geometry.camera_ok):
            pose = np.asarray(geometry.camera_to_world[view], np.float64)
            local = np.linalg.solve(np.asarray(geometry.intrinsics[view], np.float64), corners.T).T
            world = local @ pose[:3, :3].T + pose[:3, 3]
            found[name].append(
                {"view": int(view), "centre": _numbers(pose[:3, 3]), "corners": [_numbers(one) for one in world]}
            )
    return found


def _start(figure: SceneFigure, shown: ShownPoints) -> dict:
    """Where the viewer begins to look from, and at what."""
    cloud = next(iter(shown.clouds.values()))
    points = cloud.points[cloud.present].astype(np.float64)
    eye = images.two_viewpoints(points)[0][:3, 3]
    low, high = np.percentile(points, [5, 95], axis=0) if len(points) else (np.zeros(3), np.ones(3))
    return {"eye": _numbers(eye), "target": _numbers((low + high) / 2), "point_size": _point_size(shown)}


def _point_size(shown: ShownPoints) -> float:
    """Median distance of points that follow each other in a row: the edge of a point that leaves no gaps."""
    cloud = next(iter(shown.clouds.values()))
    gaps = np.linalg.norm(np.diff(cloud.points.astype(np.float64), axis=0), axis=-1)
    gaps = gaps[np.isfinite(gaps)]
    return round(float(np.median(gaps)), 6) if len(gaps) else 0.01


def _numbers(values) -> list[float]:
    return [round(float(value), 6) for value in values]


def _stops(name: str, count: int = 17) -> list[list[int]]:
    import matplotlib

    table = matplotlib.colormaps[name]
    return [[round(255 * channel) for channel in table(place / (count - 1))[:3]] for place in range(count)]
