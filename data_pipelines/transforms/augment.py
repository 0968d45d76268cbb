"""Augmentation for geometry: the views mirrored, in other colours, half the time in another order.

Words about the pictures ("left", "red", "view 2") are no longer true afterwards, so augmented samples
carry no text. Scenes are what small models run out of: another first view is another frame and
another scale, a mirrored room another room.
"""

from __future__ import annotations

import dataclasses

import numpy as np

MIRROR_SHARE = 0.5  # of the samples
REORDER_SHARE = 0.5  # of the samples; the others keep the order, which along a path says where the next view stands
GAIN = (0.75, 1.25)  # range of the brightness factor
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclasses.dataclass(frozen=True)
class Shown:
    """Decoded views of a record with their cameras, in its units."""

    record_id: str
    scene: str
    metric: bool  # whether the units are metres
    images: tuple[np.ndarray, ...]  # uint8[h,w,3]
    depths: tuple[np.ndarray | None, ...]  # float32[h,w] z-depth, None = the view has none
    intrinsics: np.ndarray  # float[v,3,3], pixel centres at +0.5
    camera_to_world: np.ndarray  # float[v,4,4]
    pose_valid: np.ndarray  # bool[v]

    @property
    def nbytes(self) -> int:
        """Memory of the pixels in bytes."""
        return sum(array.nbytes for array in (*self.images, *self.depths) if array is not None)

    def kept(self) -> Shown:
        """What is remembered of it: all."""
        return self

    def take(self, views: np.ndarray) -> Shown:
        """These views in this order."""
        return dataclasses.replace(
            self,
            images=tuple(self.images[view] for view in views),
            depths=tuple(self.depths[view] for view in views),
            intrinsics=self.intrinsics[views],
            camera_to_world=self.camera_to_world[views],
            pose_valid=self.pose_valid[views],
        )


def mirror(shown: Shown) -> Shown:
    """The mirror image (x to -x) of the world and of every picture of it.

    Column u becomes w - u (pixel centres at +0.5); a pose T becomes M T M, again a rotation.
    """
    intrinsics = np.array(shown.intrinsics, np.float64)
    widths = np.array([image.shape[1] for image in shown.images])
    intrinsics[:, 0, 2] = widths - intrinsics[:, 0, 2]
    intrinsics[:, 0, 1] *= -1.0
    return dataclasses.replace(
        shown,
        images=tuple(image[:, ::-1] for image in shown.images),
        depths=tuple(None if depth is None else depth[:, ::-1] for depth in shown.depths),
        intrinsics=intrinsics,
        camera_to_world=MIRROR @ shown.camera_to_world @ MIRROR,
    )


def recolour(shown: Shown, channels: np.ndarray, gain: float) -> Shown:
    """Colour channels permuted and multiplied by `gain`, the same in all views."""
    images = tuple(np.clip(image[..., channels] * np.float32(gain), 0, 255).astype(np.uint8) for image in shown.images)
    return dataclasses.replace(shown, images=images)


def augment(shown: Shown, rng: np.random.Generator) -> Shown:
    """The views `shown`, each with probability 1/2 in random order and mirrored; channels permuted, brighter or darker."""
    if rng.random() < REORDER_SHARE:
        shown = shown.take(rng.permutation(len(shown.images)))
    if rng.random() < MIRROR_SHARE:
        shown = mirror(shown)
    return recolour(shown, rng.permutation(3), rng.uniform(*GAIN))
