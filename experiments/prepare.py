"""Makes a data set: procedural rooms, or one's own posed RGB-D frames.

    python -m experiments.prepare --source rooms --scenes 2000 --views 4 --size 64 --out data/rooms
    python -m experiments.prepare --source posed_rgbd --raw my_scans --views 4 --out data/scans

Uses all cores, shows a bar, and after any interruption the same command goes on where it stopped
and gives the same bytes. `--source NAME --help` lists a source's arguments. Rooms of 4 views at 64
pixels with questions take roughly 0.1 s each on one core. The result is described in
docs/data_format.md; `data_pipelines.storage.open_split` reads it.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import os
import shlex
import sys
import time
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.archives.parts import archives_in
from data_pipelines.builder import SpatialRecords, finished_manifest
from data_pipelines.flags import wrong_numbers
from data_pipelines.manifest import PrepareError
from data_pipelines.paths import as_path
from data_pipelines.raw_copies import localised, origin_of
from data_pipelines.shards import usable_cores
from data_pipelines.sources import SOURCES
from data_pipelines.sources.base import Plan
from data_pipelines.sources.qa.problems import RowsRefused
from experiments import stopping


def prepare(
    source: str,
    settings: object,
    out: str | Path,
    *,
    workers: int | None = 0,
    progress: bool = True,
    beam: Sequence[str] | None = None,
) -> dict:
    """Makes the data set or, where `out` already holds it, returns at once.

    Args:
      source: a key of SOURCES.
      settings: an instance of that source's settings.
      out: folder for the data set; new, empty, or begun with the same settings.
      workers: processes; 0 = one per usable core; None = none, all in this process.
      progress: bar on stderr and summary on stdout.
      beam: options of a Beam pipeline that makes the shards; None = processes of this machine.

    Returns:
      The manifest.

    Raises:
      PrepareError: see `SpatialRecords.download_and_prepare`.
    """
    _check_numbers(source, settings)
    start = time.monotonic()
    directory = as_path(os.path.expanduser(out))
    try:
        plan = planned(source, settings, progress)
    except RowsRefused as error:
        raise PrepareError(f"{error}\nAll of them: {error.write(directory)}") from error
    if manifest := finished_manifest(plan, directory):
        if progress:
            print(f"{directory} is already prepared with these arguments.")
            if manifest["made_with"].get("code_sha256") != plan.code:
                print(
                    f"  (by another state of the code of '{source}', version {plan.version}; delete it to make it anew)"
                )
        return manifest
    builder = SpatialRecords(data_dir=directory, plan=plan)
    build = None
    if beam is not None:
        from data_pipelines.beam import shards

        build = functools.partial(shards.build, options=beam)
    manifest = builder.download_and_prepare(workers=workers, progress=progress, build=build)
    if progress:
        _print_summary(source, directory, manifest, time.monotonic() - start)
    return manifest


def look(source: str, settings: object) -> None:
    """Prints what `prepare` would make, what it found and what is missing; writes nothing.

    Raises:
      PrepareError: what would stop `prepare` before its work begins.
    """
    _check_numbers(source, settings)
    plan = planned(source, settings)
    for line in SOURCES[source].look(plan):
        print(f"  {line}")
    for split, items in plan.items.items():
        print(f"{split}: {items} {'items' if plan.unit != 'room' else 'rooms'} of work")
    print(f"{plan.steps} {plan.unit}s to read. Nothing was written.")
    if hint := _archives_hint(settings):
        print(hint)


def planned(source: str, settings: object, progress: bool = True) -> Plan:
    """The plan of a data set; raw folders in an object store are copied to this machine first.

    Raises:
      PrepareError: what is wrong with the settings or with what lies there.
    """
    local, copies = localised(settings, progress)
    plan = SOURCES[source].plan(local)
    return dataclasses.replace(plan, copies=copies, origin=origin_of(plan.origin, copies)) if copies else plan


def _check_numbers(source: str, settings: object) -> None:
    """Raises PrepareError for settings with numbers that are not finite or out of their bounds."""
    if problems := wrong_numbers(settings):
        raise PrepareError(f"Source {source}: {'; '.join(problems)}.")


def _archives_hint(settings: object) -> str:
    """What to do about archives that lie in the raw folder; "" without any."""
    folder = Path(getattr(settings, "media", "") or getattr(settings, "raw", "") or "/nowhere").expanduser()
    found = archives_in(folder)
    if not found:
        return ""
    names = ", ".join(path.name for path in found[:5]) + (", ..." if len(found) > 5 else "")
    files = " ".join(map(str, found)) if len(found) <= 5 else f"{folder}/..."
    return (
        f"{len(found)} archives lie in {folder} ({names}). If what they hold is missing, unpack them: "
        f"python -m experiments.extract --archives {files} --raw {folder}"
    )


def prepare_rooms(
    out: str | Path, *, scenes: int, workers: int | None = 0, progress: bool = True, **settings: object
) -> dict:
    """Makes procedural rooms in `out`, or returns at once if they are there; returns the manifest.

    Args:
      out: folder of the data set.
      scenes: rooms for training.
      workers: processes, 0 = one per usable core; None = none, all in this process.
      progress: bar and summary.
      **settings: further fields of `sources.rooms.RoomsSettings`: views, size, validation, test,
        ood, form, mix, assets, seed, ...

    Raises:
      PrepareError: `out` holds something else (naming what differs) or cannot be written.
      TypeError, ValueError: a setting that does not exist, or its value is wrong.
    """
    plain = {name: dict(value.items()) if hasattr(value, "items") else value for name, value in settings.items()}
    return prepare("rooms", SOURCES["rooms"].settings(scenes=scenes, **plain), out, workers=workers, progress=progress)


def _print_summary(source: str, directory: Path, manifest: Mapping, seconds: float) -> None:
    counts: collections.Counter = collections.Counter()
    records = views = 0
    for split, entry in manifest["splits"].items():
        counts.update(entry["counts"])
        records += entry["records"]
        views += sum(bucket["views"] * bucket["records"] for bucket in entry["buckets"])
        size = sum(shard["bytes"] for shard in entry["shards"]) / 2**20
        questions = sum(sum(types_.values()) for types_ in entry["question_types"].values())
        print(
            f"{split}: {entry['records']} records of {entry['scenes']} scenes, {questions} questions, "
            f"{len(entry['shards'])} shards, {size:.1f} MiB"
        )
    for line in SOURCES[source].summary(counts, records):
        print(f"  {line}")
    if manifest["skipped"]["lines"]:
        print(f"  left out: {manifest['skipped']['lines']}, listed with reasons in {directory / 'skipped.jsonl'}")
    print(f"{directory}: {records} records, {views} views in {seconds:.1f} s ({views / seconds:.0f} views/s)")


def _parser(source: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=sorted(SOURCES), required=True)
    parser.add_argument("--out", help="folder for the data set")
    parser.add_argument("--workers", type=int, default=0, help="processes [0: one per core]")
    parser.add_argument(
        "--beam",
        nargs="?",
        const="",
        help='as a Beam pipeline with these options, --beam="--runner=..." (docs/at_scale.md)',
    )
    parser.add_argument("--dry_run", action="store_true", help="list what is there and what is missing; write nothing")
    parser.add_argument("--quiet", action="store_true", help="no bar and no summary")
    settings = SOURCES[source].settings
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        parser.add_argument(
            f"--{field.name}",
            type=_reader(hints[field.name]),
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=f"{field.metadata['help']} [{_shown(field.default)}]".replace("%", "%%"),
        )
    return parser


def _shown(default: object) -> str:
    """A default as it would be typed."""
    if default in (None, "", ()):
        return "none"
    if isinstance(default, tuple):
        return ",".join("=".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def _reader(hint):
    """A function from a flag's text to a value of the type `hint`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if hint is bool:
        return _boolean
    if typing.get_origin(hint) is tuple:  # tuple[str, ...]
        return _texts
    return _tuple if hint is tuple else hint


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"'{text}' is not true or false")
    return text.lower() in ("true", "1")


