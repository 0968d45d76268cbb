"""Pictures stretched to one square, for families whose encoder starts from nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from spatialsv_jax.processing.base import Pixels, check_pictures


@dataclasses.dataclass(frozen=True)
class SquarePictures:
    """Sizes in pixels: the square's side, a patch's side; `merge` patches become one visual token along each side."""

    image_size: int
    patch_size: int
    merge: int = 1

    def __post_init__(self):
        if self.image_size % (self.patch_size * self.merge):
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch_size {self.patch_size} x merge {self.merge}."
            )

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of the lifting grid."""
        return (self.image_size // (self.patch_size * self.merge),) * 2

    def pixels(
        self, images: Sequence[np.ndarray], label_size: tuple[int, int] | None = None, out: np.ndarray | None = None
    ) -> Pixels:
        """The whole of each picture stretched to the square, values in -1..1.

        Nothing is cropped or padded, so `covered` is True everywhere, and a label pixel (u, v)
        lies at (u * w / W, v * h / H) of a w x h picture; pixel coordinates are measured from the
        picture's corner, pixel centres at +0.5. Intrinsics of the label map are those of the
        picture with the first row times W / w and the second times H / h.

        Args:
          images: uint8[h,w,3], sizes may differ.
          label_size: (H, W) of the label maps; the network's input size by default.
          out: float32[n,side,side,3] that takes the pixels, or None.

        Raises:
          ValueError: pictures that `check_pictures` refuses.
        """
        check_pictures(images)
        height, width = label_size or (self.image_size, self.image_size)
        shape = (len(images), self.image_size, self.image_size, 3)
        values = np.empty(shape, np.float32) if out is None else out
        affine = np.zeros((len(images), 2, 3))
        for view, image in enumerate(images):
            image = np.asarray(image)
            affine[view, 0, 0] = image.shape[1] / width
            affine[view, 1, 1] = image.shape[0] / height
            values[view] = self.resize(image)
        values /= np.float32(127.5)
        values -= np.float32(1.0)
        return Pixels(values, affine, np.ones((len(images), height, width), bool))

    def resize(self, image: np.ndarray) -> np.ndarray:
        """uint8[h,w,3] stretched to uint8[image_size,image_size,3], antialiased: what the network sees."""
        side = (self.image_size, self.image_size)
        if image.shape[:2] == side:
            return image
        return np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BICUBIC))
