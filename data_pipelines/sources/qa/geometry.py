"""Depth and cameras for questions: the frame of a posed data set that a row's picture names, by scene and number."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_pipelines.flags import value_of
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.base import Source
from data_pipelines.sources.posed.cameras import Pose, without_lost
from data_pipelines.sources.posed.pictures import Frame, assemble
from data_pipelines.sources.posed.scene import PosedSettings, Scene, Unusable, View
from data_pipelines.sources.posed.source import check
from data_pipelines.sources.qa.frames import Frames, same_picture
from data_pipelines.sources.qa.problems import RowError

_OF_THE_JOIN = (  # settings that have no meaning for single frames, or that the questions' own arguments decide
    "raw", "views", "sampler", "stride", "hop", "records_per_scene", "max_size", "validation", "test", "seed", "name", "links",
)  # fmt: skip
_MOST_PARTS = 3  # of a scene's path that its name may be made of


class Stated(NamedTuple):
    """One part of --geometry."""

    layout: str
    settings: str  # as it was written: "camera=58,58,32,24:tolerance=0.1"
    folder: str


class _Opened(NamedTuple):
    """A scene with what belongs to it; None, {}, None where its folder cannot be used."""

    scene: Scene | None
    poses: Mapping[int, Pose]
    frames: Frames | None


def stated_parts(text: str, layouts: Mapping[str, object]) -> list[Stated]:
    """The parts of "LAYOUT[:SETTING=VALUE]...=FOLDER,...".

    Raises:
      PrepareError: another form, an unknown layout, or a folder that is not there.
    """
    found = []
    for part in filter(None, map(str.strip, re.split(rf",(?=\s*(?:{'|'.join(layouts)})[:=])", text))):
        match = re.fullmatch(r"(\w+)((?::\w+=[^:=]*)*)=(.*)", part)
        if match is None or match[1] not in layouts or not Path(match[3]).expanduser().is_dir():
            raise PrepareError(
                f"--geometry '{part}': expected LAYOUT=FOLDER or LAYOUT:SETTING=VALUE=FOLDER, LAYOUT one of {', '.join(layouts)}, "
                "FOLDER an existing one."
            )
        found.append(Stated(match[1], match[2].lstrip(":"), match[3]))
    return found


class Geometry:
    """Posed scenes by name: the scene's own (`chess.seq-01`), or the end of its folder's path (`chess/seq-01`).

    Args:
      stated: "LAYOUT[:SETTING=VALUE]...=FOLDER,..." of sources of posed frames, with their own settings; "" = none.
      sources: the table of sources.
      max_size: longest side of the frames' pictures; 0 = as they are.
      links: whether names in annotations may lead out of their folder through links.

    Raises:
      PrepareError: a layout, setting or folder that does not exist.
    """

    def __init__(self, stated: str, sources: Mapping[str, Source], max_size: int, links: bool = False):
        self._found: dict[str, tuple[object, Path, PosedSettings]] = {}  # by the scene's folder
        self._names: dict[str, set[str]] = {}  # name -> folders
        self._own: dict[str, str] = {}  # folder -> the scene's own name
        self._open: dict[str, _Opened] = {}
        layouts = {key: source for key, source in sources.items() if source.layout is not None}
        self.stated = stated_parts(stated, layouts)
        for part in self.stated:
            layout, folder = layouts[part.layout].layout, Path(part.folder).expanduser()
            settings = _settings(part, layouts[part.layout], max_size, links)
            places = layout.folders(folder, settings)
            parts = _parts_of_names(layout, places, settings)
            for place in places:
                pieces = _pieces(place)
                key = f"{part.layout} {os.path.abspath(place)}"
                self._found[key] = (layout, place, settings)
                self._own[key] = ".".join(pieces[-parts:])
                for number in range(parts, _MOST_PARTS + 1):
                    for name in ("/".join(pieces[-number:]), ".".join(pieces[-number:])):
                        self._names.setdefault(name, set()).add(key)

    def __len__(self) -> int:
        return len(self._found)

    def scene_of(self, path: str, stated: str = "") -> str:
        """Key of the scene that a row states or that its path goes through; "" for none that is known.

        Raises:
          RowError: the name is that of several scenes, or the row states another one than its path.
        """
        if not self._found:
            return ""
        own, named = self._one([stated] if stated else []), self._one(_candidates(path))
        if len(own) == 1 and len(named) == 1 and own != named:
            names = [self.name_of(next(iter(one))) for one in (own, named)]
            raise RowError("scene_name", f"is {names[0]}, but '{path}' lies in {names[1]}", "ambiguous_scene")
        found = next((one for one in (own, named) if len(one) == 1), own or named)
        if len(found) > 1:
            known = ", ".join(sorted(place.split(" ", 1)[1] for place in found)[:3])
            raise RowError("", f"'{stated or path}' names several scenes of --geometry: {known}", "ambiguous_scene")
        return next(iter(found), "")

    def _one(self, names: Iterable[str]) -> set[str]:
        """The one scene that the first telling name has; without such a name all that any has."""
        several: set[str] = set()
        for name in names:
            places = self._names.get(name, set())
            if len(places) > 1:  # a folder of several layouts is a scene of those that can read it
                places = {place for place in places if self.scene(place) is not None}
            if len(places) == 1:
                return places
            several |= places
        return several

    def name_of(self, key: str) -> str:
        """The scene's own name."""
        return self._own[key]

    def scene(self, key: str) -> Scene | None:
        """The opened scene, None if its folder cannot be used."""
        return self._opened(key).scene

    def view_of(self, key: str, path: str, file: Path | None) -> tuple[View | None, str]:
        """The scene's frame that a picture is, or (None, what it is counted as).

        Args:
          key: the scene's.
          path: of the picture, as its row names it.
          file: the picture; None where it lies in the row itself.

        Raises:
          OSError: the file cannot be read.
        """
        scene, _, frames = self._opened(key)
        if frames is None or file is None:
            return None, "of_no_frame"
        if view := frames.of_file(file):
            return view, ""
        if (view := frames.named(path)) is None:
            return None, "of_no_frame"
        layout, _, settings = self._found[key]
        try:
            own = layout.read(scene, view, settings).colour
        except Unusable:
            return view, ""  # `frame` says why
        return (view, "") if same_picture(file.read_bytes(), own, scene.turns) else (None, "unlike_their_frame")

    def frame(self, key: str, view: View) -> tuple[Frame | None, float, str]:
        """(frame, metres per depth step, "") or (None, 0, why)."""
        scene, poses, _ = self._opened(key)
        layout, _, settings = self._found[key]
        try:
            raw = layout.read(scene, view, settings)
        except Unusable as error:
            return None, 0.0, str(error)
        frame, reason = assemble(
            view, raw, poses.get(view.number, Pose(None, "missing")), scene.turns, settings.max_size
        )
        return frame, layout.depth_unit(settings), reason

    def states(self, names) -> list[str]:
        """Lines that change with the files of some scenes."""
        lines = []
        for name in sorted(names, key=lambda key: (self._own[key], key)):
            scene = self.scene(name)
            if scene is not None:
                own = f"{scene.name} {scene.numbers} {scene.turns} {scene.facts} {scene.state}"
                lines += [f"{scene.name} {line}" for line in (own, *self._found[name][0].states(scene))]
        return lines

    def _opened(self, name: str) -> _Opened:
        if name not in self._open:
            layout, folder, settings = self._found[name]
            found = layout.open(folder, settings)
            scene = found if isinstance(found, Scene) else None
            self._open[name] = (
                _Opened(scene, without_lost(layout.poses(scene, settings)), Frames(layout, scene))
                if scene
                else _Opened(None, {}, None)
            )
            while len(self._open) > 8:
                self._open.pop(next(iter(self._open)))
        return self._open[name]


