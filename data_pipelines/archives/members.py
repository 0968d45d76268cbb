"""The files of an archive one after the other; what would do harm stops them."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.scene import inside

CHUNK = 1 << 20  # bytes that are read at a time
_HEADER_LIMIT = 1 << 20  # bytes of one tar header (long names, attributes), which Python holds in memory
_RATIO_FROM = 1 << 26  # unpacked bytes from which the ratio is looked at: small files of text may pack well
SPARE = 1 << 30  # bytes of the disk that are left free


class Limits(NamedTuple):
    """What an archive may unpack to."""

    size: float = 4e12  # bytes of all its files
    ratio: float = 200.0  # unpacked to packed bytes; pictures hardly pack at all


class Member(NamedTuple):
    """One file of an archive."""

    name: str
    size: int
    link: str  # name, from the archive's top, of the member that it repeats; "" = it has its own bytes
    open: Callable[[], BinaryIO]


@contextlib.contextmanager
def members_of(parts, kind: str, limits: Limits, packed: int, out: Path, on_bytes) -> Iterator[Iterator[Member]]:
    """The files of an archive in its order; folders are left out, they are made with their files."""
    if kind == "zip":
        with zipfile.ZipFile(parts[0]) as archive:
            yield _zip_members(archive, parts[0].name, limits, packed, out, on_bytes)
        return
    with contextlib.ExitStack() as stack:
        joined = _Joined([stack.enter_context(open(part, "rb")) for part in parts], on_bytes)
        opener = {"gz": lambda f: gzip.GzipFile(fileobj=f), "bz2": bz2.BZ2File, "xz": lzma.LZMAFile, "tar": lambda f: f}
        plain = _Watched(opener[kind](joined), joined, parts[0].name, limits.ratio)
        archive = stack.enter_context(tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header))
        yield _tar_members(archive, parts[0].name)
        while plain.read(CHUNK):  # to the end, where gzip's sum stands
            pass
        if any(plain.tail) or len(plain.tail) < 512:
            raise PrepareError(f"{parts[0].name} has no end mark of a tar: it is truncated, or a part is missing.")


def check_room(what: str, size: int, out: Path) -> None:
    """Raises PrepareError if the disk does not hold `size` more bytes."""
    free = shutil.disk_usage(out).free
    if size + SPARE > free:
        raise PrepareError(
            f"{what} needs {size / 2**30:.1f} GiB, and {out} has {free / 2**30:.1f} GiB left, of which 1 stays free. Make room; "
            "the same command goes on."
        )


def target_of(archive: str, member: Member, out: Path) -> Path:
    """Where a member is to be written; raises PrepareError if that is not in `out`."""
    try:
        if os.path.isabs(member.name):
            raise PrepareError(f"the absolute name {member.name!r} leads out of the folder.")
        return inside(out, member.name)
    except PrepareError as error:
        raise PrepareError(f"{archive}: {error} The rest of the archive was not unpacked.") from error


def _zip_members(archive: zipfile.ZipFile, name: str, limits: Limits, packed: int, out: Path, on_bytes):
    files = [info for info in archive.infolist() if not info.is_dir()]
    total = sum(info.file_size for info in files)
    if total > limits.size or (total > _RATIO_FROM and total > limits.ratio * packed):
        raise PrepareError(f"{name} states {total} bytes in {packed}: more than --max_gb or --max_ratio allow.")
    for info in files:  # a zip lists its members in advance: nothing is written of one with an evil member
        if (kind := stat.S_IFMT(info.external_attr >> 16)) not in (0, stat.S_IFREG):
            raise PrepareError(
                f"{name}: '{info.filename}' is a link or device ({kind:o}), which a .zip must not bring."
            )
        target_of(name, Member(info.filename, 0, "", lambda: io.BytesIO()), out)
    check_room(name, sum(info.file_size for info in files if not (out / info.filename).exists()), out)
    for info in files:
        yield Member(info.filename, info.file_size, "", lambda info=info: archive.open(info))
        on_bytes(info.compress_size)


def _tar_members(archive: tarfile.TarFile, name: str) -> Iterator[Member]:
    for info in archive:
        if info.isdir():
            continue
        if info.issym() or info.islnk():
            start = os.path.dirname(info.name) if info.issym() else ""
            link = os.path.join(start, info.linkname) if info.linkname else ""
            if not link or os.path.isabs(info.linkname):
                raise PrepareError(f"{name}: '{info.name}' links to '{info.linkname}', out of the folder.")
            yield Member(info.name, 0, os.path.normpath(link), lambda: io.BytesIO())
        elif info.isreg() and not info.issparse():
            yield Member(info.name, info.size, "", lambda info=info: archive.extractfile(info))
        else:
            raise PrepareError(f"{name}: '{info.name}' is a device, a pipe or a sparse file, which data sets have not.")


class _Header(tarfile.TarInfo):
    """A tar header; long names and attributes are held in memory by tarfile, so their size is limited."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        """See `tarfile.TarInfo.frombuf`."""
        found = super().frombuf(buf, encoding, errors)
        if found.type not in tarfile.SUPPORTED_TYPES or found.type in (b"L", b"K", b"x", b"g", b"X"):
            if found.size > _HEADER_LIMIT:
                raise PrepareError(
                    f"A header of {found.size} bytes stands in the archive: it is damaged or meant to do harm."
                )
        if found.size < 0:
            raise PrepareError(f"The archive's member '{found.name}' states {found.size} bytes.")
        return found


class _Joined(io.RawIOBase):
    """Parts as one stream."""

    def __init__(self, files: list[BinaryIO], on_bytes: Callable[[int], None]):
        self._files, self._on_bytes, self.count = list(files), on_bytes, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        while self._files:
            if data := self._files[0].read(size):
                self.count += len(data)
                self._on_bytes(len(data))
                return data
            self._files.pop(0)
        return b""


class _Watched:
    """The unpacked stream of a tar: stops a bomb, and remembers the end."""

    def __init__(self, source, packed: _Joined, name: str, ratio: float):
        self._source, self._packed, self._name, self._ratio = source, packed, name, ratio
        self._count, self.tail = 0, b""

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._count += len(data)
        self.tail = (self.tail + data)[-512:]
        if self._count > _RATIO_FROM and self._count > self._ratio * self._packed.count:
            raise PrepareError(
                f"{self._name} unpacks to more than {self._ratio:g} times its size: a decompression bomb? Give --max_ratio if not."
            )
        return data
