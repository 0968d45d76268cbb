"""pictures: folders of plain pictures and videos, without cameras: material for labels by a teacher (`experiments.label`).

Every folder of pictures below --raw, and every video file, is a scene whose frames are grouped by the named samplers
(windows, stride, uniform, first). `--each true` makes every picture a scene of its own, for views that have nothing to do
with each other (with --views 1). Pictures are turned upright by their EXIF; frames of videos keep their number in the file.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipelines.flags import flag
from data_pipelines.sources.posed.cameras import Pose, pinhole
from data_pipelines.sources.posed.decoding import (
    VIDEO_SUFFIXES,
    BadPicture,
    opened,
    orientation,
    photograph,
    rgb_of,
)
from data_pipelines.sources.posed.pictures import stated_size
from data_pipelines.sources.posed.scene import (
    COLOUR_SUFFIXES,
    PosedSettings,
    Raw,
    Scene,
    Unusable,
    View,
    hidden,
    natural,
    read_bytes,
    states_of,
    strays,
)
from data_pipelines.sources.posed.source import posed_source
from data_pipelines.sources.qa.video import VideoError, VideoFrames

_QUESTIONS = "questions.json"  # of a scene, beside its pictures


@dataclasses.dataclass(frozen=True)
class Settings(PosedSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""

    each: bool = flag(False, "every picture is a scene of its own")

    def problems(self) -> list[str]:
        """What is wrong with the arguments."""
        found = ["--sampler spread needs cameras, which plain pictures have not"] if self.sampler == "spread" else []
        return found + (["--each true needs --views 1"] if self.each and self.views != 1 else [])


class Pictures:
    """The layout; see `posed.scene.Layout`."""

    def __init__(self):
        self._video: tuple[str, VideoFrames | None] = ("", None)  # the one that was read last

    def folders(self, raw: Path, settings: Settings) -> list[Path]:
        """Folders with anything but videos in them, and videos; with `each` all files themselves. What is no scene says so."""
        places = sorted(_walk(raw), key=lambda entry: natural(str(entry[0])))
        files = [path for _, own in places for path in own]
        videos = [path for path in files if _is_video(path)]
        if settings.each:
            return files
        unread = [path for path in files if hidden(path) and path.is_dir()]
        other = {*videos, *unread}
        hold = [place for place, own in places if any(path not in other for path in own if path.name != _QUESTIONS)]
        return [*hold, *videos, *unread]

    def open(self, folder: Path, settings: Settings) -> Scene | str:
        """See `Layout`."""
        raw = Path(settings.raw).expanduser()
        name = folder.name if folder == raw else folder.relative_to(raw).as_posix()
        if hidden(folder) and folder != raw:
            return "is hidden"
        if not folder.is_dir() and _is_video(folder):
            if not folder.is_file():
                return "is no regular file"
            try:
                count, rate = VideoFrames.count(folder)
            except VideoError as error:
                return str(error)
            views = tuple(View(number, str(number), number) for number in range(count))
            return Scene(name, str(folder), views, facts={"frames_per_second": rate}, state="video")
        own = sorted(folder.iterdir(), key=lambda path: natural(path.name)) if folder.is_dir() else [folder]
        files = [
            path for path in own if path.suffix.lower() in COLOUR_SUFFIXES and not hidden(path) and not path.is_dir()
        ]
        if folder.is_dir():
            videos = [path for path in own if _is_video(path)]
            lost = strays(folder, [*files, *videos, folder / _QUESTIONS])
        else:
            lost = ()
        if not files:
            names = ", ".join(one.name for one in lost[:5]) + (", ..." if len(lost) > 5 else "")
            return (
                "is no picture or video of a known kind"
                if not folder.is_dir()
                else f"{len(lost)} files, no picture: {names}"
            )
        views = tuple(View(number, path.name, str(path)) for number, path in enumerate(files))
        return Scene(name, str(folder), views, state="pictures", left_out=lost)

    def poses(self, scene: Scene, settings: Settings) -> Mapping[int, Pose]:
        """None."""
        return {view.number: Pose(None, "none_in_this_source") for view in scene.views}

    def read(self, scene: Scene, view: View, settings: Settings) -> Raw:
        """See `Layout`."""
        if scene.state == "video":
            if self._video[0] != scene.path:
                self._video = (scene.path, VideoFrames(Path(scene.path)))
            try:
                frame = self._video[1].read(view.key)
            except VideoError as error:
                raise Unusable(str(error)) from error
            buffer = io.BytesIO()
            frame.save(buffer, "JPEG", quality=95, subsampling=0)
            data = buffer.getvalue()
        else:
            data = upright(read_bytes(Path(view.key)))
        size = stated_size(data, view.name)
        side = float(max(size))  # a camera that nothing reads: the view has no pose
        matrix = pinhole(side, side, size[0] / 2, size[1] / 2)
        return Raw(data, None, size, matrix, None, "none_in_this_source")

    def files(self, scene: Scene, view: View) -> Mapping[str, Path | None]:
        """See `Layout`."""
        return {"colour": Path(scene.path if scene.state == "video" else view.key)}

    def states(self, scene: Scene) -> list[str]:
        """Files by size and time of change."""
        return states_of([], (self.files(scene, view) for view in scene.views))

    def depth_unit(self, settings: Settings) -> float:
        """There is no depth."""
        return 0.0


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder from `folder` on with its files, links followed; hidden folders as files, which are then reported."""
    real = os.path.realpath(folder)
    if real in above:  # a link back to a folder that it lies in: nothing new is there
        return
    entries = sorted(folder.iterdir(), key=lambda path: natural(path.name))
    inner = {path: None for path in entries if path.is_dir() and not hidden(path)}
    yield folder, [path for path in entries if path not in inner]
    for path in inner:
        yield from _walk(path, (*above, real))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not hidden(path) and not path.is_dir()


def upright(data: bytes) -> bytes:
    """A picture turned as its EXIF says; the same bytes where there is nothing to turn, or it cannot be decoded."""
    buffer = io.BytesIO()
    try:
        with opened(data) as picture:
            if orientation(picture) == 1:
                return data
            jpeg, turned = photograph(picture), rgb_of(picture, turn=True)
    except BadPicture:
        return data
    turned.info.clear()  # no EXIF goes along
    turned.save(buffer, "JPEG", quality=95, subsampling=0) if jpeg else turned.save(buffer, "PNG")
    return buffer.getvalue()


SOURCE = posed_source("pictures", "3", Settings, Pictures(), __file__)
