"""One raw frame as a record holds it: a plain 8-bit picture and 16-bit depth of one size, upright, from a pinhole."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import Pose, scaled, turned, undistorting
from data_pipelines.sources.posed.scene import Depth, Raw, View

MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK")
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs, which it only warns of


@dataclasses.dataclass(frozen=True)
class Frame:
    """One usable frame."""

    view: View
    image: bytes
    depth: bytes  # b"" = none
    intrinsics: np.ndarray
    camera_to_world: np.ndarray  # identity where not pose_valid
    pose_valid: bool


def header_size(data: Path | bytes) -> tuple[int, int] | None:
    """(width, height) that a picture's header states, None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def target_size(colour: tuple[int, int], depth: tuple[int, int] | None, picture: str) -> tuple[int, int]:
    """Size of the record's pictures by `PosedSettings.picture`."""
    return depth if depth is not None and picture == "depth" else colour


def decode_picture(data: bytes) -> tuple[Image.Image, str]:
    """(RGB picture, "") or (the picture as far as it goes, why it cannot be used); transparency is laid on white.

    Raises:
      OSError, SyntaxError, ValueError, DecompressionBombError: undecodable bytes.
    """
    with Image.open(io.BytesIO(data)) as picture:
        if picture.size[0] * picture.size[1] > MAX_PIXELS:
            return picture, f"has {picture.size[0]} x {picture.size[1]} pixels"
        picture.load()
        if (orientation := picture.getexif().get(274, 1)) != 1:
            return picture, f"EXIF orientation {orientation}: turn the picture and its camera upright first"
        if picture.mode not in MODES:
            return picture, f"picture mode {picture.mode} is not 8-bit colour"
        return on_white(picture), ""


def on_white(picture: Image.Image) -> Image.Image:
    """An RGB picture; what is transparent becomes white."""
    if picture.mode in ("RGBA", "LA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")


def assemble(view: View, raw: Raw, pose: Pose, turns: int, max_size: int) -> tuple[Frame | None, str]:
    """A frame of one size, upright and without distortion; (None, why) if its picture cannot be used.

    Pictures that need no change keep their bytes.
    """
    factor = min(1.0, max_size / max(raw.size)) if max_size else 1.0
    size = (max(1, round(raw.size[0] * factor)), max(1, round(raw.size[1] * factor)))
    try:
        with Image.open(io.BytesIO(raw.colour)) as header:
            kind, mode = header.format, header.mode
        picture, problem = decode_picture(raw.colour)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return None, f"cannot be decoded: {error}"
    if raw.colour_size is not None and picture.size != raw.colour_size:
        return None, f"is {picture.size}, the scene's pictures are {raw.colour_size}"
    if problem:
        return None, problem
    matrix = scaled(raw.intrinsics, raw.size, size)
    steps = None if raw.depth is None else _nearest(raw.depth.steps, size)
    colour, places = None, None
    if raw.distortion is not None:
        colour = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
        matrix, places = undistorting(matrix, raw.distortion, size)
        colour = _bilinear(colour, places)
        steps = None if steps is None else _at(steps, places)
    elif picture.size != size or turns or mode != "RGB" or kind not in ("PNG", "JPEG"):
        colour = np.asarray(picture.resize(size, Image.Resampling.BICUBIC) if picture.size != size else picture)
    camera = np.eye(4) if pose.matrix is None else pose.matrix
    if turns:
        matrix, camera = turned(matrix, camera, size, turns)
        camera = camera if pose.matrix is not None else np.eye(4)
        colour = np.rot90(colour, -turns)
        steps = None if steps is None else np.rot90(steps, -turns)
    image = raw.colour if colour is None else _encode(colour, kind == "JPEG")
    depth = b""
    if steps is not None and steps.any():
        same = raw.depth.png and steps is raw.depth.steps
        depth = raw.depth.png if same else encode_steps(steps)
    return Frame(view, image, depth, matrix, camera, pose.matrix is not None), ""


