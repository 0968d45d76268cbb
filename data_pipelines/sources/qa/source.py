"""A source of questions from a form: rows are checked, grouped by their pictures, split by scene, shown and counted."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from data_pipelines.manifest import PrepareError, fingerprint, sha256_of
from data_pipelines.records import Question, Record
from data_pipelines.sources.base import Plan, Source, Tally, code_fingerprint, shard_items
from data_pipelines.sources.posed.scene import picture_state
from data_pipelines.sources.qa.files import Named, entries, hidden_files, mapping, named, reread
from data_pipelines.sources.qa.geometry import Geometry
from data_pipelines.sources.qa.media import Showing, Shown, below, missing, show
from data_pipelines.sources.qa.problems import Checks, RowError, RowsRefused
from data_pipelines.sources.qa.rows import Row
from data_pipelines.sources.qa.scenes import TEXT, Scenes, by_split, names_of
from data_pipelines.sources.qa.settings import QaSettings, check
from data_pipelines.sources.qa.video import frame_files

GROUPS_PER_ITEM = 32  # sets of pictures that are made by one worker at a time
TEXTS_PER_RECORD = 16  # questions without pictures
QUESTIONS_PER_RECORD = 64  # about the same pictures; more become another record
LOOKED_AT = 8  # groups whose pictures a dry run opens
SHOWN_PROBLEMS = 5  # of each kind, in a dry run


class Form(Protocol):
    """How one kind of question file lies on disk."""

    def files(self, raw: Path, settings: QaSettings) -> list[Path]:
        """The data set's own question files below `raw`."""

    def media(self, raw: Path, files: list[Path]) -> Path:
        """The folder that the rows' paths start from, without --media."""

    def row(self, fields: dict, settings: QaSettings) -> Row:
        """One entry.

        Raises:
          RowError: it cannot be used; with all problems, and its media so far as they are known.
        """


class _Ref(NamedTuple):
    """Where a row stands."""

    file: int
    number: int  # from 1: line or entry
    at: int  # see `files.Entry`


class _Group(NamedTuple):
    """Rows about the same pictures."""

    scene: str
    rows: tuple[_Ref, ...]


