"""Pictures for a teacher that runs in the training step, and where the label grids lie in its maps (`config.online`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from data_pipelines.config import SourceConfig
from data_pipelines.labels.exports import MOST_CELLS
from data_pipelines.transforms.decode import picture_size
from data_pipelines.transforms.features import pool_matrix
from data_pipelines.transforms.geometry import affine_matrix

PATCH = 14  # pixels of a patch's side


class Teacher(Protocol):
    """What the loader asks of a teacher (`teachers.networks.Network`)."""

    def prepare(self, pictures: Sequence[np.ndarray]):
        """Pictures uint8[h,w,3] of a scene: `pictures` uint8[V,H,W,3], `label_affine` float64[V,2,3], `covered` bool[V,H,W]."""

    def prepared_shape(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """(H, W) that pictures of these (height, width) come to, together."""

    def feature_width(self) -> int:
        """Of the features that it hands out; 0 = none."""


@dataclasses.dataclass(frozen=True)
class TeacherViews:
    """A sample's pictures for the teacher: the fields of `spec.ONLINE` without the row's padding."""

    pixels: np.ndarray
    inside: np.ndarray
    affine: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    pool_rows: np.ndarray | None
    pool_columns: np.ndarray | None

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        return sum(array.nbytes for array in vars(self).values() if array is not None)


@dataclasses.dataclass(frozen=True)
class OnlinePictures:
    """Makes `TeacherViews`.

    Attributes:
      teacher: the teacher.
      size: (h, w) of pictures as it reads them, the same for all.
      feature_width: of the features to distil; 0 = none.
    """

    teacher: Teacher
    size: tuple[int, int]
    feature_width: int = 0

    def views(
        self,
        images: Sequence[np.ndarray],
        label_affine: np.ndarray,
        label_size: tuple[int, int],
        grid_hw: tuple[int, int],
        record_id: str,
    ) -> TeacherViews:
        """The views of one sample.

        Args:
          images: uint8[h,w,3] each, in the order of the row.
          label_affine: float64[v,2,3], label pixels -> pixels of the picture.
          label_size: (H, W) of the label maps.
          grid_hw: (gh, gw) of the lifting grid.
          record_id: for messages.

        Raises:
          ValueError: pictures that come to another size than the run's, naming the record.
        """
        if not len(images):
            return self.blank(0, label_size, grid_hw)
        prepared = self.teacher.prepare(images)
        if prepared.pictures.shape[1:3] != tuple(self.size):
            sizes = sorted({image.shape[:2] for image in images})
            raise other_size(f"Record '{record_id}'", sizes, prepared.pictures.shape[1:3], self.size)
        to_teacher = np.linalg.solve(affine_matrix(prepared.label_affine), affine_matrix(label_affine))[:, :2]
        if np.abs(to_teacher[:, (0, 1), (1, 0)]).max() > 1e-9:
            raise ValueError(
                f"Record '{record_id}': label maps are turned against the pictures, which labels = 'online' cannot do; make "
                "label files."
            )
        (height, width), count = label_size, len(images)
        x = to_teacher[:, :1, 0] * (np.arange(width) + 0.5) + to_teacher[:, :1, 2]
        y = to_teacher[:, 1:, 1] * (np.arange(height) + 0.5) + to_teacher[:, 1:, 2]
        made = self.blank(count, label_size, grid_hw)
        for view, (affine, covered) in enumerate(zip(to_teacher, prepared.covered, strict=True)):
            made.inside[view] = [*_extent(covered.any(1)), *_extent(covered.any(0))]
            if self.feature_width:
                ends = np.stack([affine[:, 2], affine @ [width, height, 1.0]]) / PATCH  # of our map in its patches
                made.pool_rows[view] = _pooling(self.size[0] // PATCH, grid_hw[0], *ends[:, 1])
                made.pool_columns[view] = _pooling(self.size[1] // PATCH, grid_hw[1], *ends[:, 0])
        return dataclasses.replace(
            made,
            pixels=prepared.pictures,
            affine=to_teacher.astype(np.float32),
            columns=_split(x),
            rows=_split(y),
        )

    def blank(self, count: int, label_size: tuple[int, int], grid_hw: tuple[int, int]) -> TeacherViews:
        """`count` views that show nothing."""
        pooling = [
            np.zeros((count, cells, side // PATCH), np.float32) for cells, side in zip(grid_hw, self.size, strict=True)
        ]
        return TeacherViews(
            pixels=np.zeros((count, *self.size, 3), np.uint8),
            inside=np.zeros((count, 4), np.int32),
            affine=np.tile(np.eye(2, 3, dtype=np.float32), (count, 1, 1)),
            columns=np.zeros((count, label_size[1], 2), np.float32),
            rows=np.zeros((count, label_size[0], 2), np.float32),
            pool_rows=pooling[0] if self.feature_width else None,
            pool_columns=pooling[1] if self.feature_width else None,
        )


def fields(views: TeacherViews, count: int, blank: TeacherViews) -> dict[str, np.ndarray]:
    """The fields of `spec.ONLINE` of a row of `count` views; `blank` holds as many that show nothing."""
    shown = len(views.pixels)
    return {
        f"teacher_{name}": np.concatenate([value, getattr(blank, name)[shown:count]]) if shown < count else value
        for name, value in vars(views).items()
        if value is not None
    }


def pictures_for(
    teacher: Teacher, size: tuple[int, int], sources: Sequence[SourceConfig], records: Sequence, members: Sequence
) -> OnlinePictures:
    """What makes the teacher's views of a run, once all of its records are known to come to one size.

    Args:
      teacher: the teacher.
      size: (h, w) that the config states; (0, 0) = those of the first record.
      sources: the sources.
      records: their opened records, with `rows`.
      members: of each source the indices of the records in use.

    Raises:
      ValueError: records whose pictures come to another size, naming the first and their number.
    """
    size, others, first = tuple(size), {}, ""
    for source, opened, own in zip(sources, records, members, strict=True):
        for index in own if source.uses_teacher else ():
            row = opened.rows[int(index)]
            if not row["views"]:
                continue
            shape = (
                (row["height"], row["width"])
                if "height" in row
                else picture_size(opened[int(index)].images[0], row["id"])
            )
            found = teacher.prepared_shape([tuple(shape)] * row["views"])
            if size == (0, 0):
                size, first = found, f" (of record '{row['id']}')"
            if found != size:
                others.setdefault((tuple(shape), found), []).append(row["id"])
    if others:
        (shape, found), ids = next(iter(others.items()))
        number = sum(map(len, others.values()))
        what = f"{number} records, e.g. '{ids[0]}'" if number > 1 else f"Record '{ids[0]}'"
        raise other_size(what, [shape], found, size, first)
    return OnlinePictures(teacher, size, teacher.feature_width())


def other_size(what: str, sizes: Sequence, found: Sequence[int], size: Sequence[int], of: str = "") -> ValueError:
    """The error of records whose pictures come to another size than the run's."""
    return ValueError(
        f"{what}: pictures of {', '.join(f'{height} x {width}' for height, width in sizes)} come to {found[0]} x {found[1]} for the "
        f"teacher in the training step, which reads {size[0]} x {size[1]}{of}: a program has one shape. Prepare the data at one "
        "picture size, use config.online.resize='pad' with VGGT, or make label files (experiments.label), which hold any size."
    )


def _split(places: np.ndarray) -> np.ndarray:
    """float32[...,2]: whole pixels and the rest of places float64[...], so that no pixel is lost to float32."""
    whole = np.floor(places)
    return np.stack([whole, places - whole], axis=-1).astype(np.float32)


def _extent(there: np.ndarray) -> tuple[int, int]:
    """First and behind the last True of bool[n]; (0, 0) without one."""
    places = np.flatnonzero(there)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _pooling(patches: int, cells: int, first: float, last: float) -> np.ndarray:
    """float32[cells,patches]: what label files hold of the patches (`exports.pool_cells`), averaged over the lifting grid's cells."""
    kept = min(patches, MOST_CELLS)
    scale = kept / patches
    return (pool_matrix(kept, cells, first * scale, last * scale) @ pool_matrix(patches, kept)).astype(np.float32)
