"""Pictures and frames of a row, decoded and checked, with geometry where their scene has it."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import pinhole
from data_pipelines.sources.posed.decoding import BadPicture, opened, orientation, photograph, rgb_of, storable
from data_pipelines.sources.posed.scene import inside
from data_pipelines.sources.qa.geometry import Geometry
from data_pipelines.sources.qa.markers import draw
from data_pipelines.sources.qa.problems import Checks, RowError
from data_pipelines.sources.qa.rows import Media, Row
from data_pipelines.sources.qa.video import VideoError, choose_frames, frame_files, read_frames


@dataclasses.dataclass(frozen=True)
class Shown:
    """One picture of a record."""

    name: str
    image: bytes
    depth: bytes
    intrinsics: np.ndarray
    camera_to_world: np.ndarray
    pose_valid: bool
    depth_unit: float
    notes: tuple[str, ...] = ()
    scene: str = ""  # key of the posed scene that gave depth and camera


@dataclasses.dataclass(frozen=True)
class Showing:
    """How media are shown; see `QaSettings`."""

    folder: Path
    frames: int
    sampler: str
    stride: int
    max_size: int
    links: bool = False


def show(row: Row, showing: Showing, geometry: Geometry) -> list[Shown]:
    """All pictures of a row in prompt order.

    Depth and cameras of several scenes have no common world: such rows keep their pictures alone.

    Raises:
      RowError: media that are missing, broken, too large, or lead out of the folder.
      PrepareError: PyAV is missing.
    """
    found: list[Shown] = []
    checks = Checks()
    for number, one in enumerate(row.media):
        field = f"{one.kind}[{number}]"
        marks = [mark for mark in row.marks if mark.picture == number]
        if one.kind == "video":
            found += checks(_video, one, row, showing, geometry, field, default=[])
        elif picture := checks(_picture, one.source, row, showing, geometry, field, marks):
            found.append(picture)
    checks.close()
    if len({one.scene for one in found if one.scene}) > 1:
        return [_without_geometry(one) if one.scene else one for one in found]
    return found


def _without_geometry(shown: Shown) -> Shown:
    """A frame's picture without its depth and pose."""
    notes = [note for note in shown.notes if note not in ("with_geometry", "without_geometry")]
    return dataclasses.replace(
        shown, depth=b"", camera_to_world=np.eye(4), pose_valid=False, depth_unit=0.0, scene="",
        notes=(*notes, "of_several_scenes", "without_geometry"),
    )  # fmt: skip


def missing(one: Media, scene: str, showing: Showing, geometry: Geometry) -> str:
    """Why a picture or video of a row of `scene` cannot be there, without opening it; "" if it may be."""
    if isinstance(one.source, tuple):
        return next((why for path in one.source if (why := _missing_file(path, showing))), "")
    if one.source.startswith("data:"):
        return ""
    try:
        if geometry.scene_of(one.source, scene) and one.kind == "video":
            return ""
    except RowError:
        return ""  # named elsewhere
    return _missing_file(one.source, showing)


def _missing_file(path: str, showing: Showing) -> str:
    try:
        file = below(showing, path)
    except PrepareError as error:
        return str(error)
    return "" if file.exists() else f"'{path}' is not there"


def below(showing: Showing, path: str) -> Path:
    """A media file; `file://` in front is left out.

    Raises:
      PrepareError: the path leads out of the folder, or is that of a pipe or device.
    """
    file = inside(showing.folder, path.removeprefix("file://"), showing.links)
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise PrepareError(f"'{path}' is no regular file")
    return file


def _picture(path: str, row: Row, showing: Showing, geometry: Geometry, field: str, marks: list) -> Shown:
    scene = geometry.scene_of(path, row.scene) if len(geometry) else ""
    embedded = path.startswith("data:")
    try:
        file = None if embedded else below(showing, path)
        view, why = geometry.view_of(scene, path, file) if scene else (None, "")
        data = b"" if view is not None else _data_url(path) if embedded else file.read_bytes()
    except (OSError, PrepareError, ValueError) as error:
        raise RowError(field, f"'{path[:80]}' cannot be read: {error}", "missing_media") from error
    if view is None:
        shown = _plain(data, field if embedded else Path(path).stem, showing.max_size, field, path[:80], marks)
        return dataclasses.replace(shown, notes=(*shown.notes, why)) if why else shown
    frame, unit, reason = geometry.frame(scene, view)
    if frame is None:
        raise RowError(field, f"frame {view.name} of scene {geometry.name_of(scene)}: {reason}", "bad_picture")
    shown = _of_frame(frame, unit, scene)
    if not marks:
        return shown
    marked = _plain(frame.image, view.name, 0, field, path[:80], marks)
    return dataclasses.replace(shown, image=marked.image, notes=(*shown.notes, "marks_drawn"))