@dataclasses.dataclass(frozen=True)
class _State:
    settings: QaSettings
    media: str  # folder
    files: tuple[Named, ...]
    items: Mapping[str, tuple[tuple[_Group, ...], ...]]  # split -> item -> groups
    problems: tuple[tuple[str, str, str], ...]  # (where, reason, count) of what was left out
    notes: Mapping[str, int]  # what was changed or not read, by the names of counts


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
        called = named(files, raw)
        self._held, self._values = ((), None), ("", [])
        folder = Path(settings.media).expanduser() if settings.media else self.form.media(raw, files)
        geometry, showing = self._geometry(settings), _showing(settings, folder)
        groups: dict[tuple, list[_Ref]] = {}
        names: dict[tuple, str] = {}  # of groups, one of the names of their scene
        scenes, problems, notes, used, media = Scenes(), [], collections.Counter(), set(), set()
        last: _Ref | None = None  # the first row of the last record of text alone
        for place, file in enumerate(called):
            for entry in entries(file.path, file.name):
                try:
                    row, own = self._checked(entry, settings, showing, geometry)
                except RowError as error:
                    problems.append((entry.where, str(error), f"rows_left_out/{error.kind}"))
                    continue
                notes.update((*row.notes, *(() if row.media else ("text_only",))))
                ref = _Ref(place, entry.number, entry.at)
                if own:
                    key = (row.media, row.marks, row.clip, row.frames, row.scene)
                else:  # text alone: some rows that follow each other are a scene
                    last = ref if len(groups.get(((), last), ())) in (0, TEXTS_PER_RECORD) else last
                    key, own = ((), last), [(TEXT, f"text-{file.stem}-{last.number}")]
                groups.setdefault(key, []).append(ref)
                names[key] = scenes.join(own)
                for one in row.media:
                    paths = [one.source] if isinstance(one.source, str) else one.source
                    media.update(paths)
                    used.update(geometry.scene_of(path, row.scene) for path in paths if isinstance(one.source, str))
        if not groups:
            found = collections.Counter(count.split("/")[1] for *_, count in problems).most_common(3)
            said = f"No row of {', '.join(map(str, files))} can be used. Most frequent problems: {found}."
            raise RowsRefused(said, [(where, reason) for where, reason, _ in problems])
        if not settings.files:
            problems += [
                (path.relative_to(raw).as_posix(), "is a hidden file", "files_left_out/hidden")
                for path in hidden_files(raw)
            ]
        in_order = sorted(groups.items(), key=lambda item: item[1][0])
        parts = by_split([(scenes.name_of(names[key]), tuple(refs)) for key, refs in in_order], settings)
        items = {
            split: tuple(
                tuple(_Group(*one) for one in part[start : start + GROUPS_PER_ITEM])
                for start in range(0, len(part), GROUPS_PER_ITEM)
            )
            for split, part in parts.items()
        }
        sums = {file.name: sha256_of(Path(file.path)) for file in called}
        listing = [f"{name} {digest}" for name, digest in sums.items()]
        listing += [line for path in sorted(media) for line in _states_of(path, showing)]
        listing += geometry.states(used - {""})
        places = ("raw", "media", "geometry", "links")
        arguments = {key: value for key, value in dataclasses.asdict(settings).items() if key not in places}
        return Plan(
            source=self.name,
            version=self.version,
            code=code_fingerprint(Path(__file__).parent, Path(__file__).parents[1] / "posed", self.file),
            arguments={
                **arguments,
                "geometry": [":".join(filter(None, part[:2])) for part in geometry.stated],
                "content_of_raw": fingerprint(listing),
            },
            origin={"raw": str(raw.resolve()), "files": sums, "geometry": settings.geometry},
            items={split: len(pieces) for split, pieces in items.items()},
            items_per_shard=max(shard_items(len(pieces), 1) for pieces in items.values()),
            steps=sum(len(piece) for pieces in items.values() for piece in pieces),
            unit="group",
            state=_State(settings, str(folder), called, items, tuple(problems), _counted(notes)),
            scenes_shared=False,
        )

    def _checked(self, entry, settings: QaSettings, showing: Showing, geometry: Geometry) -> tuple[Row, list]:
        """(row, names of its scene) of an entry, with a look for the files that it names.

        Raises:
          RowError: with all problems of the row.
        """
        if entry.error is not None:
            raise entry.error
        checks, row = Checks(), None
        try:
            row = self.form.row(mapping(entry.value), settings)
            media, scene = row.media, row.scene
        except RowError as error:
            checks.found += error.problems
            media, scene = error.media, error.scene
        if row is not None and not row.media and settings.text_only == "drop":
            checks.add("", "has no picture or video (--text_only drop)", "text_only")
        for number, one in enumerate(media):
            if why := missing(one, scene, showing, geometry):
                checks.add(f"{one.kind}[{number}]", why, "missing_media")
        names = checks(lambda: list(names_of(row, geometry, settings.scenes))) if row is not None else None
        checks.close()
        return row, names

    def look(self, plan: Plan) -> Iterator[str]:
        """The problems by kind, with examples, and what was changed."""
        state: _State = plan.state
        groups = [group for pieces in state.items.values() for piece in pieces for group in piece]
        rows, left = (
            sum(len(group.rows) for group in groups),
            [one for one in state.problems if one[2].startswith("rows")],
        )
        yield f"{rows} rows can be used, in {plan.steps} groups about the same pictures; {len(left)} cannot"
        yield f"{len({group.scene for group in groups})} scenes"
        for count, number in collections.Counter(count for *_, count in state.problems).most_common():
            yield f"{count.removeprefix('rows_left_out/')}: {number}"
            for where, reason, _ in [problem for problem in state.problems if problem[2] == count][:SHOWN_PROBLEMS]:
                yield f"  {where}: {reason}"
        for name, number in sorted(state.notes.items()):
            yield f"{name.removeprefix('rows_changed/')}: {number}"
        yield from self._shown(state, groups)

    def _shown(self, state: _State, groups: Sequence[_Group]) -> Iterator[str]:
        """Opens the pictures of a few groups."""
        geometry, showing, broken = self._geometry(state.settings), _showing(state.settings, state.media), []
        sample = groups[:: -(-len(groups) // LOOKED_AT)]
        for group in sample:
            try:
                show(self._row(state, group.rows[0]), showing, geometry)
            except RowError as error:
                broken.append(f"  {_where(state, group.rows[0])}: {error}")
        yield f"pictures of {len(sample)} groups opened: {len(sample) - len(broken)} can be shown"
        yield from broken

    def _row(self, state: _State, ref: _Ref) -> Row:
        return self.form.row(mapping(self._value(state.files[ref.file].path, ref.at)), state.settings)

    def make(self, plan: Plan, split: str, index: int, tally: Tally) -> Iterator[Record]:
        """The records of some sets of pictures; see `Source`."""
        state: _State = plan.state
        if index == 0 and split == next(iter(state.items)):
            for where, reason, count in state.problems:
                tally.skip(where, reason, count)
            tally.counts.update(state.notes)
        settings = state.settings
        geometry, showing = self._geometry(settings), _showing(settings, state.media)
        for group in state.items[split][index]:
            tally.step()
            rows = [(ref, self._row(state, ref)) for ref in group.rows]
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
                yield self._record(state, rows[start : start + QUESTIONS_PER_RECORD], shown, group.scene)

    def _record(self, state: _State, rows: Sequence[tuple[_Ref, Row]], shown: list[Shown], scene: str) -> Record:
        first, settings = rows[0][0], state.settings
        questions, seen = [], set()
        for ref, row in rows:
            name = row.id if row.id and row.id not in seen else _id(state, ref)
            seen.add(name)
            (text, answer), *later = row.turns
            questions.append(
                Question(
                    id=name, type=row.type, group="spatial", form=row.form, text=text, answer=answer, options=row.options,
                    turns=tuple(later),
                )
            )  # fmt: skip
        units = {one.depth_unit for one in shown if one.depth}
        kind = rows[0][1].media[0].kind if rows[0][1].media else "text"
        return Record(
            id=_id(state, first),
            dataset=settings.name or self.name,
            scene=scene,
            setting=kind,
            view_ids=tuple(f"{place}:{one.name}" for place, one in enumerate(shown)),
            images=tuple(one.image for one in shown),
            depths=tuple(one.depth for one in shown),
            depth_unit_m=units.pop() if len(units) == 1 else 0.0,
            intrinsics=np.reshape([one.intrinsics for one in shown], (-1, 3, 3)),
            camera_to_world=np.reshape([one.camera_to_world for one in shown], (-1, 4, 4)),
            pose_valid=np.array([one.pose_valid for one in shown], bool),
            questions=tuple(questions),
            metadata={
                "rows": [_where(state, ref) for ref, _ in rows],
                "frames": [one.name for one in shown],
                "sampler": settings.sampler if kind == "video" else "list",
            },
        )

    def _geometry(self, settings: QaSettings) -> Geometry:
        key = (settings.geometry, settings.max_size, settings.links)
        if self._held[0] != key or self._held[1] is None:
            self._held = (key, Geometry(settings.geometry, self.sources, settings.max_size, settings.links))
        return self._held[1]

    def _value(self, file: str, at: int) -> object:
        """An entry again: workers are handed places, not the rows of a large file."""
        if file.lower().endswith(".jsonl"):
            return reread(Path(file), at)
        if self._values[0] != file:
            self._values = (file, [entry.value for entry in entries(Path(file))])
        return self._values[1][at]


def _showing(settings: QaSettings, folder: Path | str) -> Showing:
    return Showing(Path(folder), settings.frames, settings.sampler, settings.stride, settings.max_size, settings.links)


def _counted(notes: Mapping[str, int]) -> dict[str, int]:
    """Notes of rows by the names of their counts."""
    return {
        f"fields_not_read/{name[6:]}" if name.startswith("field:") else f"rows_changed/{name}": number
        for name, number in notes.items()
    }


def _states_of(path: str, showing: Showing) -> list[str]:
    """Lines that change with a picture or video, or with the frames of one that is a folder."""
    if path.startswith("data:"):
        return []
    file = below(showing, path)
    if file.is_dir():
        return [f"{path}/{picture_state(frame)}" for frame in frame_files(file)]
    return [f"{path} {picture_state(file)}" if file.is_file() else f"{path} not a file"]


def _id(state: _State, ref: _Ref) -> str:
    return f"{state.files[ref.file].stem}-{ref.number}"


def _where(state: _State, ref: _Ref) -> str:
    name = state.files[ref.file].name
    return f"{name}, {'line' if name.lower().endswith('.jsonl') else 'entry'} {ref.number}"


def _summary(counts: Mapping[str, float], records: int) -> list[str]:
    left = {name.split("/")[1]: f"{number:g}" for name, number in counts.items() if name.startswith("rows_left_out/")}
    lines = [f"{records} records of {counts.get('rows_used', 0):g} rows" + (f"; left out: {left}" if left else "")]
    for kind, title in (
        ("rows_changed", "rows changed"),
        ("fields_not_read", "fields not read"),
        ("pictures", "pictures"),
    ):
        found = {name.split("/")[1]: f"{number:g}" for name, number in counts.items() if name.startswith(f"{kind}/")}
        if found:
            lines.append(f"{title}: {found}")
    return lines
