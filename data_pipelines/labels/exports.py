"""What Depth Anything 3 and VGGT write to disk, as labels. Their programs run elsewhere; NumPy reads their files.

A record's export lies in FOLDER/NAME, NAME the record's id as `files.label_path` writes it, in the file that the teacher's own
export makes (exports/mini_npz/results.npz, exports/npz/results.npz; predictions.npz). Views are in the record's order. A
field `features` [V, rows, columns, width], which neither program writes by itself, is taken along (docs/teachers.md).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.labels.arrival import HEAD_TOLERANCE, POINTS_TOLERANCE, check_points
from data_pipelines.labels.files import LabelError, LabelFile, label_path
from data_pipelines.labels.pictures import check_pictures, picture_places
from data_pipelines.transforms.features import pool_matrix

NAMES = {
    "da3": ("exports/npz/results.npz", "exports/mini_npz/results.npz", "results.npz"),
    "vggt": ("predictions.npz",),
}
MOST_CELLS = 24  # a side of the features' grid; larger ones are averaged
_POINTS = {"world_points_from_depth": POINTS_TOLERANCE, "world_points": HEAD_TOLERANCE}
_PICTURES = {"da3": "image", "vggt": "images"}  # the field with the pictures as the teacher saw them


def export_file(folder: Path, record_id: str, teacher: str) -> Path | None:
    """The export of a record, None without one."""
    place = folder / label_path("", record_id).name.removesuffix(".npz")
    return next((place / name for name in NAMES[teacher] if (place / name).is_file()), None)


def has_pictures(file: Path, teacher: str) -> bool:
    """Whether an export carries the pictures that it was made of.

    Raises:
      LabelError: it cannot be read.
    """
    return _PICTURES[teacher] in _load(file, names_only=True)


def read_export(
    file: Path,
    teacher: str,
    sizes: Sequence[tuple[int, int]],
    resize: str,
    metric: bool = False,
    process_res: int = 0,
    pictures: Callable[[], Sequence[np.ndarray]] | None = None,
    **texts: object,
) -> LabelFile:
    """One export as labels, poses in the first view's frame.

    Args:
      file: the export.
      teacher: "da3" or "vggt".
      sizes: (width, height) of the record's pictures in order.
      resize: how the teacher brought them to its size (`pictures.RESIZES`).
      metric: lengths are metres.
      process_res: the size that it brought them to; 0 = the package's default, or what the maps say.
      pictures: gives the record's pictures, uint8[h,w,3] each, with which those that the export carries are compared.
      **texts: view_ids, checkpoint, images_hash, settings and licence of the labels.

    Raises:
      LabelError: a file that cannot be read, with other views or pictures, or arrays that make no sense; names file and
        field.
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
    places = picture_places(teacher, sizes, shape[1:], resize, process_res, str(file))
    if pictures is not None and _PICTURES[teacher] in values:
        check_pictures(values[_PICTURES[teacher]], pictures(), places, f"{file}, '{_PICTURES[teacher]}'")
    inside = np.stack([place.inside for place in places])
    good = np.isfinite(depth) & (depth > 0) & np.isfinite(confidence) & inside
    labels = LabelFile(
        depth=np.where(good, depth, 0).astype(np.float32),
        confidence=np.where(np.isfinite(confidence), confidence, 0).astype(np.float32),
        intrinsics=intrinsics,
        camera_to_world=poses[0] @ np.linalg.inv(poses),
        valid=good,
        label_affine=np.stack([place.affine for place in places]),
        teacher=teacher,
        metric=metric,
        features=_features(values["features"], file, len(depth)) if "features" in values else None,
        **texts,
    )
    for name, tolerance in _POINTS.items():
        if name in values:
            if values[name].shape != (*shape, 3):
                raise LabelError(f"{file}: field '{name}' is {values[name].shape}, expected {(*shape, 3)}.")
            points = values[name].astype(np.float64) @ poses[0][:3, :3].T + poses[0][:3, 3]
            check_points(labels, points, f"{file}, '{name}'", tolerance)
    return labels


def _features(features: np.ndarray, file: Path, views: int) -> np.ndarray:
    """float16[V,gh,gw,F] of an export's float[V,gh',gw',F], averaged by area to at most `MOST_CELLS` cells a side."""
    if features.ndim != 4 or len(features) != views or features.dtype.kind != "f":
        raise LabelError(
            f"{file}: field 'features' is {features.dtype}{list(features.shape)}, expected float[{views}, rows, columns, width] "
            "on the teacher's grid of patches."
        )
    return pool_cells(features)


def pool_cells(features: np.ndarray) -> np.ndarray:
    """float16[V,gh,gw,F] of features float[V,gh',gw',F] on a grid of patches, averaged by area to at most `MOST_CELLS` a side."""
    down, across = (pool_matrix(cells, min(cells, MOST_CELLS)) for cells in features.shape[1:3])
    return np.einsum("ir,vrcf,jc->vijf", down, features.astype(np.float64), across, optimize=True).astype(np.float16)


def _load(file: Path, names_only: bool = False) -> dict[str, np.ndarray]:
    values = {}
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            if names_only:
                return dict.fromkeys(archive.files)
            for name in archive.files:
                try:
                    values[name] = archive[name]
                except ValueError:  # VGGT's demo stores one None, which only a pickle can hold
                    continue
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise LabelError(f"{file} cannot be read ({error}).") from error
    return values
