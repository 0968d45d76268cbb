"""A source of questions from a form: rows are checked, grouped by their pictures, split by scene, shown and counted."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError, fingerprint, sha256_of
from data_pipelines.records import Question, Record
from data_pipelines.sources.base import Plan, Source, Tally, code_fingerprint, shard_items
from data_pipelines.sources.posed.scene import picture_state
from data_pipelines.sources.qa.files import entries, mapping, reread
from data_pipelines.sources.qa.geometry import Geometry
from data_pipelines.sources.qa.media import Showing, Shown, below, missing, show
from data_pipelines.sources.qa.rows import Row, RowError
from data_pipelines.sources.qa.video import SAMPLERS

GROUPS_PER_ITEM = 32  # sets of pictures that are made by one worker at a time
QUESTIONS_PER_RECORD = 64  # about the same pictures; more become another record
SHOWN_PROBLEMS = 5  # of each kind, in a dry run


@dataclasses.dataclass(frozen=True)
class QaSettings:
    """Arguments that all sources of questions share; each is a flag of `experiments.prepare`."""

    raw: str = flag("", "folder of the question files")
    files: tuple = flag((), "question files below --raw; by default those of the data set's own layout")
    media: str = flag("", "folder that paths of pictures and videos start from; --raw by default")
    frames: int = flag(8, "frames of a video that are shown")
    sampler: str = flag("uniform", "which: uniform (int(linspace(0, n - 1, frames))), first, or stride")
    stride: int = flag(1, "frames from one to the next (stride)")
    views: int = flag(32, "most pictures of one record; rows with more are left out")
    max_size: int = flag(0, "longest side in pixels; larger pictures shrink; 0 = as they are")
    geometry: str = flag("", "LAYOUT=FOLDER[,LAYOUT=FOLDER]: posed scenes whose frames give pictures depth and cameras")
    split: str = flag("", "put all rows into this split; by default train, validation and test by scene")
    validation: float = flag(0.0, "share of the scenes for validation")
    test: float = flag(0.0, "share of the scenes for test")
    seed: int = flag(0, "chooses which scenes go to validation and test")
    name: str = flag("", "name of the data set in its records; the source's by default")


class Form(Protocol):
    """How one kind of question file lies on disk."""

    def files(self, raw: Path, settings: QaSettings) -> list[Path]:
        """The data set's own question files below `raw`."""

    def row(self, fields: dict, settings: QaSettings) -> Row:
        """One entry.

        Raises:
          RowError: it cannot be used.
        """


class _Ref(NamedTuple):
    """Where a row stands."""

    file: int
    number: int  # from 1: line or entry
    at: int  # see `files.Entry`


@dataclasses.dataclass(frozen=True)
class _State:
    settings: QaSettings
    files: tuple[str, ...]
    items: Mapping[str, tuple[tuple[tuple[_Ref, ...], ...], ...]]  # split -> item -> group -> rows
    problems: tuple[tuple[str, str, str], ...]  # (where, reason, kind) of rows that were left out
    notes: Mapping[str, int]  # what was changed, counted


def qa_source(name: str, version: str, settings: type, form: Form, file: str, sources: Mapping[str, Source]) -> Source:
    """The source `name` of a form, whose code lies in `file`; `sources` is the table, for `--geometry`."""
    reader = _Reader(name, version, form, Path(file), sources)
    return Source(settings, reader.plan, reader.make, _summary, reader.look)


