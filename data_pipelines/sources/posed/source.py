"""A source of posed frames from a layout: scenes are split, cut into stretches, grouped into records and counted."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_pipelines.flags import wrong_numbers
from data_pipelines.manifest import PrepareError, fingerprint
from data_pipelines.records import Question, Record
from data_pipelines.sources.base import Plan, Source, Tally, code_fingerprint, shard_items
from data_pipelines.sources.posed import questions as own_questions
from data_pipelines.sources.posed.agreement import DOUBTFUL, agreement_of_frames
from data_pipelines.sources.posed.cameras import Pose, without_lost
from data_pipelines.sources.posed.grouping import SAMPLERS, WHOLE_SCENE, visited
from data_pipelines.sources.posed.looking import scene_lines
from data_pipelines.sources.posed.pictures import Frame, assemble
from data_pipelines.sources.posed.scene import UNKNOWN_UNIT, Layout, PosedSettings, Scene, Unusable, View

GROUPS_PER_ITEM = 64  # a long scene is cut into stretches of so many records' frames, for all cores


@dataclasses.dataclass(frozen=True)
class _Item:
    scene: int
    start: int  # positions in Scene.views
    stop: int


@dataclasses.dataclass(frozen=True)
class _State:
    settings: PosedSettings
    scenes: tuple[Scene, ...]
    items: Mapping[str, tuple[_Item, ...]]
    not_scenes: Mapping[str, str]  # folder -> why it is no scene; reported with the first item


def posed_source(name: str, version: str, settings: type, layout: Layout, file: str) -> Source:
    """The source `name` of a layout, whose code lies in `file`."""
    reader = _Reader(name, version, layout, Path(file))
    return Source(settings, reader.plan, reader.make, _summary, reader.look, layout)


class _Reader:
    """`plan` and `make` of a source."""

    def __init__(self, name: str, version: str, layout: Layout, file: Path):
        self.name, self.version, self.layout, self.file = name, version, layout, file
        self._held: tuple[Scene | None, Mapping[int, Pose]] = (None, {})  # poses of the scene that was read last

    def plan(self, settings: PosedSettings) -> Plan:
        """Looks at all scenes, splits them and cuts them into items.

        Raises:
          PrepareError: no scene, wrong arguments or intrinsics, more held out than there is.
        """
        check(self.name, settings)
        self._held = (None, {})  # folders may have changed since the last data set
        raw = Path(settings.raw).expanduser()
        scenes, not_scenes = [], {}
        for folder in self.layout.folders(raw, settings):
            found = self.layout.open(folder, settings)
            if isinstance(found, Scene):
                own_questions.scene_questions(found)  # mistakes in questions.json show before the work begins
                scenes.append(found)
            else:
                not_scenes[_within(raw, folder)] = found
        if not scenes:
            raise PrepareError(f"{raw} holds no scene of the layout '{self.name}': {not_scenes or 'it is empty'}.")
        _check_names(scenes)
        parts, shared = split_scenes(scenes, settings)
        items = {
            split: tuple(piece for part in own for piece in _cut(part, scenes, settings))
            for split, own in parts.items()
        }
        listing = [f"{scene.name} {scene.numbers} {scene.turns} {scene.facts} {scene.state}" for scene in scenes]
        listing += [line for scene in scenes for line in self.layout.states(scene)]
        listing += [own_questions.questions_text(scene) for scene in scenes]
        arguments = {key: value for key, value in dataclasses.asdict(settings).items() if key not in ("raw", "links")}
        return Plan(
            source=self.name,
            version=self.version,
            code=code_fingerprint(Path(__file__).parent, Path(__file__).parents[1] / "qa", self.file),
            arguments={**arguments, "content_of_raw": fingerprint(listing)},
            origin={"raw": str(raw.resolve()), "split_by": "frames of each scene" if shared else "scenes"},
            items={split: len(pieces) for split, pieces in items.items()},
            items_per_shard=max(shard_items(len(pieces), 1) for pieces in items.values()),
            steps=sum(visited(piece.stop - piece.start, settings) for pieces in items.values() for piece in pieces),
            unit="frame",
            state=_State(settings, tuple(scenes), items, not_scenes),
            scenes_shared=shared,
            vocabulary=own_questions.question_words(scenes),
        )

    def look(self, plan: Plan) -> Iterator[str]:
        """What a dry run says: see `looking.scene_lines`; and which folders are no scenes."""
        state: _State = plan.state
        for scene in state.scenes:
            yield from scene_lines(self.layout, scene, self._read_poses(scene, state.settings), state.settings)
        for name, reason in state.not_scenes.items():
            yield f"{name}: no scene ({reason})"

    def make(self, plan: Plan, split: str, index: int, tally: Tally) -> Iterator[Record]:
        """The records of one stretch of a scene; see `Source`."""
        state: _State = plan.state
        if index == 0 and split == "train":
            for name, reason in state.not_scenes.items():
                tally.skip(name, reason, "folders_that_are_no_scene")
        item = state.items[split][index]
        scene, settings = state.scenes[item.scene], state.settings
        views = scene.views[item.start : item.stop]
        for lost in scene.left_out if item.start == 0 else ():  # one item of each scene begins at its first frame
            tally.skip(f"{scene.name}/{lost.name}", lost.reason, f"left_out/{lost.count}", lost.number)
        questions = own_questions.scene_questions(scene)
        general = [question for numbers, question in questions if not numbers]
        used: set[int] = set()

        def read(view: View) -> Frame | None:
            tally.step()
            return self._frame(scene, view, settings, tally)

        made = 0
        for frames in SAMPLERS[settings.sampler](views, settings, read, lambda view: self._pose(scene, view, settings)):
            used.update(frame.view.number for frame in frames)
            if not made:
                unit = self.layout.depth_unit(settings) or UNKNOWN_UNIT
                share = agreement_of_frames(frames, unit)
                tally.counts["records_compared"] += share is not None
                tally.counts["records_that_disagree"] += share is not None and share < DOUBTFUL
            made += 1
            yield self._record(scene, settings, frames, general, "", tally)
        tally.counts["frames_listed"] += len(views)
        tally.counts["frames_in_no_record"] += len(views) - len(used)
        if not made:
            tally.skip(
                f"{scene.name}/{views[0].number}-{views[-1].number}",
                f"fewer than {settings.views} usable frames",
                "stretches_left_out",
            )
        yield from self._asked(scene, views, questions, settings, tally)

    def _asked(self, scene: Scene, views, questions, settings: PosedSettings, tally: Tally) -> Iterator[Record]:
        """Records of the frames that questions name."""
        by_frames: dict[tuple[int, ...], list[Question]] = {}
        for numbers, question in questions:
            if numbers:
                by_frames.setdefault(numbers, []).append(question)
        here = {view.number: view for view in views}
        for numbers, own in by_frames.items():
            if not set(numbers) <= set(here):
                if numbers[0] in here:
                    tally.skip(
                        own[0].id, f"frames {list(numbers)} are not all in one split", "question_records_left_out"
                    )
                continue
            frames = [self._frame(scene, here[number], settings, tally) for number in numbers]
            if not all(frames):
                tally.skip(own[0].id, f"a frame of {list(numbers)} was dropped", "question_records_left_out")
                continue
            yield self._record(scene, settings, frames, own, "q-", tally)

    def _frame(self, scene: Scene, view: View, settings: PosedSettings, tally: Tally) -> Frame | None:
        """One frame; None (counted, with its reason) if its picture cannot be used.

        Depth that is missing, undecodable or wholly invalid becomes b""; a pose that is no rigid motion is
        masked. All are counted.
        """
        name = f"{scene.name}/{view.name}"
        tally.counts["frames_read"] += 1
        try:
            raw = self.layout.read(scene, view, settings)
            pose = self._pose(scene, view, settings)
            frame, reason = assemble(view, raw, pose, scene.turns, settings.max_size)
        except Unusable as error:
            frame, reason = None, str(error)
        if frame is None:
            tally.skip(name, reason, "frames_dropped")
            return None
        if raw.depth is None:
            tally.counts[f"depth_missing/{raw.depth_problem}"] += 1
        if pose.matrix is None:
            tally.counts[f"pose_masked/{pose.problem}"] += 1
        tally.counts["frames_kept"] += 1
        return frame

    def _pose(self, scene: Scene, view: View, settings: PosedSettings) -> Pose:
        if self._held[0] is not scene:
            self._held = (scene, self._read_poses(scene, settings))
        return self._held[1].get(view.number, Pose(None, "missing"))

    def _read_poses(self, scene: Scene, settings: PosedSettings) -> Mapping[int, Pose]:
        return without_lost(self.layout.poses(scene, settings))

    def _record(self, scene: Scene, settings: PosedSettings, frames, questions, mark: str, tally: Tally) -> Record:
        numbers = [frame.view.number for frame in frames]
        if not any(frame.depth and frame.pose_valid for frame in frames):
            tally.counts["records_without_geometry"] += 1
        return Record(
            id=f"{scene.name}.{mark}{'-'.join(map(str, numbers))}",
            dataset=settings.name or self.name,
            scene=scene.name,
            setting="sequence",
            view_ids=tuple(frame.view.name for frame in frames),
            images=tuple(frame.image for frame in frames),
            depths=tuple(frame.depth for frame in frames),
            depth_unit_m=self.layout.depth_unit(settings),
            intrinsics=np.stack([frame.intrinsics for frame in frames]),
            camera_to_world=np.stack([frame.camera_to_world for frame in frames]),
            pose_valid=np.array([frame.pose_valid for frame in frames]),
            questions=tuple(questions),
            metadata={
                "frames": numbers,
                "sampler": settings.sampler,
                "stride": settings.stride,
                "turns": scene.turns,
                **scene.facts,
            },
        )


def check(name: str, settings: PosedSettings) -> None:
    """Checks the arguments that all layouts share.

    Raises:
      PrepareError: every mistake, in one message.
    """
    problems = wrong_numbers(settings)
    if not settings.raw or not Path(settings.raw).expanduser().is_dir():
        problems.append(f"--raw '{settings.raw}' is not a folder")
    for field, least in (("views", 1), ("stride", 1), ("records_per_scene", 1), ("hop", 0), ("max_size", 0)):
        if getattr(settings, field) < least:
            problems.append(f"--{field} must be at least {least}")
    for field in ("validation", "test"):
        if getattr(settings, field) < 0:
            problems.append(f"--{field} must not be negative")
    if settings.sampler not in SAMPLERS:
        problems.append(f"--sampler must be one of {', '.join(SAMPLERS)}")
    if settings.picture not in ("depth", "colour"):
        problems.append("--picture must be depth or colour")
    problems += getattr(settings, "problems", lambda: [])()
    if problems:
        raise PrepareError(f"Source {name}: {'; '.join(problems)}.")


def _within(raw: Path, folder: Path) -> str:
    """A folder's name below `raw`; its own where it is `raw` or lies elsewhere."""
    name = folder.relative_to(raw).as_posix() if folder.is_relative_to(raw) else folder.name
    return folder.name if name == "." else name


