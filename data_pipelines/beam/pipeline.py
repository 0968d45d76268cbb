"""Steps that Apache Beam's workers do, again where one of them died (the `beam` extra).

A step writes its own files whole or not at all, and does nothing where they are. So a runner may try it again after a
worker died, or try it twice at once, without duplicates or losses; and because not every runner does, the driver looks for
what is missing afterwards and runs a pipeline again over that.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import UnidentifiedImageError

from data_pipelines.manifest import PrepareError, StorageError, write_atomically
from data_pipelines.shards import SourceError, clean_children, usable_cores

try:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise PrepareError(f"Beam pipelines need the extra: pip install 'spatialsv-jax[beam]' ({error}).") from error

ATTEMPTS = 4  # of the pipeline in a row that get nothing done
PAUSE = 2.0  # seconds before the second of these, and each time as often as long
_ERROR, _FAILURE = "error.txt", "failure.txt"


class PipelineError(RuntimeError):
    """A pipeline failed, or the process that ran it."""


class Step:
    """What a worker does with a task; must be picklable."""

    def do(self, task: tuple) -> None:
        """Does one task, wholly or not at all.

        Raises:
          PrepareError, ValueError, SourceError: the task itself is wrong, so that trying again would not help; unless it is
            a StorageError or was caused by an error of the system (see `may_pass`).
          Exception: all others (of a device, of a store) are tried again.
        """
        raise NotImplementedError


def may_pass(error: BaseException) -> bool:
    """Whether a task that ended so is worth another attempt: not if its input is at fault."""
    if not isinstance(error, PrepareError | ValueError | SourceError) or isinstance(error, StorageError):
        return True
    cause = error.__cause__
    gone = isinstance(cause, FileNotFoundError | NotADirectoryError | IsADirectoryError | UnidentifiedImageError)
    return isinstance(cause, OSError) and not gone


class _Do(apache_beam.DoFn):
    """Does tasks; what a step finds wrong is kept for the driver, what may pass fails the work for the runner to try again."""

    def __init__(self, step: Step, notes: Path):
        self._step, self._notes = step, notes

    def process(self, task: tuple) -> Iterator[str]:
        """See `Step.do`."""
        try:
            self._step.do(task)
        except Exception as error:  # whatever it is, the driver is to say it
            again = may_pass(error)
            said = str(error) if isinstance(error, PrepareError | ValueError) else f"{type(error).__name__}: {error}"
            with contextlib.suppress(OSError if again else ()):
                write_atomically(self._notes / (_FAILURE if again else _ERROR), said.encode())
            if again:
                raise
        yield str(task)


def do_all(missing: Callable[[], Sequence[tuple]], step: Step, notes: Path, options: Sequence[str], what: str) -> None:
    """Runs a pipeline over `missing()` until that is empty.

    Args:
      missing: tasks that are still to do.
      step: does one of these.
      notes: a folder that the workers see, for what a step finds wrong.
      options: Beam's pipeline options; none = as many processes on this machine as it has cores.
      what: the tasks are, for messages.

    Raises:
      PrepareError: what a step found wrong, or tasks that are missing after `ATTEMPTS` that got nothing done, with the
        last failure.
    """
    options = list(options) or [
        "--runner=DirectRunner", "--direct_running_mode=multi_processing", f"--direct_num_workers={usable_cores()}"
    ]  # fmt: skip
    wrong, failed = notes / _ERROR, notes / _FAILURE
    for note in (wrong, failed):
        note.unlink(missing_ok=True)
    failure, least, idle = "", None, 0
    while True:
        tasks = missing()
        if wrong.exists():
            raise PrepareError(wrong.read_text())
        if not tasks:
            failed.unlink(missing_ok=True)
            return
        idle = 0 if least is None or len(tasks) < least else idle + 1
        least = len(tasks) if least is None else min(least, len(tasks))
        if idle == ATTEMPTS:
            raise PrepareError(
                f"{len(tasks)} {what} are still missing after {ATTEMPTS} attempts that made none, e.g. {tasks[:3]}. What was made "
                f"is kept. The last attempt: {failure}"
            )
        if idle:
            time.sleep(PAUSE * 2 ** (idle - 1))
        print(f"{len(tasks)} {what} to make" + (f", again: {failure}" if failure else ""), flush=True)
        failure = "it ended without an error"
        try:
            run(tasks, step, notes, options)
        except PipelineError as error:
            failure = failed.read_text() if failed.exists() else str(error)
        failed.unlink(missing_ok=True)


def run(tasks: Sequence[tuple], step: Step, notes: Path, options: Sequence[str]) -> None:
    """One pipeline: every task to some worker.

    It runs in a process of its own, which is ended with all its children when a worker of it dies: the DirectRunner would
    wait for that worker for ever.

    Raises:
      PipelineError: the pipeline failed, or its process died.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_alone, args=(list(tasks), step, notes, list(options), sender))
    with clean_children():
        process.start()
    sender.close()
    try:
        process.join()
        if process.exitcode:
            said = f"its process ended with exit code {process.exitcode}"
            with contextlib.suppress(EOFError):
                said = receiver.recv() if receiver.poll() else said
            raise PipelineError(said)
    finally:
        if process.is_alive():
            process.kill()  # it may not have its group yet
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers that are left


def _end_with_driver() -> None:
    """A pipeline whose driver was killed, or ended by SIGTERM, ends with all its workers."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os.killpg(os.getpid(), signal.SIGKILL)


def _run_alone(tasks: list, step: Step, notes: Path, options: list[str], sender) -> None:
    os.setsid()  # a process group of its own
    threading.Thread(target=_end_with_driver, daemon=True).start()

    def end(said: str) -> None:
        sender.send(said)
        sender.close()
        os._exit(1)  # other threads may wait for ever

    def of_thread(failed) -> None:
        threading.__excepthook__(failed)
        if "Worker subprocess exited" in str(failed.exc_value):
            end(f"a worker died ({failed.exc_value})")

    threading.excepthook = of_thread
    try:
        pipeline = apache_beam.Pipeline(options=PipelineOptions(options))
        # Without the reshuffle a runner may fuse all tasks into the step that creates them, on one worker.
        _ = pipeline | apache_beam.Create(tasks) | apache_beam.Reshuffle() | apache_beam.ParDo(_Do(step, notes))
        pipeline.run().wait_until_finish()
    except Exception as error:  # each runner has errors of its own; the driver looks for what is missing
        logging.exception("The pipeline failed.")
        end(f"{type(error).__name__}: {str(error)[:300]}")
    sys.stdout.flush()
    os._exit(0)
