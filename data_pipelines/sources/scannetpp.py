"""scannetpp: ScanNet++: data/SCENE/iphone (rgb/, depth.bin, pose_intrinsic_imu.json) or data/SCENE/dslr (fisheye pictures).

`--device iphone`: pictures extracted to rgb/frame_NNNNNN.jpg, LiDAR depth, ARKit poses brought into the scan's frame
(`aligned_pose`). `--device dslr`: resized_images/ with the COLMAP model in dslr/colmap; lenses are undistorted; depth is what
the toolkit rendered to dslr/render_depth/NAME.png (16-bit millimetres), where it is there. Frames that nerfstudio/transforms.json
marks `is_bad` are left out; pixels that resized_anon_masks/ (rgb_masks/ of the iPhone) blot out have no depth.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import Pose, check_pose
from data_pipelines.sources.posed.colmap_files import model_files, read_model
from data_pipelines.sources.posed.depth_stream import DepthStream
from data_pipelines.sources.posed.pictures import (
    depth_from_metres,
    fitted,
    masked,
    read_depth,
    stated_size,
    target_size,
)
from data_pipelines.sources.posed.scene import (
    COLOUR_SUFFIXES,
    LeftOut,
    PosedSettings,
    Raw,
    Scene,
    View,
    flat_numbers,
    inside,
    natural,
    numbered_files,
    read_bytes,
    states_of,
    strays,
)
from data_pipelines.sources.posed.source import posed_source

STEP = 0.001
_MASKS = {"iphone": "rgb_masks", "dslr": "resized_anon_masks"}
_KEPT = 128  # masks are 255 where the picture may be used


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
        return _open_iphone(folder, place) if settings.device == "iphone" else _open_dslr(folder, place, settings.links)

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
        found = stated_size(data, Path(colour).name)
        if settings.device == "dslr":
            camera = scene.state[place]
            depth, problem = read_depth(self.files(scene, view)["depth"], None)
            matrix, own, lens = camera.intrinsics, camera.size, camera.distortion
        else:
            depth, problem = self._lidar(scene, place, found)
            matrix, own, lens = np.array(scene.state[place]), found, None
        mask = self.files(scene, view).get("mask")
        if depth is not None and mask is not None:
            depth, problem = masked(depth, mask, _KEPT, "mask")
        size = target_size(found, depth and depth.size, settings.picture)
        return Raw(data, None, size, fitted(matrix, own, size), depth, problem, lens)

    def files(self, scene: Scene, view: View) -> Mapping[str, Path | None]:
        """See `Layout`; masks are there or not, for a whole scene."""
        place, png = Path(scene.path), f"{Path(view.name).stem}.png"
        iphone = place.name == "iphone"
        found: dict[str, Path | None] = {
            "colour": Path(view.key[0]),
            "depth": place / "depth.bin" if iphone else place / "render_depth" / png,
        }
        masks = place / _MASKS[place.name]
        return found | ({"mask": masks / png} if masks.is_dir() else {})

    def states(self, scene: Scene) -> list[str]:
        """Cameras by content, pictures and depth by size and time of change."""
        place = Path(scene.path)
        small = [
            place / "pose_intrinsic_imu.json",
            place / "nerfstudio" / "transforms.json",
            *model_files(place / "colmap"),
        ]
        return states_of(small, (self.files(scene, view) for view in scene.views))

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
        try:
            depth = depth_from_metres(self._stream[1].read(number).astype(np.float64), STEP)
        except ValueError:
            return None, "undecodable"
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
    lost = _without_picture(names, pictures) + strays(place / "rgb", [view.key[0] for view in views])
    return _scene(folder, place, views, tuple(matrices), lost)


def _open_dslr(folder: Path, place: Path, links: bool) -> Scene | str:
    if not (place / "colmap").is_dir():
        return "no dslr/colmap/ in it"
    cameras, images = read_model(place / "colmap")
    views = [
        View(number, image.name, (str(inside(place / "resized_images", image.name, links)), image.camera))
        for number, image in enumerate(sorted(images, key=lambda image: natural(image.name)))
    ]
    lost = strays(place / "resized_images", [view.key[0] for view in views])
    return _scene(folder, place, views, cameras, lost)


def _scene(folder: Path, place: Path, views: list[View], cameras, lost: tuple[LeftOut, ...]) -> Scene | str:
    """The scene without its bad frames."""
    if not views:
        return f"no picture of a frame in {place.name}/"
    marked = _marked_bad(place / "nerfstudio" / "transforms.json")
    bad = [view for view in views if Path(view.name).stem in marked]
    lost += tuple(LeftOut(view.name, "is_bad in nerfstudio/transforms.json", "frames_marked_bad") for view in bad)
    good = tuple(view for view in views if Path(view.name).stem not in marked)
    return Scene(folder.name, str(place), good, state=cameras, left_out=lost) if good else "every frame is_bad"


def _without_picture(names: Mapping[int, str], pictures: Mapping[int, Path]) -> tuple[LeftOut, ...]:
    """Frames that pose_intrinsic_imu.json has and rgb/ lacks, run by run: of many scans every tenth is extracted."""
    runs: list[list[str]] = []
    there = True
    for number in sorted(names):
        if number not in pictures:
            if there:
                runs.append([])
            runs[-1].append(names[number])
        there = number in pictures
    return tuple(
        LeftOut(
            "-".join(dict.fromkeys((run[0], run[-1]))), "has no picture in rgb/", "frames_without_picture", len(run)
        )
        for run in runs
    )


def _marked_bad(file: Path) -> set[str]:
    """Names, without endings, of the frames that a transforms.json marks as bad; none without the file."""
    if not file.is_file():
        return set()
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
        frames = [frame for key in ("frames", "test_frames") for frame in values.get(key) or ()]
        return {Path(frame["file_path"]).stem for frame in frames if frame.get("is_bad") is True}
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise PrepareError(f"{file}: expected an object with lists 'frames', 'test_frames' ({error!r}).") from error


def _frames(place: Path) -> dict[str, dict]:
    file = place / "pose_intrinsic_imu.json"
    try:
        frames = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise PrepareError(f"{file} is not JSON: {error}.") from error
    good = isinstance(frames, dict) and all(
        isinstance(frame, dict) and name.startswith("frame_") and name[6:].isdigit() for name, frame in frames.items()
    )
    if not good or not frames:
        raise PrepareError(f"{file}: expected an object of frames named frame_NNNNNN.")
    return frames


SOURCE = posed_source("scannetpp", "3", Settings, ScanNetPP(), __file__)
