"""Values of a checkpoint into (sharded) device arrays, and back into files.

Each device's part of a parameter is read from the memory-mapped files on its own: the host holds
one part at a time, never a whole stacked parameter of which a device has only a piece.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from spatialsv_jax.interop.base_record import BaseRecord
from spatialsv_jax.interop.conversion import Conversion, Filled
from spatialsv_jax.interop.tensor_files import TensorFolder, write_tensors


def read_parameters(
    conversion: Conversion, folder: TensorFolder, targets: Mapping[str, jax.ShapeDtypeStruct], progress: bool = False
) -> dict[str, jax.Array]:
    """The parameters that the checkpoint fills, as device arrays.

    Args:
      conversion: of `match` for this folder.
      folder: the checkpoint.
      targets: path -> shape, type and (optionally) sharding, by default this host's first device; floating types are converted.
      progress: whether to show a bar.

    Returns:
      path -> array, for every path of `conversion.filled`.
    """
    found = {}
    for path, entry in tqdm(conversion.filled.items(), desc="import", disable=not progress):
        target = targets[path]
        sharding = target.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        parts, held = [], (None, None)
        for device, index in sharding.addressable_devices_indices_map(entry.shape).items():
            place = tuple(part.indices(size) for part, size in zip(index, entry.shape, strict=True))
            if held[0] != place:  # devices with the same part follow each other or not; then it is read again
                held = (place, _read(entry, folder, index, target.dtype))
            parts.append(jax.block_until_ready(jax.device_put(held[1], device)))  # one part on the host at a time
        found[path] = jax.make_array_from_single_device_arrays(entry.shape, sharding, parts)
    return found


def _read(entry: Filled, folder: TensorFolder, index: tuple[slice, ...], dtype) -> np.ndarray:
    """The part `index` of a parameter, layer by layer."""
    index = tuple(slice(*part.indices(size)) for part, size in zip(index, entry.shape, strict=True))
    if not entry.rule.stacked:
        return np.asarray(_one(entry, folder, entry.sources[0])[index], dtype, order="C")
    layers = range(entry.shape[0])[index[0]]
    result = np.empty((len(layers), *(part.stop - part.start for part in index[1:])), dtype)
    for place, layer in enumerate(layers):
        result[place] = _one(entry, folder, entry.sources[layer])[index[1:]]
    return result


def _one(entry: Filled, folder: TensorFolder, name: str) -> np.ndarray:
    """One layer of a parameter in our layout."""
    rows = entry.rule.rows(folder.tensors[name].shape)
    return entry.rule.transform.to_ours(folder.read(name, (rows,)))


def write_checkpoint(
    conversion: Conversion,
    base: TensorFolder | BaseRecord,
    parameters: Mapping[str, jax.Array | np.ndarray],
    out: str | os.PathLike,
    progress: bool = False,
) -> None:
    """Writes parameters under the names, types and files of the checkpoint that they came from.

    Args:
      conversion: of `match` for the base checkpoint.
      base: the folder that was imported, or what is remembered of it; gives names, types, files, and tensors without a parameter.
      parameters: path -> array, at least the filled ones.
      out: an existing folder; other files in it are left alone.
      progress: whether to show a bar.

    Raises:
      KeyError: a parameter is missing.
      OSError: the disk refuses.
    """
    places: dict[str, list[tuple[Filled, int]]] = {}
    for entry in conversion.filled.values():
        for layer, name in enumerate(entry.sources):
            places.setdefault(name, []).append((entry, layer))
    for name, original in conversion.mirrored.items():
        places[name] = places[original]
    bar = tqdm(total=len(base.tensors), desc="export", disable=not progress)

    def tensors(file: str) -> Iterator[tuple[str, np.ndarray]]:
        for name, info in base.tensors.items():
            if info.file == file:
                yield name, _theirs(places[name], parameters, info) if name in places else base.read(name)
                bar.update(1)

    with bar:
        write_tensors(Path(out), {file: tensors(file) for file in base.files}, base.metadata)


def _theirs(places: list[tuple[Filled, int]], parameters: Mapping, info) -> np.ndarray:
    """A tensor of the checkpoint from the parameters that it fills (several for a fused one)."""
    parts = []
    for entry, layer in sorted(places, key=lambda place: place[0].rule.part):
        value = parameters[entry.target]
        if entry.rule.stacked:
            value = _layer(value, layer)
        parts.append(entry.rule.transform.to_theirs(_on_host(value)))
    return np.concatenate(parts).astype(info.dtype) if len(parts) > 1 else parts[0].astype(info.dtype)


def _layer(value: jax.Array | np.ndarray, layer: int) -> jax.Array | np.ndarray:
    # The number is traced: one program for all layers.
    return _pick(value, layer) if isinstance(value, jax.Array) else value[layer]


@jax.jit
def _pick(value: jax.Array, layer: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(value, layer, keepdims=False)


def _on_host(value: jax.Array | np.ndarray) -> np.ndarray:
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(value, tiled=True))
    return np.asarray(value)
