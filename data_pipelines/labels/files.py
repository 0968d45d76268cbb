"""Label files: depth, confidence, cameras and features of a teacher, one .npz per record.

NumPy alone reads them (`allow_pickle=False`). A file's key is (teacher, checkpoint, ordered view
ids, hash of their pictures, resolution, settings): labels belong to one ordered set of pictures, because
the teacher's world and scale change with it, so a reader names the views and pictures it has and gets an
error when they differ. `settings` is a JSON text of all else that decides what the labels are (of an
import: the export's hash, how pictures were resized, ...).

Arrays of a file: depth float32[V,H,W] z-depth in the teacher's unit, 0 where not valid; confidence
float32[V,H,W]; valid bool[V,H,W]; intrinsics float64[V,3,3] in pixels of the H x W map, centres at
+0.5; camera_to_world float64[V,4,4] OpenCV; pose_valid bool[V], False where the teacher gave no camera
(what intrinsics and camera_to_world hold there means nothing; elsewhere they must be a camera for such a map and a rigid
motion); label_affine float64[V,2,3], label pixel -> original
pixel; features float16[V,gh,gw,F] on the teacher's own grid of patches, or on fewer cells that average
them, and feature_affine float64[V,2,3], cells of that grid -> original pixel (both absent if the teacher
gives none); metric, whether lengths are metres; view_ids, record_id, teacher, checkpoint, images_hash, settings,
licence and key as text. Of the checks on arrival (`labels.arrival`): agreement, float64, NaN where no view sees another,
absent before the check; min_agreement, the threshold; masked_depth float32[V,H,W], the depth before it was masked for
disagreement, absent where it was not.

Version 3, without settings, pose_valid and the last three, is read as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import urllib.parse
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.labels.cameras import impossible_camera
from data_pipelines.paths import as_path, is_remote

LABEL_VERSION = 4
READABLE = (3, LABEL_VERSION)
_LONGEST_NAME = 180
UNFINISHED = "+*.tmp"  # files that are being written; a record's name never begins so
_SHAPES = {
    "depth": ("V", "H", "W"),
    "confidence": ("V", "H", "W"),
    "valid": ("V", "H", "W"),
    "intrinsics": ("V", 3, 3),
    "camera_to_world": ("V", 4, 4),
    "label_affine": ("V", 2, 3),
    "features": ("V", "gh", "gw", "F"),
    "feature_affine": ("V", 2, 3),
    "pose_valid": ("V",),
    "masked_depth": ("V", "H", "W"),
}
_OPTIONAL = ("features", "feature_affine", "pose_valid", "masked_depth", "settings", "agreement", "min_agreement")
_DTYPES = {
    "depth": np.float32,
    "confidence": np.float32,
    "valid": np.bool_,
    "intrinsics": np.float64,
    "camera_to_world": np.float64,
    "label_affine": np.float64,
    "features": np.float16,
    "feature_affine": np.float64,
    "pose_valid": np.bool_,
    "masked_depth": np.float32,
}


class LabelError(ValueError):
    """A label file that is missing, damaged, or made for something else."""


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """Labels of one record; shapes and units in the head of this module."""

    depth: np.ndarray
    confidence: np.ndarray
    intrinsics: np.ndarray
    camera_to_world: np.ndarray
    valid: np.ndarray
    label_affine: np.ndarray
    view_ids: tuple[str, ...]
    teacher: str
    checkpoint: str  # hash of the teacher's weights
    images_hash: str  # `images_hash` of the labelled pictures
    features: np.ndarray | None = None
    feature_affine: np.ndarray | None = None  # by default the features' grid spans the depth map
    metric: bool = False  # lengths are metres
    licence: str = ""  # of the teacher's weights
    pose_valid: np.ndarray | None = None  # views with a camera; all by default
    settings: str = ""  # JSON text: what else decides what the labels are
    agreement: float | None = None  # of the views, NaN = cannot be judged, None = not checked yet
    min_agreement: float = 0.0  # the threshold of that check
    masked_depth: np.ndarray | None = None  # the depth, where the check masked it

    def __post_init__(self):
        if self.pose_valid is None:
            object.__setattr__(self, "pose_valid", np.ones(len(self.view_ids), bool))
        ranks = [np.ndim(value) for value in (self.features, self.depth, self.label_affine)]
        if self.feature_affine is None and ranks == [4, 3, 3]:
            scale = np.eye(3)[None].repeat(len(self.depth), 0)
            scale[:, 0, 0], scale[:, 1, 1] = (
                side / cells for side, cells in zip(self.depth.shape[:0:-1], self.features.shape[2:0:-1], strict=True)
            )
            object.__setattr__(self, "feature_affine", np.asarray(self.label_affine, np.float64) @ scale)

    @property
    def key(self) -> str:
        """Hex SHA-256 that tells labels of other weights, views, order, pictures, resolution or settings apart."""
        return self.key_of(LABEL_VERSION)

    def key_of(self, version: int) -> str:
        """The key as a file of this format version has it."""
        resolution = [int(side) for side in self.depth.shape[1:]]
        parts = [version, self.teacher, self.checkpoint, list(self.view_ids), self.images_hash, resolution]
        parts += [self.settings] if version > 3 else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def images_hash(images: Sequence[bytes]) -> str:
    """Hex SHA-256 of encoded pictures in order: other contents under the same names are other pictures."""
    return hashlib.sha256(b"".join(hashlib.sha256(image).digest() for image in images)).hexdigest()


def method(labels: LabelFile) -> str:
    """The settings that files of one folder must share: all but the record's own export."""
    try:
        facts = json.loads(labels.settings)
    except ValueError:
        return labels.settings
    if not isinstance(facts, dict):
        return labels.settings
    return json.dumps({name: value for name, value in facts.items() if name != "export_sha256"}, sort_keys=True)


