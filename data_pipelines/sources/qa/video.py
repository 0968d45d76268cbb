"""Frames of videos: files (through PyAV, the extra [video]) and folders or lists of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.decoding import MAX_PIXELS
from data_pipelines.sources.posed.scene import COLOUR_SUFFIXES, natural

SAMPLERS = ("uniform", "first", "stride")


class VideoError(ValueError):
    """A video cannot be read; the text says why."""


def choose_frames(available: int, wanted: int, sampler: str, stride: int = 1) -> list[int]:
    """Indices of the frames of a video that are shown, ascending, at most `wanted`.

    uniform: int(linspace(0, n - 1, wanted)), the rule of lmms-eval and VSI-Bench; first: the first ones; stride: every
    `stride`-th from the first on.
    """
    if sampler == "uniform":
        return sorted(set(np.linspace(0, available - 1, min(wanted, available)).astype(int).tolist()))
    return list(range(0, available, stride if sampler == "stride" else 1))[:wanted]


def frame_files(folder: Path) -> list[Path]:
    """Pictures of a folder that stands for a video, by the numbers in their names; hidden ones are no pictures.

    A PNG beside a JPEG of its name is that frame's depth (EmbodiedScan's posed_images/SCAN/00010.{jpg,png,txt}).
    """
    found = [path for path in folder.iterdir() if path.suffix.lower() in COLOUR_SUFFIXES and path.name[0] != "."]
    photos = {path.stem for path in found if path.suffix.lower() in (".jpg", ".jpeg")}
    found = [path for path in found if path.suffix.lower() != ".png" or path.stem not in photos]
    return sorted(found, key=lambda path: natural(path.name))


class VideoFrames:
    """Frames of a video file by their number in the order of decoding, upright RGB; reads forwards, from the start to go back.

    Args:
      path: the file.

    Raises:
      PrepareError: PyAV is not installed.
    """

    def __init__(self, path: Path):
        self._av, self._path = _pyav(), path
        self._next, self._frames = 0, iter(())
        self._container = None

    @staticmethod
    def count(path: Path) -> tuple[int, float]:
        """(frames, frames a second or 0 if unknown), counted by decoding: headers lie.

        Raises:
          VideoError: it cannot be decoded.
        """
        times, rate = times_of(path)
        return len(times), rate

    def read(self, number: int) -> Image.Image:
        """Frame `number`.

        Raises:
          VideoError: it cannot be decoded, or there is no such frame.
        """
        try:
            if self._container is None or number < self._next:
                self._container = self._av.open(str(self._path))
                self._frames, self._next = self._container.decode(_stream(self._container)), 0
            for frame in self._frames:
                self._next += 1
                if self._next == number + 1:
                    turns = round(getattr(frame, "rotation", 0) / 90) % 4
                    return Image.fromarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
        except VideoError:
            raise
        except (self._av.error.FFmpegError, OSError, ValueError, IndexError) as error:
            raise VideoError(f"cannot be decoded: {error}") from error
        raise VideoError(f"has no frame {number}")


def times_of(path: Path) -> tuple[list[float | None], float]:
    """Seconds of every frame, and frames a second (0 = unknown).

    Raises:
      VideoError: it cannot be decoded.
      PrepareError: PyAV is not installed.
    """
    av = _pyav()
    try:
        with av.open(str(path)) as container:
            stream = _stream(container)
            stream.thread_type = "AUTO"
            return [frame.time for frame in container.decode(stream)], float(stream.average_rate or 0)
    except VideoError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        raise VideoError(f"cannot be decoded: {error}") from error


def read_frames(
    path: Path,
    wanted: int,
    sampler: str,
    stride: int = 1,
    clip: tuple[float, float] | None = None,
    within: tuple[int, int] | None = None,
) -> tuple[list[Image.Image], list[int]]:
    """(upright RGB frames, their numbers in the file) of a video.

    Args:
      path: the file.
      wanted, sampler, stride: as for `choose_frames`.
      clip: first and last second, None = all.
      within: numbers of the first and the last frame, None = all.

    Raises:
      VideoError: it cannot be decoded, or has no frame in the clip.
      PrepareError: PyAV is not installed.
    """
    times, _ = times_of(path)
    inside = [k for k, at in enumerate(times) if clip is None or (at is not None and clip[0] <= at <= clip[1])]
    inside = [k for k in inside if within is None or within[0] <= k <= within[1]]
    if not inside:
        part = "" if clip is None else f" from second {clip[0]:g} to {clip[1]:g}"
        part += "" if within is None else f" from number {within[0]} to {within[1]}, it has {len(times)}"
        raise VideoError(f"has no frame{part}")
    chosen = [inside[place] for place in choose_frames(len(inside), wanted, sampler, stride)]
    frames = VideoFrames(path)
    return [frames.read(number) for number in chosen], chosen


def _stream(container):
    """The first stream of pictures, if their stated size is one that pictures may have."""
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError("is in a codec that cannot be decoded here, or damaged")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise VideoError(f"has frames of {width} x {height} pixels, more than {MAX_PIXELS}")
    return stream


def _pyav():
    try:
        import av
    except ImportError as error:
        raise PrepareError('Videos need PyAV: python -m pip install -e ".[video]".') from error
    return av
