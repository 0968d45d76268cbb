"""A scene's points and cameras in the formats that other programs read, beside the page.

All lengths are scene units, axes OpenCV's, the world is the first view's frame. Files of one scene start with its stem:

- `glb`, `ply`: every cloud (pointcloud_files.py; the GLB has the cameras too and is turned to glTF's axes);
- `npz`: `STEM.npz`, all clouds with exact values, see `scene_arrays`;
- `colmap`: `STEM_KIND_colmap/`, COLMAP's text model of the true and the predicted cameras with a cloud, and the pictures at
  the size of the maps; pixel coordinates there have the picture's corner at 0, as here;
- `tum`: `STEM_KIND_tum.txt`, lines `timestamp tx ty tz qx qy qz qw` of camera-to-world poses, the view's number as timestamp;
- `rerun`: `STEM.rrd`, a recording for Rerun's viewer, needs the extra `viewer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spatialsv_jax import geometry as geometry_lib
from spatialsv_jax.report import images, pointcloud_files
from spatialsv_jax.report.figure import Cloud, Geometry, SceneFigure, ShownPoints, at_map_size, geometries

DEFAULT = ("glb", "ply", "npz", "colmap", "tum")


def write_exports(figure: SceneFigure, shown: ShownPoints, folder: Path, stem: str, kinds: Sequence[str]) -> list[Path]:
    """Writes the scene in the formats `kinds` and returns the files to link.

    Args:
      figure, shown: the scene and its shown points.
      folder: existing folder.
      stem: start of the file names, [a-z0-9_-] only.
      kinds: keys of `EXPORTS`.

    Raises:
      ValueError: an unknown format.
      ImportError: `rerun` without its package, naming the extra.
    """
    check_kinds(kinds)
    return [path for kind in EXPORTS if kind in kinds for path in EXPORTS[kind](figure, shown, folder, stem)]


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuses unknown formats (ValueError) and formats whose package is missing (ImportError naming the extra)."""
    if unknown := sorted(set(kinds) - set(EXPORTS)):
        raise ValueError(f"Unknown export formats {unknown}. Formats: {', '.join(EXPORTS)}.")
    if "rerun" in kinds:
        _rerun()


def file_name(cloud: str) -> str:
    """The name of a cloud as part of a file's name."""
    return cloud.replace(" ", "_").replace("+", "and")


def scene_arrays(figure: SceneFigure, shown: ShownPoints) -> dict[str, np.ndarray]:
    """The arrays of `STEM.npz`, N shown points in the viewer's order.

    Returns:
      `pixel` int64[N] (place among the V*H*W pixels), `shape` (V, H, W), `view` int64[N], `colours` uint8[N,3], `instance`
      int16[N] (place in `objects`, -1 = none), `objects`, `scene_scale_m`; per cloud `NAME/points` float32[N,3] (NaN where
      it has none), `NAME/confidence`, `NAME/error` float32[N]; per kind of camera `cameras/KIND/intrinsics`,
      `.../camera_to_world`, `.../ok`. A name is the cloud's with _ for blanks.
    """
    arrays = {
        "pixel": shown.pixel,
        "shape": np.array(shown.shape),
        "view": shown.view,
        "colours": shown.colours,
        "instance": shown.instances,
        "objects": np.array(figure.objects, dtype=np.str_),
        "scene_scale_m": np.array(figure.scene_scale_m),
    }
    for name, cloud in shown.clouds.items():
        values = {"points": cloud.points, "confidence": cloud.confidence, "error": cloud.error}
        arrays |= {f"{file_name(name)}/{key}": value for key, value in values.items() if value is not None}
    for kind, one in geometries(figure).items():
        values = {"intrinsics": one.intrinsics, "camera_to_world": one.camera_to_world, "ok": one.camera_ok}
        arrays |= {f"cameras/{kind}/{key}": np.asarray(value) for key, value in values.items()}
    return arrays


def _clouds(figure: SceneFigure, shown: ShownPoints, folder: Path, stem: str, suffix: str) -> list[Path]:
    paths = []
    for name, cloud in shown.clouds.items():
        if cloud.present.any():
            points, colours = cloud.points[cloud.present], shown.colours[cloud.present]
            path = folder / f"{stem}_{file_name(name)}.{suffix}"
            paths.append(pointcloud_files.write_cloud(path, points, colours, _frusta(figure)))
    return paths


def _frusta(figure: SceneFigure) -> dict[str, np.ndarray]:
    result = {}
    for name, geometry in geometries(figure).items():
        height, width = geometry.depth.shape[1:]
        lines = [
            pointcloud_files.frustum_lines(geometry.intrinsics[v], geometry.camera_to_world[v], height, width, 0.12)
            for v in np.flatnonzero(geometry.camera_ok)
        ]
        result[name] = np.concatenate(lines) if lines else np.zeros((0, 2, 3))
    return result


def _npz(figure: SceneFigure, shown: ShownPoints, folder: Path, stem: str) -> list[Path]:
    np.savez_compressed(folder / f"{stem}.npz", **scene_arrays(figure, shown))
    return [folder / f"{stem}.npz"]


def _colmap(figure: SceneFigure, shown: ShownPoints, folder: Path, stem: str) -> list[Path]:
    found = []
    for kind, geometry in geometries(figure).items():
        cloud = next((one for one in shown.clouds.values() if one.predicted == (kind == "predicted")), None)
        if cloud is not None and geometry.camera_ok.any():
            found += _colmap_model(folder / f"{stem}_{kind}_colmap", figure, geometry, cloud, shown)
    return found