def label_path(directory: str | os.PathLike, record_id: str) -> Path:
    """Where a record's labels lie; any text is a legal record id."""
    return as_path(directory) / _file_name(record_id)


def _file_name(record_id: str) -> str:
    name = urllib.parse.quote(record_id, safe=" ")
    if len(name) > _LONGEST_NAME:  # '+' never occurs in a quoted name
        name = f"{name[:100]}+{hashlib.sha256(record_id.encode()).hexdigest()[:32]}"
    return f"{name}.npz"


def missing_labels(directory: str | os.PathLike, record_ids: Sequence[str]) -> frozenset[str]:
    """The records without a label file in the folder; looks at names alone.

    Raises:
      LabelError: there is a file of none of them.
    """
    folder = as_path(directory)
    names = {path.name for path in folder.glob("*.npz")} if folder.is_dir() else set()
    missing = frozenset(record for record in record_ids if _file_name(record) not in names)
    if record_ids and len(missing) == len(set(record_ids)):
        raise LabelError(
            f"{folder} holds labels of none of the {len(missing)} records in use, e.g. no {_file_name(record_ids[0])}. "
            "Run python -m experiments.label on this data set, or name the folder that it wrote."
        )
    return missing


def write_labels(directory: str | os.PathLike, record_id: str, labels: LabelFile) -> Path:
    """Checks and writes a record's labels, wholly or not at all; an older file is replaced.

    Raises:
      LabelError: naming the record and the field whose shape, type or values are wrong.
      OSError: the disk refuses.
    """
    where = f"Labels of record '{record_id}'"
    arrays = _checked(labels, where)
    texts = {
        "view_ids": np.array(labels.view_ids, dtype=np.str_),
        "record_id": np.array(record_id),
        "teacher": np.array(labels.teacher),
        "checkpoint": np.array(labels.checkpoint),
        "images_hash": np.array(labels.images_hash),
        "key": np.array(labels.key),
        "metric": np.array(labels.metric),
        "licence": np.array(labels.licence),
        "settings": np.array(labels.settings),
        "min_agreement": np.array(labels.min_agreement, np.float64),
        "version": np.array(LABEL_VERSION),
    }
    if labels.agreement is not None:
        texts["agreement"] = np.array(labels.agreement, np.float64)
    path = label_path(directory, record_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays, **texts)
        path.write_bytes(buffer.getvalue())
        return path
    # Told apart from that of a dead or doubled attempt, which may be on another machine.
    temporary = (
        path.parent / f"+{os.getpid()}+{uuid.uuid4().hex[:8]}+{hashlib.sha256(record_id.encode()).hexdigest()[:16]}.tmp"
    )
    try:
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **texts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_labels(
    directory: str | os.PathLike,
    record_id: str,
    *,
    view_ids: Sequence[str] | None = None,
    images: Sequence[bytes] | None = None,
    teacher: str | None = None,
    checkpoint: str | None = None,
    settings: str | None = None,
) -> LabelFile:
    """Reads a record's labels.

    Args:
      directory: the folder of label files.
      record_id: the record.
      view_ids: the record's views in order; other views in the file are an error.
      images: their encoded pictures; a file made from other contents is an error.
      teacher: the teacher that must have made them; None = any.
      checkpoint: hash of the weights that must have made them; None = any.
      settings: those that must have made them; None = any.

    Raises:
      LabelError: no file, a damaged file or field, or labels made for something else; names the
        file and the field.
    """
    path = label_path(directory, record_id)
    if not path.is_file():
        raise LabelError(f"{path} does not exist: record '{record_id}' has no labels there. Run the teacher on it.")
    version = _load(path, ("version",))["version"]
    if version.shape or version.dtype.kind not in "iu" or int(version) not in READABLE:
        raise LabelError(f"{path}: version is {version}, expected one of {READABLE}. Make the labels again.")
    texts = ("view_ids", "record_id", "teacher", "checkpoint", "images_hash", "key", "metric", "licence")
    values = _load(path, (*_SHAPES, *texts, "settings", "agreement", "min_agreement"))
    if int(version) == 3 and str(values["teacher"]) == "rooms":  # it masked views without a camera, and said no more
        values["pose_valid"] = values["valid"].any((1, 2))
    labels = LabelFile(
        **{name: values.get(name) for name in _SHAPES},
        view_ids=tuple(map(str, values["view_ids"])),
        teacher=str(values["teacher"]),
        checkpoint=str(values["checkpoint"]),
        images_hash=str(values["images_hash"]),
        metric=bool(values["metric"]),
        licence=str(values["licence"]),
        settings=str(values.get("settings", "")),
        agreement=float(values["agreement"]) if "agreement" in values else None,
        min_agreement=float(values.get("min_agreement", 0.0)),
    )
    _checked(labels, str(path))
    found = {"record_id": str(values["record_id"]), "key": str(values["key"])}
    wanted = {"record_id": record_id, "key": labels.key_of(int(version))}
    asked = {
        "view_ids": None if view_ids is None else tuple(view_ids),
        "images_hash": None if images is None else images_hash(images),
        "teacher": teacher,
        "checkpoint": checkpoint,
        "settings": settings,
    }
    for name, value in asked.items():
        if value is not None:
            found[name], wanted[name] = getattr(labels, name), value
    for name, value in wanted.items():
        if found[name] != value:
            raise LabelError(
                f"{path}: {name} is {found[name]!r}, expected {value!r}. These labels were made for something else; "
                "make them again for this record, in another folder."
            )
    return labels


