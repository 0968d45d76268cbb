"""pictures: folders of plain pictures and videos, without cameras: material for labels by a teacher (`experiments.label`).

Every folder of pictures below --raw, and every video file, is a scene whose frames are grouped by the named samplers
(windows, stride, uniform, first). `--each true` makes every picture a scene of its own, for views that have nothing to do
with each other (with --views 1). Pictures are turned upright by their EXIF; frames of videos keep their number in the file.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data_pipelines.flags import flag
from data_pipelines.sources.posed.cameras import Pose, pinhole
from data_pipelines.sources.posed.pictures import header_size
from data_pipelines.sources.posed.scene import (
    COLOUR_SUFFIXES,
    PosedSettings,
    Raw,
    Scene,
    Unusable,
    View,
    natural,
    picture_state,
    read_bytes,
)
from data_pipelines.sources.posed.source import posed_source
from data_pipelines.sources.qa.video import SUFFIXES, VideoError, VideoFrames


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
        """Folders with pictures in them, and videos; with `each` the pictures themselves."""
        files = sorted((path for path in raw.rglob("*") if path.is_file()), key=lambda path: natural(str(path)))
        videos = [path for path in files if path.suffix.lower() in SUFFIXES]
        pictures = [path for path in files if path.suffix.lower() in COLOUR_SUFFIXES]
        return [*(pictures if settings.each else dict.fromkeys(path.parent for path in pictures)), *videos]

    def open(self, folder: Path, settings: Settings) -> Scene | str:
        """See `Layout`."""
        name = folder.relative_to(Path(settings.raw).expanduser()).as_posix()
        name = folder.name if name == "." else name
        if folder.suffix.lower() in SUFFIXES and folder.is_file():
            try:
                count, rate = VideoFrames.count(folder)
            except VideoError as error:
                return str(error)
            views = tuple(View(number, str(number), number) for number in range(count))
            return Scene(name, str(folder), views, facts={"frames_per_second": rate}, state="video")
        files = [folder] if folder.is_file() else sorted(folder.iterdir(), key=lambda path: natural(path.name))
        files = [path for path in files if path.suffix.lower() in COLOUR_SUFFIXES]
        views = tuple(View(number, path.name, str(path)) for number, path in enumerate(files))
        return Scene(name, str(folder), views, state="pictures")

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
        size = header_size(data)
        if size is None:
            raise Unusable(f"{view.name} cannot be decoded")
        side = float(max(size))  # a camera that nothing reads: the view has no pose
        matrix = pinhole(side, side, size[0] / 2, size[1] / 2)
        return Raw(data, None, size, matrix, None, "none_in_this_source")

    def states(self, scene: Scene) -> list[str]:
        """Files by size and time of change."""
        if scene.state == "video":
            return [picture_state(Path(scene.path))]
        return [picture_state(Path(view.key)) for view in scene.views]

    def depth_unit(self, settings: Settings) -> float:
        """There is no depth."""
        return 0.0


def upright(data: bytes) -> bytes:
    """A picture turned as its EXIF says; the same bytes where there is nothing to turn, or it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.getexif().get(274, 1) == 1:
                return data
            turned, kind = ImageOps.exif_transpose(picture), picture.format
            buffer = io.BytesIO()
            if kind == "JPEG":
                turned.save(buffer, "JPEG", quality=95, subsampling=0)
            else:
                Image.fromarray(np.asarray(turned.convert("RGB"))).save(buffer, "PNG")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return data
    return buffer.getvalue()


SOURCE = posed_source("pictures", "1", Settings, Pictures(), __file__)
