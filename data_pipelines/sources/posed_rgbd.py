"""posed_rgbd: folders of posed RGB-D frames in the layout of ScanNet's exporter, or one's own frames written so.

A scene has color/N.jpg|png, depth/N.png (16 bit), pose/N.txt (camera-to-world, 4x4), intrinsic/intrinsic_color.txt and
intrinsic_depth.txt (4x4 or 3x3). N is any name with one number that orders the frames; colour and depth are registered.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import Pose, check_pose, impossible, scaled
from data_pipelines.sources.posed.decoding import header_size
from data_pipelines.sources.posed.pictures import other_shape, read_depth, target_size
from data_pipelines.sources.posed.scene import (
    COLOUR_SUFFIXES,
    PosedSettings,
    Raw,
    Scene,
    View,
    numbered_files,
    numbers_in,
    read_bytes,
    scene_folders,
    states_of,
    strays,
)
from data_pipelines.sources.posed.source import posed_source

PRINCIPAL_TOLERANCE = 0.2  # |2 cx - width| / width above which the matrix is for another picture size


@dataclasses.dataclass(frozen=True)
class Settings(PosedSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""

    depth_unit: float = flag(0.001, "metres per depth step (0.001 ScanNet, 0.0002 TUM); 0 = unknown")
    principal_point: str = flag(
        "centre",
        "where intrinsics files put 0: 'centre' of the first pixel (ScanNet, Kinect: 0.5 is added to cx and cy) "
        "or the picture's 'corner' (as they are)",
    )
    intrinsics_size: str = flag("", "WIDTHxHEIGHT that the intrinsics were made for, if not the pictures' own")

    def problems(self) -> list[str]:
        """What is wrong with the arguments."""
        found = []
        if self.depth_unit < 0:
            found.append("--depth_unit must not be negative")
        if self.principal_point not in ("centre", "corner"):
            found.append("--principal_point must be centre or corner")
        if self.intrinsics_size and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", self.intrinsics_size):
            found.append("--intrinsics_size must read like 1296x968")
        return found


@dataclasses.dataclass(frozen=True)
class _State:
    colour_size: tuple[int, int]
    depth_size: tuple[int, int] | None
    size: tuple[int, int]
    intrinsics: tuple[tuple[float, ...], ...]


class Exported:
    """The layout; see `posed.scene.Layout`."""

    def folders(self, raw: Path, settings: Settings) -> list[Path]:
        """`raw` itself, or the folders in it."""
        return scene_folders(raw, "color")

    def open(self, folder: Path, settings: Settings) -> Scene | str:
        """See `Layout`; intrinsics that are missing, unreadable or for another picture size are errors."""
        if not (folder / "color").is_dir():
            return "no folder color/ in it"
        colour, depth = _files(folder, "color"), _files(folder, "depth")
        colour_size = next((size for size in map(header_size, colour.values()) if size), None)
        if colour_size is None:
            return f"no readable picture among {len(colour)} in color/"
        depth_size = next((size for size in map(header_size, depth.values()) if size), None)
        registered = depth_size or colour_size
        if other_shape(colour_size, registered):
            raise PrepareError(
                f"{folder}: colour is {colour_size}, depth {depth_size}: they are not registered pictures."
            )
        size = target_size(colour_size, depth_size, settings.picture)
        matrix = scaled(_scene_intrinsics(folder, colour_size, depth_size, settings), registered, size)
        if mirrored := bool(matrix[1, 1] < 0):
            matrix[1, 1] *= -1
        if problem := impossible(matrix, size):
            raise PrepareError(f"{folder}/intrinsic: {problem}.")
        return Scene(
            name=folder.name,
            path=str(folder),
            views=tuple(
                View(number, str(number), (str(path), str(depth.get(number, ""))))
                for number, path in sorted(colour.items())
            ),
            facts={"mirrored": mirrored},  # fy < 0: y of camera and world are turned over
            state=_State(colour_size, depth_size, size, tuple(map(tuple, matrix.tolist()))),
            left_out=strays(folder / "color", colour.values())
            + strays(folder / "depth", [path for number, path in depth.items() if number in colour]),
        )

    def poses(self, scene: Scene, settings: Settings) -> Mapping[int, Pose]:
        """One file a frame."""
        found = {}
        for number, file in _files(Path(scene.path), "pose").items():
            pose = check_pose(numbers_in(file))
            if scene.facts["mirrored"] and pose.matrix is not None and not np.array_equal(pose.matrix, np.eye(4)):
                mirror = np.diag([1.0, -1.0, 1.0, 1.0])
                pose = Pose(mirror @ pose.matrix @ mirror)
            found[number] = pose
        return found

    def read(self, scene: Scene, view: View, settings: Settings) -> Raw:
        """See `Layout`."""
        state: _State = scene.state
        colour, depth_file = view.key
        depth, problem = read_depth(Path(depth_file) if depth_file else None, state.depth_size)
        return Raw(
            colour=read_bytes(Path(colour)),
            colour_size=state.colour_size,
            size=state.size,
            intrinsics=np.array(state.intrinsics),
            depth=depth,
            depth_problem=problem,
        )

    def files(self, scene: Scene, view: View) -> Mapping[str, Path | None]:
        """See `Layout`."""
        colour, depth = view.key
        return {"colour": Path(colour), "depth": Path(depth) if depth else None}

    def states(self, scene: Scene) -> list[str]:
        """Poses and cameras by content, pictures by size and time of change."""
        folder = Path(scene.path)
        small = [folder / "intrinsic" / f"intrinsic_{kind}.txt" for kind in ("depth", "color")]
        small += _files(folder, "pose").values()
        return states_of(small, (self.files(scene, view) for view in scene.views))

    def depth_unit(self, settings: Settings) -> float:
        """As stated."""
        return settings.depth_unit


_SUFFIXES = {"color": COLOUR_SUFFIXES, "depth": (".png",), "pose": (".txt",)}


def _files(folder: Path, kind: str) -> dict[int, Path]:
    return numbered_files(folder / kind, _SUFFIXES[kind])


def _scene_intrinsics(path: Path, colour_size, depth_size, settings: Settings) -> np.ndarray:
    """float64[3,3] for pictures of `depth_size` (of `colour_size` without depth), centres at +0.5."""
    folder = path / "intrinsic"
    own = {"depth": depth_size, "color": colour_size}
    for kind in ("depth", "color"):
        file = folder / f"intrinsic_{kind}.txt"
        if own[kind] is None or not file.is_file():
            continue
        matrix = _read_intrinsics(file, settings)
        stated = settings.intrinsics_size
        made_for = tuple(map(int, stated.split("x"))) if stated else own[kind]
        for axis, name in enumerate(("cx", "cy")):
            middle, side = 2 * matrix[axis, 2], made_for[axis]
            if abs(middle - side) > PRINCIPAL_TOLERANCE * side:
                raise PrepareError(
                    f"{file}: {name} = {matrix[axis, 2]:g} does not fit a picture of {made_for[0]}x{made_for[1]}. If the "
                    "matrix was made for another size, say so with --intrinsics_size WIDTHxHEIGHT: it is then scaled."
                )
        registered = depth_size or colour_size
        if other_shape(made_for, registered):
            raise PrepareError(f"{file} is for pictures of {made_for}; those here are {registered}: turned or cropped.")
        return scaled(matrix, made_for, registered)
    raise PrepareError(
        f"{folder} has no intrinsic_depth.txt or intrinsic_color.txt that fits the pictures there. Write fx, fy, cx, cy "
        "as a 3x3 or 4x4 matrix into intrinsic_color.txt."
    )


def _read_intrinsics(file: Path, settings: Settings) -> np.ndarray:
    values = numbers_in(file)
    if values is None or values.size not in (9, 16) or not np.isfinite(values).all():
        raise PrepareError(f"{file}: expected a 3x3 or 4x4 matrix of numbers.")
    matrix = values.reshape(3, 3) if values.size == 9 else values.reshape(4, 4)[:3, :3].copy()
    if matrix[0, 0] <= 0 or matrix[1, 1] == 0 or not np.allclose(matrix[2], [0, 0, 1]) or matrix[1, 0] != 0:
        raise PrepareError(f"{file}: not a camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx > 0: {matrix}.")
    if settings.principal_point == "centre":
        matrix[:2, 2] += 0.5
    return matrix


SOURCE = posed_source("posed_rgbd", "4", Settings, Exported(), __file__)
