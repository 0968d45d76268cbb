"""Pictures of a question as arrays, and the frames of its video."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.benchmarks.items import Media, RawError
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.decoding import BadPicture, opened, rgb_of
from data_pipelines.sources.qa.video import VideoError, VideoFrames, choose_frames, frame_files, times_of


@dataclasses.dataclass(frozen=True)
class Showing:
    """What of a video or picture is shown.

    Attributes:
      frames: most frames of a video.
      sampler: which: see `qa.video.choose_frames`.
      max_size: longest side of a picture, larger ones are shrunk; 0 = as they are.
    """

    frames: int = 32
    sampler: str = "uniform"
    max_size: int = 0


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a model sees.

    Attributes:
      images: uint8[h,w,3] each.
      views: name of each picture, or the number of each frame in its video, from 0.
      sizes: (height, width) of each as stored.
      rate: shown frames a second of the video; 0 where unknown, None for pictures.
    """

    images: tuple[np.ndarray, ...]
    views: tuple[str | int, ...]
    sizes: tuple[tuple[int, int], ...]
    rate: float | None = None


def show(media: tuple[Media, ...], showing: Showing) -> Shown:
    """Decodes pictures (upright, transparency on white) or one video.

    Raises:
      RawError: one that is missing or cannot be decoded, by name.
    """
    if len(media) == 1 and media[0].kind == "video":
        return _video(media[0], showing)
    found = [_picture(one.read(), one.name) for one in media]
    sizes = tuple((image.height, image.width) for image in found)
    return Shown(_arrays(found, showing), tuple(one.name for one in media), sizes)


def _video(video: Media, showing: Showing) -> Shown:
    with video.file() as path:
        try:
            frames, chosen, rate = _frames(path, showing)
        except (VideoError, OSError) as error:
            raise RawError(f"The video {video.name} {error}.") from error
        except PrepareError as error:
            raise error if isinstance(error, RawError) else RawError(str(error)) from error
    sizes = tuple((image.height, image.width) for image in frames)
    return Shown(_arrays(frames, showing), tuple(chosen), sizes, rate)


def _frames(path: Path, showing: Showing) -> tuple[list[Image.Image], list[int], float]:
    """(frames, their numbers, shown frames a second) of a video file or a folder of frames."""
    if path.is_dir():
        files, rate = frame_files(path), 0.0
        available = len(files)
        read = lambda number: _picture(files[number].read_bytes(), str(files[number]))
    else:
        times, rate = times_of(path)
        available = len(times)
        video = VideoFrames(path)
        read = video.read
    if not available:
        raise VideoError("has no frames")
    chosen = choose_frames(available, showing.frames, showing.sampler)
    return [read(number) for number in chosen], chosen, rate * len(chosen) / available


def _picture(data: bytes, name: str) -> Image.Image:
    try:
        with opened(data) as picture:
            return rgb_of(picture, turn=True)
    except BadPicture as error:
        raise RawError(f"The picture {name} {error}.") from error


def _arrays(found: list[Image.Image], showing: Showing) -> tuple[np.ndarray, ...]:
    if showing.max_size:
        for image in found:
            image.thumbnail((showing.max_size, showing.max_size), Image.Resampling.BICUBIC)
    return tuple(np.asarray(image) for image in found)
