"""Pictures of a question as arrays, and the frames of its video or videos."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.benchmarks.items import Media, RawError
from data_pipelines.manifest import PrepareError
from data_pipelines.sources import scannet
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
      views: name of each picture, or the number of each frame in its video, from 0; of several videos NAME#NUMBER, and
        the words of the title pictures.
      sizes: (height, width) of each as stored.
      rate: shown frames a second of the video; 0 where unknown, None for pictures.
    """

    images: tuple[np.ndarray, ...]
    views: tuple[str | int, ...]
    sizes: tuple[tuple[int, int], ...]
    rate: float | None = None


def show(media: tuple[Media, ...], showing: Showing) -> Shown:
    """Decodes pictures (upright, transparency on white), one video, or several videos one after another.

    Each of several videos stands between two title pictures as large as its frames, "The video 1" and "Video 1 End", white
    on black, as CVBench's authors do it (their lmms-eval's qwen2_5_vl and Video-R1's eval_bench, as kept in Wavy-Hec/MultiCam
    4c1e42a); their frames are pictures, whatever --videos_as says, because they differ in size.

    Raises:
      RawError: one that is missing or cannot be decoded, by name.
    """
    if len(media) == 1 and media[0].kind == "video":
        return _video(media[0], showing)
    if media and all(one.kind == "video" for one in media):
        return _videos(media, showing)
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


def _videos(media: tuple[Media, ...], showing: Showing) -> Shown:
    images, views, sizes = [], [], []
    for number, one in enumerate(media, 1):
        shown = _video(one, showing)
        begin, end = f"The video {number}", f"Video {number} End"
        images += [_title(begin, shown.images[0].shape[:2]), *shown.images, _title(end, shown.images[-1].shape[:2])]
        views += [begin, *(f"{one.name}#{frame}" for frame in shown.views), end]
        sizes += [shown.sizes[0], *shown.sizes, shown.sizes[-1]]
    return Shown(tuple(images), tuple(views), tuple(sizes))


def _title(words: str, size: tuple[int, int]) -> np.ndarray:
    """White words in the middle of a black picture of (height, width), over half of its width."""
    font = ImageFont.load_default()
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), words, font=font)
    text = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    ImageDraw.Draw(text).text((-left, -top), words, 255, font=font)
    scale = min(size[1] / 2 / text.width, size[0] / 2 / text.height)
    text = text.resize(
        (max(round(text.width * scale), 1), max(round(text.height * scale), 1)), Image.Resampling.BICUBIC
    )
    picture = Image.new("RGB", size[::-1])
    picture.paste((255, 255, 255), ((size[1] - text.width) // 2, (size[0] - text.height) // 2), text)
    return np.asarray(picture)


def _frames(path: Path, showing: Showing) -> tuple[list[Image.Image], list[int], float]:
    """(frames, their numbers, shown frames a second) of a video file, a folder of frames or a ScanNet scan's .sens."""
    if path.is_dir():
        files, rate = frame_files(path), 0.0
        available = len(files)
        read = lambda number: _picture(files[number].read_bytes(), str(files[number]))
    elif path.suffix == ".sens":
        layout, settings, rate = scannet.Sens(), scannet.Settings(), 0.0
        scan = layout.open(path.parent, settings)
        available = len(scan.views)
        read = lambda number: _picture(layout.read(scan, scan.views[number], settings).colour, f"{path}#{number}")
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
