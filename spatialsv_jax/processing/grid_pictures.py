"""Pictures whose sides are multiples of a merge block: Qwen2.5-VL and LLaVA-OneVision-1.5.

For training every picture is stretched to one size (`image_size`). To answer as the published model
would, each picture keeps its proportions and about its area within a budget of pixels; pictures of
different sizes then stand at the upper left of a common canvas.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from spatialsv_jax.processing.base import MAX_ASPECT, Pixels, check_pictures
from spatialsv_jax.processing.pretrained import normalise

# Mean and standard deviation of CLIP's training pictures, RGB in 0..1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def smart_size(height: int, width: int, unit: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) in multiples of `unit`, close to the given proportions, with an area within the budget.

    Each side is rounded to the nearest multiple (half to even); an area above the budget is scaled
    down and rounded down, one below it scaled up and rounded up.

    Source: the published rule of Qwen2-VL, equal to transformers' `smart_resize`.

    Raises:
      ValueError: sides that differ by more than `MAX_ASPECT` times.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"A picture of {height} x {width}: its sides differ by more than {MAX_ASPECT} times. Crop it.")
    sides = [round(side / unit) * unit for side in (height, width)]
    if math.prod(sides) > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        sides = [max(unit, math.floor(side / shrink / unit) * unit) for side in (height, width)]
    elif math.prod(sides) < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        sides = [math.ceil(side * grow / unit) * unit for side in (height, width)]
    return sides[0], sides[1]


@dataclasses.dataclass(frozen=True)
class GridPictures:
    """Sizes and colours.

    Attributes:
      image_size: (height, width) of training pictures, multiples of `unit`.
      patch_size, merge: pixels of a patch's side, patches of a merge block's side.
      min_pixels, max_pixels: budget of a picture's area in the published model's rule.
      mean, std: of the colours, RGB in 0..1.
    """

    image_size: tuple[int, int]
    patch_size: int
    merge: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def __post_init__(self):
        object.__setattr__(self, "image_size", tuple(int(side) for side in self.image_size))
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if len(self.image_size) != 2 or any(side < self.unit or side % self.unit for side in self.image_size):
            raise ValueError(
                f"image_size {self.image_size} must be (height, width), multiples of patch_size * merge = {self.unit}."
            )

    @property
    def unit(self) -> int:
        """Pixels of a token's side."""
        return self.patch_size * self.merge

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Lifting grid of a training picture."""
        return self.grid(self.image_size)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Tokens of a picture of `size` (height, width)."""
        return size[0] // self.unit, size[1] // self.unit

    def fitting_size(self, height: int, width: int) -> tuple[int, int]:
        """The size with at most as many tokens as a training picture that shows most of such a picture's detail.

        A grid whose proportions differ from the picture's by a factor r shows 1 / r of what its tokens could.
        """
        most = math.prod(self.grid_hw)
        rows = np.arange(1, most + 1)[:, None]
        columns = np.arange(1, most + 1)[None, :]
        ratio = columns / rows * (height / width)
        detail = np.where(rows * columns <= most, rows * columns * np.minimum(ratio, 1 / ratio), 0.0)
        row, column = divmod(int(detail.argmax()), most)
        return (row + 1) * self.unit, (column + 1) * self.unit

    def native_size(self, height: int, width: int) -> tuple[int, int]:
        """Size that the published model gives to a picture."""
        return smart_size(height, width, self.unit, self.min_pixels, self.max_pixels)

    def resize(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """uint8[h,w,3] stretched to `size` (height, width), antialiased."""
        if image.shape[:2] == tuple(size):
            return image
        return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))

    def canvas(
        self,
        images: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        label_size: tuple[int, int] | None = None,
        out: np.ndarray | None = None,
    ) -> Pixels:
        """Pictures resized to `sizes`, at the upper left of a canvas that holds the largest.

        A label pixel (u, v) of an H x W map lies at (u, v) * canvas / (W, H) of the canvas, and at that times
        original / resized of the picture. Pixel coordinates are measured from the corner, centres at +0.5.

        Args:
          images: uint8[h,w,3].
          sizes: (height, width) of each.
          label_size: (H, W) of the label maps, which cover the canvas; the canvas' own size by default.
          out: float32[n,h,w,3] of the canvas that takes the pixels, or None.

        Raises:
          ValueError: pictures that no family reads (`check_pictures`).
        """
        check_pictures(images)
        full = tuple(max(size[axis] for size in sizes) for axis in range(2))
        height, width = label_size or full
        values = np.empty((len(images), *full, 3), np.float32) if out is None else out
        affine, covered = np.zeros((len(images), 2, 3)), np.zeros((len(images), height, width), bool)
        for view, (image, size) in enumerate(zip(images, sizes, strict=True)):
            place = values[view, : size[0], : size[1]]
            values[view, size[0] :], values[view, : size[0], size[1] :] = 0, 0
            normalise(self.resize(np.asarray(image), size), self.mean, self.std, out=place)
            affine[view, 0, 0] = full[1] / width * image.shape[1] / size[1]
            affine[view, 1, 1] = full[0] / height * image.shape[0] / size[0]
            rows, columns = (np.arange(height) + 0.5) * full[0] / height, (np.arange(width) + 0.5) * full[1] / width
            covered[view] = (rows < size[0])[:, None] & (columns < size[1])
        return Pixels(values, affine, covered)


def pixel_budget(settings: Mapping, default: tuple[int, int]) -> tuple[int, int]:
    """Least and largest area of a picture, from either way of writing it."""
    size = settings.get("size") or {}
    least = settings.get("min_pixels") or size.get("min_pixels") or size.get("shortest_edge")
    most = settings.get("max_pixels") or size.get("max_pixels") or size.get("longest_edge")
    return least or default[0], most or default[1]
