"""Fills the cache of a frozen vision encoder's features before training (`config.data.vision_cache`)."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from data_pipelines.buckets import Choice, at_size
from data_pipelines.config import DataConfig
from data_pipelines.manifest import write_atomically
from data_pipelines.packing import pack_prefix
from data_pipelines.paths import local_path
from data_pipelines.transforms.decode import decode_image, view_name
from data_pipelines.vision_cache import VisionCache, open_cache, picture_name
from experiments import hosts
from experiments.label_makers import parameters_hash
from experiments.startup import size
from spatialsv_jax.assembly import Settings
from spatialsv_jax.training import sharding

_PICTURES = 8  # of a device at a time
_LOOK_S = 20.0  # seconds in which a shared file system shows every host what another wrote
_SPARE = 2**28  # bytes of disk that are left for checkpoints and logs
_JPEG = base64.b64decode(  # 28 x 20 colours, halved chroma: how such a picture is decoded is part of the preprocessing
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABcQERQRDhcUEhQaGBcbIjklIh8fIkYyNSk5UkhXVVFIUE5bZoNvW2F8Yk5QcptzfIeLkpSSWG2grJ"
    "+OqoOPko3/2wBDARgaGiIeIkMlJUONXlBejY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY3/wAARCAAU"
    "ABwDASIAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAABAMABv/EACAQAAICAgICAwAAAAAAAAAAAAABAgMEETFRYYEhQUL/xAAXAQADAQAAAA"
    "AAAAAAAAAAAAACAwUG/8QAHhEAAgICAgMAAAAAAAAAAAAAAAECAxEhBGEjMVH/2gAMAwEAAhEDEQA/AOfrx/AmGN2hlWP4Lxw5S/WvQlNy9B8S"
    "6tvyPASvF39F1ifHA+FCglHW2kWVMtdegpOuOnt9FGvkfCFUI9DIxSg2kYwql4g30ZWp7KVVx6ESSjpJLgxhMdV5RWrZ/9k="
)


def check_settings(settings: Settings, config: DataConfig, where: str = "config") -> None:
    """Refuses what would make features of one picture differ between steps.

    Raises:
      ValueError: naming the setting.
    """
    if not config.vision_cache:
        return
    local_path(config.vision_cache, f"{where}.data.vision_cache")  # every picture of every step is read from it
    cached = f"{where}.data.vision_cache keeps what a frozen encoder says of a picture, but"
    if settings.model != "mllm":
        raise ValueError(f"{cached} {where}.model is '{settings.model}'. Set it to ''.")
    if settings.vision.trainable:
        raise ValueError(f"{cached} {where}.vision.trainable is True. Set one of them off.")
    if getattr(settings.vision, "published_slicing", False):
        raise ValueError(f"{cached} with {where}.vision.published_slicing a picture's features depend on the others.")
    if settings.ema.noise:
        raise ValueError(f"{cached} {where}.ema.noise is {settings.ema.noise}. Set one of them to 0.")
    for number, source in enumerate(config.source_configs):
        if source.augment:
            raise ValueError(f"{cached} {where}.data.sources[{number}].augment changes pictures. Set one of them off.")


class Filler:
    """Makes the features that are missing; called by `make_loader` once buckets are chosen.

    Args:
      root: of all caches.
      settings, model: of the phase.
      processor: the family's.
      params: the vision encoder's parameters.
      config: of the data.
    """

    def __init__(self, root: Path, settings: Settings, model, processor, params: dict, config: DataConfig):
        self._root, self._settings, self._model, self._config = root, settings, model, config
        self._processor = processor
        self._params = jax.tree.map(_on_host, params)
        self._encoder = parameters_hash(self._params)

    def __call__(self, choice: Choice, records: Sequence, members: Sequence[np.ndarray]) -> list[VisionCache]:
        """The filled cache of every bucket.

        Raises:
          ValueError: hosts that do not see one folder, a disk with too little room, or a picture that cannot be decoded.
          VisionCacheError: a damaged cache.
        """
        _check_shared(self._root)
        caches = []
        for number, bucket in enumerate(choice.buckets):
            encoder = _Encoder(self._model, self._params, at_size(self._processor, bucket.image_size))
            identity = {
                "family": self._settings.family,
                "vision": json.dumps(dataclasses.asdict(self._settings.vision), sort_keys=True),
                "encoder_sha256": self._encoder,
                "preprocessing_sha256": encoder.preprocessing,
            }
            cache = open_cache(self._root, identity, encoder.shape, encoder.dtype, encoder.pixel_shape)
            for source, (opened, own, owner) in enumerate(zip(records, members, choice.owners, strict=True)):
                # Geometry of another scene may be drawn from any bucket.
                everything = self._config.source_configs[source].shuffle3d
                self._fill(cache, encoder, opened, own if everything else own[owner == number])
            caches.append(cache)
        return caches

    def _fill(self, cache: VisionCache, encoder: _Encoder, records, members: np.ndarray) -> None:
        key = [records.manifest["data_sha256"], records.split, members.tolist()]
        done = cache.filled(key)
        if hosts.agree(done.is_file()):
            return
        own = np.asarray(members)[jax.process_index() :: jax.process_count()]
        missing = self._missing(cache, records, own)
        need, free = len(missing) * cache.picture_bytes, shutil.disk_usage(cache.folder).free - _SPARE
        if need > free:
            raise ValueError(
                f"The features of {len(missing)} pictures take {size(need)}, but {cache.folder} has {size(max(free, 0))} left. "
                "Name a folder on another disk in config.data.vision_cache, or set it to ''."
            )
        hosts.say(
            f"Vision features: {len(missing)} pictures to encode, {size(cache.picture_bytes)} each, in {cache.folder}."
        )
        encoder.run(self._pixels(encoder, records, missing), len(missing), cache)
        hosts.wait()
        hosts.on_first(lambda: write_atomically(done, b""))
        hosts.wait()

    def _reading(self) -> grain.ReadOptions:
        threads = self._config.threads
        return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=16 if threads else 0)

    def _missing(self, cache: VisionCache, records, own: np.ndarray) -> list[tuple[int, int, str]]:
        """(record, view, name) of every picture without features, each picture once."""
        names = grain.MapDataset.source(own).map(
            lambda index: (int(index), [picture_name(image) for image in records[int(index)].images])
        )
        found: dict[str, tuple[int, int, str]] = {}
        for index, pictures in tqdm(
            names.to_iter_dataset(self._reading()), total=len(own), desc="pictures", mininterval=2.0, disable=not hosts.is_first()
        ):  # fmt: skip
            for view, name in enumerate(pictures):
                if name not in found and not cache.has(name):
                    found[name] = (index, view, name)
        return list(found.values())

    def _pixels(self, encoder: _Encoder, records, missing) -> Iterator[tuple[str, np.ndarray]]:
        """(name, pixel values [X,...]) of the missing pictures, in record order."""
        of_records: dict[int, list[tuple[int, str]]] = {}
        for index, view, name in missing:
            of_records.setdefault(index, []).append((view, name))

        def read(index: int) -> list[tuple[str, np.ndarray]]:
            record = records[index]
            return [
                (name, encoder.pixels(decode_image(record.images[view], view_name(record, view))))
                for view, name in of_records[index]
            ]

        if of_records:
            for pictures in grain.MapDataset.source(list(of_records)).map(read).to_iter_dataset(self._reading()):
                yield from pictures


class _Encoder:
    """The frozen encoder over this host's devices, for pictures of one bucket.

    Attributes:
      shape, dtype, pixel_shape: see `VisionCache`.
      preprocessing: hash of what the processor makes of two fixed pictures and of a decoded one.
    """

    def __init__(self, model, params: dict, processor):
        self._processor = processor
        blank = self.pixels(np.zeros((64, 64, 3), np.uint8))
        self.pixel_shape = blank.shape[1:-1]
        prefix = processor.encode_prefix(1)
        fields = pack_prefix(prefix, 1, len(prefix.tokens), len(blank), processor.pad_id)
        names = ("image_token_index", "feature_slots", "feature_valid")
        self._fields = {"view_valid": np.ones(1, bool)} | {name: fields[name] for name in names if name in fields}
        devices = jax.local_devices()
        self._mesh = sharding.make_mesh(sharding.MeshConfig(data=len(devices)), devices)
        self._rows = _PICTURES * len(devices)
        everywhere = jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec())
        self._params = jax.device_put({"backbone": {"vision": params}}, everywhere)
        self._split = sharding.batch_sharding(self._mesh)
        encode = lambda p, batch: model.apply({"params": p}, batch, method="encode_pictures")
        self._encode = jax.jit(encode, out_shardings=self._split)
        with jax.set_mesh(self._mesh):
            out = jax.eval_shape(encode, self._params, self._batch([blank]))
        self.shape, self.dtype = out.shape[1:], str(out.dtype)
        rng = np.random.default_rng(0)
        fixed = [rng.integers(0, 256, (*side, 3), np.uint8) for side in ((64, 64), (90, 70))]
        fixed.append(decode_image(_JPEG, "the JPEG of vision_features"))
        self.preprocessing = hashlib.sha256(b"".join(self.pixels(image).tobytes() for image in fixed)).hexdigest()

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """float32[X,...] of one picture."""
        return np.asarray(self._processor.pixels([image]).pixel_values)

    def _batch(self, pixels: Sequence[np.ndarray]) -> dict:
        values = np.zeros((self._rows, *pixels[0].shape), np.float32)
        values[: len(pixels)] = pixels
        fields = {name: np.broadcast_to(value, (self._rows, *value.shape)) for name, value in self._fields.items()}
        return jax.device_put({**fields, "pixel_values": values}, self._split)

    def run(self, pictures: Iterator[tuple[str, np.ndarray]], number: int, cache: VisionCache) -> None:
        """Encodes and writes them, in batches."""
        with tqdm(
            total=number, desc="vision features", unit="picture", mininterval=2.0, disable=not hosts.is_first()
        ) as bar, jax.set_mesh(self._mesh):  # fmt: skip
            waiting: list[tuple[str, np.ndarray]] = []
            for picture in pictures:
                waiting.append(picture)
                if len(waiting) == self._rows:
                    self._write(waiting, cache)
                    bar.update(len(waiting))
                    waiting = []
            if waiting:
                self._write(waiting, cache)
                bar.update(len(waiting))

    def _write(self, pictures: list[tuple[str, np.ndarray]], cache: VisionCache) -> None:
        features = np.asarray(self._encode(self._params, self._batch([pixels for _, pixels in pictures])))
        for (name, _), own in zip(pictures, features, strict=False):
            cache.write(name, own)


def _check_shared(root: Path) -> None:
    """Looks, on every host, for a file that the first writes: each encodes a share of the pictures and reads all.

    Raises:
      ValueError: on every host, where one does not see it.
    """
    root.mkdir(parents=True, exist_ok=True)
    if jax.process_count() == 1:
        return
    number = int(multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(31))))
    sign = root / f".seen-{number:08x}"  # a new name, of which no file system remembers that it was missing
    hosts.on_first(lambda: write_atomically(sign, b""))
    behind = time.monotonic() + _LOOK_S
    while not (seen := sign.exists()) and time.monotonic() < behind:
        time.sleep(0.1)
    blind = np.flatnonzero(multihost_utils.process_allgather(np.int32(seen)) == 0)
    hosts.on_first(lambda: sign.unlink(missing_ok=True))
    if blind.size:
        raise ValueError(
            f"config.data.vision_cache: {root} must be one folder that all hosts see, but processes {blind.tolist()} do not see "
            "what the first writes there. Name a folder on a shared file system, or set it to ''."
        )


def _on_host(leaf: jax.Array) -> np.ndarray:
    if not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)
