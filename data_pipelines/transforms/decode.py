"""Decodes the encoded pictures and depth maps of a record."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from data_pipelines.records import Record

UNKNOWN_DEPTH_STEP = 0.001  # scale of depth whose unit is unknown; normalisation removes it


def decode_image(data: bytes, where: str) -> np.ndarray:
    """Decodes an RGB picture.

    Args:
      data: PNG or JPEG bytes.
      where: what the bytes belong to, for messages.

    Returns:
      uint8[h,w,3].

    Raises:
      ValueError: corrupt or truncated data, naming `where`.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on broken files
        raise ValueError(
            f"{where}: the image cannot be decoded ({error}; {len(data)} bytes). "
            "Prepare the data set again, or remove the record."
        ) from error


def decode_depth(data: bytes, unit_m: float, where: str) -> np.ndarray:
    """Decodes a 16-bit grey PNG into z-depth.

    Args:
      data: PNG bytes.
      unit_m: metres per step; 0 = unknown, then `UNKNOWN_DEPTH_STEP` scales the map.
      where: what the bytes belong to, for messages.

    Returns:
      float32[h,w], 0 = invalid; metres unless the unit is unknown.

    Raises:
      ValueError: corrupt data or a picture that is not single-channel integer, naming `where`.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            mode, steps = picture.mode, np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{where}: the depth map cannot be decoded ({error}; {len(data)} bytes). "
            'Prepare the data set again, or store b"" for a view without depth.'
        ) from error
    if steps.ndim != 2 or steps.dtype.kind not in "ui":
        raise ValueError(f"{where}: the depth map has mode '{mode}', expected a 16-bit grey PNG ('I;16').")
    depth = steps.astype(np.float32)
    depth *= np.float32(unit_m or UNKNOWN_DEPTH_STEP)  # in place: fresh memory costs more than the product
    return depth


def picture_size(data: bytes, where: str) -> tuple[int, int]:
    """(height, width) of an encoded picture, read off its header.

    Raises:
      ValueError: corrupt data, naming `where`.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.height, picture.width
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{where}: the image cannot be read ({error}; {len(data)} bytes).") from error


def view_name(record: Record, view: int) -> str:
    """A view as messages name it."""
    return f"Record '{record.id}', view {view} ('{record.view_ids[view]}')"


def view_depth(record: Record, view: int, size: tuple[int, int]) -> np.ndarray | None:
    """Depth of a view whose picture is `size` (height, width), None without.

    Raises:
      ValueError: broken data or a map of another size, naming record and view.
    """
    if not record.depths[view]:
        return None
    depth = decode_depth(record.depths[view], record.depth_unit_m, view_name(record, view))
    if depth.shape != size:
        raise ValueError(f"{view_name(record, view)}: depth is {depth.shape}, but the image is {size} (height, width).")
    return depth


def decode_views(record: Record, views: tuple[int, ...], with_depth: bool = True):
    """Decodes the chosen views of a record.

    Returns:
      (images, depths): a list of uint8[h,w,3] and a list of float32[h,w] or None where the view
      has no depth (all None without `with_depth`).

    Raises:
      ValueError: broken data or a depth map of another size than its picture, naming record and view.
    """
    images, depths = [], []
    for view in views:
        image = decode_image(record.images[view], view_name(record, view))
        images.append(image)
        depths.append(view_depth(record, view, image.shape[:2]) if with_depth else None)
    return images, depths
