"""What makes the labels of some records: our rooms teacher, the exports of another teacher, or files that are there. Same
calls here and in a pipeline.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from data_pipelines.labels.cameras import impossible_camera
from data_pipelines.labels.exports import NAMES, export_file, has_pictures, read_export
from data_pipelines.labels.files import (
    LabelError,
    LabelFile,
    images_hash,
    label_path,
)
from data_pipelines.labels.pictures import RESIZES, SIDES
from data_pipelines.labels.views import differing_views
from data_pipelines.manifest import sha256_of
from data_pipelines.paths import as_path
from data_pipelines.records import Record
from data_pipelines.transforms.decode import decode_image, picture_size
from spatialsv_jax import loading
from spatialsv_jax.geometry import solve_camera

Made = Iterator[tuple[Record, LabelFile | None, dict]]  # a record, its labels, and counts beside those of LabelRun


@dataclasses.dataclass(frozen=True)
class Exports:
    """Labels that another teacher exported (`labels.exports`).

    Attributes:
      teacher: "da3" or "vggt".
      folder: of the exports.
      checkpoint: name or hash of the weights.
      resize: how the teacher brought pictures to its size; its default if "".
      metric: lengths are metres.
      licence: of the weights.
      process_res: size to which the teacher brought them; 0 = its default, or what the maps' sides say.
      made_of: folder that `label.write_pictures` wrote; its views.json files are looked for there too.
    """

    teacher: str
    folder: str
    checkpoint: str
    resize: str = ""
    metric: bool = False
    licence: str = ""
    process_res: int = 0
    made_of: str = ""

    rows = 1  # records of a call
    counts = ("without_export", "pictures_unverified")  # beside `COUNTS`

    def __post_init__(self):
        if self.resize and self.resize not in RESIZES[self.teacher]:
            raise ValueError(f"--resize is '{self.resize}'; {self.teacher} has {', '.join(RESIZES[self.teacher])}.")
        if not as_path(self.folder).is_dir():
            raise ValueError(f"--from '{self.folder}' is not a folder.")
        if self.process_res < 0:
            raise ValueError(f"--process_res is {self.process_res}; {self.teacher}'s default is {SIDES[self.teacher]}.")

    @property
    def facts(self) -> dict:
        """What labels.json says of them."""
        made = {name: getattr(self, name) for name in ("licence", "metric", "process_res")}
        return {"exports": self.folder, "resize": self.resize or RESIZES[self.teacher][0], **made}

    group_of = staticmethod(lambda record: len(record.view_ids))

    def settings_of(self, record: Record) -> str | None:
        """All that decides what a record's labels are beside teacher, checkpoint and pictures; None without an export."""
        file = export_file(as_path(self.folder), record.id, self.teacher)
        return None if file is None else self._settings(file)

    def _settings(self, file: Path) -> str:
        facts = {name: value for name, value in self.facts.items() if name != "exports"}
        return json.dumps({"export_sha256": sha256_of(file), **facts}, sort_keys=True)

    def expected_file(self, record_id: str) -> str:
        """Where the export of a record is looked for."""
        return f"{label_path(self.folder, record_id).with_suffix('')}/{' or '.join(NAMES[self.teacher])}"

    def __call__(self, records: Sequence[Record]) -> Made:
        """The labels of each record, None without an export.

        Raises:
          LabelError: a broken export, or one of other pictures than the record's.
        """
        for record in records:
            file = export_file(as_path(self.folder), record.id, self.teacher)
            if file is None:
                yield record, None, {"without_export": 1}
                continue
            named = self._check_views(record)
            sizes = [picture_size(image, f"record '{record.id}'")[::-1] for image in record.images]
            texts = dict(
                view_ids=record.view_ids,
                checkpoint=self.checkpoint,
                images_hash=images_hash(record.images),
                licence=self.licence,
                settings=self._settings(file),
            )
            resize, pictures = self.resize or RESIZES[self.teacher][0], functools.partial(decoded, record)
            labels = read_export(file, self.teacher, sizes, resize, self.metric, self.process_res, pictures, **texts)
            yield record, labels, {"pictures_unverified": int(not (named or has_pictures(file, self.teacher)))}

    def _check_views(self, record: Record) -> bool:
        """Whether a views.json says of which pictures the export is.

        Raises:
          LabelError: they are not the record's.
        """
        folders = [label_path(folder, record.id).with_suffix("") for folder in (self.folder, self.made_of) if folder]
        found = False
        for file in (folder / "views.json" for folder in folders):
            if not file.is_file():
                continue
            found = True
            wrong = differing_views(file, record)
            if wrong:
                raise LabelError(
                    f"{file}: {', '.join(wrong)} differ from those of record '{record.id}': the export was made of other pictures "
                    "than the data set holds now. Write the pictures into a new folder and run the teacher on them."
                )
        return found