def _check_names(scenes: list[Scene]) -> None:
    seen: dict[str, str] = {}
    for scene in scenes:
        if seen.setdefault(scene.name, scene.path) != scene.path:
            raise PrepareError(f"{seen[scene.name]} and {scene.path} are both called '{scene.name}'. Rename one.")


def split_scenes(scenes: list[Scene], settings: PosedSettings) -> tuple[dict[str, list[_Item]], bool]:
    """Whole scenes per split where they suffice, else (True) the end of every scene's frames."""
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
            parts[split].append(_Item(index, 0, len(scenes[index].views)))
        return {split: sorted(part, key=lambda item: item.scene) for split, part in parts.items()}, False
    span = settings.views * (1 if settings.sampler in WHOLE_SCENE else settings.stride)
    for index, scene in enumerate(scenes):
        stop = len(scene.views)
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
    if settings.sampler in WHOLE_SCENE or own_questions.scene_questions(scenes[part.scene]):
        length = part.stop - part.start
    for start in range(part.start, part.stop, length):
        yield _Item(part.scene, start, min(start + length, part.stop))


def _summary(counts: Mapping[str, float], records: int) -> list[str]:
    read, dropped = counts.get("frames_read", 0), counts.get("frames_dropped", 0)
    lines = [f"{records} records from {read:g} frames read; {dropped:g} dropped ({dropped / max(1, read):.1%})"]
    by_kind = {
        kind: {name.split("/")[1]: number for name, number in counts.items() if name.startswith(f"{kind}/")}
        for kind in ("pose_masked", "depth_missing", "left_out")
    }
    if found := by_kind.pop("left_out"):
        lines.append(f"left out unread: {found}")
    for kind, found in by_kind.items():
        if found:
            lines.append(f"{kind}: {sum(found.values()):g} of {read:g} frames {found}")
    if number := counts.get("records_that_disagree"):
        lines.append(
            f"in {number:g} of {counts['records_compared']:g} records whose views were compared, depth and cameras do not fit "
            "together: --dry_run shows the scenes"
        )
    if number := counts.get("records_without_geometry"):
        lines.append(f"{number:g} records have no view with depth and pose: without label files they train text alone")
    return lines
