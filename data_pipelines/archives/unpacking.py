"""Unpacks archives that nobody vouches for: .tar, .tar.gz (.bz2, .xz), .zip, and tars that were cut into parts.

Nothing is written outside of the folder, nothing there is overwritten, every file appears whole or not at all, and the same
call goes on after a stop. What would do harm stops the work with a message that names archive and member.
"""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.archives.members import CHUNK, Limits, Member, check_room, members_of, target_of
from data_pipelines.archives.parts import kind_of
from data_pipelines.manifest import PrepareError

# What the readers raise on broken files; ValueError for names that are no text.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, ValueError,
    IndexError, OverflowError,
)  # fmt: skip


class Counts(NamedTuple):
    """What became of an archive's members."""

    written: int
    already_there: int
    bytes_written: int


def unpack(
    parts: Sequence[Path], out: Path, limits: Limits, on_bytes: Callable[[int], None] = lambda n: None
) -> Counts:
    """Writes an archive's files below `out`.

    Args:
      parts: the archive, or its parts in order.
      out: folder; made when missing.
      limits: what it may unpack to.
      on_bytes: is told how many packed bytes were read.

    Raises:
      PrepareError: a member that leads out of the folder, is a device, or a link to anything but a file of the archive; one that
        differs from the file that is there; more bytes than the limits or the disk allow; a damaged or truncated archive.
    """
    name, kind = parts[0].name, kind_of(parts[0])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrepareError(f"{out} cannot be made: {error}.") from error
    packed = sum(part.stat().st_size for part in parts)
    if kind == "zip" and len(parts) > 1:
        raise PrepareError(f"{name}: a .zip in parts is not read. Join it first: zip -s 0 {name} --out whole.zip.")
    check_room(name, packed if kind != "zip" else 0, out)  # pictures hardly pack: at least as much will be written
    written = there = total = 0
    repeats: list[Member] = []
    try:
        with _locked(out), members_of(parts, kind, limits, packed, out, on_bytes) as members:
            for member in members:
                target = target_of(name, member, out)
                total += member.size
                if total > limits.size:
                    raise PrepareError(f"{name} unpacks to more than {limits.size:.3g} bytes (at '{member.name}').")
                if member.link:
                    repeats.append(member)
                    continue
                fresh = _place(name, member, target, out)
                written, there = written + fresh, there + (not fresh)
            links = {os.path.normpath(member.name): member.link for member in repeats}
            for member in repeats:
                member = member._replace(link=_end_of(name, member, links))
                fresh = _place(name, _copy_of(name, member, out), target_of(name, member, out), out)
                written, there = written + fresh, there + (not fresh)
    except _DAMAGE as error:
        raise PrepareError(f"{name} is damaged, truncated or lacks a part: {error}. Fetch it again.") from error
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile) or "data stream" in str(error):
            raise PrepareError(f"{name} is damaged: {error}. Fetch it again.") from error
        raise PrepareError(f"{name} cannot be unpacked into {out}: {error}.") from error
    except RuntimeError as error:
        if isinstance(error, PrepareError):
            raise
        raise PrepareError(f"{name} cannot be read: {error}.") from error  # zipfile: a password is needed
    return Counts(written, there, total)


def _end_of(archive: str, member: Member, links: Mapping[str, str]) -> str:
    """The name at the end of a chain of links.

    Raises:
      PrepareError: they go round.
    """
    seen, link = [os.path.normpath(member.name)], member.link
    while link in links:
        if link in seen:
            raise PrepareError(f"{archive}: '{member.name}' is a link that leads to itself.")
        seen.append(link)
        link = links[link]
    return link


def _copy_of(archive: str, member: Member, out: Path) -> Member:
    """A member with the bytes of the file that it links to: no links are made."""
    source = target_of(archive, member._replace(name=member.link), out)
    if not source.is_file() or source.is_symlink():
        raise PrepareError(f"{archive}: '{member.name}' links to '{member.link}', which is no file of the archive.")
    return member._replace(size=source.stat().st_size, link="", open=lambda: open(source, "rb"))


def _place(archive: str, member: Member, target: Path, out: Path) -> bool:
    """Writes one file; False if it is there already.

    Raises:
      PrepareError: something else is there, or the bytes are not as many as stated.
    """
    if target.exists() or target.is_symlink():
        same = target.is_file() and target.stat().st_size == member.size
        if not same or not _equal(member, target):
            raise PrepareError(
                f"{archive}: '{member.name}' is there already and differs ({target}). Nothing was overwritten; move it away or "
                "unpack into another folder."
            )
        return False
    check_room(f"{archive}, '{member.name}'", member.size, out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise PrepareError(f"{archive}: '{member.name}' needs a folder where a file is ({error.filename}).") from error
    unfinished = out / ".unpacking"
    with member.open() as source, open(unfinished, "wb") as file:
        left = member.size
        while chunk := source.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise PrepareError(f"{archive}: '{member.name}' holds more than the {member.size} bytes it states.")
            file.write(chunk)
        if left:
            raise PrepareError(f"{archive} is truncated in '{member.name}': {left} bytes are missing. Fetch it again.")
    os.replace(unfinished, target)
    return True


def _equal(member: Member, target: Path) -> bool:
    with member.open() as source, open(target, "rb") as file:
        while True:
            ours, theirs = source.read(CHUNK), file.read(CHUNK)
            if ours != theirs:
                return False
            if not ours:
                return True


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    import fcntl

    lock = out / ".unpacking.lock"
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PrepareError(f"Another process is unpacking into {out}. Wait for it, or end it.") from None
        try:
            yield
        finally:
            (out / ".unpacking").unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
