"""COLMAP's sparse models, text and binary, and its dense depth maps.

Source: the formats as COLMAP documents them. Poses there are world-to-camera, pixel coordinates have the picture's corner
at 0.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import (
    Distortion,
    Pose,
    check_pose,
    from_quaternion,
    pinhole,
    posed,
    wrong_lens,
)

MODELS = (
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV",
    "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE",
)  # fmt: skip
PARAMETERS = (3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12)


class Camera(NamedTuple):
    """One camera: (width, height), pinhole part float64[3,3], lens or None."""

    size: tuple[int, int]
    intrinsics: np.ndarray
    distortion: Distortion | None


class Image(NamedTuple):
    """One picture of the model."""

    name: str
    camera: int
    pose: Pose  # camera-to-world


def read_model(folder: Path) -> tuple[dict[int, Camera], list[Image]]:
    """Cameras by their ids, and the pictures, from `folder`'s .bin or .txt files.

    Raises:
      PrepareError: files missing, truncated or not of the format, or a camera model that has no closed form here.
    """
    for suffix, cameras, images in ((".bin", _cameras_bin, _images_bin), (".txt", _cameras_txt, _images_txt)):
        files = folder / f"cameras{suffix}", folder / f"images{suffix}"
        if all(file.is_file() for file in files):
            found = cameras(files[0]), images(files[1])
            if missing := sorted({image.camera for image in found[1]} - set(found[0])):
                raise PrepareError(f"{files[1]} names cameras {missing}, which {files[0].name} lacks.")
            return found
    raise PrepareError(f"{folder} has neither cameras.bin and images.bin nor cameras.txt and images.txt.")


def model_files(folder: Path) -> list[Path]:
    """The files that `read_model` may read, there or not."""
    return [folder / f"{name}{suffix}" for suffix in (".bin", ".txt") for name in ("cameras", "images")]


def camera_of(model: str, size: tuple[int, int], values: tuple[float, ...], where: str) -> Camera:
    """A camera from COLMAP's model name and parameters.

    Raises:
      PrepareError: an unknown model, numbers that are no camera, or a lens that cannot be that of such a picture.
    """
    if model not in MODELS or len(values) != PARAMETERS[MODELS.index(model)]:
        raise PrepareError(f"{where}: camera model '{model}' with {len(values)} parameters is unknown.")
    if model in ("FOV", "THIN_PRISM_FISHEYE"):
        raise PrepareError(f"{where}: lenses of model {model} are not read; run colmap image_undistorter first.")
    single = model.startswith("SIMPLE") or "RADIAL" in model  # one focal length
    fx, fy = (values[0], values[0]) if single else values[:2]
    cx, cy = values[1:3] if single else values[2:4]
    lens = tuple(values[3 if single else 4 :])
    if not np.isfinite(values).all() or min(fx, fy) <= 0 or min(size) < 1:
        raise PrepareError(f"{where}: {model} {size} {values} is no camera.")
    kind = "fisheye" if "FISHEYE" in model else "opencv"
    if kind == "opencv" and "RADIAL" in model:
        lens = (*lens, *(0.0,) * (2 - len(lens)))
    lens = (*lens, *(0.0,) * ({"fisheye": 4, "opencv": 8}[kind] - len(lens)))
    bent = any(lens) or kind == "fisheye"
    camera = Camera(size, pinhole(fx, fy, cx, cy), Distortion(kind, lens) if bent else None)
    if problem := wrong_lens(*camera):
        raise PrepareError(f"{where}: {problem}.")
    return camera


def read_dense_depth(file: Path) -> np.ndarray | None:
    """z-depth float32[h,w] of a stereo/depth_maps file in the model's unit; None if it cannot be read."""
    try:
        data = file.read_bytes()
        header = re.match(rb"(\d{1,6})&(\d{1,6})&(\d{1,2})&", data)
        width, height, channels = (int(value) for value in header.groups())
        values = np.frombuffer(data, "<f4", offset=header.end())
        return values.reshape(channels, height, width)[0] if channels == 1 else None
    except (OSError, AttributeError, ValueError):
        return None


def _rows(file: Path) -> list[tuple[int, str]]:
    """(line number, line) without comments; blank lines stay: a picture without points has one."""
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()  # a name so changed is not found
    return [(number, line) for number, line in enumerate(lines, 1) if not line.lstrip().startswith("#")]


def _cameras_txt(file: Path) -> dict[int, Camera]:
    found = {}
    if not file.read_bytes().endswith((b"\n", b"\r")):
        raise PrepareError(f"{file} ends without a line break: it may be cut. Add one if the last line is whole.")
    for number, line in _rows(file):
        words, where = line.split(), f"{file}, line {number}"
        if not words:
            continue
        try:
            identity, size = int(words[0]), (int(words[2]), int(words[3]))
            values = tuple(float(word) for word in words[4:])
        except (IndexError, ValueError) as error:
            raise PrepareError(f"{where}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS ({error}).") from error
        found[identity] = camera_of(words[1], size, values, where)
    return found


def _images_txt(file: Path) -> list[Image]:
    rows, found = _rows(file), []
    while rows and not rows[0][1].strip():  # blank lines before the first picture
        rows.pop(0)
    for number, line in rows[::2]:  # every second line lists points and may be empty
        words = line.split(None, 9)
        if not words:
            continue
        try:
            values = np.array(words[1:8], np.float64)
            found.append(_image(words[9].strip(), int(words[8]), values))
        except (IndexError, ValueError) as error:
            raise PrepareError(
                f"{file}, line {number}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME ({error})."
            ) from error
    return found


def _image(name: str, camera: int, values: np.ndarray) -> Image:
    qw, qx, qy, qz = values[:4]
    with np.errstate(invalid="ignore"):
        pose = check_pose(posed(from_quaternion(qx, qy, qz, qw), values[4:]))
    return Image(name, camera, Pose(np.linalg.inv(pose.matrix)) if pose.matrix is not None else pose)


class _Bytes:
    """Reads little-endian values one after the other; a file that ends early is an error that names it."""

    def __init__(self, file: Path):
        self.file, self.data, self.at = file, file.read_bytes(), 0

    def take(self, form: str) -> tuple:
        size = struct.calcsize(f"<{form}")
        if self.at + size > len(self.data):
            raise PrepareError(f"{self.file} is truncated at byte {self.at}. Copy it again.")
        values = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += size
        return values

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise PrepareError(f"{self.file} is truncated at byte {self.at}. Copy it again.")
        value, self.at = self.data[self.at : end].decode("utf-8", "replace"), end + 1
        return value

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise PrepareError(
                f"{self.file} is truncated: {len(self.data)} bytes, {self.at} are needed. Copy it again."
            )


def _cameras_bin(file: Path) -> dict[int, Camera]:
    data, found = _Bytes(file), {}
    for _ in range(data.take("Q")[0]):
        identity, model, width, height = data.take("iiQQ")
        if not 0 <= model < len(MODELS):
            raise PrepareError(f"{file}: camera {identity} has model {model}, known are 0 to {len(MODELS) - 1}.")
        values = data.take(f"{PARAMETERS[model]}d")
        found[identity] = camera_of(MODELS[model], (width, height), values, f"{file}, camera {identity}")
    return found


def _images_bin(file: Path) -> list[Image]:
    data, found = _Bytes(file), []
    for _ in range(data.take("Q")[0]):
        _, *values, camera = data.take("i7di")
        name = data.text()
        data.skip(24 * data.take("Q")[0])
        found.append(_image(name, camera, np.array(values)))
    return found
