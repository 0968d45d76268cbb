"""The shards of a data set, made by a Beam pipeline: `data_pipelines.shards.build` for one machine or many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_pipelines.beam import pipeline
from data_pipelines.manifest import PROGRESS_NAME
from data_pipelines.raw_copies import refresh_once
from data_pipelines.shards import missing_shards, read_summary, shard_count, write_shard
from data_pipelines.sources.base import Plan


class _WriteShard(pipeline.Step):
    """(split, index) -> the shard."""

    def __init__(self, plan: Plan, directory: Path):
        self._plan, self._directory = plan, directory

    def do(self, task: tuple[str, int]) -> None:
        """Makes the shard if it is not there."""
        if read_summary(self._directory, self._plan, *task) is None:
            refresh_once(self._plan.copies)  # the driver's lie on its machine
            write_shard(self._plan, *task, self._directory)


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
