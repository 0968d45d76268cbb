"""Opens pictures that nobody vouches for: what is broken, too large or not 8-bit colour becomes one kind of error."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

# What is read, and how such files are named; other formats run programs or are no photographs.
_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
FORMATS = tuple(_FORMATS)
PICTURE_SUFFIXES = tuple(suffix for own in _FORMATS.values() for suffix in own)
VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".wmv", ".ogv", ".3gp", ".flv", ".mts", ".m2ts",
)  # fmt: skip
MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK")  # 8 bits a channel or fewer
MAX_PIXELS = 178_956_970  # twice Pillow's own limit, where it stops; between the two it only warns
_ORIENTATION = 274  # EXIF tag


class BadPicture(ValueError):
    """A picture cannot be used; the text says why."""


@contextlib.contextmanager
def opened(data: bytes | Path) -> Iterator[Image.Image]:
    """A picture whose header states at most MAX_PIXELS; nothing is decoded yet.

    Raises:
      BadPicture: it cannot be opened, or what the caller does with it fails.
    """
    if isinstance(data, Path) and data.exists() and not data.is_file():
        raise BadPicture("is no regular file")  # a pipe would be waited for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the limit here
            with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise BadPicture(f"has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS}")
                yield picture
    except BadPicture:
        raise
    except Image.DecompressionBombError as error:
        raise BadPicture(f"has more than {MAX_PIXELS} pixels ({error})") from error
    except Exception as error:  # broken files make Pillow raise nearly anything
        raise BadPicture(f"cannot be decoded: {error or type(error).__name__}") from error


def header_size(data: Path | bytes) -> tuple[int, int] | None:
    """(width, height) that a picture's header states, None if it cannot be read."""
    try:
        with opened(data) as picture:
            return picture.size
    except BadPicture:
        return None


def orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 = upright."""
    return picture.getexif().get(_ORIENTATION, 1)


def rgb_of(picture: Image.Image, turn: bool) -> Image.Image:
    """The decoded picture as RGB, transparency on white, `turn`ed upright by its EXIF.

    Raises:
      BadPicture: another kind of picture, such as 16-bit grey.
    """
    picture.load()
    if picture.mode not in MODES:
        raise BadPicture(f"has mode {picture.mode}, expected 8-bit colour")
    return on_white(ImageOps.exif_transpose(picture) if turn else picture)


def on_white(picture: Image.Image) -> Image.Image:
    """An RGB picture; what is transparent becomes white."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")


def storable(picture: Image.Image, data: bytes) -> bool:
    """Whether a record can hold the file as it is: PNG or JPEG, RGB without transparency, 8 bits deep."""
    plain = picture.mode == "RGB" and "transparency" not in picture.info
    deep = picture.format == "PNG" and data[24:25] == b"\x10"  # IHDR's bit depth; Pillow shows the upper 8 bits
    return plain and picture.format in ("PNG", "JPEG") and not deep


def photograph(picture: Image.Image) -> bool:
    """Whether a changed picture is to be stored as JPEG again."""
    return picture.format in ("JPEG", "MPO")
