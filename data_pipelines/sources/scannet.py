"""scannet: ScanNet as it is released: scans/SCAN/SCAN.sens with SCAN.txt beside it. Exported folders: `posed_rgbd`.

A .sens file (version 4, little endian) holds the two cameras and every frame's camera-to-world pose, colour (JPEG or PNG)
and depth (zlib, 16 bit, steps of 1 / depth shift metres). A lost frame has a pose of -inf. Principal points are counted
from the first pixel's centre. `--align true` turns the world by `axisAlignment` of SCAN.txt (z up, walls along the axes).
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import Pose, check_pose, impossible, scaled, without_lost
from data_pipelines.sources.posed.decoding import MAX_PIXELS
from data_pipelines.sources.posed.pictures import target_size
from data_pipelines.sources.posed.scene import Depth, PosedSettings, Raw, Scene, View, hidden, states_of
from data_pipelines.sources.posed.source import posed_source

_COLOUR, _DEPTH = {0: "raw", 1: "png", 2: "jpeg"}, {0: "raw", 1: "zlib", 2: "occi"}


@dataclasses.dataclass(frozen=True)
class Settings(PosedSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""

    align: bool = flag(False, "turn the world by axisAlignment of SCAN.txt")


@dataclasses.dataclass(frozen=True)
class _Header:
    intrinsics: dict[str, tuple[tuple[float, ...], ...]]  # of "colour" and "depth"
    compression: tuple[str, str]  # of colour and depth
    colour_size: tuple[int, int]
    depth_size: tuple[int, int]
    shift: float  # depth steps a metre
    frames: int
    start: int  # of the first frame


class Sens:
    """The layout; see `posed.scene.Layout`."""

    def folders(self, raw: Path, settings: Settings) -> list[Path]:
        """`raw` itself, the folders in it, or in its scans/."""
        if any(not hidden(path) for path in raw.glob("*.sens")):
            return [raw]
        inside = raw / "scans" if (raw / "scans").is_dir() else raw
        return sorted(path for path in inside.iterdir() if path.is_dir())

    def open(self, folder: Path, settings: Settings) -> Scene | str:
        """See `Layout`."""
        file = folder / f"{folder.name}.sens"
        if not file.is_file():
            exported = " (an exported folder: use --source posed_rgbd)" if (folder / "color").is_dir() else ""
            return f"no {file.name} in it{exported}"
        with open(file, "rb") as data:
            header = _header(data, file)
            length = data.seek(0, 2)
            views, at = [], header.start
            for number in range(header.frames):
                if at > length:
                    break
                data.seek(at + 64 + 16)  # behind pose and stamps
                sizes = struct.unpack("<QQ", _exactly(data, 16, file))
                views.append(View(number, str(number), (at, sizes)))
                at += 64 + 32 + sum(sizes)
            if length < at:
                raise PrepareError(
                    f"{file} is truncated: {length} bytes, its {header.frames} frames need {at} or more."
                )
        alignment = _axis_alignment(folder / f"{folder.name}.txt")
        if settings.align and alignment is None:
            raise PrepareError(f"{folder}/{folder.name}.txt has no axisAlignment; leave --align out.")
        facts = {} if alignment is None else {"axis_alignment": alignment.tolist(), "aligned": settings.align}
        return Scene(folder.name, str(file), tuple(views), facts=facts, state=header)

    def poses(self, scene: Scene, settings: Settings) -> Mapping[int, Pose]:
        """Every frame's header has its own."""
        turn = np.array(scene.facts["axis_alignment"]) if settings.align else np.eye(4)
        found = {}
        with open(scene.path, "rb") as data:
            for view in scene.views:
                data.seek(view.key[0])
                found[view.number] = check_pose(np.frombuffer(data.read(64), "<f4").astype(np.float64))
        return {
            number: Pose(turn @ pose.matrix) if pose.matrix is not None else pose
            for number, pose in without_lost(found).items()
        }

    def read(self, scene: Scene, view: View, settings: Settings) -> Raw:
        """See `Layout`."""
        header: _Header = scene.state
        at, (colour_bytes, depth_bytes) = view.key
        with open(scene.path, "rb") as data:
            data.seek(at + 96)
            colour, packed = data.read(colour_bytes), data.read(depth_bytes)
        depth, problem = _depth(packed, header)
        size = target_size(header.colour_size, header.depth_size, settings.picture)
        kind, own = ("depth", header.depth_size) if settings.picture == "depth" else ("colour", header.colour_size)
        return Raw(
            colour, header.colour_size, size, scaled(np.array(header.intrinsics[kind]), own, size), depth, problem
        )

    def files(self, scene: Scene, view: View) -> Mapping[str, Path | None]:
        """All are in one file; see `Layout`."""
        _, (colour_bytes, depth_bytes) = view.key
        file = Path(scene.path)
        return {"colour": file if colour_bytes else None, "depth": file if depth_bytes else None}

    def states(self, scene: Scene) -> list[str]:
        """The text beside it by content, the one file by size and time of change."""
        file = Path(scene.path)
        return states_of([file.with_suffix(".txt")], [{"sens": file}])

    def depth_unit(self, settings: Settings) -> float:
        """Millimetres; `_depth` brings other shifts to it."""
        return 0.001


