"""One raw frame as a record holds it: a plain 8-bit picture and 16-bit depth of one size, upright, from a pinhole."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import Pose, impossible, scaled, turned, undistorting
from data_pipelines.sources.posed.decoding import BadPicture, opened, orientation, photograph, rgb_of, storable
from data_pipelines.sources.posed.scene import Depth, Raw, Unusable, View

ASPECT_TOLERANCE = 0.02  # ScanNet's 1296x968 and 640x480 differ by 0.4 %


@dataclasses.dataclass(frozen=True)
class Frame:
    """One usable frame."""

    view: View
    image: bytes
    depth: bytes  # b"" = none
    intrinsics: np.ndarray
    camera_to_world: np.ndarray  # identity where not pose_valid
    pose_valid: bool


def target_size(colour: tuple[int, int], depth: tuple[int, int] | None, picture: str) -> tuple[int, int]:
    """Size of the record's pictures by `PosedSettings.picture`."""
    return depth if depth is not None and picture == "depth" else colour


def stated_size(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) that the header of a frame's picture states.

    Raises:
      Unusable: it cannot be opened.
    """
    try:
        with opened(data) as picture:
            return picture.size
    except BadPicture as error:
        raise Unusable(f"{name} {error}") from error


def assemble(view: View, raw: Raw, pose: Pose, turns: int, max_size: int) -> tuple[Frame | None, str]:
    """A frame of one size, upright and without distortion; (None, why) if its picture cannot be used.

    Pictures that need no change keep their bytes.

    Raises:
      PrepareError: a lens that cannot be this picture's.
    """
    factor = min(1.0, max_size / max(raw.size)) if max_size else 1.0
    size = (max(1, round(raw.size[0] * factor)), max(1, round(raw.size[1] * factor)))
    try:
        with opened(raw.colour) as source:
            picture, keep, jpeg = rgb_of(source, turn=False), storable(source, raw.colour), photograph(source)
            turned_by = orientation(source)
    except BadPicture as error:
        return None, str(error)
    if problem := _misfit(raw, picture.size, turned_by):
        return None, problem
    matrix = scaled(raw.intrinsics, raw.size, size)
    steps = None if raw.depth is None else nearest(raw.depth.steps, size)
    colour, places = None, None
    if raw.distortion is not None:
        colour = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
        try:
            matrix, places = undistorting(matrix, raw.distortion, size)
        except ValueError as error:
            raise PrepareError(f"Frame {view.name}: {error}. Correct its camera.") from error
        colour = _bilinear(colour, places)
        steps = None if steps is None else _at(steps, places)
    elif picture.size != size or turns or not keep:
        colour = np.asarray(picture.resize(size, Image.Resampling.BICUBIC) if picture.size != size else picture)
    camera = np.eye(4) if pose.matrix is None else pose.matrix
    if turns:
        matrix, camera = turned(matrix, camera, size, turns)
        camera = camera if pose.matrix is not None else np.eye(4)
        colour = np.rot90(colour, -turns)
        steps = None if steps is None else np.rot90(steps, -turns)
    image = raw.colour if colour is None else _encode(colour, jpeg)
    depth = b""
    if steps is not None and steps.any():
        same = raw.depth.png and steps is raw.depth.steps
        depth = raw.depth.png if same else encode_steps(steps)
    return Frame(view, image, depth, matrix, camera, pose.matrix is not None), ""


def _misfit(raw: Raw, size: tuple[int, int], turned_by: int) -> str:
    """Why a decoded picture of `size` does not go with its camera and depth; "" if it does."""
    if turned_by != 1:
        return f"EXIF orientation {turned_by}: turn the picture and its camera upright first"
    if raw.colour_size is not None and size != raw.colour_size:
        return f"is {size}, the scene's pictures are {raw.colour_size}"
    if raw.depth is not None and other_shape(size, raw.depth.size):
        return f"is {size}, its depth {raw.depth.size}: they do not show the same field of view"
    return impossible(raw.intrinsics, raw.size)


def other_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) differ in their proportions, as of a picture and one that was turned."""
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) > ASPECT_TOLERANCE


def fitted(matrix: np.ndarray, made_for: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """`cameras.scaled`, for a camera that a file states for pictures of `made_for` (width, height).

    Raises:
      Unusable: `size` has other proportions.
    """
    if other_shape(made_for, size):
        raise Unusable(
            f"is {size}, its camera was made for {made_for}: a turned or cropped picture needs its own camera"
        )
    return scaled(matrix, made_for, size)


def read_depth(path: Path | None, size: tuple[int, int] | None) -> tuple[Depth | None, str]:
    """(depth, "") of a PNG file, or (None, why): missing, undecodable, of another size than `size`, or empty.

    65535 becomes 0.

    Raises:
      PrepareError: a picture that is not 16-bit grey.
    """
    if path is None or not path.is_file():
        return None, "no_file"
    try:
        data = path.read_bytes()
        with opened(data) as picture:
            if size is not None and picture.size != size:
                return None, "other_size"
            picture.load()
            mode, values = picture.mode, np.array(picture)
    except (OSError, BadPicture):
        return None, "undecodable"
    if mode not in ("I;16", "I;16B", "I") or values.max(initial=0) > 65535 or values.min(initial=0) < 0:
        raise PrepareError(f"{path} has mode {mode}: depth must be a 16-bit grey PNG of distances in equal steps.")
    kept = np.where(values == 65535, 0, values).astype(np.uint16)
    as_is = mode == "I;16" and picture.format == "PNG" and np.array_equal(kept, values)
    return (Depth(kept, data if as_is else b""), "") if kept.any() else (None, "no_valid_pixel")


def masked(depth: Depth, file: Path, least: int, kind: str = "confidence") -> tuple[Depth | None, str]:
    """Depth without the pixels whose value in a grey picture is below `least`; (None, why) where that cannot be told.

    Args:
      depth: the depth.
      file: a confidence picture or mask of the same proportions; brought to the depth's size by nearest neighbour.
      least: the value from which on a pixel is kept.
      kind: what the file is, for the reasons.
    """
    try:
        with opened(file) as picture:
            if other_shape(picture.size, depth.size):
                return None, f"{kind}_of_other_size"
            values = np.asarray(picture.convert("L") if picture.mode in ("1", "P", "LA", "RGB", "RGBA") else picture)
    except (OSError, BadPicture):
        return None, f"no_{kind}"
    if values.ndim != 2:
        return None, f"no_{kind}"
    good = nearest(values, depth.size) >= least
    if good.all():
        return depth, ""
    kept = Depth(np.where(good, depth.steps, 0).astype(np.uint16))
    return (kept, "") if kept.steps.any() else (None, {"confidence": "no_confident_pixel"}.get(kind, "all_masked"))


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


def nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map [h,w] resized to (width, height): each new pixel takes the one that holds its centre."""
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
