"""scannetpp: ScanNet++: data/SCENE/iphone (rgb/, depth.bin, pose_intrinsic_imu.json) or data/SCENE/dslr (fisheye pictures).

`--device iphone`: pictures extracted to rgb/frame_NNNNNN.jpg, LiDAR depth, ARKit poses brought into the scan's frame
(`aligned_pose`). `--device dslr`: resized_images/ with the COLMAP model in dslr/colmap; lenses are undistorted; depth is what
the toolkit rendered to dslr/render_depth/NAME.png (16-bit millimetres), where it is there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import Pose, check_pose, scaled
from data_pipelines.sources.posed.colmap_files import read_model
from data_pipelines.sources.posed.depth_stream import DepthStream
from data_pipelines.sources.posed.pictures import depth_from_metres, header_size, read_depth, target_size
from data_pipelines.sources.posed.scene import (
    COLOUR_SUFFIXES,
    PosedSettings,
    Raw,
    Scene,
    Unusable,
    View,
    content_state,
    flat_numbers,
    inside,
    natural,
    numbered_files,
    picture_state,
    read_bytes,
)
from data_pipelines.sources.posed.source import posed_source

STEP = 0.001


@dataclasses.dataclass(frozen=True)
class Settings(PosedSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""

    device: str = flag("iphone", "whose pictures to take: iphone or dslr")
    picture: str = flag("colour", "size of the records' pictures: 'colour' (depth is resized by nearest) or 'depth'")
    max_size: int = flag(640, "longest side in pixels; larger pictures shrink (depth by nearest); 0 = as they are")
    split_list: str = flag("", "file of splits/ with the scenes to take, one a line; all by default")

    def problems(self) -> list[str]:
        """What is wrong with the arguments."""
        found = [] if self.device in ("iphone", "dslr") else ["--device must be iphone or dslr"]
        if self.split_list and not Path(self.split_list).expanduser().is_file():
            found.append(f"--split_list '{self.split_list}' is no file")
        return found


class ScanNetPP:
    """The layout; see `posed.scene.Layout`."""

    def __init__(self):
        self._stream: tuple[str, DepthStream | None] = ("", None)  # of the scene that was read last

    def folders(self, raw: Path, settings: Settings) -> list[Path]:
        """`raw` itself, the folders in it, or in its data/."""
        if (raw / settings.device).is_dir():
            return [raw]
        inner = raw / "data" if (raw / "data").is_dir() else raw
        found = sorted(path for path in inner.iterdir() if path.is_dir())
        if not settings.split_list:
            return found
        listed = set(Path(settings.split_list).expanduser().read_text(encoding="utf-8").split())
        return [path for path in found if path.name in listed]

    def open(self, folder: Path, settings: Settings) -> Scene | str:
        """See `Layout`."""
        place = folder / settings.device
        if not place.is_dir():
            return f"no {settings.device}/ in it"
        return _open_iphone(folder, place) if settings.device == "iphone" else _open_dslr(folder, place)

    def poses(self, scene: Scene, settings: Settings) -> Mapping[int, Pose]:
        """Camera-to-world in the scan's frame."""
        if settings.device == "dslr":
            found = {image.name: image.pose for image in read_model(Path(scene.path) / "colmap")[1]}
            return {view.number: found[view.name] for view in scene.views}
        frames = _frames(Path(scene.path))
        return {view.number: check_pose(flat_numbers(frames[view.name].get("aligned_pose"))) for view in scene.views}

    def read(self, scene: Scene, view: View, settings: Settings) -> Raw:
        """See `Layout`."""
        colour, place = view.key
        data = read_bytes(Path(colour))
        found = header_size(data)
        if found is None:
            raise Unusable(f"{Path(colour).name} cannot be decoded")
        if settings.device == "dslr":
            camera = scene.state[place]
            depth, problem = read_depth(Path(scene.path) / "render_depth" / f"{Path(view.name).stem}.png", None)
            matrix, own, lens = camera.intrinsics, camera.size, camera.distortion
        else:
            depth, problem = self._lidar(scene, place, found)
            matrix, own, lens = np.array(scene.state[place]), found, None
        size = target_size(found, depth and depth.size, settings.picture)
        return Raw(data, None, size, scaled(matrix, own, size), depth, problem, lens)

    def states(self, scene: Scene) -> list[str]:
        """Cameras by content, pictures and depth by size and time of change."""
        place = Path(scene.path)
        small = [place / "pose_intrinsic_imu.json", *sorted((place / "colmap").glob("[ci]*.*"))]
        large = [place / "depth.bin", *sorted((place / "render_depth").glob("*.png"))]
        large += [Path(view.key[0]) for view in scene.views]
        return [content_state(file) for file in small if file.is_file()] + [
            picture_state(file) for file in large if file.is_file()
        ]

    def depth_unit(self, settings: Settings) -> float:
        """Millimetres."""
        return STEP

    def _lidar(self, scene: Scene, number: int, colour_size: tuple[int, int]):
        file = Path(scene.path) / "depth.bin"
        if not file.is_file():
            return None, "no_file"
        if self._stream[0] != scene.path:
            frames = len(scene.state)
            self._stream = (scene.path, DepthStream(file, frames, colour_size[0] / colour_size[1]))
        depth = depth_from_metres(self._stream[1].read(number).astype(np.float64), STEP)
        return (depth, "") if depth.steps.any() else (None, "no_valid_pixel")