def _plain(data: bytes, name: str, max_size: int, field: str, path: str, marks: list) -> Shown:
    """A picture without geometry: upright by its EXIF, RGB, transparency on white, shrunk to `max_size`."""
    try:
        with opened(data) as picture:
            notes = ["turned_by_exif"] if orientation(picture) != 1 else []
            changed, keep, jpeg = rgb_of(picture, turn=True), storable(picture, data), photograph(picture)
    except BadPicture as error:
        raise RowError(field, f"'{path}' {error}", "bad_picture") from error
    if marks:
        changed = draw(changed, marks)
        notes.append("marks_drawn")
    if max_size and max(changed.size) > max_size:
        changed.thumbnail((max_size, max_size), Image.Resampling.BICUBIC)
        notes.append("shrunk")
    keep = keep and not notes
    return _of_picture(changed, data if keep else None, name, jpeg, tuple(notes))


def _video(one: Media, row: Row, showing: Showing, geometry: Geometry, field: str) -> list[Shown]:
    path = one.source if isinstance(one.source, str) else one.source[0]
    scene = geometry.scene_of(path, row.scene) if len(geometry) and isinstance(one.source, str) else ""
    if scene and (row.clip or row.frames):
        raise RowError(field, f"is cut, and frames of scene {geometry.name_of(scene)} take its place", "bad_clip")
    if scene:
        return _of_scene(scene, showing, geometry, field)
    try:
        if isinstance(one.source, tuple):
            files = [below(showing, name) for name in one.source]
        else:
            place = below(showing, one.source)
            files = frame_files(place) if place.is_dir() else []
        if files:
            if row.clip:
                raise RowError(field, f"'{path}' is a list of frames, which no seconds can cut", "bad_clip")
            first, last = row.frames or (0, len(files) - 1)
            inside = range(first, min(last + 1, len(files)))
            if not inside:
                raise RowError(field, f"'{path}' has {len(files)} frames, none from {first} to {last}", "bad_clip")
            places = choose_frames(len(inside), showing.frames, showing.sampler, showing.stride)
            chosen = [inside[place] for place in places]
            shown = [(files[number].read_bytes(), number) for number in chosen]
            return [_plain(data, str(number), showing.max_size, field, path[:80], []) for data, number in shown]
        if not place.is_file():
            raise RowError(field, f"'{path}' is not there, or an empty folder", "missing_media")
        frames, chosen = read_frames(place, showing.frames, showing.sampler, showing.stride, row.clip, row.frames)
    except (OSError, VideoError) as error:
        raise RowError(field, f"'{path}' {error}", "bad_video") from error
    except PrepareError as error:
        if "PyAV" in str(error):
            raise
        raise RowError(field, str(error), "missing_media") from error
    for frame in frames if showing.max_size else ():
        frame.thumbnail((showing.max_size, showing.max_size), Image.Resampling.BICUBIC)
    return [_of_picture(frame, None, str(number), True, ()) for frame, number in zip(frames, chosen, strict=True)]


def _of_scene(key: str, showing: Showing, geometry: Geometry, field: str) -> list[Shown]:
    """Frames of a posed scene in place of its video; a frame that cannot be used gives way to the next."""
    scene, name = geometry.scene(key), geometry.name_of(key)
    if scene is None or not scene.views:
        raise RowError(field, f"scene {name} has no frames", "missing_media")
    shown, last = [], -1
    for place in choose_frames(len(scene.views), showing.frames, showing.sampler, showing.stride):
        for view in scene.views[max(place, last + 1) :]:
            frame, unit, _ = geometry.frame(key, view)
            last = scene.views.index(view)
            if frame is not None:
                shown.append(_of_frame(frame, unit, key))
                break
    if not shown:
        raise RowError(field, f"no frame of scene {name} can be used", "bad_video")
    return shown


def _of_frame(frame, unit: float, scene: str) -> Shown:
    return Shown(
        frame.view.name, frame.image, frame.depth, frame.intrinsics, frame.camera_to_world, frame.pose_valid, unit,
        ("with_geometry",) if frame.depth and frame.pose_valid else ("without_geometry",), scene,
    )  # fmt: skip


def _of_picture(picture: Image.Image, data: bytes | None, name: str, jpeg: bool, notes: tuple[str, ...]) -> Shown:
    if data is None:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=95, subsampling=0) if jpeg else picture.save(buffer, "PNG")
        data = buffer.getvalue()
    width, height = picture.size
    side = float(max(width, height))  # a camera that nothing reads: the view has no pose
    matrix = pinhole(side, side, width / 2, height / 2)
    return Shown(name, data, b"", matrix, np.eye(4), False, 0.0, (*notes, "without_geometry"))


def _data_url(text: str) -> bytes:
    head, _, body = text.partition(",")
    if not head.endswith(";base64"):
        raise ValueError("a data: URL must be base64")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its base64 is broken ({error})") from error
