"""What the shards of one data set must have in common: its arguments, and the code and packages that act on them.

The command that prepares a folder writes it into the folder (`BEGUN`). Who makes a shard there, in another process, on another
machine, or for a command of yesterday, compares it with what itself would make the shard of, and marks the shard with that.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import sys
from pathlib import Path

from data_pipelines import manifest as manifest_lib
from data_pipelines.manifest import PROGRESS_NAME, PrepareError
from data_pipelines.records import FORMAT_VERSION
from data_pipelines.sources.base import Plan

BEGUN = "arguments.json"  # inside `PROGRESS_NAME`
_VERSIONED = ("numpy", "pillow", "tensorflow-datasets", "array-record", "trimesh", "embreex")


def arguments_of(plan: Plan) -> dict:
    """The plan's arguments, with source, its version and the format, as JSON gives them back."""
    return json.loads(
        json.dumps({**plan.arguments, "source": plan.source, "source_version": plan.version, "format": FORMAT_VERSION})
    )


def made_with(plan: Plan) -> dict[str, str]:
    """Code of the source, and versions of this process's Python and packages."""
    packages = {name: _version(name) for name in _VERSIONED}
    return {"python": sys.version.split()[0], **packages, "code_sha256": plan.code}


def begun_with(plan: Plan) -> dict:
    """`arguments_of` and `made_with` together."""
    return {**arguments_of(plan), **{f"made_with {name}": value for name, value in made_with(plan).items()}}


def mark(plan: Plan) -> str:
    """Hex SHA-256 of what this process would make shards of."""
    return manifest_lib.fingerprint([manifest_lib.to_json(begun_with(plan))])


def check_begun(plan: Plan, directory: Path) -> None:
    """Compares what this process would make a shard of with what the preparation in `directory` was begun with.

    Raises:
      PrepareError: it was begun with something else, naming what, or has ended.
      OSError: the file cannot be read.
    """
    try:
        there = json.loads((directory / PROGRESS_NAME / BEGUN).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PrepareError(
            f"No preparation goes on in {directory} any more: its command has ended, and this job of it was not stopped. Stop it; "
            "nothing was written."
        ) from error
    if lines := manifest_lib.differences(there, begun_with(plan)):
        raise PrepareError(
            f"{directory} is prepared with something else than this process would write there: {'; '.join(lines)}. Nothing was "
            "written. Either a job of an earlier command still runs: stop it; or workers have other packages than the command: "
            "give them the same."
        )


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
