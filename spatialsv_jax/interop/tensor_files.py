"""The tensors of a Hugging Face checkpoint folder: one safetensors file, or several with an index.

Files are memory-mapped; a tensor's bytes are read when it is asked for. Pickles are never opened.
No jax here.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class ConversionError(ValueError):
    """A checkpoint folder that cannot be read, or does not fit the model; names files and tensors."""


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What a file's header says of one tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: str  # name within the folder

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class TensorFolder:
    """Read access to all tensors of a checkpoint folder.

    Attributes:
      directory: the folder.
      tensors: name -> `TensorInfo`, of all files.
      metadata: file name -> the texts in its header (transformers writes {"format": "pt"}).

    Raises:
      ConversionError: no safetensors (a folder with pickles alone is refused with the reason), a
        file of the index that is missing or truncated, an index that does not tell what the files
        hold, or a type of numbers that is not supported.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        self.files = _files(self.directory)
        self.tensors: dict[str, TensorInfo] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self._open = {name: _opened(self.directory / name) for name in self.files}
        for file, opened in self._open.items():
            self.metadata[file] = dict(opened.metadata() or {})
            for name in opened.keys():
                if name in self.tensors:
                    raise ConversionError(
                        f"{self.directory}: tensor '{name}' stands in {self.tensors[name].file} and in {file}."
                    )
                self.tensors[name] = _info(opened, name, file, self.directory)
        _check_index(self.directory, self.tensors)

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """The tensor, or the part of it that `index` (slices of leading axes) cuts out.

        Raises:
          KeyError: no such tensor.
        """
        part = self._open[self.tensors[name].file].get_slice(name)
        if not self.tensors[name].shape:
            return self._open[self.tensors[name].file].get_tensor(name)
        return part[index or (slice(None),)]

    def equal(self, first: str, second: str) -> bool:
        """Whether two tensors have the same bits; read in parts of at most 64 MiB."""
        one, other = self.tensors[first], self.tensors[second]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return False
        rows = max(1, 2**26 // max(1, one.nbytes // max(1, one.shape[0])))
        parts = (slice(start, min(start + rows, one.shape[0])) for start in range(0, one.shape[0], rows))
        return all(self.read(first, (part,)).tobytes() == self.read(second, (part,)).tobytes() for part in parts)


def read_single(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors of one small file.

    Raises:
      ConversionError: a truncated file, or none of safetensors.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConversionError(f"{path} is truncated or no safetensors file ({error}).") from error


def _files(directory: Path) -> tuple[str, ...]:
    if not directory.is_dir():
        raise ConversionError(f"{directory} is no folder. Give the folder of a Hugging Face checkpoint.")
    index = directory / INDEX
    if index.is_file():
        listed = sorted(set(_weight_map(index).values()))
        outside = [name for name in listed if Path(name).name != name]
        if outside:
            raise ConversionError(f"{index} names files outside the folder: {outside}.")
        if missing := [name for name in listed if not (directory / name).is_file()]:
            raise ConversionError(
                f"{directory}: {len(missing)} of {len(listed)} files of {INDEX} are missing: {missing}."
            )
        return tuple(listed)
    if (directory / SINGLE).is_file():
        return (SINGLE,)
    if shards := sorted(path.name for path in directory.glob("*.safetensors")):
        raise ConversionError(f"{directory} has {shards}, but neither {SINGLE} nor {INDEX}, which says what they hold.")
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ConversionError(
            f"{directory} has its weights as pickle alone ({', '.join(pickles)}). Opening a pickle can run any code, so "
            "it is not read. Write safetensors from a process that you trust: model.save_pretrained(folder)."
        )
    raise ConversionError(f"{directory} has no {SINGLE} and no {INDEX}. Give the folder of a Hugging Face checkpoint.")


def _weight_map(index: Path) -> Mapping[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{index} is no index of a checkpoint ({error!r}); expected a 'weight_map'.") from error
    if not isinstance(found, dict) or not all(isinstance(part, str) for pair in found.items() for part in pair):
        raise ConversionError(f"{index}: 'weight_map' must map names of tensors to names of files.")
    return found


def _opened(path: Path):
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise ConversionError(
            f"{path} is truncated or no safetensors file ({error}). Copy or download it again."
        ) from error


def _info(opened, name: str, file: str, directory: Path) -> TensorInfo:
    part = opened.get_slice(name)
    kind = part.get_dtype()
    if kind not in DTYPES:
        raise ConversionError(f"{directory / file}: tensor '{name}' is {kind}; supported: {', '.join(DTYPES)}.")
    return TensorInfo(tuple(part.get_shape()), np.dtype(DTYPES[kind]), file)


def _check_index(directory: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """The index must name every tensor and the file it is in."""
    index = directory / INDEX
    if not index.is_file():
        return
    listed = _weight_map(index)
    wrong = sorted(
        name for name in listed.keys() | tensors.keys() if listed.get(name) != getattr(tensors.get(name), "file", None)
    )
    if wrong:
        raise ConversionError(
            f"{index} and the files disagree on {len(wrong)} tensors, the first being '{wrong[0]}' (index: "
            f"{listed.get(wrong[0])}, files: {getattr(tensors.get(wrong[0]), 'file', None)}). Copy the folder again."
        )


def write_tensors(
    directory: str | os.PathLike,
    files: Mapping[str, Iterator[tuple[str, np.ndarray]]],
    metadata: Mapping[str, Mapping[str, str]],
) -> None:
    """Writes safetensors files, each wholly or not at all, and the index where there is more than one.

    Args:
      directory: an existing folder.
      files: file name -> (tensor name, array) pairs; one file's arrays are in memory at a time.
      metadata: file name -> texts of its header.

    Raises:
      OSError: the disk refuses; files finished before stay.
    """
    directory, listed, total = Path(directory), {}, 0
    for file, pairs in files.items():
        tensors = {name: np.asarray(array, order="C") for name, array in pairs}  # keeps tensors without axes
        temporary = directory / f"{file}.tmp"
        try:
            save_file(tensors, temporary, metadata=dict(metadata.get(file, {})) or None)
            os.replace(temporary, directory / file)
        finally:
            temporary.unlink(missing_ok=True)
        listed |= dict.fromkeys(tensors, file)
        total += sum(array.nbytes for array in tensors.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(listed.items()))}
        temporary = directory / f"{INDEX}.tmp"
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, directory / INDEX)
