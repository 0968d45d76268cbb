"""Reading one scene of posed RGB-D frames: names, intrinsics, poses, pictures.

Layout (that of ScanNet's exporter): color/N.jpg|png, depth/N.png (16 bit), pose/N.txt
(camera-to-world, 4x4), intrinsic/intrinsic_color.txt and intrinsic_depth.txt (4x4 or 3x3).
N is any name with one number that orders the frames; colour and depth are registered.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.manifest import PrepareError, sha256_of
from data_pipelines.sources.base import Tally

COLOUR_SUFFIXES = (".jpg", ".jpeg", ".png")
ROTATION_TOLERANCE = 1e-2  # largest |R^T R - 1| of a pose that is a rotation written with few digits
ASPECT_TOLERANCE = 0.02  # ScanNet's 1296x968 and 640x480 differ by 0.4 %
PRINCIPAL_TOLERANCE = 0.2  # |2 cx - width| / width above which the matrix is for another picture size


@dataclasses.dataclass(frozen=True)
class Reading:
    """How to read frames; see `PosedSettings` for the meaning."""

    principal_point: str
    intrinsics_size: str
    max_size: int


@dataclasses.dataclass(frozen=True)
class Scene:
    """One scene folder; `size` (width, height) and `intrinsics` are those of the records' pictures."""

    name: str
    path: str
    numbers: tuple[int, ...]  # frames with a colour picture, ascending
    colour_size: tuple[int, int]
    depth_size: tuple[int, int] | None
    size: tuple[int, int]
    intrinsics: tuple[tuple[float, ...], ...]
    mirrored: bool  # fy < 0: y of camera and world are turned over


@dataclasses.dataclass(frozen=True)
class Frame:
    """One usable frame."""

    number: int
    image: bytes
    depth: bytes
    camera_to_world: np.ndarray
    pose_valid: bool


def numbered_files(folder: Path, suffixes: tuple[str, ...]) -> dict[int, Path]:
    """Frame number -> file; the number is the last run of digits before the suffixes.

    Raises:
      PrepareError: two files with one number.
    """
    files: dict[int, Path] = {}
    if not folder.is_dir():
        return files
    for path in sorted(folder.iterdir()):
        digits = re.findall(r"\d+", path.name.split(".")[0])
        if path.suffix.lower() not in suffixes or not digits:
            continue
        number = int(digits[-1])
        if number in files:
            raise PrepareError(f"{files[number]} and {path} both have number {number}. Keep one of them.")
        files[number] = path
    return files


@functools.lru_cache(maxsize=8)
def _files(path: str) -> tuple[dict[int, Path], dict[int, Path], dict[int, Path]]:
    folder = Path(path)
    return (
        numbered_files(folder / "color", COLOUR_SUFFIXES),
        numbered_files(folder / "depth", (".png",)),
        numbered_files(folder / "pose", (".txt",)),
    )


def forget_listings() -> None:
    """Drops what is remembered of folders, which may have changed since the last data set."""
    _files.cache_clear()
    _repeats_identity.cache_clear()


def file_states(path: Path) -> list[str]:
    """A line per frame's file that changes with it: a pose's content, a picture's size and time of change."""
    lines = []
    for kind, files in zip(("colour", "depth", "pose"), _files(str(path)), strict=True):
        for file in files.values():
            if kind == "pose":
                lines.append(f"{kind} {file.name} {sha256_of(file)}")
            else:
                state = file.stat()
                lines.append(f"{kind} {file.name} {state.st_size} {state.st_mtime_ns // 1000}")
    return lines


