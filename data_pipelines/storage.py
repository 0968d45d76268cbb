"""Reading prepared data: random access to records, through tensorflow-datasets without tensorflow."""

from __future__ import annotations

import functools
import json
import os
import threading
import uuid
from pathlib import Path
from typing import SupportsIndex

import tensorflow_datasets as tfds
from tqdm import tqdm

from data_pipelines import manifest as manifest_lib
from data_pipelines.manifest import PrepareError, read_manifest
from data_pipelines.paths import as_path, copies_folder, is_remote
from data_pipelines.records import Record
from data_pipelines.serialization import decode_record


class RecordSource:
    """The records of one split: `len(source)`, `source[i] -> Record`, in a fixed order.

    A Grain random-access source. Nothing but the manifest is read before the first record is
    asked for; threads may share one source, and a pickled copy opens its own files.
    """

    def __init__(self, directory: str | os.PathLike, split: str, verify: bool = False):
        """See `open_split`."""
        self.directory = as_path(directory)
        self.split = split
        self.manifest = read_manifest(directory)
        if split not in self.manifest["splits"]:
            raise PrepareError(f"Data set {directory} has no split '{split}', only {sorted(self.manifest['splits'])}.")
        manifest_lib.check_shards(directory, self.manifest, (split,), verify)
        self._length = self.manifest["splits"][split]["records"]
        self._data = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: SupportsIndex) -> Record:
        """The record at `index`, 0 <= index < len.

        Raises:
          IndexError: no such record.
          PrepareError: the shard is damaged; names it.
        """
        index = index.__index__()
        if not 0 <= index < self._length:
            raise IndexError(f"Record {index} of {self._length} in split '{self.split}' of {self.directory}.")
        try:
            data = self._open()[index]
        except RuntimeError as error:
            raise PrepareError(
                f"Cannot read record {index} of split '{self.split}': shard {self._shard_of(index)} in "
                f"{self.directory} is damaged ({error}). Copy it again, or prepare the data again elsewhere."
            ) from error
        return decode_record(data)

    @functools.cached_property
    def rows(self) -> tuple[dict, ...]:
        """Per record: id, scene, setting, views, height, width (pixels), questions (their number)."""
        entry = self.manifest["splits"][self.split]["index"]
        path = self.directory / entry["file"]
        if not path.is_file() or manifest_lib.sha256_of(path) != entry["sha256"]:
            raise PrepareError(f"{path} is missing or was altered. Copy the data set again.")
        return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())

    @functools.cached_property
    def ids(self) -> tuple[str, ...]:
        """Record ids in order; read from the index file, not from the records."""
        return tuple(row["id"] for row in self.rows)

    def _open(self):
        with self._lock:
            if self._data is None:
                builder = tfds.builder_from_directory(self._local_folder())
                self._data = builder.as_data_source(
                    self.split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
                )
            return self._data

    def _local_folder(self) -> Path:
        """Where the shards can be read in place: of a data set in an object store, a copy on this machine.

        The copy of every shard is compared with the manifest when it is made, and again by size at the next start. It lies
        under $SPATIALSV_CACHE (by default ~/.cache/spatialsv_jax), by the data's hash, so that runs share it.
        """
        if not is_remote(self.directory):
            return self.directory
        folder = copies_folder() / self.manifest["data_sha256"]
        folder.mkdir(parents=True, exist_ok=True)
        shards = self.manifest["splits"][self.split]["shards"]
        for shard in tqdm(shards, desc=f"copying {self.split}", unit="shard", mininterval=2.0):
            there = folder / shard["file"]
            if there.is_file() and there.stat().st_size == shard["bytes"]:
                continue
            temporary = there.with_name(f"{there.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                (self.directory / shard["file"]).copy(temporary)
                if (found := manifest_lib.sha256_of(temporary)) != shard["sha256"]:
                    raise PrepareError(
                        f"{self.directory / shard['file']} was altered: sha256 {found}, the manifest says {shard['sha256']}."
                    )
                os.replace(temporary, there)
            finally:
                temporary.unlink(missing_ok=True)
        for name in ("dataset_info.json", "features.json"):
            manifest_lib.write_atomically(folder / name, (self.directory / name).read_bytes())
        return folder

    def _shard_of(self, index: int) -> str:
        for shard in self.manifest["splits"][self.split]["shards"]:
            if index < shard["records"]:
                return shard["file"]
            index -= shard["records"]
        raise IndexError(index)

    def __getstate__(self) -> dict:
        state = {name: value for name, value in self.__dict__.items() if name not in ("_data", "_lock")}
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _data=None, _lock=threading.Lock())

    def __repr__(self) -> str:
        # Grain stores this text in its checkpoints: the same data must give the same text anywhere.
        return f"RecordSource(split={self.split!r}, data_sha256={self.manifest['data_sha256']!r})"


def open_split(directory: str | os.PathLike, split: str, verify: bool = False) -> RecordSource:
    """Opens a split of a prepared data set.

    Args:
      directory: the folder that `experiments.prepare --out` named.
      split: "train", "validation", "test" or "ood".
      verify: also compare every shard's SHA-256 with the manifest (reads all bytes once); file
        sizes are always compared.

    Raises:
      PrepareError: not a finished data set, no such split, or a shard that is missing, truncated
        or altered; names it.
    """
    return RecordSource(directory, split, verify)