def _texts(text: str) -> tuple[str, ...]:
    """ "a.jsonl,b=1.jsonl" -> ("a.jsonl", "b=1.jsonl"): names, whatever they look like."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _tuple(text: str) -> tuple | str:
    """ "5,8" -> (5, 8); "walk=.4,free=.6" stays text, which the settings read."""
    if "=" in text:
        return text
    return tuple(_number(part.strip()) for part in text.split(",") if part.strip())


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--source", choices=sorted(SOURCES))
    source = first.parse_known_args(argv)[0].source
    parser = _parser(source or "rooms")
    values = vars(parser.parse_args(argv))
    names = ("source", "out", "workers", "quiet", "dry_run", "beam")
    source, out, workers, quiet, dry_run, beam = (values.pop(name) for name in names)
    if not (out or dry_run):
        parser.error("--out is needed (or --dry_run).")
    if not 0 <= workers <= 4 * usable_cores():
        print(f"error: --workers {workers}; expected 0 to {4 * usable_cores()}.", file=sys.stderr)
        return 2
    settings = None
    try:
        settings = SOURCES[source].settings(**values)
        if dry_run:
            look(source, settings)
            return 0
        options = None if beam is None else shlex.split(beam)
        with stopping.Stopping():
            prepare(source, settings, out, workers=workers, progress=not quiet, beam=options)
    except (PrepareError, ValueError) as error:
        print("\n".join(filter(None, (f"error: {error}", _archives_hint(settings)))), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Interrupted. The same command goes on where {out} stopped.", file=sys.stderr)
        return stopping.RESUMABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
