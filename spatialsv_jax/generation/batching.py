"""Inputs of different prompts as one batch: padded at the end, masked, and split over a mesh."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from spatialsv_jax.partitioning import BATCH_AXES

PREFIX_STEP = 64  # tokens; longer prefixes are padded to a multiple, so that few programs are compiled
CANVAS_STEP = 4  # merge blocks; likewise the sides of the common canvas of pictures of different sizes


def stack(
    rows: Sequence[Mapping[str, np.ndarray]], pad_id: int, size: int | None = None, questions: int | None = None
) -> dict[str, np.ndarray]:
    """Batches of one row as one batch, padded at the end of every axis.

    Args:
      rows: of `LoadedModel.inputs`: fields of spec.BATCH with B = 1.
      pad_id: token of padding, which is masked.
      size: rows of the result; those that are not there repeat the first one without questions.
      questions: Q of the result.

    Returns:
      The batch. Padded views are not valid; where pictures of different rows have different canvases, the lifting grid
      is that of the common one, and `feature_valid` says which of its tokens are part of a picture.
    """
    rows = _alike([dict(row) for row in _one_canvas(rows)])
    batch = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        shape = np.max([part.shape for part in parts], axis=0)
        if name in ("prefix_tokens", "prefix_mask", "prefix_positions") and shape[1] > PREFIX_STEP:
            shape[1] = -(-shape[1] // PREFIX_STEP) * PREFIX_STEP
        if questions and name.startswith(("question_", "answer_")) and len(shape) > 1:
            shape[1] = max(shape[1], questions)
        fill = pad_id if name.endswith("_tokens") else 0
        batch[name] = np.full((size or len(rows), *shape[1:]), fill, parts[0].dtype)
        for place, part in enumerate(parts):
            batch[name][(place, *(slice(length) for length in part.shape[1:]))] = part[0]
        batch[name][len(rows) :] = batch[name][0]
    batch["question_valid"][len(rows) :] = False
    return batch


def shards(mesh: Mesh) -> int:
    """Over how many devices a batch's rows are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def placed(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch with its rows split over the mesh's devices, all of which are this process's."""
    return {
        name: jax.device_put(value, NamedSharding(mesh, PartitionSpec(BATCH_AXES))) for name, value in batch.items()
    }


def _alike(rows: list[dict]) -> list[dict]:
    """The rows with the optional fields that any of them has."""
    for name in ("feature_slots", "feature_valid"):
        if not any(name in row for row in rows):
            continue
        for row in rows:
            index, valid = row["image_token_index"], row["view_valid"]
            default = index if name == "feature_slots" else np.broadcast_to(valid[..., None], index.shape)
            row.setdefault(name, default)
    return rows


def _one_canvas(rows: Sequence[Mapping[str, np.ndarray]]) -> list[Mapping[str, np.ndarray]]:
    """The rows with lifting grids of the canvas that holds all pictures; tiles and crops have one size and stay."""
    canvases = {row["pixel_values"].shape[-3:-1] for row in rows}
    if len(canvases) == 1:
        return list(rows)
    grids = [_grid(row) for row in rows]
    unit = rows[0]["pixel_values"].shape[-3] // grids[0][0]
    full = [-(-max(grid[axis] for grid in grids) // CANVAS_STEP) * CANVAS_STEP for axis in range(2)]
    result = []
    for row, grid in zip(rows, grids, strict=True):
        index, pixels = row["image_token_index"], row["pixel_values"]
        valid = row.get("feature_valid", np.broadcast_to(row["view_valid"][..., None], index.shape))
        around = [(0, 0), (0, 0), *((0, whole - own) for whole, own in zip(full, grid, strict=True))]
        regridded = lambda cells: np.pad(cells.reshape(*cells.shape[:2], *grid), around).reshape(*cells.shape[:2], -1)
        borders = [(0, 0)] * pixels.ndim
        for axis, whole in zip((-3, -2), full, strict=True):
            borders[axis] = (0, whole * unit - pixels.shape[axis])
        changed = {
            "image_token_index": regridded(index),
            "feature_valid": regridded(valid),
            "pixel_values": np.pad(pixels, borders),
        }
        result.append({**row, **changed})
    return result


def _grid(row: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Rows and columns of the lifting grid on a row's canvas: square blocks of pixels."""
    height, width = row["pixel_values"].shape[-3:-1]
    count = row["image_token_index"].shape[-1]
    unit = math.isqrt(height * width // count)
    if (height // unit) * (width // unit) != count or height % unit or width % unit:
        raise ValueError(f"{count} tokens of a picture do not lie on a grid over {height} x {width} pixels.")
    return height // unit, width // unit
