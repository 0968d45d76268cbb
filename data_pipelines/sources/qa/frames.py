"""Which frame of a posed scene a picture is: by its file, its name or its number; and whether both show the same."""

from __future__ import annotations

import functools
import itertools
import os
import re
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from data_pipelines.sources.posed.decoding import BadPicture, opened, rgb_of
from data_pipelines.sources.posed.scene import COLOUR_SUFFIXES, Layout, Scene, View

_CELLS = 16  # a side of the pictures when they are compared
# Largest difference (of 255) of a cell's colours. Rendered rooms and a chequerboard of 640 x 484, resized with antialiasing to a third
# or more and stored as JPEG, came to 10 at most, with a red frame of 3 pixels drawn on them to 19 or more, with a dot of 20 pixels
# to 14 or more. Thumbnails made without antialiasing exceed it: they are shown without geometry.
_APART = 16.0
_WORDS = r"(?:(?:frame|image|img|colou?r|rgb)[-_]?)?"  # what may stand before a frame's number


class Frames:
    """The frames of a scene by their files, names and numbers."""

    def __init__(self, layout: Layout, scene: Scene):
        self._layout, self._scene = layout, scene
        self._number = re.compile(rf"(?i)(?:{re.escape(scene.name)}[-_])?{_WORDS}(\d+)(?:\.color)?")

    def of_file(self, file: Path) -> View | None:
        """The frame whose picture this file is."""
        places = ((os.path.realpath(one.parent), one.name) for one in (file, Path(os.path.realpath(file))))
        return next((self._files[place] for place in places if place in self._files), None)

    def named(self, path: str) -> View | None:
        """The one frame with a file's name (the scene's in front or not), or with its number.

        Several frames may have the name, as of a rig's cameras: then the one whose folders are most alike, if it is one.
        """
        file = PurePosixPath(path.replace("\\", "/"))
        found = {
            view.number: view
            for name in (file.stem, file.name, file.stem.removeprefix(f"{self._scene.name}_"))
            for view in self._names.get(name, ())
        }
        if not found and (match := self._number.fullmatch(file.stem)):
            number = str(int(match[1]))
            found = {
                view.number: view for view in self._names.get(number, ()) if view.name == str(view.number) == number
            }
        shared = {number: _shared(file, self._colour(view)) for number, view in found.items()}
        nearest = [number for number, parts in shared.items() if parts == max(shared.values())]
        return found[nearest[0]] if len(nearest) == 1 else None

    def _colour(self, view: View) -> Path | None:
        """Its picture, None where that is no file of its own."""
        file = self._layout.files(self._scene, view).get("colour")
        return file if file is not None and file.suffix.lower() in COLOUR_SUFFIXES else None

    @functools.cached_property
    def _files(self) -> dict[tuple[str, str], View]:
        """Views by (real folder, name) of their pictures."""
        real = functools.cache(os.path.realpath)
        colours = ((self._colour(view), view) for view in self._scene.views)
        return {(real(file.parent), file.name): view for file, view in colours if file is not None}

    @functools.cached_property
    def _names(self) -> dict[str, list[View]]:
        """Views by their names, and by their pictures' with and without ending."""
        found: dict[str, list[View]] = {}
        for view in self._scene.views:
            file = self._colour(view)
            for name in {view.name, *((file.stem, file.name) if file is not None else ())}:
                found.setdefault(name, []).append(view)
        return found


def _shared(path: PurePosixPath, colour: Path | None) -> int:
    """How many folders, from the last one on, two files have in common."""
    pairs = zip(reversed(path.parent.parts), reversed(colour.parent.parts if colour is not None else ()), strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def same_picture(data: bytes, frame: bytes, turns: int) -> bool:
    """Whether two encoded pictures show the same, compared coarsely; sizes may differ.

    Args:
      data: the picture that a row names.
      frame: the frame's. One that cannot be decoded passes: what is wrong with it is said where it is used.
      turns: quarter turns clockwise that make the frame upright; the picture may be turned or not.
    """
    try:
        shown = _coarse(data)
    except BadPicture:
        return False
    try:
        own = _coarse(frame)
    except BadPicture:
        return True
    return any(np.abs(shown - np.rot90(own, -turn)).max() <= _APART for turn in {0, turns})


def _coarse(data: bytes) -> np.ndarray:
    """float64[_CELLS,_CELLS,3]."""
    with opened(data) as picture:
        return np.asarray(rgb_of(picture, turn=True).resize((_CELLS, _CELLS), Image.Resampling.BOX), np.float64)
