"""Tables of benchmarks (JSON, JSON lines, TSV, parquet) row by row; pictures in them are read when they are asked for."""

from __future__ import annotations

import base64
import binascii
import csv
import functools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.benchmarks.items import Media, RawError
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.qa.files import entries

_REFERENCE = 64  # longest cell of a TSV that is an index of another row, not a picture


class Row:
    """One row of a table; its getters check, and name file, row and field.

    Attributes:
      place: file and row.
      fields: name -> value; of a picture in a parquet file a `Media`.
    """

    def __init__(self, place: str, fields: object):
        if not isinstance(fields, dict):
            raise RawError(f"{place}: expected an object, found {type(fields).__name__}.")
        self.place, self.fields = place, fields

    def error(self, field: str, problem: str) -> RawError:
        """An error about a field, to be raised."""
        return RawError(f"{self.place}, field '{field}': {problem}")

    def text(self, field: str) -> str:
        """A text that is not empty; whole numbers pass.

        Raises:
          RawError: it is missing, empty or of another type.
        """
        value = self.fields.get(field)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(field, f"expected text, found {self._shown(field)}.")
        return value

    def number(self, field: str) -> str:
        """A finite number, or text that is one, as text.

        Raises:
          RawError: it is none.
        """
        value = self.fields.get(field)
        try:
            if isinstance(value, bool) or not math.isfinite(float(value)):
                raise ValueError
        except (TypeError, ValueError):
            raise self.error(field, f"expected a number, found {self._shown(field)}.") from None
        return value.strip() if isinstance(value, str) else repr(value)

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of texts, not empty.

        Raises:
          RawError: it is none.
        """
        value = self.fields.get(field)
        if not isinstance(value, (list, tuple)) or not value or not all(isinstance(text, str) for text in value):
            raise self.error(field, f"expected a list of texts, found {self._shown(field)}.")
        return tuple(value)

    def letter(self, field: str, options: Sequence[str]) -> str:
        """An answer "B", "(B)", "B." or "B. text" whose letter is one of the options', as it stands there.

        Raises:
          RawError: it is none.
        """
        text = self.text(field)
        bare = text.strip().lstrip("(")
        known = [chr(ord("A") + place) for place, option in enumerate(options) if option.strip()]
        if bare[:1] not in known or bare[1:2] not in ("", ")", ".", ":"):
            raise self.error(field, f"expected one of the letters {', '.join(known)}, found {text!r}.")
        return text

    def media(self, field: str) -> tuple[Media, ...]:
        """The embedded picture, or list of them.

        Raises:
          RawError: there is none.
        """
        value = self.fields.get(field)
        found = (value,) if isinstance(value, Media) else tuple(value) if isinstance(value, list) else ()
        if not found or not all(isinstance(one, Media) for one in found):
            raise self.error(field, "expected one or several embedded pictures {bytes, path}, found none.")
        return found

    def plain(self) -> dict:
        """The row without pictures, as JSON types."""
        keep = lambda value: (
            not isinstance(value, (Media, bytes))
            and not (isinstance(value, list) and any(isinstance(one, Media) for one in value))
        )
        return {name: value for name, value in self.fields.items() if keep(value)}

    def _shown(self, field: str) -> str:
        return "nothing" if field not in self.fields else repr(self.fields[field])[:80]


def table_rows(path: Path, name: str, field: str | None = None) -> Iterator[Row]:
    """The rows of a .json, .jsonl, .parquet or .tsv file.

    Args:
      path: the file.
      name: how errors call it.
      field: of a .json that holds an object, the field with the list of rows.

    Raises:
      RawError: a file that cannot be read.
    """
    if field is not None:
        return _rows_of_field(path, name, field)
    return {".parquet": _parquet_rows, ".tsv": _tsv_rows}.get(path.suffix, _json_rows)(path, name)


def _json_rows(path: Path, name: str) -> Iterator[Row]:
    try:
        for entry in entries(path, name):
            if entry.error is not None:
                raise RawError(f"{entry.where}: {entry.error}.")
            yield Row(entry.where, entry.value)
    except PrepareError as error:
        raise error if isinstance(error, RawError) else RawError(str(error)) from error


def _rows_of_field(path: Path, name: str, field: str) -> Iterator[Row]:
    try:
        whole = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise RawError(f"{path} cannot be read as JSON: {error}.") from error
    rows = whole.get(field) if isinstance(whole, dict) else None
    if not isinstance(rows, list):
        raise RawError(f"{path} must hold an object with a list of rows in '{field}', found none.")
    for number, value in enumerate(rows, 1):
        yield Row(f"{name}, entry {number} of '{field}'", value)


def _tsv_rows(path: Path, name: str) -> Iterator[Row]:
    """A TSV of VLMEvalKit: base64 pictures in `image`, or the index of the row that has it."""
    csv.field_size_limit(sys.maxsize)
    pictures: dict[str, str] = {}
    shared: dict[str, str] = {}  # the same cell twice is held once
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for number, fields in enumerate(csv.DictReader(file, delimiter="\t"), 1):
                row = Row(f"{name}, row {number}", fields)
                if None in fields or None in fields.values():
                    raise RawError(f"{row.place}: has another number of cells than the header.")
                cell, index = row.text("image"), row.text("index")
                if len(cell) <= _REFERENCE:
                    if cell not in pictures:
                        raise row.error("image", f"refers to row {cell!r}, which is not above it in the file.")
                    cell, source = pictures[cell], cell
                else:
                    cell, source = shared.setdefault(cell, cell), index
                pictures[index] = cell
                fields["image"] = Media("image", f"{name}#{source}", load=functools.partial(_decoded, cell, row.place))
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RawError(f"{path} cannot be read as a TSV in UTF-8: {error}.") from error


def _decoded(cell: str, place: str) -> bytes:
    try:
        return base64.b64decode(cell, validate=True)
    except binascii.Error as error:
        raise RawError(f"{place}, field 'image': is no base64 ({error}).") from None


def _parquet_rows(path: Path, name: str) -> Iterator[Row]:
    """Rows without their pictures, which are read by row group when they are asked for."""
    parquet = _pyarrow()
    try:
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
        held = [field.name for field in schema if _holds_bytes(field.type)]
        others = [field.name for field in schema if field.name not in held]
        number = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=others).to_pylist()
            lengths = {column: _counts(file, group, column) for column in held}
            for place, fields in enumerate(rows):
                number += 1
                for column in held:
                    fields[column] = _embedded(path, name, group, place, number, column, lengths[column][place])
                yield Row(f"{name}, row {number}", fields)
    except (OSError, _errors()) as error:
        raise RawError(f"{path} cannot be read as parquet: {error}.") from error


def _holds_bytes(kind) -> bool:
    if _is_list(kind):
        return _holds_bytes(kind.value_type)
    names = [kind.field(place).name for place in range(kind.num_fields)] if str(kind).startswith("struct") else []
    return "bytes" in names or str(kind) in ("binary", "large_binary")


def _is_list(kind) -> bool:
    return str(kind).startswith(("list<", "large_list<"))


def _counts(file, group: int, column: str) -> list[int | None]:
    """Pictures of each row of a row group: None = one that stands alone, 0 = none."""
    kind = file.schema_arrow.field(column).type
    table = file.read_row_group(group, columns=[column]).column(column)
    if not _is_list(kind):
        return [None if valid else 0 for valid in table.is_valid().to_pylist()]
    import pyarrow.compute

    return [count or 0 for count in pyarrow.compute.list_value_length(table).to_pylist()]


def _embedded(path: Path, name: str, group: int, place: int, number: int, column: str, count: int | None):
    """`Media` of a cell: one, or a list."""
    made = [
        Media(
            "image",
            f"{name}#{number}.{column}[{which}]",
            load=functools.partial(_cell, path, group, place, column, which),
        )
        for which in range(1 if count is None else count)
    ]
    return made[0] if count is None else made


def _cell(path: Path, group: int, place: int, column: str, which: int) -> bytes:
    value = _group(path, group, column)[place].as_py()
    value = value[which] if isinstance(value, list) else value
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        raise RawError(f"{path}, row group {group}, field '{column}': the picture has no bytes.")
    return data


def _group(path: Path, group: int, column: str):
    """A column of a row group; those of the last groups are kept, because a question's pictures may lie in several."""
    read = _read_columns(path, group)
    if column not in read:
        read[column] = _pyarrow().ParquetFile(path).read_row_group(group, columns=[column]).column(column)
    return read[column]


@functools.lru_cache(maxsize=2)
def _read_columns(path: Path, group: int) -> dict:
    return {}


def _pyarrow():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise RawError(f'Parquet files need pyarrow ({error}): python -m pip install -e ".[benchmarks]".') from None
    return pyarrow.parquet


def _errors() -> type[Exception]:
    import pyarrow

    return pyarrow.ArrowException
