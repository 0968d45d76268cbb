"""Fields of a source's settings that are flags of `experiments.prepare`."""

from __future__ import annotations

import dataclasses


def flag(default, text: str):
    """A dataclass field whose `text` stands in the command's help."""
    return dataclasses.field(default=default, metadata={"help": text})
