"""Makes the shards of a plan: on all cores, each one whole or not at all, reused after a kill.

A shard's bytes are a pure function of the plan, its split and its index. A worker writes it under
a temporary name, reads its length back, flushes it to disk, renames it, and then writes a small
summary beside the unfinished data set. The summary is the mark of a finished shard.
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import threading
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from array_record.python import array_record_module
from etils import epath
from PIL import Image
from tqdm import tqdm

from data_pipelines.begun import check_begun, mark
from data_pipelines.manifest import (
    PROGRESS_NAME,
    PrepareError,
    StorageError,
    sha256_of,
    shard_name,
    to_json,
    write_atomically,
)
from data_pipelines.paths import file_size, is_remote
from data_pipelines.raw_copies import check_copies
from data_pipelines.records import Record
from data_pipelines.serialization import encode_record
from data_pipelines.sources import SOURCES
from data_pipelines.sources.base import Plan, Tally

# One record per chunk for random access; no compression, because pictures already are.
WRITER_OPTIONS = "group_size:1,uncompressed"


class SourceError(RuntimeError):
    """A source failed in a way that it does not explain."""


class _Stopped(Exception):
    """Another shard failed or the user interrupted; this one is given up."""


def shard_count(plan: Plan, split: str) -> int:
    """Number of shards of a split."""
    return -(-plan.items[split] // plan.items_per_shard)


def read_summary(directory: Path, plan: Plan, split: str, index: int) -> dict | None:
    """The summary of a finished shard, or None if it must be made (again)."""
    name = shard_name(split, index, shard_count(plan, split))
    path = directory / PROGRESS_NAME / f"{name}.json"
    if not path.is_file() or not (directory / name).is_file():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    if summary.get("begun_with") != mark(plan):  # of another plan, or of a process with other packages
        return None
    shard = directory / name
    if file_size(shard) != summary["bytes"] or sha256_of(shard) != summary["sha256"]:
        return None
    return summary


def write_shard(
    plan: Plan, split: str, index: int, directory: Path, on_step: Callable[[int], None] | None = None
) -> None:
    """Makes one shard and its summary.

    Raises:
      StorageError: the disk is full or refuses the write.
      PrepareError: the source found its input unusable, copies of raw data are no longer those of the plan, or the folder
        is not being prepared with this plan and these packages.
      SourceError: the source failed in a way it does not explain; names the item.
    """
    name = shard_name(split, index, shard_count(plan, split))
    # Told apart from that of a dead or doubled attempt, which may be on another machine.
    temporary = f"{name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
    temporary = Path(tempfile.gettempdir() if is_remote(directory) else directory / PROGRESS_NAME) / temporary
    first = index * plan.items_per_shard
    items = range(first, min(first + plan.items_per_shard, plan.items[split]))
    tally = Tally(on_step)
    rows: list[dict] = []
    types_: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    with storage_errors(directory / name):
        check_begun(plan, directory)
        check_copies(plan.copies)
    try:
        with storage_errors(directory / name):
            writer = array_record_module.ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
        for item in items:
            for record in _made(plan, split, item, tally):
                rows.append(_row(record))
                for question in record.questions:
                    types_[question.group][question.type] += 1
                data = encode_record(record)
                with storage_errors(directory / name):
                    writer.write(data)
        with storage_errors(directory / name):
            writer.close()
            _check_length(temporary, len(rows))
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            summary = {
                "file": name,
                "records": len(rows),
                "bytes": temporary.stat().st_size,
                "sha256": sha256_of(temporary),
                "begun_with": mark(plan),
                "steps": tally.steps,
                "counts": dict(tally.counts),
                "skipped": tally.skipped,
                "question_types": {group: dict(counts) for group, counts in types_.items()},
                "rows": rows,
            }
            check_copies(plan.copies)  # again: to make it took a while
            check_begun(plan, directory)
            if is_remote(directory):
                epath.Path(temporary).copy(directory / name, overwrite=True)
            else:
                os.replace(temporary, directory / name)
            write_atomically(directory / PROGRESS_NAME / f"{name}.json", to_json(summary).encode())
    finally:
        temporary.unlink(missing_ok=True)


def _made(plan: Plan, split: str, item: int, tally: Tally) -> Iterator[Record]:
    try:
        yield from SOURCES[plan.source].make(plan, split, item, tally)
    except (_Stopped, PrepareError):
        raise
    except Exception as error:
        raise SourceError(f"Source '{plan.source}' failed at split '{split}', item {item}: {error!r}.") from error


@contextlib.contextmanager
def storage_errors(shard: Path) -> Iterator[None]:
    """ArrayRecord reports a full disk as a RuntimeError; the rest of the writing as OSError."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if isinstance(error, PrepareError):
            raise
        raise StorageError(
            f"Cannot write {shard}: {error}. Finished shards are kept: make room or mend the folder's rights, "
            "then run the same command again."
        ) from error