def depth_from_png(data: bytes, where: str) -> Depth:
    """16-bit steps of a PNG; 65535 becomes 0.

    Raises:
      OSError, SyntaxError, ValueError: undecodable bytes.
      PrepareError: another kind of picture.
    """
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        mode, values = picture.mode, np.array(picture)
    if mode not in ("I;16", "I;16B", "I") or values.max(initial=0) > 65535 or values.min(initial=0) < 0:
        raise PrepareError(f"{where} has mode {mode}: depth must be a 16-bit grey PNG of distances in equal steps.")
    kept = np.where(values == 65535, 0, values).astype(np.uint16)
    return Depth(kept, data if mode == "I;16" and np.array_equal(kept, values) else b"")


def read_depth(path: Path | None, size: tuple[int, int] | None) -> tuple[Depth | None, str]:
    """(depth, "") of a PNG file, or (None, why): missing, undecodable, of another size than `size`, or empty.

    Raises:
      PrepareError: a picture that is not 16-bit grey.
    """
    if path is None or not path.is_file():
        return None, "no_file"
    try:
        found = depth_from_png(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None, "undecodable"
    if size is not None and found.steps.shape != (size[1], size[0]):
        return None, "other_size"
    return (found, "") if found.steps.any() else (None, "no_valid_pixel")


def masked(depth: Depth, file: Path, least: int) -> tuple[Depth | None, str]:
    """Depth without the pixels whose value in a confidence picture of its size is below `least`; (None, why) without one."""
    try:
        with Image.open(file) as picture:
            confidence = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None, "no_confidence"
    if confidence.shape != depth.steps.shape:
        return None, "confidence_of_other_size"
    if (confidence >= least).all():
        return depth, ""
    kept = Depth(np.where(confidence >= least, depth.steps, 0).astype(np.uint16))
    return (kept, "") if kept.steps.any() else (None, "no_confident_pixel")


def depth_from_metres(depth: np.ndarray, unit: float) -> Depth:
    """float[h,w] z-depth in steps of `unit`; what is not finite, not positive or beyond 65534 steps is invalid."""
    good = np.isfinite(depth) & (depth > 0)
    steps = np.round(np.where(good, depth, 0) / unit)
    return Depth(np.where(steps < 65535, steps, 0).astype(np.uint16))


def encode_steps(steps: np.ndarray) -> bytes:
    """A 16-bit PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(steps)).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def _encode(colour: np.ndarray, jpeg: bool) -> bytes:
    buffer, picture = io.BytesIO(), Image.fromarray(np.ascontiguousarray(colour))
    if jpeg:
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue()


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resized to (width, height): each new pixel takes the one that holds its centre."""
    width, height = size
    if values.shape == (height, width):
        return values
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(int)
    return values[rows][:, columns]


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The pixels that hold `places` (x, y); 0 outside."""
    column, row = np.floor(places).astype(int).transpose(2, 0, 1)
    inside = (column >= 0) & (row >= 0) & (column < values.shape[1]) & (row < values.shape[0])
    found = values[np.clip(row, 0, values.shape[0] - 1), np.clip(column, 0, values.shape[1] - 1)]
    return np.where(inside, found, 0).astype(values.dtype)


def _bilinear(colour: np.ndarray, places: np.ndarray) -> np.ndarray:
    """uint8[h,w,3] sampled at `places` (x, y), the border continued."""
    x, y = places[..., 0] - 0.5, places[..., 1] - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    across, down = (x - left)[..., None], (y - top)[..., None]
    height, width = colour.shape[:2]
    rows, columns = [np.clip(top + k, 0, height - 1) for k in (0, 1)], [np.clip(left + k, 0, width - 1) for k in (0, 1)]
    upper = colour[rows[0], columns[0]] * (1 - across) + colour[rows[0], columns[1]] * across
    lower = colour[rows[1], columns[0]] * (1 - across) + colour[rows[1], columns[1]] * across
    return np.clip(np.round(upper * (1 - down) + lower * down), 0, 255).astype(np.uint8)
