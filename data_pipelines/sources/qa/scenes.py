"""What must not be in two splits: rows that share a scene, a folder of pictures, a video or a picture are of one scene."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Sequence

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.qa.geometry import Geometry
from data_pipelines.sources.qa.rows import Row
from data_pipelines.sources.qa.settings import QaSettings

# Names of scans that stand in paths of published data sets, wherever their pictures and videos lie: ScanNet, Hypersim,
# ScanNet++, ARKitScenes. ScanNet++'s are ten hexadecimal digits, as a Unix time is: such a name is a scan's where it is that of
# a folder or video, and has a letter or stands in data/.
_SCANS = re.compile(
    r"(?:^|/)(scene\d{4}_\d\d(?=[/_.]|$)|ai_\d{3}_\d{3}(?=[/_.]|$)|(?:(?=\d*[a-f])|(?<=data/))[0-9a-f]{10}(?=/|\.(?:mp4|mov)$)"
    r"|4\d{7}(?=/|\.(?:mp4|mov)$))"
)
# Folders inside a scene's folder.
_INNER = re.compile(
    r"(?i)colou?r|rgb|frames?|images?(_\d+)?|(image|video)_(colou?r|depth)|lowres_wide|vga_wide|wide|resized_images|iphone|dslr|\d+_frames"
)
STATED, JOINED, SCAN, PLACE, FILE, TEXT = range(6)  # kinds of names; the first kind that a scene has gives its name


class Scenes:
    """Names that belong together, joined as rows mention them."""

    def __init__(self):
        self._parent: dict[str, str] = {}
        self._best: dict[str, tuple[int, str]] = {}

    def join(self, names: Sequence[tuple[int, str]]) -> str:
        """Joins (kind, name) of one row; returns one of the names, for `name_of`."""
        for kind, name in names:
            self._parent.setdefault(name, name)
            root = self._root(name)
            self._best[root] = min(self._best.get(root, (kind, name)), (kind, name))
        first = names[0][1]
        for _, name in names[1:]:
            one, other = self._root(first), self._root(name)
            if one != other:
                self._parent[other] = one
                self._best[one] = min(self._best[one], self._best.pop(other))
        return first

    def name_of(self, name: str) -> str:
        """The name of the scene that a name came to belong to."""
        return self._best[self._root(name)][1]

    def _root(self, name: str) -> str:
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name


def names_of(row: Row, geometry: Geometry, by: str) -> Iterator[tuple[int, str]]:
    """(kind, name) of all that a row shares with others; none for text without a scene.

    Args:
      row: the row.
      geometry: posed scenes, whose names count as stated.
      by: "folder", or "picture" where pictures of one folder have nothing to do with each other.

    Raises:
      RowError: see `Geometry.scene_of`.
    """
    if row.scene:
        yield STATED, row.scene
    for one in row.media:
        for path in [one.source] if isinstance(one.source, str) else one.source:
            if path.startswith("data:"):
                yield FILE, hashlib.sha256(path.encode()).hexdigest()[:16]
                continue
            key = geometry.scene_of(path, row.scene) if isinstance(one.source, str) else ""
            if key:
                yield JOINED, geometry.name_of(key)
            path = posixpath.normpath(path.removeprefix("file://").replace("\\", "/")).strip("/")
            yield FILE, path
            if row.scene or key or by == "picture":
                continue
            scan = _SCANS.search(path)
            if scan:
                yield SCAN, scan[1]
            else:
                whole = one.kind == "video" and isinstance(one.source, str)
                yield PLACE, _outer(path if whole else posixpath.dirname(path) or ".")


def _outer(folder: str) -> str:
    """A scene's own folder: "kitchen" of "kitchen/images"."""
    parts = folder.split("/")
    while len(parts) > 1 and _INNER.fullmatch(parts[-1]):
        parts.pop()
    return "/".join(parts)


def by_split(groups: Sequence[tuple[str, tuple]], settings: QaSettings) -> dict[str, list]:
    """split -> groups (scene, rows) in file order. A scene is in one split, by a hash of its name.

    Raises:
      PrepareError: shares are asked of a single scene.
    """
    if not settings.split and settings.validation + settings.test and len({scene for scene, _ in groups}) == 1:
        raise PrepareError(
            f"All rows are of one scene ('{groups[0][0]}'), which --validation and --test cannot divide. If pictures of one "
            "folder have nothing to do with each other, say --scenes picture; or name scenes in the field scene_name."
        )
    found: dict[str, list] = {}
    for scene, rows in groups:
        digest = hashlib.sha256(json.dumps([settings.seed, scene]).encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2.0**64
        held = (
            "test"
            if share < settings.test
            else "validation"
            if share < settings.test + settings.validation
            else "train"
        )
        found.setdefault(settings.split or held, []).append((scene, rows))
    return found
