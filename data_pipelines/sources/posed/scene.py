"""What a layout of posed frames hands out: scenes, their frames, raw pictures, depth and cameras."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError, sha256_of
from data_pipelines.sources.posed.cameras import Distortion, Pose, pinhole
from data_pipelines.sources.posed.decoding import PICTURE_SUFFIXES

COLOUR_SUFFIXES = PICTURE_SUFFIXES  # by which a folder's frames are known
UNKNOWN_UNIT = 0.001  # of the poses' unit: steps of depth where no scale in metres is known


@dataclasses.dataclass(frozen=True)
class PosedSettings:
    """Arguments that all sources of posed frames share; each is a flag of `experiments.prepare`."""

    raw: str = flag("", "scene folder, or folder of scene folders")
    views: int = flag(4, "views per record")
    sampler: str = flag(
        "windows",
        "windows: every --stride-th frame, cut into runs of --views; stride: the same for every starting frame, so "
        "that each frame is used once; uniform: records spread evenly over the whole scene; first: the first --views "
        "frames; spread: records of views that lie far apart and look different ways",
    )
    stride: int = flag(1, "frames from one view to the next (windows, stride)")
    hop: int = flag(0, "windows: views from one record's start to the next's; 0 = --views, no overlap")
    records_per_scene: int = flag(16, "uniform, spread: records per scene")
    picture: str = flag(
        "depth", "size of the records' pictures: 'depth' (colour is resized) or 'colour' (depth is, by nearest)"
    )
    max_size: int = flag(0, "longest side in pixels; larger pictures shrink (depth by nearest); 0 = as they are")
    validation: int = flag(0, "scenes for validation (records' worth of frames where scenes do not suffice)")
    test: int = flag(0, "scenes for test, likewise")
    seed: int = flag(0, "chooses which scenes go to validation and test")
    name: str = flag("", "name of the data set in its records; the source's by default")
    links: bool = flag(False, "read files that annotations name through links which lead out of the folder")


@dataclasses.dataclass(frozen=True)
class View:
    """One frame of a scene, not yet opened."""

    number: int  # orders the frames; unique in the scene
    name: str  # the records' view id
    key: Any = None  # how its layout finds it; picklable


class LeftOut(NamedTuple):
    """What lies in a scene and can be in no record, known before any frame is read."""

    name: str  # of the file or frame; FIRST-LAST for several in a row
    reason: str
    count: str = "files_of_no_frame"  # what it is counted as
    number: int = 1


@dataclasses.dataclass(frozen=True)
class Scene:
    """One scene, looked at but not read."""

    name: str
    path: str
    views: tuple[View, ...]  # in order of their numbers
    turns: int = 0  # quarter turns clockwise that make its pictures upright
    facts: Mapping = dataclasses.field(default_factory=dict)  # JSON-able, for the records' metadata
    state: Any = None  # what its layout remembers; picklable
    left_out: tuple[LeftOut, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of its frames."""
        return tuple(view.number for view in self.views)


class Depth(NamedTuple):
    """A depth picture: uint16[h,w] steps of the source's unit, 0 = invalid; its PNG if it is stored as just that."""

    steps: np.ndarray
    png: bytes = b""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.steps.shape[1], self.steps.shape[0]


@dataclasses.dataclass(frozen=True)
class Raw:
    """One frame as it lies on disk."""

    colour: bytes  # an encoded picture
    colour_size: tuple[int, int] | None  # (width, height) that it must have; None = any
    size: tuple[int, int]  # of the record's picture, before it is shrunk or turned
    intrinsics: np.ndarray  # float64[3,3], pixels of a picture of `size`, pixel centres at +0.5
    depth: Depth | None
    depth_problem: str = ""  # why there is none
    distortion: Distortion | None = None  # of colour and depth


class Unusable(Exception):
    """A frame cannot be used; the text says why."""


class Layout(Protocol):
    """How one kind of data set lies on disk."""

    def folders(self, raw: Path, settings: PosedSettings) -> list[Path]:
        """Folders (or files) that may be scenes, in order."""

    def open(self, folder: Path, settings: PosedSettings) -> Scene | str:
        """A scene, or why the folder cannot be used.

        Raises:
          PrepareError: a mistake that would spoil every frame.
        """

    def poses(self, scene: Scene, settings: PosedSettings) -> Mapping[int, Pose]:
        """Camera of each frame by its number; frames without an entry have none.

        A layout that turns them calls `cameras.without_lost` before: afterwards a lost frame's identity is none.
        """

    def read(self, scene: Scene, view: View, settings: PosedSettings) -> Raw:
        """One frame.

        Raises:
          Unusable: its picture is missing.
          PrepareError: a mistake that would spoil every frame.
        """

    def files(self, scene: Scene, view: View) -> Mapping[str, Path | None]:
        """The files of one frame by their kind ("colour", "depth", ...), there or not; None where none is named.

        A kind that the layout does not have is left out; what lies in one file for all frames is that file.
        """

    def states(self, scene: Scene) -> list[str]:
        """A line per file that `open`, `poses` or `read` look at, which changes with it; see `states_of`."""

    def depth_unit(self, settings: PosedSettings) -> float:
        """Metres per depth step; 0 = unknown (steps of 0.001 of the poses' unit)."""


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


def numbers_in(file: Path) -> np.ndarray | None:
    """All numbers of a text file, None if it cannot be read as numbers."""
    try:
        return np.array(file.read_text().replace(",", " ").split(), np.float64)
    except (OSError, ValueError):
        return None


