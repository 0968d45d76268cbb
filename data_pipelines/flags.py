"""Fields of a source's settings that are flags of `experiments.prepare`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator

LARGEST = 2.0**63  # of any number: beyond it lie mistakes alone


def flag(default, text: str, above: float | None = None):
    """A dataclass field whose `text` stands in the command's help; a number must be `above` another where that is given."""
    return dataclasses.field(default=default, metadata={"help": text, "above": above})


def wrong_numbers(settings: object) -> list[str]:
    """What is wrong with the numbers of settings: each must be finite, and above what its `flag` states."""
    problems = []
    for field in dataclasses.fields(settings):
        above = field.metadata.get("above")
        for number in _numbers(getattr(settings, field.name)):
            if not abs(number) <= LARGEST:  # of NaN neither
                problems.append(f"--{field.name} is {number}, expected a finite number")
            elif above is not None and not number > above:
                problems.append(f"--{field.name} is {number}, expected a number above {above:g}")
    return problems


def _numbers(value: object) -> Iterator[float]:
    """All numbers of a setting, also in tuples."""
    if isinstance(value, tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def value_of(settings: type, name: str, text: str) -> object:
    """A text as the value of a field of `settings`: a bool, a number, a text, or numbers joined by commas.

    Raises:
      ValueError: there is no such field, or it is of another type; says what was expected.
    """
    hints = typing.get_type_hints(settings)
    if name not in hints:
        raise ValueError(f"has no setting '{name}'")
    kind = hints[name]
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return tuple(float(part) for part in text.split(",")) if kind is tuple else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"'{name}' is '{text}', expected {getattr(kind, '__name__', kind)}") from None
