"""A scene's clouds as one compressed file that the viewer decodes, `encode` and its inverse `decode`.

The bytes before gzip, all little-endian: uint32 length of the header, the header (JSON, UTF-8), then planes of one byte
a point, in this order:

- `pixel`: differences of the places among the V*H*W pixels, 4 planes, low byte first;
- red, green, blue of the picture, each the difference to the point before (mod 256);
- place of the object + 1 (0 = none), 2 planes;
- for every cloud of the header: 1 where the point is there; x, y, z as 16-bit steps, of which the difference to the point
  before is stored (mod 65536, zigzag: 0, -1, 1, -2 ...), 2 planes each; and where the header has `confidence`, its
  logarithm in 255 steps.

A coordinate is `low + step * number`, a confidence `exp(low + step * number)`. The box of the steps holds the middle 99 %
of a cloud and as much again on each side: points outside it are left out and counted in `left_out`.
"""

from __future__ import annotations

import base64
import gzip
import json
import struct

import numpy as np

from spatialsv_jax.report.figure import Cloud, ShownPoints

FORMAT = 1
STEPS = 65535


def encode(shown: ShownPoints, cameras: dict) -> bytes:
    """The gzip file of a scene; equal input gives equal bytes.

    Args:
      shown: its points.
      cameras: JSON that the header carries as it is.
    """
    header = {
        "format": FORMAT,
        "points": len(shown.pixel),
        "shape": list(shown.shape),
        "cameras": cameras,
        "clouds": [],
    }
    planes = [*_bytes(np.diff(shown.pixel, prepend=0), 4)]
    planes += [np.diff(channel, prepend=np.uint8(0)) for channel in shown.colours.T]
    planes += _bytes(shown.instances.astype(np.int64) + 1, 2)
    for name, cloud in shown.clouds.items():
        entry, own = _cloud_planes(cloud)
        header["clouds"].append({"name": name, **entry})
        planes += own
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    data = struct.pack("<I", len(text)) + text + b"".join(plane.astype(np.uint8).tobytes() for plane in planes)
    return gzip.compress(data, 6, mtime=0)


def as_script(blob: bytes) -> str:
    """The blob as a classic script that hands it to the page: files may not be fetched from a page that is a file."""
    return f'spatialsvScene("{base64.b64encode(blob).decode("ascii")}");\n'


def decode(blob: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """Header and arrays: `pixel` int64[N], `colours` uint8[N,3], `instances` int16[N], per cloud `NAME/present` bool[N],
    `NAME/points` float64[N,3] (NaN where not present) and `NAME/confidence` float64[N].

    Raises:
      ValueError: another format, or bytes missing or left over.
    """
    data = gzip.decompress(blob)
    (length,) = struct.unpack_from("<I", data)
    header = json.loads(data[4 : 4 + length])
    if header["format"] != FORMAT:
        raise ValueError(f"The scene has format {header['format']}, expected {FORMAT}. Write the report again.")
    number = header["points"]
    count = 9 + sum(7 + ("confidence" in cloud) for cloud in header["clouds"])
    body = np.frombuffer(data, np.uint8, offset=4 + length)
    if len(body) != count * number:
        raise ValueError(f"The scene has {len(body)} bytes of points, expected {count} x {number}. Write it again.")
    rows = iter(body.reshape(count, number).astype(np.int64))
    take = lambda size: sum(next(rows) << (8 * place) for place in range(size))
    arrays = {"pixel": np.cumsum(take(4))}
    arrays["colours"] = np.stack([np.cumsum(next(rows)) % 256 for _ in range(3)], -1).astype(np.uint8)
    arrays["instances"] = (take(2) - 1).astype(np.int16)
    for cloud in header["clouds"]:
        name = cloud["name"]
        arrays[f"{name}/present"] = present = next(rows) > 0
        steps = []
        for _ in range(3):
            code = take(2)
            steps.append(np.cumsum((code >> 1) ^ -(code & 1)) % (STEPS + 1))
        points = np.array(cloud["low"]) + np.array(cloud["step"]) * np.stack(steps, -1)
        arrays[f"{name}/points"] = np.where(present[:, None], points, np.nan)
        if "confidence" in cloud:
            low, step = cloud["confidence"]
            arrays[f"{name}/confidence"] = np.exp(low + step * next(rows))
    return header, arrays


def _bytes(values: np.ndarray, count: int) -> list[np.ndarray]:
    return [(values >> (8 * place)) & 255 for place in range(count)]


def _cloud_planes(cloud: Cloud) -> tuple[dict, list[np.ndarray]]:
    points, present = cloud.points.astype(np.float64), cloud.present
    low, high = np.zeros(3), np.ones(3)
    if present.any():
        inner = np.percentile(points[present], [0.5, 99.5], axis=0)
        spread = inner[1] - inner[0]
        low = np.maximum(points[present].min(0), inner[0] - spread)
        high = np.minimum(points[present].max(0), inner[1] + spread)
    inside = present & (np.where(present[:, None], (points >= low) & (points <= high), False)).all(-1)
    step = np.maximum(high - low, 1e-9) / STEPS
    number = np.zeros(points.shape, np.int64)
    number[inside] = np.clip(np.round((points[inside] - low) / step), 0, STEPS).astype(np.int64)
    held = np.maximum.accumulate(np.where(inside, np.arange(len(points)), 0))  # absent points repeat the one before
    planes = [inside]
    for axis in range(3):
        change = np.diff(number[held, axis], prepend=0)
        change = (change + 32768) % 65536 - 32768
        planes += _bytes((change << 1) ^ (change >> 63), 2)
    entry = {
        "predicted": cloud.predicted,
        "low": low.tolist(),
        "step": step.tolist(),
        "left_out": int((present & ~inside).sum()),
    }
    if cloud.confidence is not None:
        logarithm = np.log(np.maximum(np.nan_to_num(cloud.confidence.astype(np.float64), nan=1e-6), 1e-6))
        chosen = logarithm[inside] if inside.any() else np.zeros(1)
        low_c, step_c = float(chosen.min()), max(float(np.ptp(chosen)), 1e-9) / 255
        entry["confidence"] = [low_c, step_c]
        planes.append(np.clip(np.round((logarithm - low_c) / step_c), 0, 255))
    return entry, planes
