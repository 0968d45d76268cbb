"""tum: sequences of the TUM RGB-D benchmark (and ICL-NUIM in its form).

A sequence has rgb.txt and depth.txt (`stamp path`), groundtruth.txt (`stamp tx ty tz qx qy qz qw`, camera-to-world), rgb/
and depth/ (16 bit, 5000 steps a metre). Colour, depth and camera have stamps of their own: each colour picture takes the
nearest depth and camera within `--tolerance` seconds. Lenses are not undistorted (the benchmark's freiburg3 already is).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import Pose, check_pose, from_quaternion, impossible, pinhole, posed, scaled
from data_pipelines.sources.posed.decoding import header_size
from data_pipelines.sources.posed.pictures import other_shape, read_depth, target_size
from data_pipelines.sources.posed.scene import (
    PosedSettings,
    Raw,
    Scene,
    View,
    inside,
    number_table,
    read_bytes,
    scene_folders,
    stated_camera,
    states_of,
    strays,
)
from data_pipelines.sources.posed.source import posed_source

DEPTH_UNIT = 1 / 5000
# The benchmark's calibration of its colour cameras at 640 x 480; 0 is the first pixel's centre.
CAMERAS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}
CALIBRATED = (640, 480)


@dataclasses.dataclass(frozen=True)
class Settings(PosedSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""

    camera: tuple = flag(
        (), "fx,fy,cx,cy in pixels from the picture's corner; by default that of freiburg1, 2 or 3 in the folder's name"
    )
    tolerance: float = flag(0.02, "seconds within which stamps belong together", above=0)

    def problems(self) -> list[str]:
        """What is wrong with the arguments."""
        return stated_camera(self.camera)[1]


class Tum:
    """The layout; see `posed.scene.Layout`."""

    def folders(self, raw: Path, settings: Settings) -> list[Path]:
        """`raw` itself, or the folders in it."""
        return scene_folders(raw, "rgb.txt")

    def open(self, folder: Path, settings: Settings) -> Scene | str:
        """See `Layout`."""
        missing = [name for name in ("rgb.txt", "groundtruth.txt") if not (folder / name).is_file()]
        if missing:
            return f"no {' and '.join(missing)} in it"
        colour, depth = _names(folder / "rgb.txt"), _names(folder / "depth.txt")
        for _, name in colour + depth:
            inside(folder, name, settings.links)  # raises for names that lead out
        size = next((found for found in (header_size(folder / row[1]) for row in colour) if found), None)
        if size is None:
            return f"no readable picture among {len(colour)} of rgb.txt"
        stamps = np.array([float(row[0]) for row in depth])
        views = []
        for number, (stamp, name) in enumerate(sorted(colour, key=lambda row: float(row[0]))):
            place = nearest(stamps, float(stamp), settings.tolerance)
            views.append(View(number, stamp, (stamp, name, depth[place][1] if place is not None else "")))
        _, lost = number_table(folder / "groundtruth.txt", 8)
        used = [folder / name for _, name in colour + depth]
        for place in dict.fromkeys(path.parent for path in used):
            lost += strays(place, used) if place != folder else ()
        state = (size, _camera(folder.name, size, settings))
        return Scene(folder.name, str(folder), tuple(views), state=state, left_out=lost)

    def poses(self, scene: Scene, settings: Settings) -> Mapping[int, Pose]:
        """The camera whose stamp is nearest to the colour picture's."""
        rows, _ = number_table(Path(scene.path) / "groundtruth.txt", 8)
        stamps, found = rows[:, 0], {}
        for view in scene.views:
            place = nearest(stamps, float(view.key[0]), settings.tolerance)
            if place is None:
                found[view.number] = Pose(None, "no_pose_at_its_time")
                continue
            found[view.number] = check_pose(posed(from_quaternion(*rows[place, 4:]), rows[place, 1:4]))
        return found

    def read(self, scene: Scene, view: View, settings: Settings) -> Raw:
        """See `Layout`."""
        size, matrix = scene.state
        _, colour, depth_name = view.key
        depth, problem = read_depth(Path(scene.path) / depth_name if depth_name else None, None)
        final = target_size(size, depth and depth.size, settings.picture)
        return Raw(
            colour=read_bytes(Path(scene.path) / colour),
            colour_size=size,
            size=final,
            intrinsics=scaled(np.array(matrix), size, final),
            depth=depth,
            depth_problem=problem,
        )

    def files(self, scene: Scene, view: View) -> Mapping[str, Path | None]:
        """See `Layout`."""
        _, colour, depth = view.key
        folder = Path(scene.path)
        return {"colour": folder / colour, "depth": folder / depth if depth else None}

    def states(self, scene: Scene) -> list[str]:
        """The three tables by content, pictures by size and time of change."""
        tables = [Path(scene.path) / name for name in ("rgb.txt", "depth.txt", "groundtruth.txt")]
        return states_of(tables, (self.files(scene, view) for view in scene.views))

    def depth_unit(self, settings: Settings) -> float:
        """5000 steps a metre."""
        return DEPTH_UNIT


def _names(file: Path) -> list[list[str]]:
    """Rows (time, path) of a table without its comments.

    Raises:
      PrepareError: a row of another width, or that does not begin with a finite number; names file and line.
    """
    rows = []
    if not file.is_file():
        return rows
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            stamp = float(words[0])
        except ValueError as error:
            raise PrepareError(f"{file}, line {number}: {error}.") from error
        if len(words) != 2:
            raise PrepareError(f"{file}, line {number}: {len(words)} words, expected 2.")
        if not abs(stamp) < np.inf:
            raise PrepareError(f"{file}, line {number}: {words[0]} is no time.")
        rows.append(words)
    return rows


def nearest(stamps: np.ndarray, stamp: float, tolerance: float) -> int | None:
    """Index of the nearest stamp within `tolerance` seconds, None without one."""
    if not len(stamps):
        return None
    place = int(np.abs(stamps - stamp).argmin())
    return place if abs(stamps[place] - stamp) <= tolerance else None


def _camera(name: str, size: tuple[int, int], settings: Settings) -> tuple:
    matrix, _ = stated_camera(settings.camera)
    if matrix is None:
        known = next((values for key, values in CAMERAS.items() if key in name), None)
        if known is None:
            raise PrepareError(
                f"The folder '{name}' names none of {', '.join(CAMERAS)}, whose cameras are known. Give --camera fx,fy,cx,cy."
            )
        if other_shape(CALIBRATED, size):
            raise PrepareError(f"{name}: pictures of {size} do not have the calibrated camera's shape. Give --camera.")
        matrix = scaled(pinhole(*known[:2], *(value + 0.5 for value in known[2:])), CALIBRATED, size)
    if problem := impossible(matrix, size):
        raise PrepareError(f"{name}: the camera: {problem}. Give --camera fx,fy,cx,cy.")
    return tuple(map(tuple, matrix.tolist()))


SOURCE = posed_source("tum", "3", Settings, Tum(), __file__)
