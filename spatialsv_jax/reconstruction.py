"""What a model believes of some pictures."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What a model believes of some pictures, in units of the scene scale, first view's frame.

    Attributes:
      images: the pictures as the model saw them, uint8[V,h,w,3].
      depth, depth_confidence: float32[V,H,W].
      ray: float32[V,H,W,6]; ray_confidence: float32[V,H,W].
      points: float32[V,H,W,3]; points_confidence: float32[V,H,W].
      intrinsics: float64[V,3,3] in pixels of the H x W map; camera_to_world: float64[V,4,4].
      camera_ok: bool[V], False where no camera fits the rays.
    """

    images: np.ndarray
    depth: np.ndarray
    depth_confidence: np.ndarray
    ray: np.ndarray
    ray_confidence: np.ndarray
    points: np.ndarray
    points_confidence: np.ndarray
    intrinsics: np.ndarray
    camera_to_world: np.ndarray
    camera_ok: np.ndarray
