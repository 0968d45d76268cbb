"""A program for TPUs as libtpu has it when all is decided but the kernels: operations in order, each array in its place.

To make the kernels takes nine tenths of a compilation and more, and tells nothing but the size of the code. libtpu writes
down what it has before it begins with them (`xla_dump_to`), so a process of its own compiles and is ended then.
"""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import jax

_PLACES, _PROGRAM = "*.after_optimizations-buffer-assignment.txt", "*.after_optimizations_after_buffer_assignment.txt"
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (.*):$", re.MULTILINE)
_INPUT = re.compile(r"^allocation \d+: size .*, parameter \d+, ", re.MULTILINE)
_REFUSED, _FAILED, _SAID = "refused", "failed", "said"
_ROOM = 2**20  # bytes that a disk has left which is not full


class Refused(RuntimeError):
    """The compiler's message that a program does not fit, or another of its own."""


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """What is known of a program without its kernels.

    Attributes:
      kept: bytes of inputs and of outputs that do not take an input's place, per device.
      temporaries: bytes of the region of all other arrays in HBM, with the gaps between them.
      text: the scheduled module, as `compiled.as_text()` has it.
    """

    kept: int
    temporaries: int
    text: str


def schedule(lower: Callable[..., jax.stages.Lowered], *arguments) -> Scheduled:
    """Compiles a program up to its kernels, in a process of its own.

    Args:
      lower: of a module that the process can import; traces and lowers the program there.
      arguments: of `lower`.

    Raises:
      Refused: the compiler ended with an error.
      OSError: the disk of temporary files is full.
      RuntimeError: the process failed otherwise, or libtpu wrote nothing down, or not in the form that is known.
    """
    with tempfile.TemporaryDirectory(prefix="scheduled_") as name:
        folder = Path(name)
        process = multiprocessing.get_context("spawn").Process(target=_compile, args=(name, lower, arguments))
        process.start()
        try:
            while process.is_alive() and not _written(folder):
                if shutil.disk_usage(name).free < _ROOM:  # libtpu goes on without its files, and writes nothing more
                    raise OSError(errno.ENOSPC, "No space left for what libtpu writes down (TMPDIR)", name)
                process.join(0.5)
        finally:
            process.kill()
            process.join()
        if (found := folder / _REFUSED).exists():
            raise Refused(found.read_text())
        if not _written(folder):
            why = folder / (_FAILED if (folder / _FAILED).exists() else _SAID)
            said = why.read_text(errors="replace")[-2000:] if why.exists() else ""
            if process.exitcode == -signal.SIGKILL:
                raise RuntimeError(
                    f"The process that compiles was killed, most likely because this machine's memory was full. {said}"
                )
            raise RuntimeError(
                f"The process that compiles ended with {process.exitcode} before libtpu wrote its program down. Take --whole, "
                f"which needs no such file, or look at what it said: {said}"
            )
        return read(next(folder.glob(_PLACES)).read_text(), next(folder.glob(_PROGRAM)).read_text())


def read(places: str, text: str) -> Scheduled:
    """From the text of a buffer assignment and that of the module.

    Memory of other colours than 0 is on the chip, thread-local values and constants are nobody's arrays.

    Raises:
      RuntimeError: not every input of the module has its place, so that this is not the form that is known.
    """
    _, _, entry = text.rpartition("\nENTRY ")
    inputs, placed = len(re.findall(r" parameter\(\d+\)", entry)), len(_INPUT.findall(places))
    if not inputs or inputs != placed:
        raise RuntimeError(
            f"The program has {inputs} inputs and libtpu's list of places {placed} of them: another version's form, which is not "
            "known here. Take --whole, which reads no such list."
        )
    sizes = {"parameter": 0, "maybe-live-out": 0, "preallocated-temp": 0}
    for size, words in _ALLOCATION.findall(places):
        if re.search(r"\bcolor [1-9]", words):
            continue
        kind = next((kind for kind in sizes if kind in words), None)  # an input that becomes an output counts once
        if kind:
            sizes[kind] += int(size)
    return Scheduled(sizes["parameter"] + sizes["maybe-live-out"], sizes["preallocated-temp"], text)


def _written(folder: Path) -> bool:
    """Whether both files are there and whole: the module is written last, and ends with its entry computation."""
    paths = [*folder.glob(_PLACES), *folder.glob(_PROGRAM)]
    if len(paths) < 2:
        return False
    size = paths[1].stat().st_size
    time.sleep(0.5)
    with paths[1].open("rb") as file:
        file.seek(max(size - 8, 0))
        return paths[1].stat().st_size == size and file.read().rstrip().endswith(b"}")


def _compile(name: str, lower: Callable, arguments: tuple) -> None:
    """In the process of its own; what is said there goes to a file."""
    threading.Thread(target=_end_with_parent, args=(name,), daemon=True).start()
    folder = Path(name)
    with open(folder / _SAID, "wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    try:
        jax.config.update("jax_platforms", "cpu")  # an accelerator of this machine may be another process's
        jax.config.update("jax_enable_compilation_cache", False)  # a program from there is not written down
        lowered = lower(*arguments)
        try:
            lowered.compile(compiler_options={"xla_dump_to": name, "xla_dump_hlo_as_text": True})
        except jax.errors.JaxRuntimeError as error:
            (folder / _REFUSED).write_text(str(error))
    except BaseException:
        (folder / _FAILED).write_text(traceback.format_exc())
        raise


def _end_with_parent(name: str) -> None:
    """Ends this process, which would compile for minutes, where the one that waits for it was killed."""
    multiprocessing.parent_process().join()
    shutil.rmtree(name, ignore_errors=True)
    os._exit(1)
