"""Pictures as Depth Anything 3 takes them: the published sizes and resampling, and where each pixel lies in the picture.

A picture is scaled until one side is `process_res`, then both sides are brought to multiples of 14, by a second resize or by
cutting off the margin. Pictures of a set that then differ in size are all cut to the smallest. Scaling averages areas when it
shrinks and is bicubic (a = -0.75, borders repeated, no antialiasing) when it enlarges, rounded to 8 bits each time: the published
program's results to one grey level.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from spatialsv_jax.processing.base import check_pictures
from spatialsv_jax.processing.pretrained import normalise
from spatialsv_jax.teachers.da3.presets import PATCH
from spatialsv_jax.teachers.position_tables import cubic_weights

METHODS = ("upper_bound_resize", "upper_bound_crop", "lower_bound_resize", "lower_bound_crop")
PROCESS_RES = 504
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0..1


class Prepared(NamedTuple):
    """Pictures of one scene, ready for the model.

    Attributes:
      pixel_values: float32[V,H,W,3], normalised.
      pictures: uint8[V,H,W,3], before that.
      label_affine: float64[V,2,3], (u, v) of H x W -> (x, y) of the picture, both from the corner with pixel centres at +0.5.
    """

    pixel_values: np.ndarray
    pictures: np.ndarray
    label_affine: np.ndarray

    def intrinsics(self, original: np.ndarray) -> np.ndarray:
        """float64[V,3,3] of the H x W maps from those of the pictures: scaled by the sizes, the cut-off margin subtracted."""
        affine = np.concatenate([self.label_affine, np.tile([[[0, 0, 1.0]]], (len(self.label_affine), 1, 1))], 1)
        return np.linalg.inv(affine) @ np.asarray(original, np.float64)


def prepare(
    images: Sequence[np.ndarray], method: str = "upper_bound_resize", process_res: int = PROCESS_RES
) -> Prepared:
    """All pictures of one scene at one size.

    Args:
      images: uint8[h,w,3], sizes may differ.
      method: one of METHODS: which side becomes `process_res` (upper bound: the longer one) and how sides become multiples of 14.
      process_res: pixels.

    Raises:
      ValueError: an unknown method, pictures that `check_pictures` refuses, or one too small to cut.
    """
    check_pictures(images)
    made = [_one(np.asarray(image), method, process_res) for image in images]
    height, width = (min(picture.shape[axis] for picture, _ in made) for axis in range(2))
    pictures, affines = [], []
    for picture, affine in made:
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        pictures.append(picture[top : top + height, left : left + width])
        affines.append(_shifted(affine, left, top))
    pictures = np.stack(pictures)
    values = np.empty(pictures.shape, np.float32)
    for picture, place in zip(pictures, values, strict=True):
        normalise(picture, MEAN, STD, out=place)
    return Prepared(values, pictures, np.stack(affines))


def _one(image: np.ndarray, method: str, process_res: int) -> tuple[np.ndarray, np.ndarray]:
    """One picture at its own size, and its affine map."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; choose one of {METHODS}.")
    height, width = image.shape[:2]
    scale = process_res / (max if method.startswith("upper") else min)(height, width)
    # Python's round: half to even.
    scaled = resize(image, tuple(max(1, round(side * scale)) for side in (height, width)))
    left = top = 0
    if method.endswith("resize"):
        scaled = resize(scaled, tuple(max(PATCH, PATCH * math.floor(side / PATCH + 0.5)) for side in scaled.shape[:2]))
        picture = scaled
    else:
        rows, columns = (PATCH * (side // PATCH) for side in scaled.shape[:2])
        if not rows or not columns:
            raise ValueError(
                f"A picture of {height} x {width} becomes {scaled.shape[0]} x {scaled.shape[1]}, less than a patch of {PATCH}: "
                "take a method that ends in 'resize'."
            )
        top, left = (scaled.shape[0] - rows) // 2, (scaled.shape[1] - columns) // 2
        picture = scaled[top : top + rows, left : left + columns]
    affine = np.array([[width / scaled.shape[1], 0.0, 0.0], [0.0, height / scaled.shape[0], 0.0]])
    return picture, _shifted(affine, left, top)


def _shifted(affine: np.ndarray, left: int, top: int) -> np.ndarray:
    """The affine map of a picture whose first `left` columns and `top` rows are cut off."""
    moved = affine.copy()
    moved[:, 2] += affine[:, :2] @ [left, top]
    return moved


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8[h,w,3] at `size` (height, width): bicubic if either side grows, else averages of areas; rounded half to even."""
    if image.shape[:2] == tuple(size):
        return image
    weights = _cubic if any(new > old for new, old in zip(size, image.shape, strict=False)) else _area
    down, across = (weights(old, new) for old, new in zip(image.shape, size, strict=False))
    height, width, channels = image.shape
    x = (down @ image.reshape(height, -1).astype(np.float32)).reshape(size[0], width, channels)
    x = (across @ x.transpose(1, 0, 2).reshape(width, -1)).reshape(size[1], size[0], channels)
    return np.clip(np.rint(x.transpose(1, 0, 2)), 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _area(source: int, target: int) -> sparse.csr_array:
    """float32[target,source]: the share of each source cell in each of `target` equal parts."""
    edges, cells = np.arange(target + 1) * source / target, np.arange(source)
    shared = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return sparse.csr_array((np.maximum(shared, 0) * target / source).astype(np.float32))


@functools.lru_cache(maxsize=64)
def _cubic(source: int, target: int) -> sparse.csr_array:
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    return sparse.csr_array(cubic_weights(centre, source, -0.75).astype(np.float32))