def decoded(record: Record) -> list[np.ndarray]:
    """The pictures, uint8[h,w,3] each."""
    return [decode_image(data, f"record '{record.id}', view {number}") for number, data in enumerate(record.images)]


@dataclasses.dataclass(frozen=True)
class Present:
    """Label files that are there already, whoever made them: they are checked, none is made."""

    teacher = checkpoint = None  # any; a manifest names those that were found

    rows = 1
    counts = ("without_labels",)
    facts = {}
    group_of = staticmethod(lambda record: len(record.view_ids))

    def settings_of(self, record: Record) -> None:
        """Any."""

    def __call__(self, records: Sequence[Record]) -> Made:
        """No labels.

        Raises:
          LabelError: there is a file, which cannot be read or is of other pictures.
        """
        for record in records:
            yield record, None, {"without_labels": 1}


@dataclasses.dataclass(frozen=True)
class Rooms:
    """Labels of the rooms teacher; its weights are loaded where they are first needed.

    Attributes:
      model: where it was trained.
      rows: records of a forward pass.
    """

    model: str
    rows: int = 8

    teacher = "rooms"
    counts = ()
    group_of = staticmethod(lambda record: len(record.view_ids))

    def settings_of(self, record: Record) -> str:
        """None beside the weights."""
        return ""

    @functools.cached_property
    def _loaded(self):
        loaded = loading.load(self.model)
        if loaded.settings.model != "teacher":
            raise ValueError(
                f"{self.model} is a '{loaded.settings.model}', not a teacher; train experiments/configs/teacher_rooms.py."
            )
        return loaded, jax.jit(loaded.apply)

    @functools.cached_property
    def checkpoint(self) -> str:
        """Hash of the weights."""
        return parameters_hash(self._loaded[0].params)

    @property
    def facts(self) -> dict:
        """What labels.json says of them."""
        return {"model": str(self._loaded[0].path), "step": self._loaded[0].step}

    def __call__(self, records: Sequence[Record]) -> Made:
        """The labels of at most `rows` records with as many views each."""
        teacher, forward = self._loaded
        images = [decoded(record) for record in records]
        inputs = [teacher.inputs(pictures, ()) for pictures in images]
        inputs += inputs[:1] * (self.rows - len(inputs))  # one shape, one program
        batch = {name: np.concatenate([row[name] for row in inputs]) for name in inputs[0]}
        found = {name: np.asarray(value) for name, value in forward(teacher.params, batch).items()}
        fit = solve_camera(found["ray"].astype(np.float64), found["ray_confidence"].astype(np.float64))
        for row, record in enumerate(records):
            features = found["teacher_features"][row]
            size = found["depth"].shape[-2:]
            cameras = zip(fit.intrinsics[row], fit.camera_to_world[row], strict=True)
            ok = np.asarray(fit.ok[row])
            # Rays of a poor teacher may fit no lens that there is; the depth comes from another head.
            possible = ok & [not impossible_camera(*camera, size) for camera in cameras]
            labels = LabelFile(
                depth=np.where(ok[:, None, None], found["depth"][row], 0.0).astype(np.float32),
                confidence=found["depth_confidence"][row],
                intrinsics=fit.intrinsics[row],
                camera_to_world=fit.camera_to_world[row],
                valid=np.broadcast_to(ok[:, None, None], found["depth"][row].shape).copy(),
                label_affine=teacher.processor.pixels(images[row], teacher.label_hw).label_affine,
                view_ids=record.view_ids,
                teacher="rooms",
                checkpoint=self.checkpoint,
                images_hash=images_hash(record.images),
                pose_valid=possible,
                features=features.reshape(*features.shape[:1], *teacher.processor.grid_hw, -1).astype(np.float16),
            )
            yield record, labels, {}


def parameters_hash(params) -> str:
    """SHA-256 over all parameters with their paths: the identity of a network's weights."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
