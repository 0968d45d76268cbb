"""Raw data in an object store, as a copy on this machine: sources read files, many of them, in any order.

`localised` finds the `gs://` folders in a source's settings, copies each, and puts the copy's place in. Workers on other
machines make the same copy under the same path before their first shard (`make_copies`). A plan knows what the store held when
it was made; who makes records of a copy that holds something else refuses (`check_copies`).
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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import fsspec
from tqdm import tqdm

from data_pipelines.manifest import PrepareError, StorageError, fingerprint, write_atomically
from data_pipelines.paths import copies_folder

_REMOTE = re.compile(r"\w+://[^,]*[^,\s]")  # a folder in a text that may hold several, joined by commas
_LIST, _LOCK = ".copied.json", ".lock"
_LISTING = ".listing"  # the hash of a copy's list, there while the copy is whole
_SPARE = 2**30  # bytes that are left free
_THREADS = 8


class Copy(NamedTuple):
    """A remote folder (gs://bucket/folder), its copy's absolute path, and the hash of what the store held."""

    remote: str
    local: str
    listing: str


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
    made = tuple(Copy(remote, local, refresh(remote, Path(local), progress)) for remote, local in copies.items())
    return (dataclasses.replace(settings, **changed) if copies else settings), made


def make_copies(copies: Sequence[Copy]) -> None:
    """Makes copies that are not on this machine as the plan knows them; for workers.

    Raises:
      PrepareError: see `refresh`.
    """
    for copy in copies:
        if _listing_of(Path(copy.local)) != copy.listing:
            refresh(copy.remote, Path(copy.local), progress=False, listing=copy.listing)


def check_copies(copies: Sequence[Copy]) -> None:
    """Refuses copies that are no longer what the plan was made of.

    Raises:
      PrepareError: naming the copy.
    """
    for copy in copies:
        if _listing_of(Path(copy.local)) != copy.listing:
            raise PrepareError(
                f"{copy.local}, the copy of {copy.remote}, changed while data were prepared from it (another command looked at the "
                "store again). Run again."
            )


def _listing_of(local: Path) -> str:
    """The hash of a whole copy's list, "" of another."""
    try:
        return (local / _LISTING).read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


def refresh(remote: str, local: Path, progress: bool = True, listing: str = "") -> str:
    """Brings a copy to what the store holds: new and changed objects are copied, those that are gone are removed.

    Files appear whole or not at all and carry the object's time of change, so that what looks at sizes and times sees a
    changed object. Processes that want the same copy wait for each other.

    Args:
      remote: the folder.
      local: where its copy lies.
      progress: show a bar.
      listing: hash of what the store must hold; "" = anything.

    Returns:
      The hash of what the store holds: names, sizes, times of change.

    Raises:
      PrepareError: nothing is there, or something else than `listing`, a name leads out of the folder, the disk has no room,
        or a copy fails.
    """
    try:
        local.mkdir(parents=True, exist_ok=True)
        with open(local / _LOCK, "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _refresh(remote, local, progress, listing)
    except OSError as error:
        raise StorageError(
            f"Cannot copy {remote} to {local}: {error}. What was copied is kept; run the same command again."
        ) from error


def _refresh(remote: str, local: Path, progress: bool, listing: str) -> str:
    if listing and _listing_of(local) == listing:  # another process made it while this one waited
        return listing
    try:
        store, root = fsspec.core.url_to_fs(remote)
        found = store.find(root, detail=True)
    except ImportError as error:
        raise PrepareError(
            f"{remote} needs a package that is not installed: pip install 'spatialsv-jax[gcs]'."
        ) from error
    if not found:
        raise PrepareError(f"{remote} is not a folder, or is empty.")
    if [path.strip("/") for path in found] == [root.strip("/")]:
        raise PrepareError(f"{remote} is a file, not a folder. Copy it to this machine and give its path here.")
    objects = {_name(remote, root, path): (path, entry) for path, entry in found.items()}
    wanted = {
        name: [entry["size"], str(_changed(entry)), str(entry.get("etag", ""))] for name, (_, entry) in objects.items()
    }
    holds = fingerprint([json.dumps(wanted, sort_keys=True)])
    if listing and holds != listing:
        raise PrepareError(f"{remote} changed while data were prepared from it. Run again.")
    listed = local / _LIST
    held = json.loads(listed.read_text()) if listed.exists() else {}
    there = lambda name: (local / name).is_file() and (local / name).stat().st_size == wanted[name][0]
    missing = [name for name, facts in wanted.items() if held.get(name) != facts or not there(name)]
    strangers = list(_strangers(local, wanted))
    if not missing and not strangers and _listing_of(local) == holds:
        return holds
    need = sum(wanted[name][0] for name in missing)
    if missing and need + _SPARE > (free := shutil.disk_usage(local).free):
        raise PrepareError(
            f"{remote}: {need / 2**30:.1f} GiB are to be copied to {local}, where {free / 2**30:.1f} GiB are free. Set "
            "SPATIALSV_CACHE to a folder on a larger disk, or mount the bucket and give its folder."
        )
    # What is no longer as listed is struck off first, so that a stopped copy is looked at again.
    (local / _LISTING).unlink(missing_ok=True)
    kept = {name: facts for name, facts in held.items() if wanted.get(name) == facts and name not in missing}
    write_atomically(listed, json.dumps(kept).encode())
    for path in strangers:
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        tqdm(
            total=need, unit="B", unit_scale=True, desc=f"copying {remote}", mininterval=2.0, disable=not progress
        ) as bar,
    ):
        for name in pool.map(lambda name: _fetch(store, *objects[name], local / name) or name, missing):
            bar.update(wanted[name][0])
    write_atomically(listed, json.dumps(wanted).encode())
    write_atomically(local / _LISTING, holds.encode())
    return holds


def _strangers(local: Path, wanted: Iterable[str]) -> Iterator[Path]:
    """Files and folders of the copy that the store does not hold, inner ones first: also what a stopped copy left."""
    files = {str(local / name) for name in (*wanted, _LIST, _LOCK, _LISTING)}
    folders = {str(folder) for folder in {Path(file).parent for file in files} for folder in (folder, *folder.parents)}
    for folder, _, names in os.walk(local, topdown=False):
        yield from (Path(folder, name) for name in names if os.path.join(folder, name) not in files)
        if folder not in folders:
            yield Path(folder)


def _name(remote: str, root: str, path: str) -> str:
    """An object's name below the folder.

    Raises:
      PrepareError: it would lead out of the copy, or is one of the copy's own files.
    """
    name = os.path.relpath(path, root) if path.startswith("/") else path.removeprefix(root).lstrip("/")
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or name in (_LIST, _LOCK, _LISTING):
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
    for copy in copies:
        text = text.replace(json.dumps(copy.local)[1:-1], json.dumps(copy.remote)[1:-1])
    return json.loads(text)
