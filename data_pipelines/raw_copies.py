"""Raw data in an object store, as a copy on this machine: sources read files, many of them, in any order.

`localised` finds the `gs://` folders in a source's settings, copies each, and puts the copy's place in. Workers on other
machines make the same copy under the same path before their first shard (`refresh_once`).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import fsspec
from tqdm import tqdm

from data_pipelines.manifest import PrepareError, StorageError, write_atomically
from data_pipelines.paths import copies_folder

_REMOTE = re.compile(r"\w+://[^,\s]+")  # a folder in a text that may hold several, joined by commas
_LIST, _LOCK = ".copied.json", ".lock"
_SPARE = 2**30  # bytes that are left free
_THREADS = 8

Copy = tuple[str, str]  # (gs://bucket/folder, the copy's absolute path)


def localised(settings: object, progress: bool = True) -> tuple[object, tuple[Copy, ...]]:
    """Settings in which every remote folder is a fresh copy on this machine, and those copies.

    Raises:
      PrepareError: see `refresh`.
    """
    copies: dict[str, str] = {}

    def replaced(text: str) -> str:
        def local(match: re.Match) -> str:
            remote = match.group().rstrip("/")
            copies[remote] = str(copies_folder() / "raw" / hashlib.sha256(remote.encode()).hexdigest()[:16])
            return copies[remote]

        return _REMOTE.sub(local, text)

    changed = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, str):
            value = replaced(value)
        elif isinstance(value, tuple):
            value = tuple(replaced(part) if isinstance(part, str) else part for part in value)
        changed[field.name] = value
    for remote, local in copies.items():
        refresh(remote, Path(local), progress)
    return (dataclasses.replace(settings, **changed) if copies else settings), tuple(copies.items())


_fresh: set[Copy] = set()


def refresh_once(copies: Sequence[Copy]) -> None:
    """Makes copies that this process has not looked at yet; for workers."""
    for remote, local in copies:
        if (remote, local) not in _fresh:
            refresh(remote, Path(local), progress=False)
            _fresh.add((remote, local))


def refresh(remote: str, local: Path, progress: bool = True) -> None:
    """Brings a copy to what the store holds: new and changed objects are copied, those that are gone are removed.

    Files appear whole or not at all and carry the object's time of change, so that what looks at sizes and times sees a
    changed object. Processes that want the same copy wait for each other.

    Raises:
      PrepareError: nothing is there, a name leads out of the folder, the disk has no room, or a copy fails.
    """
    try:
        local.mkdir(parents=True, exist_ok=True)
        with open(local / _LOCK, "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _refresh(remote, local, progress)
    except OSError as error:
        raise StorageError(
            f"Cannot copy {remote} to {local}: {error}. What was copied is kept; run the same command again."
        ) from error


def _refresh(remote: str, local: Path, progress: bool) -> None:
    try:
        store, root = fsspec.core.url_to_fs(remote)
        found = store.find(root, detail=True)
    except ImportError as error:
        raise PrepareError(
            f"{remote} needs a package that is not installed: pip install 'spatialsv-jax[gcs]'."
        ) from error
    if not found:
        raise PrepareError(f"{remote} is not a folder, or is empty.")
    objects = {_name(remote, root, path): (path, entry) for path, entry in found.items()}
    wanted = {
        name: [entry["size"], str(_changed(entry)), str(entry.get("etag", ""))] for name, (_, entry) in objects.items()
    }
    listed = local / _LIST
    held = json.loads(listed.read_text()) if listed.exists() else {}
    there = lambda name: (local / name).is_file() and (local / name).stat().st_size == wanted[name][0]
    missing = [name for name, facts in wanted.items() if held.get(name) != facts or not there(name)]
    need = sum(wanted[name][0] for name in missing)
    if missing and need + _SPARE > (free := shutil.disk_usage(local).free):
        raise PrepareError(
            f"{remote}: {need / 2**30:.1f} GiB are to be copied to {local}, where {free / 2**30:.1f} GiB are free. Set "
            "SPATIALSV_CACHE to a folder on a larger disk, or mount the bucket and give its folder."
        )
    # What is no longer as listed is struck off first, so that a stopped copy is looked at again.
    kept = {name: facts for name, facts in held.items() if wanted.get(name) == facts and name not in missing}
    write_atomically(listed, json.dumps(kept).encode())
    for name in set(held) - set(wanted):
        (local / name).unlink(missing_ok=True)
    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        tqdm(
            total=need, unit="B", unit_scale=True, desc=f"copying {remote}", mininterval=2.0, disable=not progress
        ) as bar,
    ):
        for name in pool.map(lambda name: _fetch(store, *objects[name], local / name) or name, missing):
            bar.update(wanted[name][0])
    write_atomically(listed, json.dumps(wanted).encode())


def _name(remote: str, root: str, path: str) -> str:
    """An object's name below the folder.

    Raises:
      PrepareError: it would lead out of the copy, or is one of the copy's own files.
    """
    name = os.path.relpath(path, root) if path.startswith("/") else path.removeprefix(root).lstrip("/")
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or name in (_LIST, _LOCK):
        raise PrepareError(f"{remote}: the object '{path}' has a name that cannot be a file of the folder. Rename it.")
    return name


def _fetch(store, path: str, entry: dict, there: Path) -> None:
    there.parent.mkdir(parents=True, exist_ok=True)
    temporary = there.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        store.get_file(path, str(temporary))
        if (size := temporary.stat().st_size) != entry["size"]:
            raise OSError(f"{path} came with {size} of {entry['size']} bytes")
        if stamp := _changed(entry):
            os.utime(temporary, (stamp, stamp))
        os.replace(temporary, there)
    finally:
        temporary.unlink(missing_ok=True)


def _changed(entry: dict) -> float:
    """When an object was changed, in seconds; 0 if the store does not say."""
    stamp = next((entry[key] for key in ("mtime", "updated", "LastModified", "created") if entry.get(key)), 0.0)
    if isinstance(stamp, str):
        stamp = datetime.datetime.fromisoformat(stamp)
    return stamp.timestamp() if isinstance(stamp, datetime.datetime) else float(stamp)


def origin_of(origin: dict, copies: Sequence[Copy]) -> dict:
    """Facts for the reader of a manifest, with the folders that were given in place of their copies."""
    text = json.dumps(dict(origin))
    for remote, local in copies:
        text = text.replace(json.dumps(local)[1:-1], json.dumps(remote)[1:-1])
    return json.loads(text)
