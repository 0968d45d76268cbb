"""Arguments that all sources of questions share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError
from data_pipelines.sources.qa.video import SAMPLERS


@dataclasses.dataclass(frozen=True)
class QaSettings:
    """Arguments that all sources of questions share; each is a flag of `experiments.prepare`."""

    raw: str = flag("", "folder of the question files")
    files: tuple[str, ...] = flag((), "question files below --raw; by default those of the data set's own layout")
    media: str = flag("", "folder that paths of pictures and videos start from; --raw by default")
    frames: int = flag(8, "frames of a video that are shown")
    sampler: str = flag("uniform", "which: uniform (int(linspace(0, n - 1, frames))), first, or stride")
    stride: int = flag(1, "frames from one to the next (stride)")
    views: int = flag(32, "most pictures of one record; rows with more are left out")
    max_size: int = flag(0, "longest side in pixels; larger pictures shrink; 0 = as they are")
    geometry: str = flag(
        "",
        "LAYOUT[:SETTING=VALUE]...=FOLDER[,...]: posed scenes whose frames give pictures depth and cameras, with settings of "
        "their own source (nerfstudio:metric=true=/data/captures,tum:camera=525,525,320,240=/data/tum)",
    )
    scenes: str = flag(
        "folder",
        "what rows of one scene share without a scene_name: folder (of the pictures), or picture (each its own)",
    )
    text_only: str = flag("keep", "rows without pictures: keep, or drop (counted)")
    split: str = flag("", "put all rows into this split; by default train, validation and test by scene")
    validation: float = flag(0.0, "share of the scenes for validation")
    test: float = flag(0.0, "share of the scenes for test")
    seed: int = flag(0, "chooses which scenes go to validation and test")
    name: str = flag("", "name of the data set in its records; the source's by default")
    links: bool = flag(False, "read files that annotations name through links which lead out of the folder")


def check(name: str, settings: QaSettings) -> None:
    """Checks the arguments that all forms share.

    Raises:
      PrepareError: every mistake, in one message.
    """
    problems = []
    for field in ("raw", "media"):
        value = getattr(settings, field)
        if (value or field == "raw") and not Path(value).expanduser().is_dir():
            problems.append(f"--{field} '{value}' is not a folder")
    for field, least in (("frames", 1), ("stride", 1), ("views", 1), ("max_size", 0)):
        if getattr(settings, field) < least:
            problems.append(f"--{field} must be at least {least}")
    if not (0 <= settings.validation and 0 <= settings.test and settings.validation + settings.test < 1):
        problems.append("--validation and --test are shares of the scenes, together below 1")
    if settings.scenes not in ("folder", "picture"):
        problems.append("--scenes must be folder or picture")
    if settings.text_only not in ("keep", "drop"):
        problems.append("--text_only must be keep or drop")
    if settings.sampler not in SAMPLERS:
        problems.append(f"--sampler must be one of {', '.join(SAMPLERS)}")
    if settings.split not in ("", "train", "validation", "test", "ood"):
        problems.append("--split must be train, validation, test or ood")
    if problems:
        raise PrepareError(f"Source {name}: {'; '.join(problems)}.")
