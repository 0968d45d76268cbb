"""posed_rgbd: folders of posed RGB-D frames (ScanNet's export layout, or one's own) as records.

`--raw` is a scene folder (with color/ in it) or a folder of scene folders. `posed_frames` reads
the frames, `posed_questions` an optional questions.json; here frames are grouped into records and
split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError, fingerprint
from data_pipelines.records import Question, Record
from data_pipelines.sources.base import Plan, Source, Tally, code_fingerprint, shard_items
from data_pipelines.sources.posed_frames import (
    Frame,
    Reading,
    Scene,
    file_states,
    forget_listings,
    open_scene,
    read_frame,
)
from data_pipelines.sources.posed_questions import question_words, questions_text, scene_questions

VERSION = "1"
SAMPLERS = ("windows", "stride", "uniform")
GROUPS_PER_ITEM = 64  # a long scene is cut into stretches of so many records' frames, for all cores


@dataclasses.dataclass(frozen=True)
class PosedSettings:
    """Arguments of the source; each is a flag of `experiments.prepare`."""

    raw: str = flag("", "scene folder, or folder of scene folders, with color/ depth/ pose/ intrinsic/")
    views: int = flag(4, "views per record")
    sampler: str = flag(
        "windows",
        "windows: every --stride-th frame, cut into runs of --views; stride: the same for every starting frame, so "
        "that each frame is used once; uniform: records spread evenly over the whole scene",
    )
    stride: int = flag(1, "frames from one view to the next (windows, stride)")
    hop: int = flag(0, "windows: views from one record's start to the next's; 0 = --views, no overlap")
    records_per_scene: int = flag(16, "uniform: records per scene")
    max_size: int = flag(0, "longest side in pixels; larger pictures shrink (depth by nearest); 0 = as they are")
    depth_unit: float = flag(0.001, "metres per depth step (0.001 ScanNet, 0.0002 TUM); 0 = unknown")
    principal_point: str = flag(
        "centre",
        "where intrinsics files put 0: 'centre' of the first pixel (ScanNet, Kinect: 0.5 is added to cx and cy) "
        "or the picture's 'corner' (as they are)",
    )
    intrinsics_size: str = flag("", "WIDTHxHEIGHT that the intrinsics were made for, if not the pictures' own")
    validation: int = flag(0, "scenes for validation (records' worth of frames where scenes do not suffice)")
    test: int = flag(0, "scenes for test, likewise")
    seed: int = flag(0, "chooses which scenes go to validation and test")
    name: str = flag("posed_rgbd", "name of the data set in its records")


@dataclasses.dataclass(frozen=True)
class _Item:
    scene: int
    start: int  # positions in Scene.numbers
    stop: int


@dataclasses.dataclass(frozen=True)
class _State:
    settings: PosedSettings
    scenes: tuple[Scene, ...]
    items: Mapping[str, tuple[_Item, ...]]
    not_scenes: Mapping[str, str]  # folder -> why it is no scene; reported with the first item


def plan(settings: PosedSettings) -> Plan:
    """Looks at all scenes, splits them and cuts them into items.

    Raises:
      PrepareError: no scene, wrong arguments or intrinsics, more held out than there is.
    """
    _check(settings)
    forget_listings()
    raw = Path(settings.raw).expanduser()
    reading = _reading(settings)
    scenes, not_scenes = [], {}
    for folder in _scene_folders(raw):
        found = open_scene(folder, reading) if (folder / "color").is_dir() else "no folder color/ in it"
        if isinstance(found, Scene):
            scene_questions(found)  # mistakes in questions.json show before the work begins
            scenes.append(found)
        else:
            not_scenes[folder.name] = found
    if not scenes:
        raise PrepareError(
            f"{raw} holds no scene: {not_scenes or 'it is empty'}. A scene has color/, pose/, intrinsic/."
        )
    parts, shared = _split(scenes, settings)
    items = {split: tuple(piece for part in parts[split] for piece in _cut(part, scenes, settings)) for split in parts}
    listing = [f"{scene.name} {scene.numbers} {scene.size} {scene.intrinsics}" for scene in scenes]
    listing += [line for scene in scenes for line in file_states(Path(scene.path))]
    arguments = {key: value for key, value in dataclasses.asdict(settings).items() if key != "raw"}
    return Plan(
        source="posed_rgbd",
        version=VERSION,
        code=code_fingerprint(*sorted(Path(__file__).parent.glob("posed_*.py"))),
        arguments={**arguments, "content_of_raw": fingerprint(listing + [questions_text(scene) for scene in scenes])},
        origin={"raw": str(raw.resolve()), "split_by": "frames of each scene" if shared else "scenes"},
        items={split: len(pieces) for split, pieces in items.items()},
        items_per_shard=max(shard_items(len(pieces), 1) for pieces in items.values()),
        steps=sum(_visited(piece, settings) for pieces in items.values() for piece in pieces),
        unit="frame",
        state=_State(settings, tuple(scenes), items, not_scenes),
        scenes_shared=shared,
        vocabulary=question_words(scenes),
    )


def _check(settings: PosedSettings) -> None:
    problems = []
    if not settings.raw or not Path(settings.raw).expanduser().is_dir():
        problems.append(f"--raw '{settings.raw}' is not a folder")
    for name, least in (("views", 1), ("stride", 1), ("records_per_scene", 1), ("hop", 0), ("max_size", 0)):
        if getattr(settings, name) < least:
            problems.append(f"--{name} must be at least {least}")
    for name in ("validation", "test", "depth_unit"):
        if getattr(settings, name) < 0:
            problems.append(f"--{name} must not be negative")
    if settings.sampler not in SAMPLERS:
        problems.append(f"--sampler must be one of {', '.join(SAMPLERS)}")
    if settings.principal_point not in ("centre", "corner"):
        problems.append("--principal_point must be centre or corner")
    if settings.intrinsics_size and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", settings.intrinsics_size):
        problems.append("--intrinsics_size must read like 1296x968")
    if problems:
        raise PrepareError(f"Source posed_rgbd: {'; '.join(problems)}.")


def _reading(settings: PosedSettings) -> Reading:
    return Reading(settings.principal_point, settings.intrinsics_size, settings.max_size)


def _scene_folders(raw: Path) -> list[Path]:
    if (raw / "color").is_dir():
        return [raw]
    return sorted(path for path in raw.iterdir() if path.is_dir())


def _split(scenes: list[Scene], settings: PosedSettings) -> tuple[dict[str, list[_Item]], bool]:
    """Whole scenes per split where they suffice, else the end of every scene's frames."""
    held = settings.validation + settings.test
    wanted = {"train": 1, "validation": settings.validation, "test": settings.test}
    parts: dict[str, list[_Item]] = {split: [] for split, number in wanted.items() if number}
    if len(scenes) > held:
        order = sorted(
            range(len(scenes)), key=lambda k: hashlib.sha256(f"{settings.seed}/{scenes[k].name}".encode()).digest()
        )
        names = ["test"] * settings.test + ["validation"] * settings.validation
        for position, index in enumerate(order):
            split = names[position] if position < held else "train"
            parts[split].append(_Item(index, 0, len(scenes[index].numbers)))
        return {split: sorted(part, key=lambda item: item.scene) for split, part in parts.items()}, False
    span = settings.views * (1 if settings.sampler == "uniform" else settings.stride)
    for index, scene in enumerate(scenes):
        stop = len(scene.numbers)
        if stop < span * (held + 1):
            raise PrepareError(
                f"{len(scenes)} scenes cannot give {held} for validation and test, and scene '{scene.name}' with {stop} "
                f"frames cannot give {held} records of {span} frames beside one for training. Hold out less."
            )
        for split in ("test", "validation"):
            if number := span * wanted[split]:
                parts[split].append(_Item(index, stop - number, stop))
                stop -= number
        parts["train"].append(_Item(index, 0, stop))
    return parts, True


