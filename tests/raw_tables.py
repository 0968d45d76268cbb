"""Files that invented raw folders are made of: pictures, films, tables, archives."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(shade: int, size=(48, 36), form="PNG") -> bytes:
    """An encoded picture of (width, height), a ramp of grey beside one shade."""
    ramp = np.linspace(0, 255, size[0]).astype(np.uint8)
    pixels = np.stack(
        [np.broadcast_to(ramp, size[::-1]), np.full(size[::-1], shade), np.full(size[::-1], 255 - shade)], -1
    )
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, form)
    return buffer.getvalue()


def video(path: Path, frames: int, size=(48, 32)) -> None:
    """A film whose frame k is as bright as 8 k."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.options = *size, "yuv420p", {"qscale": "2"}
        for number in range(frames):
            shade = np.full((size[1], size[0], 3), min(8 * number, 255), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        container.mux(stream.encode())


def lines(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def parquet(path: Path, rows) -> None:
    """Rows whose `bytes` become embedded pictures {bytes, path}, two rows a group."""
    import pyarrow
    import pyarrow.parquet

    def cell(value):
        if isinstance(value, list) and value and isinstance(value[0], bytes):
            return [cell(one) for one in value]
        return {"bytes": value, "path": None} if isinstance(value, bytes) else value

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist([{name: cell(value) for name, value in row.items()} for row in rows])
    pyarrow.parquet.write_table(table, path, row_group_size=2)


def tsv(path: Path, rows) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


def packed(path: Path, files) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
