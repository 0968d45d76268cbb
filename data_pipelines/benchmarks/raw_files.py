"""A benchmark's raw folder: its tables, and its pictures and videos in folders and zip archives."""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipelines.benchmarks.items import Media, RawError
from data_pipelines.benchmarks.raw_rows import Row, table_rows
from data_pipelines.sources.posed.scene import COLOUR_SUFFIXES
from data_pipelines.sources.qa.files import hidden
from data_pipelines.sources.qa.video import frame_files

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
# Where users of ScanNet's question sets keep the scans: beside the questions; posed_images/ and scans/ of Video-3D-LLM's
# data/scannet (zd11024/Video-3D-LLM 62d518f, scripts/3d/preprocessing), ScanNet's own scans/; frames_square/ of ScanRefer;
# video/ and Video/ of SQA3D's egocentric videos (SilongYong/SQA3D 1f6d539, ClipBERT); scannet/ of VSI-Bench.
SCAN_FOLDERS = (
    "", "posed_images/", "scannet/posed_images/", "scans/", "scannet/scans/", "scannet/", "frames_square/",
    "scannet_frames_25k/", "videos/", "video/", "Video/",
)  # fmt: skip


class Raw:
    """The folder `--raw`.

    Attributes:
      folder: the folder.
      used: tables that were read, in order.

    Raises:
      RawError: it is no folder.
    """

    def __init__(self, folder: str | Path):
        self.folder, self.used = Path(folder), []
        self._scans: dict[str, Media] = {}
        if not self.folder.is_dir():
            raise RawError(f"--raw {folder} is no folder. Give the folder that holds the benchmark's files.")

    def tables(self, *patterns: str) -> list[Path]:
        """Files that match the first pattern that any file matches, below the folder, in order of name.

        Raises:
          RawError: none matches any.
        """
        for pattern in patterns:
            found = [path for path in sorted(self.folder.rglob(pattern)) if not hidden(path, self.folder)]
            if found:
                return found
        raise RawError(
            f"{self.folder} holds no {' or '.join(patterns)}. --raw is the folder with the benchmark's files."
        )

    def table(self, *patterns: str) -> Path:
        """The only file that matches.

        Raises:
          RawError: none or several.
        """
        found = self.tables(*patterns)
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(self.folder)) for path in found)
            raise RawError(f"{self.folder} holds several files of this form: {names}. Leave one of them there.")
        return found[0]

    def named(self, name: str, *folders: str) -> Path:
        """The file of this name in `folder` or in one of its `folders`; elsewhere it is searched for, which takes long in ScanNet.

        Raises:
          RawError: there is none, or the search finds several.
        """
        likely = (self.folder / place / name for place in ("", *folders))
        return next((path for path in likely if path.is_file()), None) or self.table(name)

    def rows(self, path: Path, field: str | None = None) -> Iterator[Row]:
        """The rows of a .json, .jsonl, .parquet or .tsv file.

        Args:
          path: the file.
          field: of a .json that holds an object, the field with the list of rows.

        Raises:
          RawError: a file that cannot be read, or an empty one.
        """
        if path not in self.used:
            self.used.append(path)
        number = 0
        name = str(path.relative_to(self.folder))
        for number, row in enumerate(table_rows(path, name, field), 1):  # noqa: B007
            yield row
        if not number:
            raise RawError(f"{path} has no rows.")

    def picture(self, *names: str, prefer: Path | None = None) -> Media:
        """The picture that has one of these names below the folder or in one of its zip archives; else a missing one.

        Args:
          names: paths as rows have them, the likelier first; `Media.name` is the first.
          prefer: a folder to look in first.
        """
        return self._find("image", names, prefer)

    def video(self, *names: str) -> Media:
        """The video `name` (without ending): a file, a folder of frames, or a member of a zip archive; else a missing one.

        Args:
          names: paths as rows have them, the likelier first; `Media.name` is the first.
        """
        return self._find("video", [f"{name}{suffix}" for name in names for suffix in (*VIDEO_SUFFIXES, "")], None)

    def scan(self, scan: str) -> Media:
        """The colour frames of a ScanNet scan as a video: exported, a video, or its .sens; else a missing one.

        Exported are SCAN/color/ (ScanNet's SensReader) and posed_images/SCAN/ (EmbodiedScan's converter, as Video-3D-LLM
        runs it); `SCAN_FOLDERS` has the places.
        """
        if scan not in self._scans:
            self._scans[scan] = self._scan(scan)
        return self._scans[scan]

    def _scan(self, scan: str) -> Media:
        if "/" in scan or "\\" in scan or ".." in scan:
            return Media("video", scan, missing=True)
        videos = [f"{place}{scan}{suffix}" for place in SCAN_FOLDERS for suffix in VIDEO_SUFFIXES]
        for place in SCAN_FOLDERS:
            for name in (f"{place}{scan}/color", f"{place}{scan}"):
                path = self.folder / name
                if path.is_dir() and frame_files(path):
                    return Media("video", name, path)
            for name in (
                f"{place}{scan}/{scan}.sens",
                *(name for name in videos if name.startswith(f"{place}{scan}.")),
            ):
                if (self.folder / name).is_file():
                    return Media("video", name, self.folder / name)
        # Last, because to find the archives is to walk through all folders.
        for name in videos:
            if name in self._members:
                return Media("video", name, *self._members[name])
        return Media("video", f"{scan}/color", missing=True)

    def _find(self, kind: str, names: Iterable[str], prefer: Path | None) -> Media:
        names = [name.replace("\\", "/").lstrip("/") for name in names]
        for name in names:
            if ".." in name.split("/"):
                continue
            for folder in (prefer, self.folder) if prefer else (self.folder,):
                path = folder / name
                if path.is_file() if path.suffix else kind == "video" and path.is_dir():
                    return Media(kind, names[0], path)
            if name in self._members:
                archive, member = self._members[name]
                return Media(kind, names[0], archive, member)
        return Media(kind, names[0], missing=True)

    @functools.cached_property
    def _members(self) -> dict[str, tuple[Path, str]]:
        """Names of files in zip archives, below the folder and below the archive's own top, -> (archive, member)."""
        found: dict[str, tuple[Path, str]] = {}
        for path in sorted(self.folder.rglob("*.zip")):
            if hidden(path, self.folder):
                continue
            try:
                with zipfile.ZipFile(path) as archive:
                    names = archive.namelist()
            except (OSError, zipfile.BadZipFile) as error:
                raise RawError(f"{path} is no readable zip archive: {error}. Is it complete?") from error
            wanted = (*COLOUR_SUFFIXES, *VIDEO_SUFFIXES)
            for name in names:
                if not name.lower().endswith(wanted) or name.startswith("__MACOSX"):
                    continue
                found.setdefault(name, (path, name))
                found.setdefault(f"{path.stem}/{name}", (path, name))
        return found

    def hashes(self) -> dict:
        """{"files": {name: SHA-256 of every table that was read}, "sha256": of all of them}."""
        files = {str(path.relative_to(self.folder)): _file_hash(path) for path in self.used}
        return {"files": files, "sha256": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()}


def media_hash(media: Iterable[Media]) -> str:
    """SHA-256 of the names and sizes (in archives: checksums too) of pictures and videos; a change of content at one size passes."""
    sums: dict[Path, dict[str, int]] = {}
    lines, seen = set(), set()
    for one in media:
        if (place := (one.kind, one.name, one.path, one.member)) in seen:
            continue
        seen.add(place)
        size = "missing" if one.missing else "in the table"
        if one.member is not None:
            if one.path not in sums:
                with zipfile.ZipFile(one.path) as archive:
                    sums[one.path] = {info.filename: (info.file_size, info.CRC) for info in archive.infolist()}
            size = str(sums[one.path][one.member])
        elif one.path is not None:
            files = sorted(one.path.iterdir()) if one.path.is_dir() else [one.path]
            size = str([(file.name, file.stat().st_size) for file in files])
        lines.add(f"{one.kind} {one.name} {size}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
