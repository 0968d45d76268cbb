"""Turns a plain mapping (a config's sub-dict) into a frozen dataclass, refusing unknown keys."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Mapping, where: str) -> T:
    """Builds the dataclass `cls` from `mapping`.

    Lists become tuples; ints are accepted for floats; nothing else is converted.

    Args:
      cls: a dataclass type.
      mapping: key -> value; keys must be fields of `cls`.
      where: the config path, for messages (for instance `config.lifting`).

    Raises:
      ValueError: an unknown key (with the nearest and all legal keys) or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    legal = {field.name for field in dataclasses.fields(cls)}
    values = {}
    for key, value in mapping.items():
        if key not in legal:
            near = difflib.get_close_matches(key, sorted(legal), 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"{where}.{key} is not a setting.{hint} Legal keys: {', '.join(sorted(legal))}.")
        values[key] = _coerce(value, hints[key], f"{where}.{key}")
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where} lacks {missing}.")
    return cls(**values)


def _coerce(value, hint, where: str):
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        kinds = [option for option in options if option is not type(None)]
        for kind in kinds:
            try:
                return _coerce(value, kind, where)
            except ValueError:
                if kind is kinds[-1]:
                    raise
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is tuple or origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} must be a list, not {value!r}.")
        return tuple(value)
    if isinstance(hint, type) and not (isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        raise ValueError(f"{where} must be {hint.__name__}, not {value!r} ({type(value).__name__}).")
    return value
