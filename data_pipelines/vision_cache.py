"""Features of a frozen vision encoder on disk, one file for each picture, readable with NumPy alone.

ROOT/KEY/ belongs to one encoder and one way of preparing pictures; `cache.json` in it says which, and the shape and type of
every file. ROOT/KEY/ab/abcd....npy holds the features of the picture whose encoded bytes have this SHA-256: a picture of
several records, or of several runs with one root, is there once. bfloat16 is stored as the uint16 of its bits. Behind the
array stand the 32 bytes of the SHA-256 of the picture's name and all bytes before them; NumPy leaves them alone.

What is found damaged is removed, so that the next start makes it again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from data_pipelines.manifest import to_json, write_atomically

MANIFEST = "cache.json"
FORMAT_VERSION = 2  # also to be raised when an encoder's code gives other features of the same weights and pictures
_FILLED = "filled-"  # how the names of marks begin
_DIGEST = 32  # bytes
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class VisionCacheError(ValueError):
    """A file of the cache is missing, damaged or of another shape; the message names it."""


@dataclasses.dataclass(frozen=True)
class VisionCache:
    """The features of one encoder under one preprocessing.

    Attributes:
      folder: ROOT/KEY.
      shape: (X, r, C) of a picture's features: its tiles, their features and the encoder's width.
      dtype: "float32" or "bfloat16".
      pixel_shape: of a picture as the encoder would read it, without the tiles and the channels.
    """

    folder: Path
    shape: tuple[int, int, int]
    dtype: str
    pixel_shape: tuple[int, ...]

    @property
    def picture_bytes(self) -> int:
        """Bytes of a picture's file."""
        return 128 + int(np.prod(self.shape)) * _DTYPES[self.dtype].itemsize + _DIGEST  # the .npy header is 128

    @property
    def none(self) -> np.ndarray:
        """Features [0,r,C] of no picture."""
        return np.zeros((0, *self.shape[1:]), _DTYPES[self.dtype])

    def path(self, name: str) -> Path:
        """File of the picture `name` (see `picture_name`)."""
        return self.folder / name[:2] / f"{name}.npy"

    def has(self, name: str) -> bool:
        """Whether the picture's features are there, with as many bytes as they must have."""
        try:
            return self.path(name).stat().st_size == self.picture_bytes
        except FileNotFoundError:
            return False

    def filled(self, key: object) -> Path:
        """The mark that all pictures of the records named by `key` (any JSON) are there."""
        return self.folder / f"{_FILLED}{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}"

    def write(self, name: str, features: np.ndarray) -> None:
        """Writes a picture's features, wholly or not at all.

        Raises:
          ValueError: another shape or type than the cache's.
          OSError: the disk refuses.
        """
        if features.shape != self.shape or features.dtype != _DTYPES[self.dtype]:
            raise ValueError(
                f"Features {features.dtype}{list(features.shape)}, expected {self.dtype}{list(self.shape)}."
            )
        path = self.path(name)
        path.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, features.view(np.uint16) if self.dtype == "bfloat16" else features, allow_pickle=False)
        data = buffer.getvalue()
        write_atomically(path, data + _digest(name, data))

    def read(self, image: bytes, where: str) -> np.ndarray:
        """Features [X,r,C] of an encoded picture.

        Args:
          image: its bytes.
          where: what the picture belongs to, for messages.

        Raises:
          VisionCacheError: no such file, or one that is damaged or was altered. It is removed, with the marks that say that
            nothing is missing.
        """
        name = picture_name(image)
        path = self.path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise self._mended(f"{where}: {path} does not exist") from error
        except OSError as error:
            raise VisionCacheError(f"{where}: {path} cannot be read ({error}). Mend the disk or its rights.") from error
        data, digest = data[:-_DIGEST], data[-_DIGEST:]
        if digest != _digest(name, data):
            path.unlink(missing_ok=True)
            raise self._mended(f"{where}: {path} is damaged or was altered (its SHA-256 is another) and was removed")
        stored = np.load(io.BytesIO(data), allow_pickle=False)
        expected = np.dtype(np.uint16) if self.dtype == "bfloat16" else _DTYPES[self.dtype]
        if stored.shape != self.shape or stored.dtype != expected:
            path.unlink(missing_ok=True)
            raise self._mended(
                f"{where}: {path} holds {stored.dtype}{list(stored.shape)}, expected {expected}{list(self.shape)}, and was removed"
            )
        return stored.view(_DTYPES[self.dtype])

    def _mended(self, what: str) -> VisionCacheError:
        for mark in self.folder.glob(f"{_FILLED}*"):
            mark.unlink(missing_ok=True)
        return VisionCacheError(f"{what}. Start again: what is missing is made then.")


def _digest(name: str, data: bytes) -> bytes:
    """Of a file's contents, for this picture and no other."""
    return hashlib.sha256(name.encode() + data).digest()


def picture_name(image: bytes) -> str:
    """Hex SHA-256 of a picture's encoded bytes: other contents are another picture."""
    return hashlib.sha256(image).hexdigest()


def open_cache(
    root: Path, identity: Mapping[str, str], shape: tuple[int, int, int], dtype: str, pixel_shape: tuple[int, ...]
) -> VisionCache:
    """The folder for an encoder and a preprocessing, made when there is none.

    Args:
      root: of all caches.
      identity: what the features depend on, e.g. hashes of weights and preprocessing; texts.
      shape, dtype, pixel_shape: of `VisionCache`.

    Raises:
      VisionCacheError: a manifest that is damaged or says something else.
    """
    facts = {
        "format_version": FORMAT_VERSION,
        **identity,
        "shape": list(shape),
        "dtype": dtype,
        "pixel_shape": list(pixel_shape),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    folder = root / key
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        write_atomically(manifest, to_json(facts).encode())
    try:
        there = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VisionCacheError(f"{manifest} cannot be read ({error}). Delete {folder}.") from error
    if there != facts:
        raise VisionCacheError(f"{manifest} says {there}, expected {facts}. Delete {folder}.")
    return VisionCache(folder, tuple(shape), dtype, tuple(pixel_shape))
