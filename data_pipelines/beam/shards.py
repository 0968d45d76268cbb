"""The shards of a data set, made by a Beam pipeline: `data_pipelines.shards.build` for one machine or many."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import data_pipelines
from data_pipelines.beam import pipeline
from data_pipelines.manifest import PROGRESS_NAME, PrepareError
from data_pipelines.raw_copies import make_copies
from data_pipelines.shards import missing_shards, read_summary, shard_count, write_shard
from data_pipelines.sources.base import Plan, code_fingerprint


class _WriteShard(pipeline.Step):
    """(split, index) -> the shard."""

    def __init__(self, plan: Plan, directory: Path):
        self._plan, self._directory, self._code = plan, directory, _own_code()

    def do(self, task: tuple[str, int]) -> None:
        """Makes the shard if it is not there.

        Raises:
          PrepareError: see `write_shard`; or this worker's code is not that of the command.
        """
        if self._code != _own_code():
            raise PrepareError(
                "This worker has another copy of this package than the command that started it: its records might be others. Give "
                "the workers the command's (--setup_file, or a new container)."
            )
        if read_summary(self._directory, self._plan, *task) is None:
            make_copies(self._plan.copies)  # the driver's lie on its machine
            write_shard(self._plan, *task, self._directory)


@functools.cache
def _own_code() -> str:
    """Hash of this process's copy of the package."""
    return code_fingerprint(Path(data_pipelines.__path__[0]))


def build(plan: Plan, directory: Path, options: Sequence[str] = ()) -> dict[str, list[dict]]:
    """Makes all shards that are missing and returns every shard's summary, by split.

    Args:
      plan: what to make.
      directory: the output folder, which all workers see: on a shared file system, or gs://.
      options: Beam's own pipeline options, "--runner=DataflowRunner" and the like.

    Raises:
      PrepareError: what a source found wrong, or shards that are missing after several attempts.
    """
    step, notes = _WriteShard(plan, directory), directory / PROGRESS_NAME
    summaries: dict[tuple[str, int], dict] = {}  # each shard is read once: from an object store that is a download

    def missing() -> list[tuple[str, int]]:
        tasks, found = missing_shards(plan, directory, summaries)
        summaries.update(found)
        return tasks

    pipeline.do_all(missing, step, notes, options, "shards")
    return {split: [summaries[split, index] for index in range(shard_count(plan, split))] for split in plan.items}