def _load(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    values: dict[str, np.ndarray] = {}
    place = "the archive"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for name in names:
                place = f"field '{name}'"
                if name in archive.files:
                    values[name] = archive[name]
                elif name not in _OPTIONAL:
                    raise LabelError(f"{path}: field '{name}' is missing. Make the labels again.")
    except LabelError:
        raise
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise LabelError(f"{path}: {place} cannot be read ({error}). Delete the file and make it again.") from error
    return values


def _checked(labels: LabelFile, where: str) -> dict[str, np.ndarray]:
    """The arrays with their final types, after all checks."""
    sizes: dict[str, int] = {"V": len(labels.view_ids)}
    arrays = {}
    for name, letters in _SHAPES.items():
        value = getattr(labels, name)
        if value is None and name in _OPTIONAL:
            continue
        value = np.asarray(value)
        expected = tuple(sizes.get(letter, letter) for letter in letters)
        if value.ndim != len(letters) or any(
            isinstance(e, int) and e != n for e, n in zip(expected, value.shape, strict=True)
        ):
            raise LabelError(f"{where}: field '{name}' has shape {value.shape}, expected {expected}.")
        sizes.update((letter, n) for letter, n in zip(letters, value.shape, strict=True) if isinstance(letter, str))
        if value.dtype.kind not in ("b" if name in ("valid", "pose_valid") else "fiu"):
            raise LabelError(f"{where}: field '{name}' has type {value.dtype}, expected {_DTYPES[name].__name__}.")
        with np.errstate(over="ignore"):
            arrays[name] = value.astype(_DTYPES[name])
    if not (labels.teacher and labels.checkpoint and labels.images_hash):
        raise LabelError(f"{where}: 'teacher', 'checkpoint' and 'images_hash' must name what made the labels, of what.")
    valid = arrays["valid"]
    arrays["depth"] = np.where(valid, arrays["depth"], np.float32(0))
    if not (np.isfinite(arrays["depth"]).all() and (arrays["depth"] > 0)[valid].all()):
        raise LabelError(f"{where}: field 'depth' has NaN, inf or values <= 0 where 'valid' is True.")
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise LabelError(f"{where}: field '{name}' has NaN, inf or values too large for {value.dtype}.")
    for view in np.flatnonzero(labels.pose_valid):
        camera = arrays["intrinsics"][view], arrays["camera_to_world"][view]
        if problem := impossible_camera(*camera, arrays["depth"].shape[1:]):
            raise LabelError(
                f"{where}: view '{labels.view_ids[view]}', field {problem}. Make the labels again, with intrinsics in pixels of the "
                "depth map, and pose_valid False for a view without a camera."
            )
    return arrays
