"""Pictures as VGGT takes them: the published sizes and resampling (Pillow, bicubic), and where each pixel lies in the picture.

- "crop" (the default): width to 518, height to the nearest multiple of 14, of which the middle 518 rows are kept at most.
- "pad": longer side to 518, the other to the nearest multiple of 14, in the middle of a white square.
- "square": a black square around the picture, scaled to 518.

Pictures of a set that then differ in size are padded with white to the largest. Pictures with an alpha channel are laid on white.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from spatialsv_jax.processing import vggt_pictures
from spatialsv_jax.processing.base import check_pictures
from spatialsv_jax.processing.vggt_pictures import PATCH, SIDE, Scaled

MODES = tuple(vggt_pictures.MODES)
_WHITE = 255


class Prepared(NamedTuple):
    """Pictures of one scene, ready for the model.

    Attributes:
      pixel_values: float32[V,H,W,3] in 0..1; the model normalises them itself.
      pictures: uint8[V,H,W,3], the same.
      label_affine: float64[V,2,3], (u, v) of H x W -> (x, y) of the picture, both from the corner with pixel centres at +0.5.
      covered: bool[V,H,W], the pixel shows the picture (False in padding).
    """

    pixel_values: np.ndarray
    pictures: np.ndarray
    label_affine: np.ndarray
    covered: np.ndarray


def prepare(images: Sequence[np.ndarray], mode: str = "crop", side: int = SIDE) -> Prepared:
    """All pictures of one scene at one size.

    Args:
      images: uint8[h,w,3], or [h,w,4] with alpha; sizes may differ.
      mode: one of MODES.
      side: what stands for 518 above, a multiple of 14.

    Raises:
      ValueError: an unknown mode, a side that is none, or pictures that `check_pictures` refuses.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose one of {MODES}.")
    if side < PATCH or side % PATCH:
        raise ValueError(f"side is {side}; it must be a multiple of {PATCH}.")
    images = [_on_white(np.asarray(image)) for image in images]
    check_pictures(images)
    sizes = [image.shape[1::-1] for image in images]
    shape, placed = vggt_pictures.MODES[mode](sizes, side)
    draw = _squared if mode == "square" else _laid
    pictures = np.stack([draw(image, scaled, shape) for image, scaled in zip(images, placed, strict=True)])
    places = [scaled.place(size, shape) for size, scaled in zip(sizes, placed, strict=True)]
    return Prepared(
        pictures.astype(np.float32) / np.float32(255),
        pictures,
        np.stack([place.affine for place in places]),
        np.stack([place.inside for place in places]),
    )


def _on_white(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 4:
        return image
    white = Image.new("RGBA", image.shape[1::-1], (_WHITE,) * 4)
    return np.asarray(Image.alpha_composite(white, Image.fromarray(image)).convert("RGB"))


def _laid(image: np.ndarray, scaled: Scaled, shape: tuple[int, int]) -> np.ndarray:
    """uint8[H,W,3]: the scaled picture at its place, what sticks out cut off, white around it."""
    ground = Image.new("RGB", shape[::-1], (_WHITE,) * 3)
    resized = Image.fromarray(image).resize((scaled.width, scaled.height), Image.Resampling.BICUBIC)
    ground.paste(resized, (scaled.left, scaled.top))
    return np.asarray(ground)


def _squared(image: np.ndarray, scaled: Scaled, shape: tuple[int, int]) -> np.ndarray:
    """uint8[H,W,3]: the picture in a black square, scaled."""
    height, width = image.shape[:2]
    longest = max(height, width)
    ground = Image.new("RGB", (longest, longest))
    ground.paste(Image.fromarray(image), ((longest - width) // 2, (longest - height) // 2))
    return np.asarray(ground.resize(shape[::-1], Image.Resampling.BICUBIC))
