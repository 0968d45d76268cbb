"""Pictures as Depth Anything 3 takes them: the published sizes and resampling, and where each pixel lies in the picture.

A picture is scaled until one side is `process_res`, then both sides are brought to multiples of 14, by a second resize or by
cutting off the margin. Pictures of a set that then differ in size are all cut to the smallest. Scaling averages areas when it
shrinks and is bicubic (a = -0.75, borders repeated, no antialiasing) when it enlarges, rounded to 8 bits each time: the published
program's results to one grey level.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from spatialsv_jax.processing import da3_pictures
from spatialsv_jax.processing.base import check_pictures
from spatialsv_jax.processing.pretrained import normalise
from spatialsv_jax.teachers.da3.presets import PATCH
from spatialsv_jax.teachers.position_tables import cubic_weights

METHODS, PROCESS_RES = da3_pictures.METHODS, da3_pictures.SIDE
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
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; choose one of {METHODS}.")
    check_pictures(images)
    images = [np.asarray(image) for image in images]
    sizes = [image.shape[1::-1] for image in images]
    for width, height in sizes:
        across, down = da3_pictures.scaled((width, height), method, process_res)
        if method.endswith("crop") and min(across, down) < PATCH:
            raise ValueError(
                f"A picture of {height} x {width} becomes {down} x {across}, less than a patch of {PATCH}: take a method that ends "
                "in 'resize'."
            )
    shape, placed = da3_pictures.places(sizes, method, process_res)
    pictures = np.empty((len(images), *shape, 3), np.uint8)
    for image, size, scaled, out in zip(images, sizes, placed, pictures, strict=True):
        first = resize(image, da3_pictures.scaled(size, method, process_res)[::-1])
        left, top = -scaled.left, -scaled.top
        out[:] = resize(first, (scaled.height, scaled.width))[top : top + shape[0], left : left + shape[1]]
    values = np.empty(pictures.shape, np.float32)
    for picture, place in zip(pictures, values, strict=True):
        normalise(picture, MEAN, STD, out=place)
    affines = [scaled.place(size, shape).affine for size, scaled in zip(sizes, placed, strict=True)]
    return Prepared(values, pictures, np.stack(affines))


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
