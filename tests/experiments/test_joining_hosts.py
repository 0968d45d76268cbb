"""How a process joins the others of its job: flags, variables, and the GPUs of a task of Slurm."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import hosts

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"JAX_PROCESS_ID": "0"},
            r"JAX_PROCESS_ID without JAX_COORDINATOR_ADDRESS \(--coordinator\), JAX_NUM_PROCESSES",
        ),
        (dict(zip(hosts._VARIABLES, ("localhost:1", "2", "2"), strict=True)), "expected 0 <= id < number"),
        (dict(zip(hosts._VARIABLES, ("localhost:1", "two", "0"), strict=True)), "JAX_NUM_PROCESSES=two"),
    ],
)
def test_wrong_variables_are_named(given, message, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        hosts.join()


@pytest.fixture
def joined(monkeypatch):
    """What reaches `jax.distributed.initialize`."""
    seen = []
    monkeypatch.setattr(hosts.jax.distributed, "initialize", lambda *given, **named: seen.append((given, named)))
    return seen


def test_flags_stand_before_variables(joined, monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    hosts.join("host0:1234", None, 0)
    assert joined[0][0] == ("host0:1234", 4, 0) and joined[0][1]["local_device_ids"] is None
    with pytest.raises(ValueError, match=r"without JAX_COORDINATOR_ADDRESS \(--coordinator\)"):
        hosts.join(process_id=1)


def _slurm(nodes: int, tasks: int, local: int, **more: str) -> dict[str, str]:
    """What srun sets for a task with a number on its node, of `tasks` in all."""
    return {
        "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_LOCALID": str(local),
        "SLURM_NTASKS": str(tasks), "SLURM_GPUS_ON_NODE": "8", **more,
    }  # fmt: skip


@pytest.mark.parametrize("by_flags", [False, True])
@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        (_slurm(2, 2, 0, CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7"), list(range(8))),  # one task per node: all of them
        (_slurm(2, 2, 0), list(range(8))),
        (_slurm(2, 16, 5, CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7"), [5]),
        (_slurm(2, 4, 1, CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7"), [4, 5, 6, 7]),
        (_slurm(1, 8, 5, CUDA_VISIBLE_DEVICES="0", SLURM_GPUS_PER_TASK="1"), [0]),  # its own, counted from 0
        (_slurm(2, 16, 5, CUDA_VISIBLE_DEVICES="5"), [0]),  # --gpu-bind=single:1
        (_slurm(2, 2, 0, CUDA_VISIBLE_DEVICES="", SLURM_GPUS_ON_NODE="0"), None),
        (_slurm(2, 2, 0, JAX_LOCAL_DEVICE_IDS="3"), None),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, None),
    ],
)
def test_a_task_of_slurm_takes_its_share_of_the_gpus(joined, monkeypatch, variables, gpus, by_flags):
    monkeypatch.setattr(hosts, "_gpus_of_machine", lambda: 8)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hosts.join(*(("host0:1234", 2, 0) if by_flags else ()))
    assert joined[0][1]["local_device_ids"] == gpus


def test_gpus_that_slurms_tasks_cannot_share_are_refused(joined, monkeypatch):
    for name, value in _slurm(2, 6, 0, CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="6 tasks on 2 nodes, which cannot share 8 GPUs"):
        hosts.join()
    assert not joined


def test_jax_takes_all_gpus_of_a_task_of_slurm():
    """jax itself, as the only task of a step."""
    job = random.randrange(4096)  # from which jax takes its port, above those that others get
    variables = _slurm(1, 1, 0, SLURM_STEP_NODELIST="localhost", SLURM_PROCID="0", SLURM_JOB_ID=str(job))
    variables["CUDA_VISIBLE_DEVICES"] = "0,1,2,3,4,5,6,7"
    program = "import jax; from experiments import hosts; hosts.join(); "
    program += "print(jax.config.values['jax_cuda_visible_devices'])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "0,1,2,3,4,5,6,7", done.stderr[-2000:]