def _cut(part: _Item, scenes: list[Scene], settings: PosedSettings) -> Iterator[_Item]:
    length = GROUPS_PER_ITEM * settings.views * settings.stride
    if settings.sampler == "uniform" or scene_questions(scenes[part.scene]):
        length = part.stop - part.start
    for start in range(part.start, part.stop, length):
        yield _Item(part.scene, start, min(start + length, part.stop))


def _visited(item: _Item, settings: PosedSettings) -> int:
    frames = item.stop - item.start
    if settings.sampler == "uniform":
        return min(settings.records_per_scene, frames // settings.views) * settings.views
    return frames if settings.sampler == "stride" else -(-frames // settings.stride)


def make(plan: Plan, split: str, index: int, tally: Tally) -> Iterator[Record]:
    """The records of one stretch of a scene; see `Source`."""
    state: _State = plan.state
    if index == 0 and split == "train":
        for name, reason in state.not_scenes.items():
            tally.skip(name, reason, "folders_that_are_no_scene")
    item = state.items[split][index]
    scene, settings = state.scenes[item.scene], state.settings
    numbers = scene.numbers[item.start : item.stop]
    reading = _reading(settings)
    questions = scene_questions(scene)
    general = [question for views, question in questions if not views]
    used: set[int] = set()

    def read(number: int) -> Frame | None:
        tally.step()
        return read_frame(scene, number, reading, tally)

    made = 0
    for frames in SAMPLE[settings.sampler](numbers, settings, read):
        used.update(frame.number for frame in frames)
        made += 1
        yield _record(scene, settings, frames, general, "", tally)
    tally.counts["frames_listed"] += len(numbers)
    tally.counts["frames_in_no_record"] += len(set(numbers) - used)
    if not made:
        tally.skip(
            f"{scene.name}/{numbers[0]}-{numbers[-1]}",
            f"fewer than {settings.views} usable frames",
            "stretches_left_out",
        )
    by_views: dict[tuple[int, ...], list[Question]] = {}
    for views, question in questions:
        if views:
            by_views.setdefault(views, []).append(question)
    for views, own in by_views.items():
        if not set(views) <= set(numbers):
            if views[0] in numbers:
                tally.skip(own[0].id, f"frames {list(views)} are not all in one split", "question_records_left_out")
            continue
        frames = [frame for frame in (read_frame(scene, number, reading, tally) for number in views) if frame]
        if len(frames) < len(views):
            tally.skip(own[0].id, f"a frame of {list(views)} was dropped", "question_records_left_out")
            continue
        yield _record(scene, settings, frames, own, "q-", tally)


def _windows(numbers, settings: PosedSettings, read, offset: int = 0) -> Iterator[list[Frame]]:
    hop, held, ahead = settings.hop or settings.views, [], 0
    for number in numbers[offset :: settings.stride]:
        if ahead:  # a hop wider than the views passes over frames
            ahead -= 1
            continue
        frame = read(number)
        if frame is not None:
            held.append(frame)
        if len(held) == settings.views:
            yield list(held)
            del held[:hop]
            ahead = max(0, hop - settings.views)


def _interleaved(numbers, settings: PosedSettings, read) -> Iterator[list[Frame]]:
    for offset in range(settings.stride):
        yield from _windows(numbers, settings, read, offset)


def _uniform(numbers, settings: PosedSettings, read) -> Iterator[list[Frame]]:
    count, views = len(numbers), settings.views
    records = min(settings.records_per_scene, count // views)
    edges = [int(slot * count / (views * records)) for slot in range(views * records + 1)] if records else []
    for record in range(records):
        frames = []
        for view in range(views):
            slot = view * records + record
            # The first usable frame of the slot, so that a broken one costs no record.
            candidates = (read(number) for number in numbers[edges[slot] : edges[slot + 1]])
            frames.append(next((frame for frame in candidates if frame is not None), None))
        if all(frames):
            yield frames


SAMPLE = {"windows": _windows, "stride": _interleaved, "uniform": _uniform}


def _record(
    scene: Scene, settings: PosedSettings, frames: list[Frame], questions: list[Question], mark: str, tally: Tally
) -> Record:
    numbers = [frame.number for frame in frames]
    if not any(frame.depth and frame.pose_valid for frame in frames):
        tally.counts["records_without_geometry"] += 1
    return Record(
        id=f"{scene.name}.{mark}{'-'.join(map(str, numbers))}",
        dataset=settings.name,
        scene=scene.name,
        setting="sequence",
        view_ids=tuple(map(str, numbers)),
        images=tuple(frame.image for frame in frames),
        depths=tuple(frame.depth for frame in frames),
        depth_unit_m=settings.depth_unit,
        intrinsics=np.repeat(np.array(scene.intrinsics)[None], len(frames), 0),
        camera_to_world=np.stack([frame.camera_to_world for frame in frames]),
        pose_valid=np.array([frame.pose_valid for frame in frames]),
        questions=tuple(questions),
        metadata={
            "frames": numbers,
            "sampler": settings.sampler,
            "stride": settings.stride,
            "mirrored": scene.mirrored,
        },
    )


def _summary(counts: Mapping[str, float], records: int) -> list[str]:
    read, dropped = counts.get("frames_read", 0), counts.get("frames_dropped", 0)
    lines = [f"{records} records from {read:g} frames read; {dropped:g} dropped ({dropped / max(1, read):.1%})"]
    for kind in ("pose_masked", "depth_missing"):
        found = {name.split("/")[1]: number for name, number in counts.items() if name.startswith(f"{kind}/")}
        if found:
            lines.append(f"{kind}: {sum(found.values()):g} of {read:g} frames {found}")
    if number := counts.get("records_without_geometry"):
        lines.append(f"{number:g} records have no view with depth and pose: they train nothing but text")
    return lines


SOURCE = Source(PosedSettings, plan, make, _summary)