def _header(data: BinaryIO, file: Path) -> _Header:
    (version,) = struct.unpack("<I", _exactly(data, 4, file))
    if version != 4:
        raise PrepareError(f"{file} has version {version} of the .sens format; only 4 is known.")
    (length,) = struct.unpack("<Q", _exactly(data, 8, file))
    if length > 4096:
        raise PrepareError(f"{file} is no .sens file: its sensor's name would have {length} letters.")
    _exactly(data, length, file)
    matrices = np.frombuffer(_exactly(data, 4 * 64, file), "<f4").reshape(4, 4, 4).astype(np.float64)
    colour, depth = struct.unpack("<ii", _exactly(data, 8, file))
    sizes = struct.unpack("<IIII", _exactly(data, 16, file))
    shift, frames = struct.unpack("<fQ", _exactly(data, 12, file))
    if colour not in _COLOUR or depth not in _DEPTH or not 0 < shift < np.inf or min(sizes) < 1:
        raise PrepareError(
            f"{file}: compression {colour}, {depth}, sizes {sizes} or depth shift {shift} make no sense."
        )
    if max(sizes[0] * sizes[1], sizes[2] * sizes[3]) > MAX_PIXELS:
        raise PrepareError(f"{file} states pictures of {sizes} pixels; more than {MAX_PIXELS} are not read.")
    if _DEPTH[depth] == "occi":
        raise PrepareError(
            f"{file} has depth in the form 'occi', which is not read. Export it with ScanNet's SensReader."
        )
    if _COLOUR[colour] == "raw":
        raise PrepareError(f"{file} has raw colour, which is not read. Export the scan and use --source posed_rgbd.")
    intrinsics = {}
    for kind, matrix in (("colour", matrices[0]), ("depth", matrices[2])):
        matrix = matrix[:3, :3].copy()
        matrix[:2, 2] += 0.5
        if problem := impossible(matrix, sizes[:2] if kind == "colour" else sizes[2:]):
            raise PrepareError(f"{file}: intrinsics of {kind}: {problem}.")
        intrinsics[kind] = tuple(map(tuple, matrix.tolist()))
    return _Header(intrinsics, (_COLOUR[colour], _DEPTH[depth]), sizes[:2], sizes[2:], shift, frames, data.tell())


def _exactly(data: BinaryIO, count: int, file: Path) -> bytes:
    found = data.read(count)
    if len(found) < count:
        raise PrepareError(f"{file} is truncated: {count} bytes were expected, {len(found)} are there. Fetch it again.")
    return found


def _depth(packed: bytes, header: _Header) -> tuple[Depth | None, str]:
    width, height = header.depth_size
    try:
        limit = 2 * width * height  # whatever more is in it, a map has no more
        data = zlib.decompressobj().decompress(packed, limit + 1) if header.compression[1] == "zlib" else packed
        steps = np.frombuffer(data, "<u2").reshape(height, width)
    except (zlib.error, ValueError):
        return None, "undecodable"
    steps = np.where(steps == 65535, 0, steps).astype(np.float64)
    metres = Depth(np.round(np.minimum(steps * (1000 / header.shift), 65534)).astype(np.uint16))
    return (metres, "") if metres.steps.any() else (None, "no_valid_pixel")


def _axis_alignment(file: Path) -> np.ndarray | None:
    if not file.is_file():
        return None
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "axisAlignment":
            try:
                pose = check_pose(np.array(value.split(), np.float64))
            except ValueError:
                pose = Pose(None)
            if pose.matrix is None:
                raise PrepareError(f"{file}: axisAlignment '{value.strip()}' is no rigid motion of 16 numbers.")
            return pose.matrix
    return None


SOURCE = posed_source("scannet", "4", Settings, Sens(), __file__)
