"""Unpacks the archives of a data set safely: `python -m experiments.extract --archives A.tar.gz B.zip --raw DIR`.

Reads .tar, .tar.gz (.bz2, .xz) and .zip, and tars cut into parts (name-00.tar.gz name-01.tar.gz ..., name.tar.gz.aa ...), which are
joined. Never overwrites; files that are there already are compared, so the same command goes on after a stop. Members that
lead out of the folder, devices, links out of it and decompression bombs stop it with a message.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from data_pipelines.archives.members import Limits
from data_pipelines.archives.parts import archives_in, groups
from data_pipelines.archives.unpacking import unpack
from data_pipelines.manifest import PrepareError
from experiments import stopping


def extract(archives: Sequence[Path | str], raw: Path | str, limits: Limits, progress: bool = True) -> int:
    """Unpacks archives below `raw`, one after the other; returns the number of files written.

    Raises:
      PrepareError: see `parts.groups` and `unpacking.unpack`.
    """
    out, written = Path(raw).expanduser(), 0
    inside = set(archives_in(out)) if out.is_dir() else set()
    for parts in groups([Path(path).expanduser() for path in archives]):
        size, name = sum(part.stat().st_size for part in parts), parts[0].name
        with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=not progress) as bar:
            counts = unpack(parts, out, limits, bar.update)
        written += counts.written
        if progress:
            joined = f" ({len(parts)} parts)" if len(parts) > 1 else ""
            print(f"{name}{joined}: {counts.written} files written, {counts.already_there} were there already")
    if progress and (new := [path for path in archives_in(out) if path not in inside]):
        print(f"Archives were inside: {', '.join(map(str, new))}. Unpack them likewise.")
    return written


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m experiments.extract", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--archives", nargs="+", required=True, help="archives, with all their parts")
    result.add_argument("--raw", required=True, help="folder to unpack into")
    result.add_argument(
        "--max_gb", type=float, default=Limits().size / 1e9, help="most an archive may unpack to, in GB"
    )
    result.add_argument("--max_ratio", type=float, default=Limits().ratio, help="most unpacked bytes per packed byte")
    result.add_argument("--quiet", action="store_true", help="no bar and no counts")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 1 for an archive that cannot be unpacked."""
    flags = parser().parse_args(argv)
    try:
        for name in ("max_gb", "max_ratio"):
            if not getattr(flags, name) > 0:  # of NaN neither
                raise PrepareError(f"--{name} is {getattr(flags, name)}, expected a number above 0.")
        with stopping.Stopping():
            extract(flags.archives, flags.raw, Limits(flags.max_gb * 1e9, flags.max_ratio), not flags.quiet)
    except PrepareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on.", file=sys.stderr)
        return stopping.RESUMABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
