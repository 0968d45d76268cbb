"""Stacks rows to a batch and makes the rows that pad an evaluation batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def collate(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stacks rows that have the same fields and shapes.

    Args:
      rows: fields of spec.BATCH without the batch axis.

    Raises:
      ValueError: rows with different fields or shapes, naming the first such field.
    """
    batch = {}
    for name in rows[0]:
        try:
            batch[name] = np.stack([row[name] for row in rows])
        except (KeyError, ValueError) as error:
            shapes = [row[name].shape if name in row else None for row in rows]
            raise ValueError(f"Field '{name}' differs between the rows of a batch: shapes {shapes}.") from error
    return batch


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
