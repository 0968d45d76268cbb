"""A job on several hosts: joining them, and who does what only one may do.

Every host runs the same command; data and workdir lie on a file system that all of them see. They
load, compute and evaluate together; the first makes data and writes files while the others wait.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from data_pipelines.manifest import write_atomically
from experiments.stopping import GRACE_S, HEARTBEAT_S, RESUMABLE, Peers, Stopping

Result = TypeVar("Result")
_LONGEST_WAIT_S = 7 * 24 * 3600  # making data for a pod may take days
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_FLAGS = dict(zip(_VARIABLES, ("coordinator", "num_processes", "process_id"), strict=True))
_barriers = itertools.count()


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the other hosts of the job; does nothing where there are none, or where the process computes already.

    TPU pods, Slurm, Open MPI and Kubernetes are recognised by `jax.distributed.initialize`; elsewhere give the three
    arguments, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, on every host.

    Args:
      coordinator: host:port of the first process; None = the variable's, as for the others.
      num_processes: of the job.
      process_id: of this one, from 0.

    Raises:
      ValueError: only some of the three are given, or one is no number; or Slurm's tasks cannot share a node's GPUs.
    """
    how = {"local_device_ids": _own_gpus(), "heartbeat_timeout_seconds": HEARTBEAT_S}
    flags = dict(zip(_VARIABLES, (coordinator, num_processes, process_id), strict=True))
    given = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    given |= {name: str(value) for name, value in flags.items() if value is not None}
    if given:
        missing = [f"{name} (--{_FLAGS[name]})" for name in _VARIABLES if name not in given]
        if missing:
            raise ValueError(
                f"{', '.join(given)} without {', '.join(missing)}: a job on several hosts needs all three."
            )
        address, count, index = (given[name] for name in _VARIABLES)
        if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
            raise ValueError(f"JAX_NUM_PROCESSES={count} and JAX_PROCESS_ID={index}: expected 0 <= id < number.")
        jax.distributed.initialize(address, int(count), int(index), **how)
        return
    try:
        jax.distributed.initialize(**how)
    except ValueError as error:
        if "coordinator_address" not in str(error):  # that one means: no cluster was recognised
            raise
    except RuntimeError as error:
        if "before any JAX" not in str(error):  # a notebook or a test that has used its devices: a job of its own
            raise


def _own_gpus() -> list[int] | None:
    """The GPUs of this task of Slurm, as indices of those it sees; None elsewhere, where jax takes all.

    Left to itself jax takes one per task under Slurm: that with the task's number on its node.

    Raises:
      ValueError: the tasks of a node cannot share its GPUs evenly.
    """
    if "SLURM_LOCALID" not in os.environ or os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = len([name for name in listed.split(",") if name.strip()]) if listed is not None else _gpus_of_machine()
    if not seen:
        return None
    number = lambda name, otherwise: int(os.environ.get(name) or otherwise)
    if os.environ.get("SLURM_GPUS_PER_TASK") or seen < number("SLURM_GPUS_ON_NODE", seen):
        return list(range(seen))  # Slurm shows every task its own
    nodes = number("SLURM_STEP_NUM_NODES", number("SLURM_NNODES", 1))
    all_tasks = number("SLURM_STEP_NUM_TASKS", number("SLURM_NTASKS", 1))
    tasks, own = all_tasks // nodes, seen * nodes // all_tasks
    if tasks * nodes != all_tasks or own * tasks != seen:
        raise ValueError(
            f"Slurm started {all_tasks} tasks on {nodes} nodes, which cannot share {seen} GPUs of a node evenly. Start "
            f"one task per node (--ntasks-per-node=1) or one per GPU (--ntasks-per-node={seen})."
        )
    first = int(os.environ["SLURM_LOCALID"]) * own
    return list(range(first, first + own))


def _gpus_of_machine() -> int:
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def define_flags() -> dict[str, flags.FlagHolder]:
    """The same flags as `add_arguments`, of a command that reads them with absl."""
    return {
        "coordinator": flags.DEFINE_string(
            "coordinator", None, "Several processes: host:port of the first (docs/pods.md)."
        ),
        "num_processes": flags.DEFINE_integer("num_processes", None, "Several processes: their number."),
        "process_id": flags.DEFINE_integer("process_id", None, "Several processes: which this one is, from 0."),
        "grace_s": flags.DEFINE_float("grace_s", GRACE_S, "Seconds to save and end in after SIGTERM or SIGINT."),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `join` and of `stopping.Stopping` for a command."""
    parser.add_argument("--coordinator", help="several processes: host:port of the first (docs/pods.md)")
    parser.add_argument("--num_processes", type=int, help="several processes: their number")
    parser.add_argument("--process_id", type=int, help="several processes: which this one is, from 0")
    parser.add_argument(
        "--grace_s", type=float, default=GRACE_S, help=f"seconds to end in after SIGTERM or SIGINT [{GRACE_S:g}]"
    )


def stopping(grace_s: float = GRACE_S) -> Stopping:
    """Handles signals, in a job of several processes for all of them; to be entered after `join`."""
    client = multihost.get_jax_distributed_client() if jax.process_count() > 1 else None
    peers = Peers(client, jax.process_index(), jax.process_count()) if client is not None else None
    return Stopping(grace_s, label(), peers)


def label() -> str:
    """What lines of this process begin with: "[p1/2] " for the second of two, "" where there is one."""
    return f"[p{jax.process_index()}/{jax.process_count()}] " if jax.process_count() > 1 else ""


def is_first() -> bool:
    """Whether this is the host that writes."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints on the first host, with its label on every line where there are several."""
    if is_first():
        print("\n".join(label() + line if line else line for line in text.split("\n")), flush=True)


def fail(error: BaseException) -> NoReturn:
    """Ends the command with the error in one line.

    Raises:
      SystemExit: always.
    """
    sys.exit(f"{label()}error: {error}")


def stopped(reason: BaseException) -> NoReturn:
    """Ends a command that was asked to stop, with the code that says so.

    Raises:
      SystemExit: always, with `stopping.RESUMABLE`.
    """
    print(f"{label()}{reason} Code {RESUMABLE}: the same command goes on.", file=sys.stderr, flush=True)
    sys.exit(RESUMABLE)


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


def agree(value: bool) -> bool:
    """The first host's value, on all hosts."""
    return bool(multihost_utils.broadcast_one_to_all(np.int32(value))) if jax.process_count() > 1 else value


def write_json(path: Path, value: dict) -> None:
    """Writes a file whole or not at all, on the first host."""
    if not is_first():
        return
    write_atomically(path, json.dumps(value, indent=1).encode())
