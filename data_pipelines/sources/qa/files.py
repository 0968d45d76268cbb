"""Question files: a JSON list, or JSON line by line; every entry with the place where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.qa.rows import RowError

_BLANK = b" \t\r\n\xef\xbb\xbf"


class Entry(NamedTuple):
    """One entry: its line (from 1) or number in the list, where it stands, and its value (or what is wrong with it)."""

    number: int
    at: int  # byte at which its line begins; its place in a list
    where: str
    value: object
    error: RowError | None = None


def entries(file: Path) -> Iterator[Entry]:
    """The entries of a .json (a list) or .jsonl file; blank lines are passed over.

    Raises:
      PrepareError: a file that cannot be read as text, or a .json that holds no list.
    """
    try:
        if file.suffix.lower() != ".jsonl":
            yield from _listed(file)
            return
        at = 0
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                begins, at = at, at + len(line)
                if not line.strip(_BLANK):
                    continue
                where = f"{file.name}, line {number}"
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


def _listed(file: Path) -> Iterator[Entry]:
    try:
        values = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PrepareError(f"{file} is not JSON: {error}. (JSON line by line must end in .jsonl.)") from error
    if not isinstance(values, list):
        raise PrepareError(f"{file} must hold a JSON list of rows, not {type(values).__name__}.")
    for number, value in enumerate(values, 1):
        yield Entry(number, number - 1, f"{file.name}, entry {number}", value)


def mapping(value: object) -> dict:
    """A row's fields.

    Raises:
      RowError: it is no object.
    """
    if not isinstance(value, dict):
        raise RowError("", f"is {type(value).__name__}, expected an object", "not_an_object")
    return value
