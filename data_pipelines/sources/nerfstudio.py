"""nerfstudio: a folder with transforms.json, as nerfstudio, instant-ngp, Polycam and record3d write it.

Cameras (fl_x, fl_y, cx, cy, w, h, k1.., p1, p2) stand at the top or in each frame; poses are camera-to-world with OpenGL axes;
`applied_transform` is undone, so that poses are those before it. Distorted pictures become pinhole pictures. Pixels that a
frame's `mask_path` has black have no depth. Lengths are in the unit of the reconstruction: give `--metric true` where it is metres.
`integer_depth_scale` is the step of 16-bit depth in that unit; an `applied_scale` is refused.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import (
    FLIP_YZ,
    Distortion,
    Pose,
    check_pose,
    pinhole,
    without_lost,
    wrong_lens,
)
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
    UNKNOWN_UNIT,
    Depth,
    LeftOut,
    PosedSettings,
    Raw,
    Scene,
    View,
    flat_numbers,
    inside,
    natural,
    read_bytes,
    scene_folders,
    states_of,
    strays,
)
from data_pipelines.sources.posed.source import posed_source

_OPENCV, _FISHEYE = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"), ("k1", "k2", "k3", "k4")
_LENSES = {"OPENCV": "opencv", "PINHOLE": "", "SIMPLE_PINHOLE": "", "PERSPECTIVE": "", "OPENCV_FISHEYE": "fisheye"}
# instant-ngp's words for lenses that are none of these.
_OTHER_LENSES = ("is_fisheye", "ftheta_p0", "latlong", "equirectangular", "orthographic")


@dataclasses.dataclass(frozen=True)
class Settings(PosedSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""

    picture: str = flag("colour", "size of the records' pictures: 'colour' (depth is resized by nearest) or 'depth'")
    depth_step: float = flag(
        0.001,
        "length of a step of 16-bit depth, in the unit of the poses; integer_depth_scale where that is stated",
        above=0,
    )
    metric: bool = flag(False, "whether that unit is the metre")


class Transforms:
    """The layout; see `posed.scene.Layout`."""

    def folders(self, raw: Path, settings: Settings) -> list[Path]:
        """`raw` itself, or the folders in it."""
        return scene_folders(raw, "transforms.json")

    def open(self, folder: Path, settings: Settings) -> Scene | str:
        """See `Layout`."""
        file = folder / "transforms.json"
        if not file.is_file():
            return "no transforms.json in it"
        values = _read(file)
        views = []
        for place, frame in enumerate(values["frames"]):
            where = f"{file}, frame {place}"
            if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
                raise PrepareError(f"{where}: expected an object with a text 'file_path'.")
            depth = "depth_file_path" if "depth_file_path" in frame else "depth_path"  # instant-ngp's
            others = [_named(folder, frame, name, where, settings.links) for name in (depth, "mask_path")]
            key = (str(_picture(folder, frame["file_path"], settings.links)), *others, place)
            views.append((natural(frame["file_path"]), key))
        keys = [key for _, key in sorted(views)]
        stems = collections.Counter(Path(key[0]).stem for key in keys)
        views = [View(number, _name(Path(key[0]), folder, stems), key) for number, key in enumerate(keys)]
        used = [name for view in views for name in view.key[:3]]
        places = dict.fromkeys(Path(view.key[0]).parent for view in views)
        lost = [one for place in places if place != folder for one in strays(place, used)]
        bad = {view.number for view in views if values["frames"][view.key[3]].get("is_bad") is True}
        marked = [view.name for view in views if view.number in bad]
        lost += [LeftOut(name, "is_bad in transforms.json", "frames_marked_bad") for name in marked]
        if number := len(values.get("test_frames") or ()):
            lost.append(LeftOut("test_frames", "not read: frames held out", "frames_held_out", number))
        views = tuple(view for view in views if view.number not in bad)
        if not views:
            return "every frame is_bad"
        step = _stated_step(values, file, settings)
        facts = {} if step is None else {"integer_depth_scale": step}
        return Scene(folder.name, str(folder), views, facts=facts, state=_cameras(values, file), left_out=tuple(lost))

    def poses(self, scene: Scene, settings: Settings) -> Mapping[int, Pose]:
        """From OpenGL axes, the applied transform undone."""
        values = _read(Path(scene.path) / "transforms.json")
        back = np.eye(4)
        if (applied := values.get("applied_transform")) is not None:
            pose = check_pose(flat_numbers(applied))
            if pose.matrix is None:
                raise PrepareError(f"{scene.path}/transforms.json: applied_transform is no rigid motion: {applied}.")
            back = np.linalg.inv(pose.matrix)
        stated = {
            view.number: check_pose(flat_numbers(values["frames"][view.key[3]].get("transform_matrix")))
            for view in scene.views
        }
        return {
            number: Pose(back @ pose.matrix @ FLIP_YZ) if pose.matrix is not None else pose
            for number, pose in without_lost(stated).items()
        }

    def read(self, scene: Scene, view: View, settings: Settings) -> Raw:
        """See `Layout`."""
        colour, depth_file, mask, place = view.key
        fx, fy, cx, cy, width, height, model, lens = scene.state[place]
        data = read_bytes(Path(colour))
        found = stated_size(data, Path(colour).name)
        own = (width, height) if width and height else found  # the size that the camera was made for
        step = scene.facts.get("integer_depth_scale", settings.depth_step)
        depth, problem = _depth(depth_file, step, self.depth_unit(settings) or UNKNOWN_UNIT)
        if depth is not None and mask:
            depth, problem = masked(depth, Path(mask), 1, "mask")
        size = target_size(found, depth and depth.size, settings.picture)
        return Raw(
            colour=data,
            colour_size=None,
            size=size,
            intrinsics=fitted(pinhole(fx, fy, cx, cy), own, size),
            depth=depth,
            depth_problem=problem,
            distortion=_bent(model, lens),
        )

    def files(self, scene: Scene, view: View) -> Mapping[str, Path | None]:
        """See `Layout`."""
        colour, depth, mask, _ = view.key
        found: dict[str, Path | None] = {"colour": Path(colour), "depth": Path(depth) if depth else None}
        return found | ({"mask": Path(mask)} if mask else {})

    def states(self, scene: Scene) -> list[str]:
        """transforms.json by content, pictures by size and time of change."""
        return states_of([Path(scene.path) / "transforms.json"], (self.files(scene, view) for view in scene.views))

    def depth_unit(self, settings: Settings) -> float:
        """The step, where lengths are metres."""
        return settings.depth_step if settings.metric else 0.0


def _read(file: Path) -> dict:
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise PrepareError(f"{file} is not JSON: {error}.") from error
    if not isinstance(values, dict) or not isinstance(values.get("frames"), list) or not values["frames"]:
        raise PrepareError(f"{file}: expected an object with a list 'frames'.")
    if not isinstance(values.get("test_frames") or [], list):
        raise PrepareError(f"{file}: 'test_frames' is no list.")
    if values.get("applied_scale") not in (None, 1):
        raise PrepareError(
            f"{file}: applied_scale is {values['applied_scale']!r}: poses and depth may differ in scale by it, which is not undone. "
            "Divide the poses' translations by it (or scale the depth to the poses) and state 1."
        )
    return values


def _stated_step(values: dict, file: Path, settings: Settings) -> float | None:
    """`integer_depth_scale`, None without it.

    Raises:
      PrepareError: it is no length, or another than a --depth_step that was given.
    """
    step = values.get("integer_depth_scale")
    if step is None:
        return None
    if not isinstance(step, (int, float)) or not 0 < step < np.inf:
        raise PrepareError(f"{file}: integer_depth_scale is {step!r}, expected a number above 0.")
    if settings.depth_step != Settings.depth_step and not np.isclose(settings.depth_step, step, rtol=1e-6, atol=0):
        raise PrepareError(
            f"{file}: integer_depth_scale is {step:g}, --depth_step {settings.depth_step:g}. Leave out the wrong one."
        )
    return float(step)


def _name(picture: Path, folder: Path, stems: Mapping[str, int]) -> str:
    """A frame's name: its picture's, with the folders where several pictures of a scene have that, as of a rig's cameras."""
    return picture.stem if stems[picture.stem] == 1 else picture.relative_to(folder).as_posix()


