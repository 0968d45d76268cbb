"""What a page shows of one scene, and the points of it that are shown: one choice for viewer, pictures and exports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

MOST_POINTS = 200_000  # pixels of a scene whose points are shown


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Depth, cameras and world points of V views, scene-scale units, first view's frame."""

    depth: np.ndarray  # float[V,H,W]
    valid: np.ndarray  # bool[V,H,W], pixels whose depth is shown
    points_valid: np.ndarray  # bool[V,H,W], pixels whose point is shown
    intrinsics: np.ndarray  # float64[V,3,3], pixels of the maps
    camera_to_world: np.ndarray  # float64[V,4,4]
    camera_ok: np.ndarray  # bool[V]
    points: dict[str, np.ndarray]  # name of the cloud -> float[V,H,W,3]
    confidence: np.ndarray | None = None  # float[V,H,W], of the depth
    cloud_confidence: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # name -> float[V,H,W]


@dataclasses.dataclass(frozen=True)
class SceneFigure:
    """All that the page shows of one scene. Texts are raw: they are escaped on the way into the page.

    A question is a mapping with `question`, `prediction` and, where known, `question_type`, `ground_truth`, `correct`
    (bool or a share), `views` (places of the views it needs) and `objects` (places in `objects` that it names).
    """

    title: str
    tags: tuple[str, ...]
    note: str
    images: Sequence[np.ndarray]  # uint8[h,w,3] per view
    predicted: Geometry | None
    true: Geometry | None
    questions: Sequence[Mapping]
    scene_scale_m: float = 0.0  # metres per scene unit; 0 = unknown
    abs_rel: float | None = None  # of the depth, without alignment
    objects: tuple[str, ...] = ()  # what the things in the scene are called
    instances: np.ndarray | None = None  # int16[V,H,W], place in `objects`, -1 = none of them


@dataclasses.dataclass(frozen=True)
class Cloud:
    """One cloud at the shown pixels."""

    points: np.ndarray  # float32[N,3], NaN where not `present`
    present: np.ndarray  # bool[N]
    confidence: np.ndarray | None  # float32[N]
    error: np.ndarray | None  # float32[N], distance to the true point of the same pixel; NaN where there is none
    predicted: bool


@dataclasses.dataclass(frozen=True)
class ShownPoints:
    """The N shown pixels of a scene in the order of views, rows, columns, and every cloud there."""

    pixel: np.ndarray  # int64[N], place among the V*H*W pixels
    shape: tuple[int, int, int]  # V, H, W
    colours: np.ndarray  # uint8[N,3], of the picture
    instances: np.ndarray  # int16[N], place in the figure's `objects`, -1 = none
    clouds: dict[str, Cloud]  # the true one first

    @property
    def view(self) -> np.ndarray:
        """int64[N]: the view of each point."""
        return self.pixel // (self.shape[1] * self.shape[2])


def shown_points(figure: SceneFigure, limit: int = MOST_POINTS) -> ShownPoints | None:
    """The pixels that have a finite point in any cloud, evenly thinned to at most `limit`; None without clouds.

    Raises:
      ValueError: true and predicted maps, or the instances, differ in shape.
    """
    having = [geometry for geometry in geometries(figure).values() if geometry.points]
    if not having:
        return None
    shape = having[0].depth.shape
    maps = [points.shape[:3] for geometry in having for points in geometry.points.values()]
    maps += [] if figure.instances is None else [figure.instances.shape]
    if set(maps) != {shape}:
        raise ValueError(
            f"Scene '{figure.title}': its maps have the shapes {sorted(set(maps) | {shape})}, expected one."
        )
    masks = {
        name: (geometry.points_valid & np.isfinite(points).all(-1)).reshape(-1)
        for geometry in having
        for name, points in geometry.points.items()
    }
    pixel = np.flatnonzero(np.any(list(masks.values()), axis=0))
    if len(pixel) > limit:
        pixel = pixel[np.arange(limit) * len(pixel) // limit]
    instances = np.full(len(pixel), -1, np.int16)
    if figure.instances is not None:
        instances = figure.instances.reshape(-1)[pixel].astype(np.int16)
    clouds: dict[str, Cloud] = {}
    for geometry in having:
        for name, points in geometry.points.items():
            confidence = geometry.cloud_confidence.get(name)
            clouds[name] = _cloud(points, masks[name], confidence, pixel, figure, geometry is figure.predicted)
    colours = at_map_size(figure.images, *shape[1:]).reshape(-1, 3)[pixel]
    return ShownPoints(pixel, shape, colours, instances, clouds)


def _cloud(points, mask, confidence, pixel, figure: SceneFigure, predicted: bool) -> Cloud:
    present = mask[pixel]
    chosen = np.where(present[:, None], points.reshape(-1, 3)[pixel], np.nan).astype(np.float32)
    error = None
    if predicted and figure.true is not None and figure.true.points:
        target = next(iter(figure.true.points.values()))
        known = (figure.true.points_valid & np.isfinite(target).all(-1)).reshape(-1)[pixel]
        gap = np.where(known[:, None], target.reshape(-1, 3)[pixel], np.nan) - chosen
        error = np.linalg.norm(gap, axis=-1).astype(np.float32)
    if confidence is not None:
        confidence = confidence.reshape(-1)[pixel].astype(np.float32)
    return Cloud(chosen, present, confidence, error, predicted)


def at_map_size(pictures: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """The views at the resolution of the maps, uint8[V,H,W,3], for the colours of points."""
    from PIL import Image

    box = Image.Resampling.BOX
    return np.stack([np.asarray(Image.fromarray(picture).resize((width, height), box)) for picture in pictures])


def geometries(figure: SceneFigure) -> dict[str, Geometry]:
    """ "true" and "predicted", those that the figure has."""
    pairs = {"true": figure.true, "predicted": figure.predicted}
    return {name: one for name, one in pairs.items() if one is not None}
