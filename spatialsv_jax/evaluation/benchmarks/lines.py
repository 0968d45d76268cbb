"""Lines of predictions.jsonl as the scorers need them, checked field by field."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NEEDED = ("id", "question_type", "prediction", "ground_truth", "options")


class LineError(ValueError):
    """A line that cannot be scored; the message names file, line and field."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One question with its answer.

    Attributes:
      place: file and line, as errors name them.
      id: unique in the file.
      question_type: task, category or level, as the benchmark calls it.
      prediction: raw text of the model.
      ground_truth: the true answer; several where the benchmark has several.
      options: texts of the options in order, with or without "A." before them; None where there are none.
      scene: what questions share their pictures, or None.
      dataset: the source within the benchmark, or None.
    """

    place: str
    id: str
    question_type: str
    prediction: str
    ground_truth: str | tuple[str, ...]
    options: tuple[str, ...] | None
    scene: str | None
    dataset: str | None

    def error(self, field: str, problem: str) -> LineError:
        """An error about `field` of this line, to be raised."""
        return LineError(f"{self.place}, field {field!r}: {problem}")

    @property
    def truth(self) -> str:
        """The only true answer.

        Raises:
          LineError: there are several.
        """
        if not isinstance(self.ground_truth, str):
            raise self.error("ground_truth", "expected one text, not a list.")
        return self.ground_truth

    def letter(self, last: str = "Z") -> str:
        """Letter of the true answer, upper case: "B", "(B)", "b." and "B. text" give "B".

        Raises:
          LineError: there is none up to `last`, or the line has options and none of them has this letter.
        """
        match = re.fullmatch(r"\(?([A-Za-z])\)?(?:[.:)](?:\s.*)?)?", self.truth.strip(), re.DOTALL)
        if match is None or match.group(1).upper() > last:
            raise self.error("ground_truth", f"expected an option letter A to {last}, found {self.truth!r}.")
        self.check_option(letter := match.group(1).upper())
        return letter

    def check_option(self, letter: str) -> None:
        """Raises LineError where the line has options and `letter` is none of them, or one without text."""
        if self.options is None:
            return
        there = [name for name, text in zip(LETTERS, self.options, strict=False) if text.strip()]
        if letter not in there:
            raise self.error("ground_truth", f"{letter!r} is none of the line's options, {', '.join(there)}.")

    def number(self) -> float:
        """The true number.

        Raises:
          LineError: it is none, or not finite.
        """
        try:
            value = float(self.truth)
        except ValueError:
            value = float("nan")
        if value - value != 0:
            raise self.error("ground_truth", f"expected a number, found {self.truth!r}.")
        return value

    def choices(self) -> dict[str, str]:
        """Letter -> text of the options that are not empty; a letter that stands before every text is taken off.

        Raises:
          LineError: there are no options.
        """
        if not self.options:
            raise self.error("options", "this scorer needs the texts of the options, found none.")
        texts = list(self.options)
        marked = [re.fullmatch(r"\(?([A-Z])[.):]\s*(.*)", text.strip(), re.DOTALL) for text in texts]
        named = [match.group(1) if match else None for match in marked]
        if named == list(LETTERS[: len(texts)]):
            texts = [match.group(2) for match in marked]
        return {letter: text for letter, text in zip(LETTERS, texts, strict=False) if text.strip()}


def read(path: Path | str) -> list[Line]:
    """Reads a predictions file: one JSON object per line with the fields of `NEEDED`, and scene and dataset.

    Raises:
      LineError: no UTF-8 text, an empty file, a line that is no JSON object, a field that is missing or of a wrong type, an id twice.
      OSError: the file cannot be read.
    """
    lines: list[Line] = []
    seen: dict[str, str] = {}
    try:
        content = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LineError(f"{path}: not UTF-8 text (byte {error.start}); expected one JSON object per line.") from None
    for number, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        line = _line(text, f"{path}, line {number}")
        if line.id in seen:
            raise line.error("id", f"{line.id!r} stands on {seen[line.id]} already; every question counts once.")
        seen[line.id] = f"line {number}"
        lines.append(line)
    if not lines:
        raise LineError(f"{path}: no predictions in it, expected one JSON object per line.")
    return lines


def _line(text: str, place: str) -> Line:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise LineError(f"{place}: not JSON ({error.msg} at column {error.colno}).") from None
    if not isinstance(row, Mapping):
        raise LineError(f"{place}: expected a JSON object, found {type(row).__name__}.")
    for name in NEEDED:
        if name not in row:
            raise LineError(
                f"{place}, field {name!r}: missing. Needed are {', '.join(NEEDED)}; scene and dataset if any."
            )
    truth = row["ground_truth"]
    if isinstance(truth, list):
        truth = tuple(_text(place, "ground_truth", item) for item in truth)
        if not truth:
            raise LineError(f"{place}, field 'ground_truth': an empty list.")
    else:
        truth = _text(place, "ground_truth", truth)
    # An empty answer would equal it.
    if not all(text.strip() for text in ([truth] if isinstance(truth, str) else truth)):
        raise LineError(f"{place}, field 'ground_truth': is empty; a question without its answer cannot be scored.")
    options = row["options"]
    if options is not None:
        if not isinstance(options, list):
            raise LineError(f"{place}, field 'options': expected a list of texts or null, found {options!r}.")
        options = tuple(_text(place, "options", "" if item is None else item) for item in options) or None
    if not isinstance(row["prediction"], str):
        found = repr(row["prediction"])
        raise LineError(f"{place}, field 'prediction': expected text (empty for no answer), found {found[:60]}.")
    return Line(
        place,
        _text(place, "id", row["id"]),
        _text(place, "question_type", row["question_type"]),
        row["prediction"],
        truth,
        options,
        *(None if row.get(name) is None else _text(place, name, row[name]) for name in ("scene", "dataset")),
    )


def _text(place: str, field: str, value) -> str:
    # JSON's true and false are int in Python, and would become the texts 'True' and 'False'.
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise LineError(f"{place}, field {field!r}: expected text or a number, found {type(value).__name__}.")