class _Reader:
    """`plan` and `make` of a source."""

    def __init__(self, name: str, version: str, form: Form, file: Path, sources: Mapping[str, Source]):
        self.name, self.version, self.form, self.file, self.sources = name, version, form, file, sources
        self._held: tuple[tuple, Geometry | None] = ((), None)
        self._values: tuple[str, list] = ("", [])  # entries of the list that was read last

    def plan(self, settings: QaSettings) -> Plan:
        """Reads and checks all rows, groups those about the same pictures, and splits the groups by scene.

        Raises:
          PrepareError: wrong arguments, unreadable files, or no usable row.
        """
        check(self.name, settings)
        raw = Path(settings.raw).expanduser()
        files = [raw / name for name in settings.files] or self.form.files(raw, settings)
        if absent := [str(file) for file in files if not file.is_file()]:
            raise PrepareError(f"Question files are missing: {', '.join(absent)}.")
        if not files:
            raise PrepareError(f"{raw} has no question file of '{self.name}'; name them with --files.")
        self._held, self._values = ((), None), ("", [])
        geometry, showing = self._geometry(settings), _showing(settings)
        groups: dict[tuple, list[_Ref]] = {}
        scenes: dict[tuple, str] = {}
        problems, notes, used, media = [], collections.Counter(), set(), set()
        for place, file in enumerate(files):
            for entry in entries(file):
                try:
                    if entry.error is not None:
                        raise entry.error
                    row = self.form.row(mapping(entry.value), settings)
                    if not row.media:
                        raise RowError("", "has no picture or video", "text_only")
                    for number, one in enumerate(row.media):
                        if why := missing(one, row, showing, geometry):
                            raise RowError(f"{one.kind}[{number}]", why, "missing_media")
                except RowError as error:
                    problems.append((entry.where, str(error), error.kind))
                    continue
                notes.update(row.notes)
                key = (row.media, row.marks, row.clip, row.scene)
                groups.setdefault(key, []).append(_Ref(place, entry.number, entry.at))
                scenes[key] = self._scene(row, geometry)
                used.add(geometry.scene_of(_first_path(row), row.scene))
                media.update(
                    path for one in row.media for path in ([one.source] if isinstance(one.source, str) else one.source)
                )
        if not groups:
            found = collections.Counter(kind for _, _, kind in problems).most_common(3)
            raise PrepareError(f"No row of {', '.join(map(str, files))} can be used. Most frequent problems: {found}.")
        by_split = _by_split(groups, scenes, settings)
        items = {
            split: tuple(tuple(part[start : start + GROUPS_PER_ITEM]) for start in range(0, len(part), GROUPS_PER_ITEM))
            for split, part in by_split.items()
        }
        listing = [f"{file.name} {sha256_of(file)}" for file in files]
        listing += [line for path in sorted(media) if (line := _state_of(path, showing))]
        listing += geometry.states(used - {""})
        arguments = {
            key: value for key, value in dataclasses.asdict(settings).items() if key not in ("raw", "media", "geometry")
        }
        return Plan(
            source=self.name,
            version=self.version,
            code=code_fingerprint(Path(__file__).parent, self.file),
            arguments={**arguments, "geometry": [part.partition("=")[0] for part in settings.geometry.split(",") if part],
                       "content_of_raw": fingerprint(listing)},
            origin={"raw": str(raw.resolve()), "files": {file.name: sha256_of(file) for file in files}, "geometry": settings.geometry},
            items={split: len(pieces) for split, pieces in items.items()},
            items_per_shard=max(shard_items(len(pieces), 1) for pieces in items.values()),
            steps=sum(len(piece) for pieces in items.values() for piece in pieces),
            unit="group",
            state=_State(settings, tuple(map(str, files)), items, tuple(problems), dict(notes)),
            scenes_shared=False,
        )  # fmt: skip

    def look(self, plan: Plan) -> Iterator[str]:
        """The problems by kind, with examples, and what was changed."""
        state: _State = plan.state
        rows = sum(len(group) for pieces in state.items.values() for piece in pieces for group in piece)
        yield f"{rows} rows can be used, in {plan.steps} groups about the same pictures; {len(state.problems)} cannot"
        kinds = collections.Counter(kind for *_, kind in state.problems)
        for kind, number in kinds.most_common():
            yield f"{kind}: {number}"
            for where, reason, _ in [problem for problem in state.problems if problem[2] == kind][:SHOWN_PROBLEMS]:
                yield f"  {where}: {reason}"
        for name, number in sorted(state.notes.items()):
            yield f"{name}: {number}"

    def make(self, plan: Plan, split: str, index: int, tally: Tally) -> Iterator[Record]:
        """The records of some sets of pictures; see `Source`."""
        state: _State = plan.state
        if index == 0 and split == next(iter(state.items)):
            for where, reason, kind in state.problems:
                tally.skip(where, reason, f"rows_left_out/{kind}")
            for name, number in state.notes.items():
                tally.counts[f"rows_changed/{name}"] += number
        settings = state.settings
        geometry, showing = self._geometry(settings), _showing(settings)
        for group in state.items[split][index]:
            tally.step()
            rows = [
                (ref, self.form.row(mapping(self._value(state.files[ref.file], ref.at)), settings)) for ref in group
            ]
            try:
                shown = show(rows[0][1], showing, geometry)
                if len(shown) > settings.views:
                    raise RowError("", f"shows {len(shown)} pictures, --views is {settings.views}", "too_many_views")
            except RowError as error:
                for ref, _ in rows:
                    tally.skip(_where(state, ref), str(error), f"rows_left_out/{error.kind}")
                continue
            tally.counts["rows_used"] += len(rows)
            tally.add(collections.Counter(note for one in shown for note in one.notes), "pictures/")
            for start in range(0, len(rows), QUESTIONS_PER_RECORD):
                yield self._record(
                    state, rows[start : start + QUESTIONS_PER_RECORD], shown, self._scene(rows[0][1], geometry)
                )

    def _record(self, state: _State, rows: Sequence[tuple[_Ref, Row]], shown: list[Shown], scene: str) -> Record:
        first, settings = rows[0][0], state.settings
        questions, seen = [], set()
        for ref, row in rows:
            name = row.id if row.id and row.id not in seen else f"{Path(state.files[ref.file]).stem}-{ref.number}"
            seen.add(name)
            (text, answer), *later = row.turns
            questions.append(
                Question(
                    id=name, type=row.type, group="spatial", form=row.form, text=text, answer=answer, options=row.options,
                    turns=tuple(later),
                )
            )  # fmt: skip
        units = {one.depth_unit for one in shown if one.depth}
        return Record(
            id=f"{Path(state.files[first.file]).stem}-{first.number}",
            dataset=settings.name or self.name,
            scene=scene,
            setting=rows[0][1].media[0].kind,
            view_ids=tuple(f"{place}:{one.name}" for place, one in enumerate(shown)),
            images=tuple(one.image for one in shown),
            depths=tuple(one.depth for one in shown),
            depth_unit_m=units.pop() if len(units) == 1 else 0.0,
            intrinsics=np.stack([one.intrinsics for one in shown]),
            camera_to_world=np.stack([one.camera_to_world for one in shown]),
            pose_valid=np.array([one.pose_valid for one in shown]),
            questions=tuple(questions),
            metadata={
                "rows": [_where(state, ref) for ref, _ in rows],
                "frames": [one.name for one in shown],
                "sampler": settings.sampler if rows[0][1].media[0].kind == "video" else "list",
            },
        )

    def _scene(self, row: Row, geometry: Geometry) -> str:
        """What must not be in two splits: the scene, or the folder or file of the first picture or video."""
        path = _first_path(row)
        known = geometry.scene_of(path, row.scene) or row.scene
        if known or path.startswith("data:"):
            return known or hashlib.sha256(path.encode()).hexdigest()[:16]
        parts = path.replace("\\", "/").strip("/").split("/")
        return "/".join(parts[:-1]) if row.media[0].kind == "image" and len(parts) > 2 else "/".join(parts)

    def _geometry(self, settings: QaSettings) -> Geometry:
        key = (settings.geometry, settings.max_size)
        if self._held[0] != key or self._held[1] is None:
            self._held = (key, Geometry(settings.geometry, self.sources, settings.max_size))
        return self._held[1]

    def _value(self, file: str, at: int) -> object:
        """An entry again: workers are handed places, not the rows of a large file."""
        if file.endswith(".jsonl"):
            return reread(Path(file), at)
        if self._values[0] != file:
            self._values = (file, [entry.value for entry in entries(Path(file))])
        return self._values[1][at]


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
    if settings.sampler not in SAMPLERS:
        problems.append(f"--sampler must be one of {', '.join(SAMPLERS)}")
    if settings.split not in ("", "train", "validation", "test", "ood"):
        problems.append("--split must be train, validation, test or ood")
    if problems:
        raise PrepareError(f"Source {name}: {'; '.join(problems)}.")