def _named(folder: Path, frame: dict, field: str, where: str, links: bool) -> str:
    """The file that an optional field of a frame names, "" without one."""
    name = frame.get(field) or ""
    if not isinstance(name, str):
        raise PrepareError(f"{where}: '{field}' is {name!r}, expected a text.")
    return str(inside(folder, name, links)) if name else ""


def _picture(folder: Path, name: str, links: bool) -> Path:
    """The file of a `file_path`, which may lack its ending."""
    path = inside(folder, name, links)
    endings = [ending for suffix in COLOUR_SUFFIXES for ending in (suffix, suffix.upper())]
    return next((found for found in (path, *(path.with_name(path.name + e) for e in endings)) if found.is_file()), path)


def _cameras(values: dict, file: Path) -> tuple[tuple, ...]:
    """(fx, fy, cx, cy, w, h, model, lens) of every frame; w and h 0 where they are not stated."""
    cameras = []
    for place, frame in enumerate(values["frames"]):
        camera, where = {**values, **frame}, f"{file}, frame {place}"
        model = _LENSES.get(camera.get("camera_model", "OPENCV"))
        if model is None:
            raise PrepareError(f"{where}: camera_model '{camera['camera_model']}' is none of {', '.join(_LENSES)}.")
        if other := [name for name in _OTHER_LENSES if camera.get(name)]:
            if other != ["is_fisheye"] or model != "fisheye":
                raise PrepareError(
                    f"{where}: a lens with '{other[0]}' is not read. Say camera_model OPENCV_FISHEYE with k1 to k4 if it is that, "
                    "or undistort the pictures first."
                )
        names = {"opencv": _OPENCV, "fisheye": _FISHEYE, "": ()}[model]
        try:
            if "fl_x" not in camera and "camera_angle_x" in camera and "w" in camera:
                camera["fl_x"] = 0.5 * camera["w"] / np.tan(0.5 * camera["camera_angle_x"])
            camera.setdefault("fl_y", camera.get("fl_x"))
            for name, side in (("cx", "w"), ("cy", "h")):
                if name not in camera and side in camera:
                    camera[name] = camera[side] / 2
            plain = [float(camera[name]) for name in ("fl_x", "fl_y", "cx", "cy")]
            size = [int(camera.get(name, 0)) for name in ("w", "h")]
            lens = tuple(float(camera.get(name, 0.0)) for name in names)
        except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            raise PrepareError(f"{where}: fl_x, fl_y, cx, cy, w, h must be numbers ({error!r}).") from error
        if not np.isfinite([*plain, *lens]).all() or min(plain[:2]) <= 0 or min(size) < 0:
            raise PrepareError(f"{where}: {plain}, {size}, {lens} are no camera.")
        lens = lens or (0.0,) * 8
        if all(size) and (problem := wrong_lens(tuple(size), pinhole(*plain), _bent(model, lens))):
            raise PrepareError(f"{where}: {problem}.")
        cameras.append((*plain, *size, model, lens))
    return tuple(cameras)


def _bent(model: str, lens: tuple[float, ...]) -> Distortion | None:
    return Distortion(model or "opencv", lens) if any(lens) or model == "fisheye" else None


def _depth(name: str, step: float, unit: float) -> tuple[Depth | None, str]:
    """16-bit PNG in steps of `step`, or .npy in the poses' unit, as steps of `unit`."""
    path = Path(name) if name else None
    if path is not None and path.suffix == ".npy" and path.is_file():
        try:
            # Mapped, so that a header which states more than the file holds is an error and no memory.
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, SyntaxError, OverflowError, EOFError):
            return None, "undecodable"
        if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
            return None, "undecodable"
        depth, problem = depth_from_metres(values.astype(np.float64), unit), ""
    else:
        depth, problem = read_depth(path, None)
        if depth is not None and step != unit:
            depth = depth_from_metres(depth.steps * step, unit)
    return (depth, problem) if depth is None or depth.steps.any() else (None, "no_valid_pixel")


SOURCE = posed_source("nerfstudio", "4", Settings, Transforms(), __file__)
