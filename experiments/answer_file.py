"""predictions.jsonl while it is being made: every line is on disk before the next batch, and a later run goes on behind it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from spatialsv_jax.evaluation.statistics import plain, write_json

PREDICTIONS, ASKED = "predictions.jsonl", "asked.json"


class AnswerFile:
    """Answers so far, in OUT/predictions.jsonl, and what was asked of whom, in OUT/asked.json.

    Args:
      folder: OUT; made if it is not there.
      asked: everything that the answers depend on, plain JSON types.
      known: ids that may stand in the file.

    Raises:
      ValueError: the file's answers were made with something else, named field by field, or hold a line that is not ours.
    """

    def __init__(self, folder: Path, asked: Mapping, known: Iterable[str]):
        self.path, asked = folder / PREDICTIONS, plain(asked)
        folder.mkdir(parents=True, exist_ok=True)
        self.done: set[str] = set()
        note = folder / ASKED
        if self.path.exists():
            if not note.exists():
                raise ValueError(f"{self.path} is there already, without {ASKED} beside it. Give another --out.")
            if changed := _changed(json.loads(note.read_text("utf-8")), asked):
                raise ValueError(
                    f"The answers in {self.path} were made otherwise: {'; '.join(changed)}. Give another --out to begin "
                    "anew, or the same model, data and options to go on."
                )
            self._read(set(known))
        write_json(note, asked)

    def append(self, lines: Iterable[Mapping]) -> None:
        """Writes answers through to the disk."""
        lines = [plain(line) for line in lines]
        text = "".join(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n" for line in lines)
        with open(self.path, "ab") as file:
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        self.done |= {line["id"] for line in lines}

    def lines(self) -> list[dict]:
        """All answers, in the order of the file."""
        return [json.loads(line) for line in self.path.read_text("utf-8").split("\n") if line]

    def _read(self, known: set[str]) -> None:
        """Takes over the answers that are there; half a line, of a run that was killed, is cut off."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with open(self.path, "r+b") as file:
                file.truncate(whole)
        for number, line in enumerate(content[:whole].decode("utf-8").split("\n")[:-1], 1):
            try:
                name = json.loads(line)["id"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{self.path}, line {number}: is no answer. Give another --out.") from None
            if name not in known or name in self.done:
                what = "stands there twice" if name in self.done else "is not asked here"
                raise ValueError(f"{self.path}, line {number}: the question {name!r} {what}. Give another --out.")
            self.done.add(name)


def _changed(old: Mapping, new: Mapping, name: str = "") -> list[str]:
    """The fields that differ, with both values."""
    result = []
    for key in [*old, *(key for key in new if key not in old)]:
        here = f"{name}{key}"
        first, second = old.get(key), new.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            result += _changed(first, second, f"{here}.")
        elif first != second:
            result.append(f"{here} was {_short(first)} and is {_short(second)}")
    return result


def _short(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
