"""Which files are archives, and which of them are parts of one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.scene import natural

ENDINGS = re.compile(r"\.(tar|tgz|zip|tar\.(gz|bz2|xz))(\.?[a-z]{2}|\.(part)?\d+)?$", re.IGNORECASE)
_LETTERS = re.compile(r"(\.(?:tar\.gz|tar\.bz2|tar\.xz|tar|tgz))\.?((?!gz$|xz$)[a-z]{2})$")  # behind a name's ending
_MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}


def groups(files: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Archives with their parts in order: a file that does not begin as an archive goes on with the one before it.

    Raises:
      PrepareError: a file that is missing, is no archive, or a part whose predecessor is not given.
    """
    found: list[list[Path]] = []
    for file in sorted(dict.fromkeys(files), key=lambda path: natural(str(path))):
        if file.is_dir():
            inside = " ".join(map(str, archives_in(file, 1))) or "none"
            raise PrepareError(f"{file} is a folder. Give the archives themselves; those in it: {inside}.")
        if not file.is_file():
            raise PrepareError(f"{file} is not there.")
        before = found[-1][-1] if found else None
        follows = before is not None and _number(file) is not None and _stem(file) == _stem(before)
        if kind_of(file) and not (follows and kind_of(found[-1][0]) == "tar" and _cut(file)):
            found.append([file])
        elif not follows:
            raise PrepareError(f"{file} does not begin as a .tar, .tar.gz or .zip does. Is its first part missing?")
        elif _number(file) != _number(before) + 1:
            raise PrepareError(f"{file} follows {before.name}: a part between them is missing. Give all of them.")
        else:
            found[-1].append(file)
    return [tuple(parts) for parts in found]


def kind_of(file: Path) -> str:
    """ "gz", "bz2", "xz", "zip", "tar", or "" for a file that begins as none of them."""
    with open(file, "rb") as data:
        head = data.read(512)
    tar = head[257:262] == b"ustar" or (len(head) == 512 and not any(head))
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "tar" if tar else "")


def archives_in(folder: Path, depth: int = 3) -> list[Path]:
    """Files that are named as archives in `folder`, up to `depth` levels down."""
    found = [path for level in range(depth) for path in folder.glob("*/" * level + "*") if ENDINGS.search(path.name)]
    return sorted((path for path in found if path.is_file()), key=lambda path: natural(str(path)))


def _number(file: Path) -> int | None:
    """The number of a part: name-01.tar.gz, name.tar.part01, name.tar.gz.aa (letters count from 0)."""
    if letters := _LETTERS.search(file.name):
        return (ord(letters[2][0]) - 97) * 26 + ord(letters[2][1]) - 97
    digits = re.findall(r"\d+", file.name)
    return int(digits[-1]) if digits else None


def _stem(file: Path) -> str:
    """What the parts of one archive have in common."""
    return str(file.parent / re.sub(r"\d+(?=\D*$)", "", _LETTERS.sub(r"\1", file.name)))


def _cut(file: Path) -> bool:
    """Whether its name says that it is a piece of an archive: the number stands behind the ending."""
    return bool(_LETTERS.search(file.name) or re.search(r"\.(tar|tgz)\.?(part)?\d+$", file.name))