def _open_iphone(folder: Path, place: Path) -> Scene | str:
    if not (place / "pose_intrinsic_imu.json").is_file():
        return "no iphone/pose_intrinsic_imu.json in it"
    pictures = numbered_files(place / "rgb", COLOUR_SUFFIXES)
    if not pictures:
        return "no pictures in iphone/rgb/: extract them from rgb.mkv with the data set's toolkit"
    frames = _frames(place)
    names = {int(name.split("_")[1]): name for name in frames}
    views = [
        View(number, names[number], (str(path), order))
        for order, number in enumerate(sorted(names))  # depth.bin has the frames in this order
        if (path := pictures.get(number)) is not None
    ]
    matrices = []
    for name in (names[number] for number in sorted(names)):
        matrix = flat_numbers(frames[name].get("intrinsic"))
        if matrix is None or matrix.size != 9 or not np.isfinite(matrix).all() or min(matrix[0], matrix[4]) <= 0:
            raise PrepareError(f"{place}/pose_intrinsic_imu.json, {name}: 'intrinsic' is no 3 x 3 camera matrix.")
        matrices.append(tuple(map(tuple, matrix.reshape(3, 3).tolist())))
    facts = {"pictures_missing": len(names) - len(views)}
    return (
        Scene(folder.name, str(place), tuple(views), facts=facts, state=tuple(matrices))
        if views
        else "no picture of a frame"
    )


def _open_dslr(folder: Path, place: Path) -> Scene | str:
    if not (place / "colmap").is_dir():
        return "no dslr/colmap/ in it"
    cameras, images = read_model(place / "colmap")
    views = [
        View(number, image.name, (str(inside(place / "resized_images", image.name)), image.camera))
        for number, image in enumerate(sorted(images, key=lambda image: natural(image.name)))
    ]
    return Scene(folder.name, str(place), tuple(views), state=cameras) if views else "no picture in dslr/colmap/"


def _frames(place: Path) -> dict[str, dict]:
    file = place / "pose_intrinsic_imu.json"
    try:
        frames = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise PrepareError(f"{file} is not JSON: {error}.") from error
    good = isinstance(frames, dict) and all(
        isinstance(frame, dict) and name.startswith("frame_") and name[6:].isdigit() for name, frame in frames.items()
    )
    if not good or not frames:
        raise PrepareError(f"{file}: expected an object of frames named frame_NNNNNN.")
    return frames


SOURCE = posed_source("scannetpp", "1", Settings, ScanNetPP(), __file__)
