"""manifest.json: what a prepared data set holds, with checksums; and the atomic writes behind it.

The manifest is written last. A folder without one is unfinished; a folder with one is complete,
and the manifest says for every file what its bytes must be. `docs/data_format.md` lists its keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.paths import as_path, file_size, is_remote
from data_pipelines.records import FORMAT_VERSION

MANIFEST_NAME = "manifest.json"
DATASET_NAME = "spatial_records"  # prefix of the shards and the tensorflow-datasets name
SHARD_SUFFIX = "array_record"
PROGRESS_NAME = ".preparing"  # folder of an unfinished preparation, inside the output folder


class PrepareError(RuntimeError):
    """Preparing or opening a data set failed for a reason that the message lets the user mend."""


class StorageError(PrepareError):
    """A disk or an object store refused; that may pass."""


def shard_name(split: str, index: int, shards: int) -> str:
    """File name of shard `index` of `shards`, as tensorflow-datasets builds it."""
    return f"{DATASET_NAME}-{split}.{SHARD_SUFFIX}-{index:05d}-of-{shards:05d}"


def to_json(value: object) -> str:
    """JSON text with sorted keys; refuses NaN and what JSON has no type for."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that is either wholly there or not at all, also after a kill or a power cut.

    Raises:
      OSError: the disk is full or not writable; nothing is left behind.
    """
    if is_remote(path):
        path.write_bytes(data)
        return
    # Told apart from that of another thread, and of a dead or doubled attempt, which may be on another machine.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(parts: Sequence[str]) -> str:
    """Hex SHA-256 over an ordered list of texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_manifest(directory: str | os.PathLike) -> dict:
    """The manifest of a prepared data set.

    Raises:
      PrepareError: no such folder, not a finished data set, an unreadable or newer manifest.
    """
    folder = as_path(directory)
    path = folder / MANIFEST_NAME
    if not path.is_file():
        if not folder.is_dir():
            raise PrepareError(f"{folder} is not a folder. Make a data set with python -m experiments.prepare.")
        if (folder / PROGRESS_NAME).is_dir():
            raise PrepareError(
                f"{folder} holds an unfinished data set (no {MANIFEST_NAME}). Run the same experiments.prepare "
                "command again: it goes on where it stopped."
            )
        raise PrepareError(f"{folder} holds no {MANIFEST_NAME}: it is not a data set made by experiments.prepare.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise PrepareError(f"{path} is damaged ({error!r}). Delete {path.parent} and prepare it again.") from error
    if version != FORMAT_VERSION:
        raise PrepareError(f"{path} has format {version}, this program reads {FORMAT_VERSION}. Prepare the data again.")
    return manifest


def differences(there: Mapping, asked: Mapping) -> list[str]:
    """One line per argument that differs, `name: X there, Y asked`."""
    lines = []
    for name in sorted(set(there) | set(asked)):
        old, new = there.get(name, "nothing"), asked.get(name, "nothing")
        if old != new:
            lines.append(f"{name}: {old!r} there, {new!r} asked")
    return lines


def check_shards(directory: str | os.PathLike, manifest: Mapping, splits: Sequence[str], verify: bool = False) -> None:
    """Checks that the shards are there with the right size and, with `verify`, the right bytes.

    Raises:
      PrepareError: naming every missing, truncated or altered shard.
    """
    problems = []
    for split in splits:
        for shard in manifest["splits"][split]["shards"]:
            path = as_path(directory) / shard["file"]
            if not path.is_file():
                problems.append(f"{shard['file']} is missing")
                continue
            size = file_size(path)
            if size != shard["bytes"]:
                kind = "truncated" if size < shard["bytes"] else "too long"
                problems.append(f"{shard['file']} is {kind}: {size} bytes instead of {shard['bytes']}")
            elif verify and (found := sha256_of(path)) != shard["sha256"]:
                problems.append(f"{shard['file']} was altered: sha256 {found}, the manifest says {shard['sha256']}")
    if problems:
        raise PrepareError(
            f"Data set {directory}: {'; '.join(problems)}. Copy the named shards again from where they were made, "
            "or delete the folder and run its experiments.prepare command again (the same shards come out)."
        )
