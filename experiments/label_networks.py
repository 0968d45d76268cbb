"""Labels made by Depth Anything 3 or VGGT on this machine's devices: batches of scenes, split over a mesh of scenes and views."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import threading
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines.labels.cameras import impossible_camera
from data_pipelines.labels.exports import pool_cells
from data_pipelines.labels.files import LabelError, LabelFile, images_hash
from data_pipelines.records import Record
from data_pipelines.transforms.decode import picture_size
from experiments import hosts
from experiments.label_makers import Made, decoded
from spatialsv_jax.partitioning import BATCH_AXES
from spatialsv_jax.teachers import networks
from spatialsv_jax.teachers.da3.ray_decoder import cameras_from_rays
from spatialsv_jax.training import sharding

PICTURES = PartitionSpec(BATCH_AXES, "context")  # scenes, views
_ON_DEVICES = threading.Lock()  # one pass at a time: devices hold no more than the plan says


@dataclasses.dataclass(frozen=True)
class Networks:
    """Labels of a published teacher; its weights are loaded where they are first needed.

    Attributes:
      teacher: "da3" or "vggt".
      folder: of the checkpoint's safetensors.
      metric: da3: folder of DA3METRIC-LARGE, for metres; "" = none.
      rows: scenes of a forward pass; a multiple of the mesh's data and fsdp axes.
      views: views of a forward pass, to which scenes of fewer are padded; 0 = as many as each has.
      resize, process_res, features, licence, dtype: of `networks.outline`.
      cameras: "head", or "rays" for those that da3's rays say (`da3.ray_decoder`).
      mesh: axes over this host's devices; rows go over data and fsdp, views over context, parameters over fsdp.
    """

    teacher: str
    folder: str
    metric: str = ""
    rows: int = 1
    views: int = 0
    resize: str = ""
    process_res: int = 0
    features: int | None = None
    cameras: str = "head"
    licence: str = ""
    dtype: str = "bfloat16"
    mesh: sharding.MeshConfig = sharding.MeshConfig(data=1, fsdp=1)

    counts = ()
    threads = 3  # groups at once: one is read, one on the devices, one checked and written

    def __post_init__(self):
        batch = self.mesh.data * self.mesh.fsdp
        if self.mesh.slices != 1 or min(self.mesh.data, self.mesh.fsdp, self.mesh.context, self.mesh.tensor) < 1:
            raise ValueError(
                f"{self.mesh}: state positive sizes; every host labels records of its own, so slices is 1."
            )
        if self.rows < 1 or self.rows % batch:
            raise ValueError(f"--rows {self.rows} is no multiple of data x fsdp = {batch} devices.")
        if self.views < 0:
            raise ValueError(f"--views is {self.views}; 0 takes as many as each scene has.")
        if self.mesh.context > 1 and (not self.views or self.views % self.mesh.context):
            raise ValueError(
                f"--config.mesh.context={self.mesh.context} splits the views of a scene: --views must be a multiple of it, not {self.views}."
            )

    @functools.cached_property
    def network(self) -> networks.Network:
        """The teacher, its parameters on this host's devices.

        Raises:
          ValueError: no such folder or setting, tensors that do not fit, or weights without a known licence.
        """
        found = networks.load(
            self.teacher,
            self.folder,
            self.metric,
            resize=self.resize,
            process_res=self.process_res,
            features=self.features,
            rays=self.cameras == "rays",
            licence=self.licence,
            dtype=self.dtype,
            progress=hosts.is_first(),
            place=self._place,
        )
        if not found.licence:
            raise ValueError(
                f"{' or '.join(filter(None, (self.folder, self.metric)))} has none of the published names, or not the sizes of the "
                "model of that name, so its licence is not known: state it with --licence."
            )
        return found

    def _place(self, model, shapes: dict) -> dict:
        """A `key_tables.Place`: over the mesh, each part straight to its device."""
        places, _ = sharding.parameter_shardings(shapes, networks.axes_of(model), self._mesh)
        return sharding.with_shardings(shapes, places)

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        number, own = _devices(self.mesh), jax.local_devices()
        if number > len(own):
            raise ValueError(f"--config.mesh.* asks for {number} devices; this host has {len(own)}.")
        return sharding.make_mesh(self.mesh, own[:number])

    @functools.cached_property
    def _forward(self):
        place = NamedSharding(self._mesh, PICTURES)
        return jax.jit(self.network.predict, in_shardings=(None, place, place))

    def _pass(self, pixels: np.ndarray, view_valid: np.ndarray) -> dict[str, np.ndarray]:
        with _ON_DEVICES, jax.set_mesh(self._mesh):
            given = jax.device_put((pixels, view_valid), NamedSharding(self._mesh, PICTURES))
            found = self._forward(self.network.params, *given)
            return {name: np.asarray(value) for name, value in found.items()}

    @property
    def checkpoint(self) -> str:
        """Hash of the weight files."""
        return self.network.checkpoint

    @property
    def facts(self) -> dict:
        """What labels.json says of them."""
        return {"model": self.folder, "commercial_use": self.network.commercial, **self.network.facts}

    def settings_of(self, record: Record) -> str:
        """All that decides what the labels are beside teacher, checkpoint and pictures."""
        return json.dumps(self.network.facts, sort_keys=True)

    def group_of(self, record: Record) -> tuple:
        """Records of one program: as many views, pictures of one size.

        Raises:
          LabelError: more views than --views, or pictures that the teacher does not take; names the record.
        """
        count = len(record.view_ids)
        if self.views and count > self.views:
            raise LabelError(
                f"Record '{record.id}' has {count} views, --views is {self.views}: a teacher sees all views of a scene at once. Raise it."
            )
        sizes = [picture_size(image, f"record '{record.id}'") for image in record.images]
        with _named(record):
            return (self.views or count, *self.network.prepared_shape(sizes))

    def __call__(self, records: Sequence[Record]) -> Made:
        """The labels of at most `rows` records of one group."""
        views, *size = self.group_of(records[0])
        prepared = [self._prepared(record) for record in records]
        pixels = np.zeros((self.rows, views, *size, 3), np.float32)
        valid = np.zeros((self.rows, views), bool)
        for row, one in enumerate(prepared):
            pixels[row, : len(one.pixel_values)] = one.pixel_values
            valid[row, : len(one.pixel_values)] = True
        valid[len(records) :, 0] = True  # rows of padding: a view of zeros, which no one reads
        found = self._pass(pixels, valid)
        for row, (record, one) in enumerate(zip(records, prepared, strict=True)):
            shown = len(record.view_ids)
            yield record, self._labels(record, one, {name: value[row, :shown] for name, value in found.items()}), {}

    def _prepared(self, record: Record) -> networks.Prepared:
        pictures = decoded(record)
        with _named(record):
            return self.network.prepare(pictures)

    def _labels(self, record: Record, prepared: networks.Prepared, found: dict[str, np.ndarray]) -> LabelFile:
        poses, intrinsics = found["camera_to_world"].astype(np.float64), found["intrinsics"].astype(np.float64)
        fitted = np.ones(len(poses), bool)
        if "ray" in found:
            intrinsics, poses, fitted = cameras_from_rays(
                found["ray"], found["ray_confidence"], found["depth"].shape[1:]
            )
        possible = fitted & [
            not impossible_camera(*camera, found["depth"].shape[1:]) for camera in zip(intrinsics, poses, strict=True)
        ]
        # Numbers that are no camera must not reach the other views, nor make the file unreadable.
        intrinsics = np.where(possible[:, None, None], intrinsics, np.eye(3))
        poses = np.where(possible[:, None, None], poses, np.eye(4))
        frame = np.linalg.inv(poses[np.argmax(possible)])
        good = found["valid"] & prepared.covered & np.isfinite(found["confidence"])
        return LabelFile(
            depth=np.where(good, found["depth"], 0).astype(np.float32),
            confidence=np.where(np.isfinite(found["confidence"]), found["confidence"], 0).astype(np.float32),
            intrinsics=intrinsics,
            camera_to_world=np.where(possible[:, None, None], frame @ poses, np.eye(4)),
            valid=good,
            label_affine=prepared.label_affine,
            view_ids=record.view_ids,
            teacher=self.teacher,
            checkpoint=self.checkpoint,
            images_hash=images_hash(record.images),
            metric=self.network.is_metric,
            licence=self.network.licence,
            settings=self.settings_of(record),
            pose_valid=possible,
            features=pool_cells(found["features"]) if "features" in found else None,
        )


def _devices(mesh: sharding.MeshConfig) -> int:
    return mesh.data * mesh.fsdp * mesh.context * mesh.tensor


@contextlib.contextmanager
def _named(record: Record) -> Iterator[None]:
    """Names the record in an error about its pictures."""
    try:
        yield
    except ValueError as error:
        raise LabelError(f"Record '{record.id}': {error}") from error
