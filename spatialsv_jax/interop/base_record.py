"""What an export needs of the checkpoint that a model came from, once that folder may be gone.

`base_tensors.json` (names, shapes, types, files and header texts of all tensors) and
`base_carried.st` (tensors that are no parameters) beside a model's processor. No jax here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spatialsv_jax.interop.tensor_files import (
    DTYPES,
    INDEX,
    ConversionError,
    TensorFolder,
    TensorInfo,
    read_single,
    write_tensors,
)

RECORD, CARRIED = "base_tensors.json", "base_carried.st"
_NAMES = {np.dtype(kind): name for name, kind in DTYPES.items()}


def write_record(
    folder: TensorFolder, carried: Sequence[str], mirrored: Mapping[str, str], out: str | os.PathLike
) -> None:
    """Remembers a checkpoint's headers, and the values of its tensors `carried`, in the folder `out`.

    `mirrored` are names of tensors that repeat another (`conversion.Conversion`).
    """
    out = Path(out)
    index = folder.directory / INDEX
    record = {
        "files": list(folder.files),
        "metadata": folder.metadata,
        "mirrored": sorted(mirrored),
        "tensors": {name: [list(info.shape), _NAMES[info.dtype], info.file] for name, info in folder.tensors.items()},
        "index": index.read_text(encoding="utf-8") if index.is_file() else None,
    }
    (out / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
    if carried:
        write_tensors(out, {CARRIED: ((name, folder.read(name)) for name in carried)}, {})


class BaseRecord:
    """A remembered checkpoint; what `arrays.write_checkpoint` needs of a `TensorFolder`.

    Attributes:
      directory, files, tensors, metadata: as those of `TensorFolder`.
      index: text of its index file, None where there was none.
      mirrored: names of tensors that repeat another.

    Raises:
      ConversionError: no record in the folder: the model did not come from such a checkpoint.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        path = self.directory / RECORD
        if not path.is_file():
            raise ConversionError(
                f"{path} is missing: this model was not started from a Hugging Face checkpoint, so there is no layout to "
                "export it in. Train with config.init_from=FOLDER of such a checkpoint."
            )
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            self.files, self.metadata, self.index = tuple(record["files"]), record["metadata"], record["index"]
            self.mirrored = frozenset(record["mirrored"])
            self.tensors = {
                name: TensorInfo(tuple(shape), np.dtype(DTYPES[kind]), file)
                for name, (shape, kind, file) in record["tensors"].items()
            }
        except (ValueError, KeyError, TypeError) as error:
            raise ConversionError(f"{path} is damaged ({error!r}). Import the checkpoint again.") from error
        carried = self.directory / CARRIED
        self._carried = read_single(carried) if carried.is_file() else {}

    def read(self, name: str) -> np.ndarray:
        """A tensor without a parameter.

        Raises:
          KeyError: no such tensor was carried along.
        """
        return self._carried[name]