def number_table(file: Path, width: int) -> tuple[np.ndarray, tuple[LeftOut, ...]]:
    """(float64[n,width] of a table that begins with a time, what was left out of it); comments begin with #.

    A last line without a line break may have been cut within its last number, which nothing would tell: it is left out.

    Raises:
      PrepareError: a row that is not `width` numbers, or has no finite time; names file and line.
    """
    rows, lost = [], ()
    lines = file.read_bytes().decode("utf-8-sig", "replace").splitlines(keepends=True) if file.is_file() else []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if number == len(lines) and not line.endswith(("\n", "\r")):
            lost = (
                LeftOut(f"{file.name}, line {number}", "ends without a line break: it may be cut", "poses_cut_off"),
            )
            continue
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            raise PrepareError(f"{file}, line {number}: {error}.") from error
        if len(values) != width:
            raise PrepareError(f"{file}, line {number}: {len(values)} words, expected {width}.")
        if not abs(values[0]) < np.inf:
            raise PrepareError(f"{file}, line {number}: {words[0]} is no time.")
        rows.append(values)
    return np.array(rows, np.float64).reshape(-1, width), lost


def flat_numbers(value: object) -> np.ndarray | None:
    """All numbers of a nested list of JSON, None if it holds anything else."""
    try:
        return np.asarray(value, np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None


def content_state(file: Path) -> str:
    """A line that changes with a small file's content."""
    return f"{file.name} {sha256_of(file)}"


def picture_state(file: Path) -> str:
    """A line that changes with a picture's size and time of change."""
    state = file.stat()
    return f"{file.name} {state.st_size} {state.st_mtime_ns // 1000}"


def states_of(small: Iterable[Path], large: Iterable[Mapping[str, Path | None]]) -> list[str]:
    """Lines that change with files: small ones by content, those of frames by size and time of change.

    Args:
      small: files, there or not.
      large: the files of each frame, as `Layout.files` hands them out.
    """
    lines = [content_state(file) for file in small if file.is_file()]
    seen: set[Path] = set()
    for files in large:
        for kind, file in files.items():
            if file is not None and file not in seen and file.is_file():
                lines.append(f"{kind} {picture_state(file)}")
                seen.add(file)
    return lines


def hidden(path: Path) -> bool:
    """Whether a file or folder is a system's own: .DS_Store, ._picture.jpg, __MACOSX."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def strays(folder: Path, used: Iterable[Path | str | None]) -> tuple[LeftOut, ...]:
    """The files of a folder of frames that are none of those `used`."""
    taken = {os.fspath(path) for path in used if path}
    found = []
    for path in sorted(folder.iterdir(), key=lambda path: natural(path.name)) if folder.is_dir() else ():
        if os.fspath(path) in taken or path.is_dir():
            continue
        known = path.suffix.lower() in COLOUR_SUFFIXES
        why = (
            "is a hidden file" if hidden(path) else "belongs to no frame" if known else "is no picture of a known kind"
        )
        found.append(LeftOut(path.name, why))
    return tuple(found)


def scene_folders(raw: Path, inside: str) -> list[Path]:
    """`raw` if it has `inside` in it, else the folders in `raw`, sorted."""
    if (raw / inside).exists():
        return [raw]
    return sorted(path for path in raw.iterdir() if path.is_dir()) if raw.is_dir() else []


def read_bytes(path: Path) -> bytes:
    """A picture's bytes.

    Raises:
      Unusable: it cannot be read, or is a pipe or device, which could block for ever.
    """
    if path.exists() and not path.is_file():
        raise Unusable(f"{path.name} is no regular file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"{path.name} cannot be read: {error.strerror}") from error


def natural(name: str) -> tuple:
    """Sorts names by the numbers in them, not as text."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part)


def inside(folder: Path, name: str, links: bool = False) -> Path:
    """The file that an annotation names, below `folder`; Windows' separators and absolute paths into it are read too.

    Raises:
      PrepareError: the name leads out of the folder, by its words or (without `links`) through a link.
    """
    parts = os.path.normpath(name.replace("\\", "/"))
    if os.path.isabs(parts) and parts.startswith(top := os.path.join(os.path.abspath(folder), "")):
        parts = parts[len(top) :]  # a path of this machine, into the folder
    if "\0" in name or os.path.isabs(parts) or re.match(r"[A-Za-z]:", parts) or parts.split("/")[0] == "..":
        raise PrepareError(f"{folder}: the name {name!r} leads out of the folder. Nothing outside is read.")
    try:
        if max(len(os.fsencode(part)) for part in parts.split("/")) > 255 or len(parts) > 4000:
            raise PrepareError(f"{folder}: a name of {len(name)} letters is no file's: {name[:40]!r}...")
    except UnicodeEncodeError as error:
        raise PrepareError(f"{folder}: the name {name!r} holds letters that no file name has.") from error
    end, root = os.path.realpath(folder / parts), os.path.realpath(folder)
    if not links and not Path(end).is_relative_to(root):
        raise PrepareError(
            f"{folder}: the name {name!r} leads out of the folder through a link, to {end}. Give --links true if the link "
            "is yours."
        )
    return folder / parts


def stated_camera(values: tuple) -> tuple[np.ndarray | None, list[str]]:
    """(intrinsics of an argument fx,fy,cx,cy, or None without one; what is wrong with it)."""
    if not values:
        return None, []
    try:
        fx, fy, cx, cy = (float(value) for value in values)
    except (TypeError, ValueError):
        return None, ["--camera must be four numbers fx,fy,cx,cy"]
    if not (np.isfinite([fx, fy, cx, cy]).all() and min(fx, fy) > 0):
        return None, ["--camera needs finite numbers, fx and fy above 0"]
    return pinhole(fx, fy, cx, cy), []
