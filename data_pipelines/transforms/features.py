"""Label files of a teacher as geometry and features of a sample."""

from __future__ import annotations

import numpy as np

from data_pipelines.labels.files import LabelFile
from data_pipelines.transforms.geometry import Measured, affine_matrix


def file_to_measured(
    labels: LabelFile, places: list[int], label_affine: np.ndarray, quantile: float = 0.0, weights: bool = False
) -> Measured:
    """Depth and cameras of a label file, in the file's own units (metres where it says so).

    Args:
      labels: a label file: depth float32[V,h,w], valid bool[V,h,w], intrinsics, camera_to_world,
        label_affine float64[V,2,3] (its pixels -> original pixels).
      places: the wanted views in the file.
      label_affine: float64[v,2,3], our label pixels -> original pixels.
      quantile: pixels whose confidence lies below this quantile of the file's valid pixels are masked; 0 = none. Where the
        quantile is the least confidence of all, which many pixels may share (sky), those are masked, unless all have it.
      weights: whether confidences go along, as weights.
    """
    valid, confidence = labels.valid, labels.confidence
    if quantile and valid.any():
        cut, least = np.quantile(confidence[valid], quantile), confidence[valid].min()
        above = confidence > least
        valid = valid & (above if cut <= least and above[valid].any() else confidence >= cut)
    to_file = np.linalg.solve(affine_matrix(labels.label_affine[places]), affine_matrix(label_affine))
    depths = [np.where(valid[place], labels.depth[place], 0).astype(np.float32) for place in places]
    return Measured(
        depths=depths,
        intrinsics=np.asarray(labels.intrinsics, np.float64)[places],
        camera_to_world=np.asarray(labels.camera_to_world, np.float64)[places],
        pose_valid=np.asarray(labels.pose_valid, bool)[places],
        label_affine=to_file[:, :2],
        metric=labels.metric,
        confidences=[np.asarray(confidence[place], np.float32) for place in places] if weights else None,
    )


def pool_matrix(source: int, target: int, first: float = 0.0, last: float | None = None) -> np.ndarray:
    """Averaging matrix float64[target, source]: each target cell averages source cells by the length that they share.

    Where the target's cells are whole numbers of source cells this is plain average pooling (docs/method.md, 3.7).
    What lies outside of the source is left out; a row that shares nothing is 0.

    Args:
      source, target: number of cells.
      first, last: the part of the source that the target spans, in source cells; all by default.
    """
    edges = first + np.arange(target + 1) * ((source if last is None else last) - first) / target
    edges = np.round(edges, 6)  # an affine round trip must not push 3.0 to 2.9999999
    cells = np.arange(source)
    shared = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    shared = np.maximum(shared, 0.0)
    return shared / np.where(shared.any(axis=1), shared.sum(axis=1), 1.0)[:, None]


def pool_features(
    labels: LabelFile,
    places: list[int],
    label_affine: np.ndarray,
    label_size: tuple[int, int],
    grid_hw: tuple[int, int],
) -> np.ndarray:
    """Teacher features of the label file averaged over the lifting grid's cells, by the area that cells share.

    The file says where the teacher's grid lies in the picture (`feature_affine`), `label_affine` where ours does; when
    they show different parts (a centre crop), ours is cut out of the teacher's.

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
    corners = np.array([[0.0, 0.0, 1.0], [label_size[1], label_size[0], 1.0]]).T
    pooled = []
    for view, place in enumerate(places):
        x, y, _ = np.linalg.solve(
            affine_matrix(labels.feature_affine[place]), affine_matrix(label_affine[view]) @ corners
        )  # corners of our map in the teacher's cells
        across = pool_matrix(columns, grid_hw[1], x[0], x[1])
        down = pool_matrix(rows, grid_hw[0], y[0], y[1])
        features = np.asarray(labels.features[place], np.float64)
        pooled.append(np.einsum("ir,rcf,jc->ijf", down, features, across, optimize=True))
    return np.stack(pooled).reshape(len(places), grid_hw[0] * grid_hw[1], -1).astype(np.float32)
