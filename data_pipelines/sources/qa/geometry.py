"""Depth and cameras for questions: the frame of a posed data set that a row's picture names, by scene and number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.base import Source
from data_pipelines.sources.posed.cameras import Pose
from data_pipelines.sources.posed.pictures import Frame, assemble
from data_pipelines.sources.posed.scene import PosedSettings, Scene, Unusable, View


class Geometry:
    """Posed scenes by name.

    Args:
      stated: "LAYOUT=FOLDER,LAYOUT=FOLDER" of sources of posed frames; "" = none.
      sources: the table of sources.
      max_size: longest side of the frames' pictures; 0 = as they are.

    Raises:
      PrepareError: a layout or folder that does not exist.
    """

    def __init__(self, stated: str, sources: Mapping[str, Source], max_size: int):
        self._found: dict[str, tuple[object, Path, PosedSettings]] = {}
        self._open: dict[str, tuple[Scene | None, Mapping[int, Pose]]] = {}
        for part in filter(None, (part.strip() for part in stated.split(","))):
            name, _, folder = part.partition("=")
            layouts = {key: source for key, source in sources.items() if source.layout is not None}
            if name not in layouts or not Path(folder).expanduser().is_dir():
                raise PrepareError(f"--geometry '{part}': expected LAYOUT=FOLDER, LAYOUT one of {', '.join(layouts)}.")
            settings = layouts[name].settings(raw=folder, picture="colour", max_size=max_size)
            for place in layouts[name].layout.folders(Path(folder).expanduser(), settings):
                self._found.setdefault(place.name, (layouts[name].layout, place, settings))

    def __len__(self) -> int:
        return len(self._found)

    @property
    def names(self) -> list[str]:
        """Names of all scenes."""
        return sorted(self._found)

    def scene_of(self, path: str, stated: str = "") -> str:
        """Name of the scene that a row states or that its path goes through; "" for none that is known."""
        parts = [stated, *PurePosixPath(path.replace("\\", "/")).parts]
        return next((name for part in parts for name in (part, PurePosixPath(part).stem) if name in self._found), "")

    def scene(self, name: str) -> Scene | None:
        """The opened scene, None if its folder cannot be used."""
        return self._opened(name)[0]

    def view_of(self, name: str, path: str) -> View | None:
        """The scene's frame that a picture's file names: the same name, or the same last number."""
        scene = self.scene(name)
        if scene is None:
            return None
        stem = PurePosixPath(path.replace("\\", "/")).stem
        digits = re.findall(r"\d+", stem)
        for view in scene.views:
            if view.name in (stem, PurePosixPath(path).name) or (
                view.name == str(view.number) and digits and int(digits[-1]) == view.number
            ):
                return view
        return None

    def frame(self, name: str, view: View) -> tuple[Frame | None, float, str]:
        """(frame, metres per depth step, "") or (None, 0, why)."""
        scene, poses = self._opened(name)
        layout, _, settings = self._found[name]
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
        for name in sorted(names):
            scene = self.scene(name)
            lines += [f"{name} {line}" for line in self._found[name][0].states(scene)] if scene else []
        return lines

    def _opened(self, name: str) -> tuple[Scene | None, Mapping[int, Pose]]:
        if name not in self._open:
            layout, folder, settings = self._found[name]
            found = layout.open(folder, settings)
            scene = found if isinstance(found, Scene) else None
            self._open[name] = (scene, layout.poses(scene, settings) if scene else {})
            while len(self._open) > 8:
                self._open.pop(next(iter(self._open)))
        return self._open[name]
