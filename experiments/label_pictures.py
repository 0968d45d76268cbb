"""Writes the pictures of a data set as files, for teachers' own programs (`experiments.label --pictures`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jax

from data_pipelines.labels.files import label_path
from data_pipelines.labels.views import differing_views, views_of
from data_pipelines.manifest import write_atomically
from data_pipelines.storage import open_split

PNG = b"\x89PNG"  # how such a file begins


def write_pictures(data: Path | str, out: Path | str, splits: Sequence[str]) -> int:
    """Writes every record's pictures as files, for programs that do not read our data: OUT/NAME/00.png, ... and views.json.

    Numbers have as many digits as the last, so that programs that sort names as text keep the order.

    Returns:
      The number of records.

    Raises:
      ValueError: a folder that holds other pictures, which exports in it may have been made of.
    """
    number = 0
    for split in splits:
        source = open_split(data, split)
        for index in range(jax.process_index(), len(source), jax.process_count()):
            record = source[index]
            if not record.view_ids:  # questions without pictures
                continue
            folder = label_path(out, record.id).with_suffix("")
            digits = max(2, len(str(len(record.images) - 1)))
            kinds = ["png" if image.startswith(PNG) else "jpg" for image in record.images]
            files = [f"{place:0{digits}d}.{kind}" for place, kind in enumerate(kinds)]
            views, there = {**views_of(record), "files": files}, folder / "views.json"
            if there.is_file() and (
                differing_views(there, record) or json.loads(there.read_text(encoding="utf-8")).get("files") != files
            ):
                raise ValueError(
                    f"{folder} holds pictures of before: exports made of them would be taken for those of the new ones. Give "
                    "another --out, or delete the folder."
                )
            folder.mkdir(parents=True, exist_ok=True)
            for file, image in zip(files, record.images, strict=True):
                (folder / file).write_bytes(image)
            write_atomically(there, (json.dumps(views) + "\n").encode())
            number += 1
    return number