def open_scene(path: Path, reading: Reading) -> Scene | str:
    """Looks at a scene folder; a text instead of a scene says why it cannot be used.

    Raises:
      PrepareError: intrinsics that are missing, unreadable or for another picture size, or colour
        and depth of different shape: mistakes that would spoil every frame.
    """
    colour, depth, _ = _files(str(path))
    colour_size = next((size for size in map(_header_size, colour.values()) if size), None)
    if colour_size is None:
        return f"no readable picture among {len(colour)} in color/"
    depth_size = next((size for size in map(_header_size, depth.values()) if size), None)
    size = depth_size or colour_size
    if abs(colour_size[0] * size[1] / (colour_size[1] * size[0]) - 1) > ASPECT_TOLERANCE:
        raise PrepareError(f"{path}: colour is {colour_size}, depth {depth_size}: they are not registered pictures.")
    matrix = _scene_intrinsics(path, colour_size, depth_size, reading)
    factor = min(1.0, reading.max_size / max(size)) if reading.max_size else 1.0
    final = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    matrix = _scaled(matrix, size, final)
    mirrored = bool(matrix[1, 1] < 0)
    if mirrored:
        matrix[1, 1] *= -1
    return Scene(
        name=path.name,
        path=str(path),
        numbers=tuple(sorted(colour)),
        colour_size=colour_size,
        depth_size=depth_size,
        size=final,
        intrinsics=tuple(map(tuple, matrix.tolist())),
        mirrored=mirrored,
    )


def _header_size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError):
        return None


def _scene_intrinsics(path: Path, colour_size, depth_size, reading: Reading) -> np.ndarray:
    """float64[3,3] for pictures of `depth_size` (of `colour_size` without depth), centres at +0.5."""
    folder = path / "intrinsic"
    own = {"depth": depth_size, "color": colour_size}
    for kind in ("depth", "color"):
        file = folder / f"intrinsic_{kind}.txt"
        if own[kind] is None or not file.is_file():
            continue
        matrix = _read_intrinsics(file, reading)
        stated = reading.intrinsics_size
        made_for = tuple(map(int, stated.split("x"))) if stated else own[kind]
        for axis, name in enumerate(("cx", "cy")):
            middle, side = 2 * matrix[axis, 2], made_for[axis]
            if abs(middle - side) > PRINCIPAL_TOLERANCE * side:
                raise PrepareError(
                    f"{file}: {name} = {matrix[axis, 2]:g} does not fit a picture of {made_for[0]}x{made_for[1]}. If the "
                    "matrix was made for another size, say so with --intrinsics_size WIDTHxHEIGHT: it is then scaled."
                )
        return _scaled(matrix, made_for, depth_size or colour_size)
    raise PrepareError(
        f"{folder} has no intrinsic_depth.txt or intrinsic_color.txt that fits the pictures there. Write fx, fy, cx, cy "
        "as a 3x3 or 4x4 matrix into intrinsic_color.txt."
    )


def _read_intrinsics(file: Path, reading: Reading) -> np.ndarray:
    values = _numbers(file)
    if values is None or values.size not in (9, 16) or not np.isfinite(values).all():
        raise PrepareError(f"{file}: expected a 3x3 or 4x4 matrix of numbers.")
    matrix = values.reshape(3, 3) if values.size == 9 else values.reshape(4, 4)[:3, :3].copy()
    if matrix[0, 0] <= 0 or matrix[1, 1] == 0 or not np.allclose(matrix[2], [0, 0, 1]) or matrix[1, 0] != 0:
        raise PrepareError(f"{file}: not a camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx > 0: {matrix}.")
    if reading.principal_point == "centre":
        matrix[:2, 2] += 0.5
    return matrix


