"""views.json: which pictures the files of `experiments.label --pictures` are, beside every export that is made of them."""

from __future__ import annotations

import json
from pathlib import Path

from data_pipelines.labels.files import LabelError, images_hash
from data_pipelines.records import Record


def views_of(record: Record) -> dict:
    """What views.json says of a record's pictures, beside their files."""
    return {"record_id": record.id, "view_ids": list(record.view_ids), "images_hash": images_hash(record.images)}


def differing_views(file: Path, record: Record) -> list[str]:
    """Names of the fields in which a views.json differs from the record.

    Raises:
      LabelError: it is no such file.
    """
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
        return [name for name, value in views_of(record).items() if there.get(name) != value]
    except (ValueError, AttributeError) as error:
        raise LabelError(f"{file} is no views.json of experiments.label --pictures ({error}).") from error
