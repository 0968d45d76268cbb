"""Scores of records from all hosts of a job on the first: each wrote its own beside the result, exactly, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from data_pipelines.manifest import write_atomically
from experiments import hosts
from spatialsv_jax.evaluation.predictions import Meter
from spatialsv_jax.evaluation.runner import Scored
from spatialsv_jax.metrics.camera import PairErrors

_ARRAY, _TUPLE, _PAIRS = "~array", "~tuple", "~pairs"


def own_places(number: int) -> range:
    """The records, of `number`, that this host evaluates."""
    return range(jax.process_index(), number, jax.process_count())


def gather(own: Sequence[Scored], meter: Meter, folder: Path) -> list[Scored] | None:
    """The scores of all records on the first host, in order, and None on the others; all hosts call it.

    Args:
      own: of this host's `own_places`.
      meter: what this host generated; on the first host then what all did, in the seconds of the slowest.
      folder: that all hosts see. Files in it are removed again.
    """
    if jax.process_count() == 1:
        return list(own)
    part = lambda index: folder / f".scores-p{index}.json"
    folder.mkdir(parents=True, exist_ok=True)
    values = {"records": [_encode(vars(record)) for record in own], "meter": vars(meter)}
    write_atomically(part(jax.process_index()), json.dumps(values).encode())
    hosts.wait()
    if not hosts.is_first():
        return None
    parts = [json.loads(part(index).read_text()) for index in range(jax.process_count())]
    meter.tokens = sum(found["meter"]["tokens"] for found in parts)
    meter.seconds = max(found["meter"]["seconds"] for found in parts)
    number = sum(len(found["records"]) for found in parts)
    records = [parts[place % len(parts)]["records"][place // len(parts)] for place in range(number)]
    for index in range(len(parts)):
        part(index).unlink()
    return [Scored(**_decode(record)) for record in records]


def _encode(value):
    """JSON of nested dicts, lists, tuples, arrays and `PairErrors`; numbers keep every bit."""
    if isinstance(value, dict):
        return {name: _encode(entry) for name, entry in value.items()}
    if isinstance(value, PairErrors):
        return {_PAIRS: [_encode(entry) for entry in value]}
    if isinstance(value, tuple):
        return {_TUPLE: [_encode(entry) for entry in value]}
    if isinstance(value, list):
        return [_encode(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return {_ARRAY: value.tolist(), "dtype": value.dtype.name}
    return value.item() if isinstance(value, np.generic) else value


def _decode(value):
    if isinstance(value, list):
        return [_decode(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if _ARRAY in value:
        return np.array(value[_ARRAY], value["dtype"])
    if _TUPLE in value:
        return tuple(_decode(entry) for entry in value[_TUPLE])
    if _PAIRS in value:
        return PairErrors(*(_decode(entry) for entry in value[_PAIRS]))
    return {name: _decode(entry) for name, entry in value.items()}