def _check_length(path: Path, records: int) -> None:
    if records == 0:
        return
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        if reader.num_records() != records:
            raise OSError(f"{reader.num_records()} of {records} records reached the disk")
    finally:
        reader.close()


def _row(record: Record) -> dict:
    sizes = [_picture_size(image, record.id) for image in record.images]
    return {
        "id": record.id,
        "scene": record.scene,
        "setting": record.setting,
        "views": len(sizes),
        "height": max((height for _, height in sizes), default=0),
        "width": max((width for width, _ in sizes), default=0),
        "questions": len(record.questions),
    }


def _picture_size(image: bytes, record_id: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(image)) as picture:
            return picture.size
    except OSError as error:
        raise PrepareError(f"Record '{record_id}' holds bytes that are no picture: {error}.") from error


def missing_shards(
    plan: Plan, directory: Path, known: Mapping[tuple[str, int], dict] | None = None
) -> tuple[list[tuple[str, int]], dict[tuple[str, int], dict]]:
    """((split, index) of the shards to make, summaries of those that are there); `known` ones are not read again."""
    tasks, summaries = [], dict(known or {})
    for task in ((split, index) for split in plan.items for index in range(shard_count(plan, split))):
        if task not in summaries:
            summary = read_summary(directory, plan, *task)
            if summary is None:
                tasks.append(task)
            else:
                summaries[task] = summary
    return tasks, summaries


def build(plan: Plan, directory: Path, workers: int | None = 0, progress: bool = True) -> dict[str, list[dict]]:
    """Makes all shards that are missing and returns every shard's summary, by split.

    Args:
      plan: what to make.
      directory: the output folder; `.preparing` inside it exists.
      workers: number of processes; 0 = one per usable core; None = none, all in this process.
      progress: show a bar on stderr.

    Raises:
      PrepareError: from the first shard that failed; finished shards are kept.
    """
    tasks, summaries = missing_shards(plan, directory)
    done = sum(summary["steps"] for summary in summaries.values())
    with tqdm(
        total=plan.steps, initial=done, unit=plan.unit, desc=plan.source, disable=not progress, smoothing=0.05
    ) as bar:
        if workers is None:
            for split, index in tasks:
                write_shard(plan, split, index, directory, bar.update)
        elif tasks:
            _build_parallel(plan, directory, tasks, min(workers or usable_cores(), len(tasks)), bar, done)
    for split, index in tasks:
        summary = read_summary(directory, plan, split, index)
        if summary is None:
            raise PrepareError(f"Shard {index} of '{split}' in {directory} changed while it was prepared. Run again.")
        summaries[split, index] = summary
    return {split: [summaries[split, index] for index in range(shard_count(plan, split))] for split in plan.items}


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _build_parallel(plan, directory, tasks, workers: int, bar: tqdm, done: int) -> None:
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    executor = futures.ProcessPoolExecutor(workers, context, _start_worker, (plan, directory, counter, stop))
    try:
        with clean_children():
            pending = {executor.submit(_work, *task) for task in tasks}
        while pending:
            finished, pending = futures.wait(pending, timeout=0.5, return_when=futures.FIRST_COMPLETED)
            bar.update(done + counter.value - bar.n)
            for future in finished:
                future.result()
    except BrokenProcessPool as error:
        raise PrepareError(
            "A worker process died: out of memory, or it could not start (see above). Finished shards are kept: "
            f"run the same command again, with fewer --workers than {workers} if memory was short."
        ) from error
    finally:
        stop.set()
        executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def clean_children() -> Iterator[None]:
    """Spawned workers import neither the caller's script (it may import jax, or lack a main guard) nor
    start a pool of BLAS threads each."""
    main, names = sys.modules["__main__"], ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    sys.modules["__main__"] = types.ModuleType("__main__")
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_worker: dict = {}


def _start_worker(plan: Plan, directory: Path, counter, stop) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a whole job is signalled: the main process decides
        signal.signal(number, signal.SIG_IGN)
    _worker.update(plan=plan, directory=directory, counter=counter, stop=stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose main process was killed ends too, instead of waiting for work for ever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _work(split: str, index: int) -> None:
    def on_step(number: int) -> None:
        if _worker["stop"].is_set():
            raise _Stopped
        with _worker["counter"].get_lock():
            _worker["counter"].value += number

    if not _worker["stop"].is_set():
        write_shard(_worker["plan"], split, index, _worker["directory"], on_step)
