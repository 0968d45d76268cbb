"""Question files: a JSON list, or JSON line by line; every entry with the place where it stands."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.qa.problems import RowError

_BLANK = b" \t\r\n\xef\xbb\xbf"


class Entry(NamedTuple):
    """One entry: its line (from 1) or number in the list, where it stands, and its value (or what is wrong with it)."""

    number: int
    at: int  # byte at which its line begins; its place in a list
    where: str
    value: object
    error: RowError | None = None


class Named(NamedTuple):
    """A question file: where it lies, its name in messages, and in ids."""

    path: str
    name: str  # below the raw folder
    stem: str  # without its ending, where no other file has that


def named(files: Sequence[Path], raw: Path) -> tuple[Named, ...]:
    """Question files with their names below `raw`, so that files of one name in several folders are told apart.

    Raises:
      PrepareError: a file stands there twice.
    """
    names = [os.path.relpath(file, raw).replace(os.sep, "/") for file in files]
    if twice := [name for name, number in collections.Counter(names).items() if number > 1]:
        raise PrepareError(f"Question files are named twice: {', '.join(twice)}.")
    stems = collections.Counter(name.rsplit(".", 1)[0] for name in names)
    short = (name.rsplit(".", 1)[0] for name in names)
    return tuple(
        Named(str(file), name, stem if stems[stem] == 1 else name)
        for file, name, stem in zip(files, names, short, strict=True)
    )


def question_files(raw: Path) -> list[Path]:
    """All .json and .jsonl files in `raw`; where there are none, in the folders below it. Hidden ones are passed over."""
    for search in (raw.glob, raw.rglob):
        if found := [path for path in _written_so(search) if not hidden(path, raw)]:
            return found
    return []


def hidden_files(raw: Path) -> list[Path]:
    """Files that would be question files, but for a name or folder that no question file has."""
    return [path for path in _written_so(raw.rglob) if hidden(path, raw)]


def hidden(path: Path, raw: Path) -> bool:
    """Whether a name below `raw` begins with a dot, as AppleDouble's do, or goes through __MACOSX."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(raw).parts)


def _written_so(search) -> list[Path]:
    return sorted(path for path in search("*") if path.suffix.lower() in (".json", ".jsonl") and path.is_file())


def entries(file: Path | str, name: str = "") -> Iterator[Entry]:
    """The entries of a .json (a list) or .jsonl file; blank lines are passed over.

    Args:
      file: the file.
      name: how it is called in `Entry.where`; by default its own name.

    Raises:
      PrepareError: a file that cannot be read as text, or a .json that holds no list.
    """
    file = Path(file)
    try:
        if file.suffix.lower() != ".jsonl":
            yield from _listed(file, name or file.name)
            return
        at = 0
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                begins, at = at, at + len(line)
                if not line.strip(_BLANK):
                    continue
                where = f"{name or file.name}, line {number}"
                try:
                    yield Entry(number, begins, where, _parsed(line))
                except (ValueError, RecursionError) as error:
                    yield Entry(number, begins, where, None, RowError("", f"is not JSON: {error}", "not_json"))
    except OSError as error:
        raise PrepareError(f"{file} cannot be read as UTF-8 text: {error}.") from error


def reread(file: Path, at: int) -> object:
    """The entry of a .jsonl file whose line begins at byte `at`."""
    with open(file, "rb") as lines:
        lines.seek(at)
        return _parsed(lines.readline())


def _parsed(line: bytes) -> object:
    return json.loads(line.decode("utf-8-sig"))  # raises ValueError for broken UTF-8 too


def _listed(file: Path, name: str) -> Iterator[Entry]:
    try:
        values = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PrepareError(f"{file} is not JSON: {error}. (JSON line by line must end in .jsonl.)") from error
    if not isinstance(values, list):
        raise PrepareError(f"{file} must hold a JSON list of rows, not {type(values).__name__}.")
    for number, value in enumerate(values, 1):
        yield Entry(number, number - 1, f"{name}, entry {number}", value)


def mapping(value: object) -> dict:
    """A row's fields.

    Raises:
      RowError: it is no object.
    """
    if not isinstance(value, dict):
        raise RowError("", f"is {type(value).__name__}, expected an object", "not_an_object")
    return value
