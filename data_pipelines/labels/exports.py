"""What Depth Anything 3 and VGGT write to disk, as labels. Their programs run elsewhere; NumPy reads their files.

A record's export lies in FOLDER/NAME, NAME the record's id as `files.label_path` writes it, in the file that the teacher's own
export makes (exports/mini_npz/results.npz, exports/npz/results.npz; predictions.npz). Views are in the record's order.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.labels.arrival import check_points
from data_pipelines.labels.files import LabelError, LabelFile, label_path

NAMES = {
    "da3": ("exports/npz/results.npz", "exports/mini_npz/results.npz", "results.npz"),
    "vggt": ("predictions.npz",),
}
RESIZES = {"da3": ("resize", "crop"), "vggt": ("crop", "pad")}  # the first is each teacher's default


def export_file(folder: Path, record_id: str, teacher: str) -> Path | None:
    """The export of a record, None without one."""
    place = folder / label_path("", record_id).name.removesuffix(".npz")
    return next((place / name for name in NAMES[teacher] if (place / name).is_file()), None)


def read_export(
    file: Path, teacher: str, sizes: Sequence[tuple[int, int]], resize: str, metric: bool = False, **texts: object
) -> LabelFile:
    """One export as labels, poses in the first view's frame.

    Args:
      file: the export.
      teacher: "da3" or "vggt".
      sizes: (width, height) of the record's pictures in order.
      resize: how the teacher brought them to its size (`RESIZES`).
      metric: lengths are metres.
      **texts: view_ids, checkpoint, images_hash and licence of the labels.

    Raises:
      LabelError: a file that cannot be read, with other views, or arrays that make no sense; names file and field.
    """
    values = _load(file)
    if teacher == "vggt" and "depth" in values and values["depth"].ndim == 4:
        values["depth"] = values["depth"][..., 0]
    names = (
        ("depth", "conf", "extrinsics", "intrinsics")
        if teacher == "da3"
        else ("depth", "depth_conf", "extrinsic", "intrinsic")
    )
    if missing := [name for name in names if name not in values]:
        raise LabelError(f"{file}: fields {missing} are missing; it has {sorted(values)}.")
    depth, confidence, world_to_camera, intrinsics = (values[name].astype(np.float64) for name in names)
    if depth.ndim != 3 or len(depth) != len(sizes):
        raise LabelError(f"{file}: depth is {depth.shape}, the record has {len(sizes)} views.")
    shape = depth.shape
    wrong = {
        name: values[name].shape
        for name, wanted in zip(names, (shape, shape, (len(depth), 3, 4), (len(depth), 3, 3)), strict=True)
        if values[name].shape != wanted
    }
    if wrong:
        raise LabelError(f"{file}: arrays of unexpected shapes {wrong} beside depth {shape}.")
    poses = np.tile(np.eye(4), (len(depth), 1, 1))
    poses[:, :3] = world_to_camera
    rotation = poses[:, :3, :3]
    if not np.isfinite(poses).all() or np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)).max() > 1e-2:
        raise LabelError(f"{file}: field '{names[2]}' holds no rigid motions.")
    places = [picture_place(size, shape[1:], resize) for size in sizes]
    inside = np.stack([within for _, within in places])
    good = np.isfinite(depth) & (depth > 0) & np.isfinite(confidence) & inside
    labels = LabelFile(
        depth=np.where(good, depth, 0).astype(np.float32),
        confidence=np.where(np.isfinite(confidence), confidence, 0).astype(np.float32),
        intrinsics=intrinsics,
        camera_to_world=poses[0] @ np.linalg.inv(poses),
        valid=good,
        label_affine=np.stack([affine for affine, _ in places]),
        teacher=teacher,
        metric=metric,
        **texts,
    )
    for name in ("world_points_from_depth", "world_points"):
        if name in values and values[name].shape == (*shape, 3):
            points = values[name].astype(np.float64) @ poses[0][:3, :3].T + poses[0][:3, 3]
            if name == "world_points_from_depth":
                check_points(labels, points, f"{file}, '{name}'")
    return labels


def picture_place(size: tuple[int, int], processed: tuple[int, int], resize: str) -> tuple[np.ndarray, np.ndarray]:
    """(affine float64[2,3] from processed to original pixels, bool[H,W] where the picture is).

    "resize": the whole picture, stretched. "crop": scaled to the processed width, or to both sides at least, and the
    centre cut out. "pad": scaled to fit, centred, the rest is padding.

    Args:
      size: (width, height) of the original.
      processed: (H, W).
      resize: one of these.
    """
    (width, height), (rows, columns) = size, processed
    if resize == "resize":
        return np.array([[width / columns, 0, 0], [0, height / rows, 0.0]]), np.ones(processed, bool)
    # VGGT rounds the scaled height to whole patches of 14 before it cuts or pads.
    scale = columns / width if resize == "crop" else min(columns / width, rows / height)
    scaled = (max(14, 14 * round(width * scale / 14)), max(14, 14 * round(height * scale / 14)))
    if resize == "crop" and scaled[1] < rows:
        scaled = (scaled[0], rows)
    left, top = (math.floor((side - whole) / 2) for side, whole in zip((columns, rows), scaled, strict=True))
    across, down = width / scaled[0], height / scaled[1]
    affine = np.array([[across, 0, -left * across], [0, down, -top * down]])
    x, y = np.arange(columns) + 0.5 - left, np.arange(rows) + 0.5 - top
    return affine, ((y >= 0) & (y < scaled[1]))[:, None] & ((x >= 0) & (x < scaled[0]))


def _load(file: Path) -> dict[str, np.ndarray]:
    values = {}
    try:
        with np.load(file, allow_pickle=False) as archive:
            for name in archive.files:
                try:
                    values[name] = archive[name]
                except ValueError:  # VGGT's demo stores one None, which only a pickle can hold
                    continue
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise LabelError(f"{file} cannot be read ({error}).") from error
    return values