def _colmap_model(place: Path, figure: SceneFigure, geometry: Geometry, cloud: Cloud, shown: ShownPoints) -> list[Path]:
    """A text model with one camera and one picture a view, in which every point is seen by its own view."""
    (place / "images").mkdir(parents=True, exist_ok=True)
    _, height, width = shown.shape
    pictures = at_map_size(figure.images, height, width)
    chosen = np.flatnonzero(cloud.present & geometry.camera_ok[shown.view])
    view, pixel = shown.view[chosen], shown.pixel[chosen] % (height * width)
    column, row = pixel % width + 0.5, pixel // width + 0.5
    first = np.searchsorted(view, view)  # points come view by view
    cameras = ["# CAMERA_ID MODEL WIDTH HEIGHT FX FY CX CY"]
    lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID of its points"]
    for v in np.flatnonzero(geometry.camera_ok):
        name = f"view{v + 1}.png"
        (place / "images" / name).write_bytes(images.encode(pictures[v]))
        k, pose = geometry.intrinsics[v], geometry_lib.invert_pose(np.asarray(geometry.camera_to_world[v], np.float64))
        cameras.append(f"{v + 1} PINHOLE {width} {height} {_row(k[0, 0], k[1, 1], k[0, 2], k[1, 2])}")
        x, y, z, w = geometry_lib.quaternion_of(pose[:3, :3])
        lines.append(f"{v + 1} {_row(w, x, y, z, *pose[:3, 3])} {v + 1} {name}")
        lines.append(" ".join(f"{column[i]:g} {row[i]:g} {i + 1}" for i in np.flatnonzero(view == v)))
    points = ["# POINT3D_ID X Y Z R G B ERROR then IMAGE_ID POINT2D_IDX; the reprojection error is not known: -1"]
    for i, (xyz, colour) in enumerate(zip(cloud.points[chosen], shown.colours[chosen], strict=True)):
        points.append(f"{i + 1} {_row(*xyz)} {' '.join(map(str, colour))} -1 {view[i] + 1} {i - first[i]}")
    for name, rows in (("cameras", cameras), ("images", lines), ("points3D", points)):
        (place / f"{name}.txt").write_text("\n".join(rows) + "\n", "utf-8")
    return [place / f"{name}.txt" for name in ("cameras", "images", "points3D")]


def _tum(figure: SceneFigure, shown: ShownPoints, folder: Path, stem: str) -> list[Path]:
    found = []
    for kind, geometry in geometries(figure).items():
        if geometry.camera_ok.any():
            found.append(folder / f"{stem}_{kind}_tum.txt")
            found[-1].write_text(tum_text(geometry), "utf-8")
    return found


def tum_text(geometry: Geometry) -> str:
    """The cameras that there are as a trajectory in TUM's form: view number, centre, quaternion x y z w of camera-to-world."""
    lines = ["# timestamp tx ty tz qx qy qz qw; the timestamp is the view's number from 1, lengths are scene units"]
    for view in np.flatnonzero(geometry.camera_ok):
        pose = np.asarray(geometry.camera_to_world[view], np.float64)
        lines.append(f"{view + 1} {_row(*pose[:3, 3], *geometry_lib.quaternion_of(pose[:3, :3]))}")
    return "\n".join(lines) + "\n"


def _row(*values: float) -> str:
    return " ".join(f"{float(value):.9g}" for value in values)


def _rerun():
    try:
        import rerun
    except ImportError as error:
        raise ImportError(
            "The export 'rerun' needs rerun-sdk: pip install 'spatialsv-jax[viewer]', or leave it out of the exports."
        ) from error
    return rerun


def _recording(figure: SceneFigure, shown: ShownPoints, folder: Path, stem: str) -> list[Path]:
    rerun = _rerun()
    path = folder / f"{stem}.rrd"
    recording = rerun.RecordingStream("spatialsv", recording_id=f"{figure.title}/{stem}")
    recording.save(path)
    recording.log("world", rerun.ViewCoordinates.RDF, static=True)
    for name, cloud in shown.clouds.items():
        place = f"world/{file_name(name)}"
        recording.log(
            place, rerun.Points3D(cloud.points[cloud.present], colors=shown.colours[cloud.present]), static=True
        )
    _, height, width = shown.shape
    pictures = at_map_size(figure.images, height, width)
    for kind, geometry in geometries(figure).items():
        for v in np.flatnonzero(geometry.camera_ok):
            place, pose = f"world/cameras_{kind}/view{v + 1}", geometry.camera_to_world[v]
            recording.log(place, rerun.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]), static=True)
            camera = rerun.Pinhole(
                image_from_camera=geometry.intrinsics[v], width=width, height=height, image_plane_distance=0.12
            )
            recording.log(place, camera, static=True)
            recording.log(place, rerun.Image(pictures[v]), static=True)
    recording.flush()
    recording.disconnect()
    return [path]


Writer = Callable[[SceneFigure, ShownPoints, Path, str], list[Path]]
EXPORTS: dict[str, Writer] = {
    "glb": lambda *scene: _clouds(*scene, "glb"),
    "ply": lambda *scene: _clouds(*scene, "ply"),
    "npz": _npz,
    "colmap": _colmap,
    "tum": _tum,
    "rerun": _recording,
}
