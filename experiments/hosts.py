"""A job on several hosts: joining them, and who does what only one may do.

Every host runs the same command; data and workdir lie on a file system that all of them see. They
load and compute together; the first makes data, writes files and evaluates while the others wait.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
from orbax.checkpoint import multihost

Result = TypeVar("Result")
_LONGEST_WAIT_S = 7 * 24 * 3600  # making data for a pod may take days
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_barriers = itertools.count()


def join() -> None:
    """Joins the other hosts of the job; does nothing where there are none, or where the process computes already.

    TPU pods, Slurm, Open MPI and Kubernetes are recognised by `jax.distributed.initialize`; elsewhere set
    JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID on every host.

    Raises:
      ValueError: only some of the three variables are set, or one is no number.
    """
    given = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    if given:
        missing = [name for name in _VARIABLES if name not in given]
        if missing:
            raise ValueError(
                f"{', '.join(given)} without {', '.join(missing)}: a job on several hosts needs all three."
            )
        address, count, index = (given[name] for name in _VARIABLES)
        if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
            raise ValueError(f"JAX_NUM_PROCESSES={count} and JAX_PROCESS_ID={index}: expected 0 <= id < number.")
        jax.distributed.initialize(address, int(count), int(index))
        return
    try:
        jax.distributed.initialize()
    except ValueError as error:
        if "coordinator_address" not in str(error):  # that one means: no cluster was recognised
            raise
    except RuntimeError as error:
        if "before any JAX" not in str(error):  # a notebook or a test that has used its devices: a job of its own
            raise


def is_first() -> bool:
    """Whether this is the host that writes."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints on the first host."""
    if is_first():
        print(text, flush=True)


def wait() -> None:
    """Returns once all hosts have come here."""
    if jax.process_count() > 1:
        name = f"spatialsv_{next(_barriers)}"
        multihost.sync_global_processes(name, timeout=_LONGEST_WAIT_S, processes=set(range(jax.process_count())))


def on_first(work: Callable[[], Result]) -> Result | None:
    """What `work` returns on the first host; the others wait until it is done and get None."""
    result = work() if is_first() else None
    wait()
    return result


def write_json(path: Path, value: dict) -> None:
    """Writes a file whole or not at all, on the first host."""
    if not is_first():
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1))
    os.replace(partial, path)