def _showing(settings: QaSettings) -> Showing:
    folder = Path(settings.media or settings.raw).expanduser()
    return Showing(folder, settings.frames, settings.sampler, settings.stride, settings.max_size)


def _first_path(row: Row) -> str:
    source = row.media[0].source
    return (source if isinstance(source, str) else source[0]).removeprefix("file://")


def _state_of(path: str, showing: Showing) -> str:
    if path.startswith("data:"):
        return ""
    file = below(showing.folder, path)
    return f"{path} {picture_state(file)}" if file.is_file() else f"{path} not a file"


def _where(state: _State, ref: _Ref) -> str:
    file = Path(state.files[ref.file])
    return f"{file.name}, {'line' if file.suffix == '.jsonl' else 'entry'} {ref.number}"


def _by_split(groups: Mapping[tuple, list[_Ref]], scenes: Mapping[tuple, str], settings: QaSettings) -> dict[str, list]:
    """split -> groups in file order. A scene is in one split, by a hash of its name."""
    found: dict[str, list] = {}
    for key, refs in sorted(groups.items(), key=lambda item: item[1][0]):
        digest = hashlib.sha256(json.dumps([settings.seed, scenes[key]]).encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2.0**64
        held = (
            "test"
            if share < settings.test
            else "validation"
            if share < settings.test + settings.validation
            else "train"
        )
        found.setdefault(settings.split or held, []).append(tuple(refs))
    return found


def _summary(counts: Mapping[str, float], records: int) -> list[str]:
    left = {name.split("/")[1]: f"{number:g}" for name, number in counts.items() if name.startswith("rows_left_out/")}
    lines = [f"{records} records of {counts.get('rows_used', 0):g} rows" + (f"; left out: {left}" if left else "")]
    for kind, title in (("rows_changed", "rows changed"), ("pictures", "pictures")):
        found = {name.split("/")[1]: f"{number:g}" for name, number in counts.items() if name.startswith(f"{kind}/")}
        if found:
            lines.append(f"{title}: {found}")
    return lines
