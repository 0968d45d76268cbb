"""Label files of a teacher as geometry and features of a sample."""

from __future__ import annotations

import numpy as np

from data_pipelines.labels.files import LabelFile
from data_pipelines.transforms.geometry import Measured, affine_matrix


def file_to_measured(labels: LabelFile, places: list[int], label_affine: np.ndarray) -> Measured:
    """Depth and cameras of a label file, in the file's own units (scene_scale_m unknown).

    Args:
      labels: a label file: depth float32[V,h,w], valid bool[V,h,w], intrinsics, camera_to_world,
        label_affine float64[V,2,3] (its pixels -> original pixels).
      places: the wanted views in the file.
      label_affine: float64[v,2,3], our label pixels -> original pixels.
    """
    to_file = np.linalg.solve(affine_matrix(labels.label_affine[places]), affine_matrix(label_affine))
    depths = [np.where(labels.valid[place], labels.depth[place], 0).astype(np.float32) for place in places]
    return Measured(
        depths=depths,
        intrinsics=np.asarray(labels.intrinsics, np.float64)[places],
        camera_to_world=np.asarray(labels.camera_to_world, np.float64)[places],
        pose_valid=np.ones(len(places), bool),
        label_affine=to_file[:, :2],
        metric=False,
    )


def pool_matrix(source: int, target: int, first: float = 0.0, last: float | None = None) -> np.ndarray:
    """Averaging matrix float64[target, source] of adaptive average pooling (docs/method.md, 3.7).

    Cell i averages source cells floor(first + i * n / target) to ceil(first + (i+1) * n / target) - 1
    with n = last - first; cells outside the source are left out, a row without any is 0.

    Args:
      source, target: number of cells.
      first, last: the part of the source that the target spans, in source cells; all by default.
    """
    edges = first + np.arange(target + 1) * ((source if last is None else last) - first) / target
    edges = np.round(edges, 6)  # an affine round trip must not push 3.0 to 2.9999999
    cells = np.arange(source)
    chosen = (cells >= np.floor(edges[:-1])[:, None]) & (cells < np.ceil(edges[1:])[:, None])
    return chosen / np.maximum(chosen.sum(axis=1, keepdims=True), 1)


def pool_features(
    labels: LabelFile,
    places: list[int],
    label_affine: np.ndarray,
    label_size: tuple[int, int],
    grid_hw: tuple[int, int],
) -> np.ndarray:
    """Teacher features of the label file area-pooled to the lifting grid.

    The teacher's grid spans the file's depth map, ours spans the label map; when they show
    different parts of the picture (a centre crop), ours is cut out of the teacher's.

    Args:
      labels: a label file with features float16[V,gh',gw',F].
      places: the wanted views in the file.
      label_affine: float64[v,2,3], our label pixels -> original pixels.
      label_size: (H, W) of our label map.
      grid_hw: (gh, gw) of the lifting grid.

    Returns:
      float32[v,P,F], P = gh * gw row-major.
    """
    rows, columns = labels.features.shape[1:3]
    file_height, file_width = labels.depth.shape[1:3]
    corners = np.array([[0.0, 0.0, 1.0], [label_size[1], label_size[0], 1.0]]).T
    pooled = []
    for view, place in enumerate(places):
        x, y, _ = np.linalg.solve(
            affine_matrix(labels.label_affine[place]), affine_matrix(label_affine[view]) @ corners
        )
        across = pool_matrix(columns, grid_hw[1], x[0] * columns / file_width, x[1] * columns / file_width)
        down = pool_matrix(rows, grid_hw[0], y[0] * rows / file_height, y[1] * rows / file_height)
        features = np.asarray(labels.features[place], np.float64)
        pooled.append(np.einsum("ir,rcf,jc->ijf", down, features, across, optimize=True))
    return np.stack(pooled).reshape(len(places), grid_hw[0] * grid_hw[1], -1).astype(np.float32)
