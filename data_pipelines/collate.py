"""Stacks rows to a batch and makes the rows that pad an evaluation batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from data_pipelines.recycled import Memory


class Batch:
    """Rows that have the same fields and shapes, stacked one by one.

    A row is copied as soon as it comes, so that rows need memory for one of them beside the batch; what a row has
    written into `memory` is not copied.

    Args:
      count: their number.
      memory: where arrays come from; None = new ones.
    """

    def __init__(self, count: int, memory: Memory | None = None):
        self._count, self._place = count, 0
        self._empty = np.empty if memory is None else memory.empty
        self._kinds: dict[str, tuple] = {}
        self._arrays: dict[str, np.ndarray] = {}

    def memory(self, name: str) -> np.ndarray | None:
        """Where the next row's field belongs; None before the first row is there."""
        array = self._arrays.get(name)
        return None if array is None or self._place >= self._count else array[self._place]

    def add(self, row: Mapping[str, np.ndarray]) -> None:
        """Adds a row: fields of spec.BATCH without the batch axis.

        Raises:
          ValueError: other fields, shapes or types than the first row's, naming the first such field.
        """
        kinds = {name: (array.shape, array.dtype.name) for name, array in row.items()}
        if not self._place:
            self._kinds = kinds
            self._arrays = {name: self._empty((self._count, *array.shape), array.dtype) for name, array in row.items()}
        if kinds != self._kinds:
            first = self._kinds
            name = next(name for name in {**first, **kinds} if first.get(name) != kinds.get(name))
            raise ValueError(
                f"Field '{name}' differs between the rows of a batch: {first.get(name)} in the first, "
                f"{kinds.get(name)} in row {self._place}."
            )
        if self._place < self._count:
            for name, array in self._arrays.items():
                place = array[self._place]
                if array.ndim == 1 or row[name].__array_interface__["data"] != place.__array_interface__["data"]:
                    array[self._place] = row[name]
        self._place += 1

    def whole(self) -> dict[str, np.ndarray]:
        """The batch.

        Raises:
          ValueError: another number of rows was added.
        """
        if self._place != self._count:
            raise ValueError(f"A batch of {self._count} rows was given {self._place}.")
        return self._arrays


def collate(rows: Iterable[Mapping[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """Stacks `count` rows, see `Batch`.

    Raises:
      ValueError: rows with different fields, shapes or types, naming the first such field; another number of rows.
    """
    batch = Batch(count)
    for row in rows:  # not enumerated: enumerate holds on to what it gave
        batch.add(row)
        del row  # before the next one is made
    return batch.whole()


def empty_row(like: Mapping[str, np.ndarray], pad_id: int) -> dict[str, np.ndarray]:
    """A row without any valid content, shaped like `like`: it adds nothing to any sum or count."""
    row = {name: np.zeros_like(array) for name, array in like.items()}
    for name in ("prefix_tokens", "question_tokens"):
        row[name] += np.int32(pad_id)
    row["camera_to_world"] += np.eye(4, dtype=np.float32)
    row["intrinsics"] = np.broadcast_to(default_intrinsics(*like["depth"].shape[-2:]), like["intrinsics"].shape).copy()
    row["record_index"] = np.asarray(-1, np.int32)
    return row


def default_intrinsics(height: int, width: int) -> np.ndarray:
    """A harmless invertible camera float32[3,3] for views that have none (90 degrees wide)."""
    return np.array([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1]], np.float32)


def pad_views(array: np.ndarray, views: int, fill: np.ndarray | float = 0) -> np.ndarray:
    """Pads axis 0 from the sample's own number of views to `views` with `fill`."""
    missing = views - len(array)
    if not missing:
        return array
    padding = np.broadcast_to(np.asarray(fill, array.dtype), (missing, *array.shape[1:]))
    return np.concatenate([array, padding])
