"""What a dry run says about a scene: which of its files are there, what some of its frames hold, what is left out."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipelines.sources.posed.agreement import DOUBTFUL, agreement_of_frames
from data_pipelines.sources.posed.cameras import Pose
from data_pipelines.sources.posed.grouping import SAMPLERS
from data_pipelines.sources.posed.pictures import Frame, assemble
from data_pipelines.sources.posed.scene import UNKNOWN_UNIT, Layout, LeftOut, PosedSettings, Scene, Unusable, View

_RECORDS = 2  # of a scene whose views are compared
_LOOKED_AT = 8  # frames of a scene that are opened; of all frames it is looked whether their files are there
_KINDS = ("colour", "depth", "confidence", "mask")  # of files that are counted


def scene_lines(layout: Layout, scene: Scene, poses: Mapping[int, Pose], settings: PosedSettings) -> Iterator[str]:
    """A line about all frames: poses, files by kind, what a sample of them holds; one about the agreement of views; and one per
    reason for leaving out.

    Args:
      layout: the scene's.
      scene: opened.
      poses: of its frames.
      settings: of the source.
    """
    problems = collections.Counter(poses.get(view.number, Pose(None, "missing")).problem for view in scene.views)
    good = problems.pop("", 0)
    masked = ", ".join(f"{number} {name}" for name, number in sorted(problems.items()))
    sample = scene.views[:: max(1, len(scene.views) // _LOOKED_AT)]
    found = collections.Counter(_kind(layout, scene, view, settings) for view in sample)
    yield (
        f"{scene.name}: {len(scene.views)} frames; {good} with a pose{f' ({masked})' if masked else ''}; "
        f"files: {_there(layout, scene)}; of {len(sample)} looked at: "
        + ", ".join(f"{number} {kind}" for kind, number in sorted(found.items()))
    )
    yield from _agreement(layout, scene, poses, settings)
    reasons: dict[tuple[str, str], list[LeftOut]] = {}
    for one in scene.left_out:
        reasons.setdefault((one.count, one.reason), []).append(one)
    for (count, reason), lost in reasons.items():
        names = ", ".join(one.name for one in lost[:5]) + (", ..." if len(lost) > 5 else "")
        yield f"{scene.name}: left out: {sum(one.number for one in lost)} {count} ({names}): {reason}"


def _agreement(layout: Layout, scene: Scene, poses: Mapping[int, Pose], settings: PosedSettings) -> Iterator[str]:
    """How well the views of a few records agree; nothing where none sees another with depth and pose."""

    def pose(view: View) -> Pose:
        return poses.get(view.number, Pose(None, "missing"))

    def read(view: View) -> Frame | None:
        try:
            return assemble(view, layout.read(scene, view, settings), pose(view), scene.turns, settings.max_size)[0]
        except Unusable:
            return None

    found = []
    for start in range(0, len(scene.views), max(1, -(-len(scene.views) // _RECORDS))):
        frames = next(iter(SAMPLERS[settings.sampler](scene.views[start:], settings, read, pose)), ())
        found.append(agreement_of_frames(frames, layout.depth_unit(settings) or UNKNOWN_UNIT))
    if shares := [share for share in found if share is not None]:
        hint = "" if min(shares) >= DOUBTFUL else (
            ": depth and cameras do not fit together. Are the poses camera-to-world, with the axes that the layout has? Is depth in "
            "the unit of the poses, and along the view, not the ray?"
        )  # fmt: skip
        yield (
            f"{scene.name}: views of {len(shares)} records agree on {min(shares):.0%} or more of the depth that they see of each "
            f"other{hint}"
        )


def _there(layout: Layout, scene: Scene) -> str:
    """Of how many frames each kind of file is there, and the first frame that lacks it."""
    exists = functools.cache(Path.is_file)  # a file may be that of all frames
    there: collections.Counter[str] = collections.Counter()
    lost: dict[str, list[str]] = {}
    for view in scene.views:
        for kind, file in layout.files(scene, view).items():
            if file is not None and exists(file):
                there[kind] += 1
            else:
                lost.setdefault(kind, []).append(view.name)
    return ", ".join(
        f"{kind} {there[kind]}" + (f" ({len(lost[kind])} missing, the first {lost[kind][0]})" if kind in lost else "")
        for kind in _KINDS
        if kind in there or kind in lost
    )


def _kind(layout: Layout, scene: Scene, view: View, settings: PosedSettings) -> str:
    try:
        raw = layout.read(scene, view, settings)
        frame, reason = assemble(view, raw, Pose(None), scene.turns, settings.max_size)
    except Unusable as error:
        frame, reason = None, str(error)
    if frame is None:
        return f"would be dropped ({reason})"
    return "with depth" if raw.depth is not None else f"without depth ({raw.depth_problem})"