def _pieces(place: Path) -> tuple[str, ...]:
    return Path(os.path.abspath(place)).parts


def _candidates(path: str) -> Iterator[str]:
    """Names of scenes that a path may go through, the most exact ones first."""
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "..")]
    for number in range(_MOST_PARTS, 0, -1):
        for end in range(number, len(parts) + 1):
            own = parts[end - number : end]
            yield "/".join(own)
            yield "/".join([*own[:-1], PurePosixPath(own[-1]).stem])


def _settings(part: Stated, source: Source, max_size: int, links: bool) -> PosedSettings:
    """The layout's settings with those that were stated.

    Raises:
      PrepareError: a setting that it does not have, or of another form.
    """
    values: dict[str, object] = {"picture": "colour"}
    for pair in filter(None, part.settings.split(":")):
        name, _, text = pair.partition("=")
        try:
            if name in _OF_THE_JOIN:
                raise ValueError(f"has no setting '{name}' here")
            values[name] = value_of(source.settings, name, text)
        except ValueError as error:
            raise PrepareError(f"--geometry {part.layout}:{pair}: the layout {error}.") from error
    settings = source.settings(raw=part.folder, max_size=max_size, links=links, **values)
    check(part.layout, settings)
    return settings


def _parts_of_names(layout, places: list[Path], settings: PosedSettings) -> int:
    """How many parts of its path a scene's name is made of: 2 for `chess.seq-01`, where `seq-01` alone names nothing."""
    for place in places:
        try:
            found = layout.open(place, settings)
        except PrepareError:
            continue  # said when a row wants this scene
        if isinstance(found, Scene):
            pieces = _pieces(place)
            return next((n for n in range(1, _MOST_PARTS + 1) if ".".join(pieces[-n:]) == found.name), 1)
    return 1