def _scaled(matrix: np.ndarray, size: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Corner convention: row x times the width's ratio, row y times the height's, nothing else."""
    return np.diag([new[0] / size[0], new[1] / size[1], 1.0]) @ matrix


def _numbers(file: Path) -> np.ndarray | None:
    try:
        return np.array(file.read_text().replace(",", " ").split(), np.float64)
    except (OSError, ValueError):
        return None


def pose_of(file: Path | None) -> tuple[np.ndarray | None, str]:
    """(float64[4,4] camera-to-world, "") or (None, why it is not usable)."""
    if file is None:
        return None, "missing"
    values = _numbers(file)
    if values is None or values.size not in (12, 16):
        return None, "unreadable"
    if not np.isfinite(values).all():
        return None, "not_finite"
    pose = np.eye(4)
    pose[: values.size // 4] = values.reshape(-1, 4)
    if not values.any():
        return None, "all_zero"
    rotation = pose[:3, :3]
    if (
        np.abs(rotation.T @ rotation - np.eye(3)).max() > ROTATION_TOLERANCE
        or np.linalg.det(rotation) < 0
        or np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6
    ):
        return None, "not_a_rigid_motion"
    return pose, ""


@functools.lru_cache(maxsize=8)
def _repeats_identity(path: str) -> bool:
    """Whether several frames have the identity pose, which trackers write when they are lost."""
    poses = (pose_of(file)[0] for file in _files(path)[2].values())
    return sum(pose is not None and np.array_equal(pose, np.eye(4)) for pose in poses) > 1


def read_frame(scene: Scene, number: int, reading: Reading, tally: Tally) -> Frame | None:
    """One frame with pictures of `scene.size`; None (counted, with its reason) if the colour is unusable.

    Depth steps 0 and 65535 are invalid and become 0. A depth picture that is missing, undecodable
    or wholly invalid becomes b""; a pose that is no rigid motion is masked. All are counted.

    Raises:
      PrepareError: a depth picture that is not 16-bit grey.
    """
    colour, depth, poses = _files(scene.path)
    name = f"{scene.name}/{number}"
    tally.counts["frames_read"] += 1
    image, reason = _read_colour(colour[number], scene)
    if image is None:
        tally.skip(name, f"color/{colour[number].name}: {reason}", "frames_dropped")
        return None
    encoded, reason = _read_depth(depth.get(number), scene)
    if reason:
        tally.counts[f"depth_missing/{reason}"] += 1
    pose, reason = pose_of(poses.get(number))
    if pose is not None and np.array_equal(pose, np.eye(4)) and _repeats_identity(scene.path):
        pose, reason = None, "repeated_identity"
    if pose is None:
        tally.counts[f"pose_masked/{reason}"] += 1
    elif scene.mirrored:
        mirror = np.diag([1.0, -1.0, 1.0, 1.0])
        pose = mirror @ pose @ mirror
    tally.counts["frames_kept"] += 1
    return Frame(number, image, encoded, np.eye(4) if pose is None else pose, pose is not None)


def _read_colour(path: Path, scene: Scene) -> tuple[bytes | None, str]:
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            orientation = picture.getexif().get(274, 1)
            kind = picture.format
            if picture.size != scene.colour_size:
                return None, f"is {picture.size}, the scene's pictures are {scene.colour_size}"
            if orientation != 1:
                return None, f"EXIF orientation {orientation}: turn the picture and its camera upright first"
            if picture.mode not in ("RGB", "RGBA", "L", "LA", "P"):
                return None, f"picture mode {picture.mode} is not 8-bit colour"
            if picture.mode == "RGB" and picture.size == scene.size and kind in ("PNG", "JPEG"):
                return data, ""
            changed = picture.convert("RGB").resize(scene.size, Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return None, f"cannot be decoded: {error}".replace(str(path.parent), "")
    buffer = io.BytesIO()
    if kind == "JPEG":
        changed.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        changed.save(buffer, "PNG")
    return buffer.getvalue(), ""


def _read_depth(path: Path | None, scene: Scene) -> tuple[bytes, str]:
    if path is None:
        return b"", "no_file"
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            mode, values = picture.mode, np.array(picture)
    except (OSError, SyntaxError, ValueError):
        return b"", "undecodable"
    if mode not in ("I;16", "I;16B", "I") or values.max(initial=0) > 65535 or values.min(initial=0) < 0:
        raise PrepareError(f"{path} has mode {mode}: depth must be a 16-bit grey PNG in steps of --depth_unit metres.")
    if (values.shape[1], values.shape[0]) != scene.depth_size:
        return b"", "other_size"
    kept = np.where(values == 65535, 0, values).astype(np.uint16)
    width, height = scene.size
    if scene.size != scene.depth_size:  # nearest: the source pixel that holds the new pixel's centre
        rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(int)
        kept = kept[rows][:, columns]
    if not kept.any():
        return b"", "no_valid_pixel"
    if mode == "I;16" and kept.shape == values.shape and np.array_equal(kept, values):
        return data, ""
    buffer = io.BytesIO()
    Image.fromarray(kept).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue(), ""
