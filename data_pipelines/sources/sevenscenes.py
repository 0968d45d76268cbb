"""sevenscenes: Microsoft's 7-Scenes: SCENE/seq-NN/frame-NNNNNN.{color.png,depth.png,pose.txt}.

Depth is 16 bit in millimetres, 0 and 65535 invalid; poses are camera-to-world. Each sequence is a scene here (`chess/seq-01`
becomes `chess.seq-01`), so that a split never shows one sequence twice; sequences of one room do share the room.
`--parts train` or `test` keeps the sequences that TrainSplit.txt or TestSplit.txt lists. In the original release depth
and colour come from two cameras that are not registered (about 1 % of the width); registered depth may be named
`.depth.proj.png` and is then taken.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.cameras import Pose, check_pose, impossible, pinhole, scaled
from data_pipelines.sources.posed.decoding import header_size
from data_pipelines.sources.posed.pictures import other_shape, read_depth, target_size
from data_pipelines.sources.posed.scene import (
    PosedSettings,
    Raw,
    Scene,
    View,
    numbers_in,
    read_bytes,
    stated_camera,
    states_of,
    strays,
)
from data_pipelines.sources.posed.source import posed_source

CAMERA, CALIBRATED = (585.0, 585.0, 320.0, 240.0), (640, 480)
_DEPTHS = (".depth.proj.png", ".depth.png")  # registered with colour, as released
_FRAME = re.compile(r"frame-(\d+)\.color\.png")


@dataclasses.dataclass(frozen=True)
class Settings(PosedSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""

    camera: tuple = flag((), "fx,fy,cx,cy in pixels from the picture's corner [585,585,320,240 at 640 x 480]")
    parts: str = flag("all", "sequences to take: all, train (TrainSplit.txt) or test (TestSplit.txt)")

    def problems(self) -> list[str]:
        """What is wrong with the arguments."""
        wrong = ["--parts must be all, train or test"] if self.parts not in ("all", "train", "test") else []
        return stated_camera(self.camera)[1] + wrong


class SevenScenes:
    """The layout; see `posed.scene.Layout`."""

    def folders(self, raw: Path, settings: Settings) -> list[Path]:
        """The sequences in `raw`, or in the scenes in `raw`."""
        scenes = [raw] if any(raw.glob("seq-*")) else sorted(path for path in raw.iterdir() if path.is_dir())
        found = [path for scene in scenes for path in sorted(scene.glob("seq-*")) if path.is_dir()]
        if settings.parts == "all":
            return found
        wanted = {scene: _listed(scene / f"{settings.parts.capitalize()}Split.txt") for scene in scenes}
        return [path for path in found if int(path.name.split("-")[1]) in wanted[path.parent]]

    def open(self, folder: Path, settings: Settings) -> Scene | str:
        """See `Layout`."""
        frames = sorted((int(m[1]), path) for path in folder.iterdir() if (m := _FRAME.fullmatch(path.name)))
        size = next((found for found in (header_size(path) for _, path in frames) if found), None)
        if size is None:
            return f"no readable frame-NNNNNN.color.png among {len(frames)}"
        stated = stated_camera(settings.camera)[0]
        if stated is None and other_shape(CALIBRATED, size):
            raise PrepareError(
                f"{folder}: pictures of {size} do not have the calibrated camera's shape. Give --camera."
            )
        matrix = scaled(pinhole(*CAMERA), CALIBRATED, size) if stated is None else stated
        if problem := impossible(matrix, size):
            raise PrepareError(f"{folder}: --camera: {problem}.")
        views = tuple(View(number, str(number), str(path)) for number, path in frames)
        known = [_beside(view, suffix) for view in views for suffix in (".color.png", ".pose.txt", *_DEPTHS)]
        return Scene(
            name=f"{folder.parent.name}.{folder.name}",
            path=str(folder),
            views=views,
            state=(size, tuple(map(tuple, matrix.tolist()))),
            left_out=strays(folder, [*known, folder / "questions.json"]),
        )

    def poses(self, scene: Scene, settings: Settings) -> Mapping[int, Pose]:
        """One file a frame."""
        files = {view.number: _beside(view, ".pose.txt") for view in scene.views}
        return {number: check_pose(numbers_in(file)) for number, file in files.items() if file.is_file()}

    def read(self, scene: Scene, view: View, settings: Settings) -> Raw:
        """See `Layout`."""
        size, matrix = scene.state
        depth, problem = read_depth(self.files(scene, view)["depth"], None)
        final = target_size(size, depth and depth.size, settings.picture)
        return Raw(
            colour=read_bytes(Path(view.key)),
            colour_size=size,
            size=final,
            intrinsics=scaled(np.array(matrix), size, final),
            depth=depth,
            depth_problem=problem,
        )

    def files(self, scene: Scene, view: View) -> Mapping[str, Path | None]:
        """Registered depth before the other; see `Layout`."""
        found = next((file for suffix in _DEPTHS if (file := _beside(view, suffix)).is_file()), None)
        return {"colour": Path(view.key), "depth": found}

    def states(self, scene: Scene) -> list[str]:
        """Poses by content, pictures by size and time of change."""
        poses = [_beside(view, ".pose.txt") for view in scene.views]
        return states_of(poses, (self.files(scene, view) for view in scene.views))

    def depth_unit(self, settings: Settings) -> float:
        """Millimetres."""
        return 0.001


def _beside(view: View, suffix: str) -> Path:
    return Path(view.key.removesuffix(".color.png") + suffix)


def _listed(file: Path) -> set[int]:
    """Numbers of the sequences in a split file, whose lines read `sequence1`."""
    if not file.is_file():
        raise PrepareError(f"{file} is missing, so --parts cannot be chosen; use --parts all.")
    return {int(number) for number in re.findall(r"sequence(\d+)", file.read_text(encoding="utf-8"))}


SOURCE = posed_source("sevenscenes", "3", Settings, SevenScenes(), __file__)
