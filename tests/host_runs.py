"""Jobs of several processes on this machine: the train command, disturbed or not, and any other command."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The train command, signalled, failing or with a batch that is not finite when the batch of a step is drawn.
PROGRAM = """
import os, signal, sys, time
import numpy as np
from absl import app
from data_pipelines import loader
from experiments import resume, stopping, train
from spatialsv_jax.training.checkpoints import Checkpoints

stopping.LOST_S, stopping.FAILED_S, stopping._LIFE_S = 20.0, 5.0, 1.0
at, what = int(os.environ.get("AT", -1)), os.environ.get("WHAT", "")
step, save, check = loader.BatchIterator.__next__, Checkpoints.save, resume.check_unchanged
began = time.time()

def disturbed(self):
    number, batch = step(self)
    if number == at and what == "nan":
        batch = {**batch, "pixel_values": np.full_like(batch["pixel_values"], np.nan)}
    elif number == at and what == "raise":
        raise RuntimeError("no such luck")
    elif number == at and what:
        os.kill(os.getpid(), getattr(signal, what))
    return number, batch

def signalled_late(*given):
    time.sleep(stopping._SAME_S + 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    save(*given)

def reads_late(config, workdir, *more):
    time.sleep(3)
    for file in workdir.rglob("*.json"):
        if file.name != "lock.json" and file.stat().st_mtime > began:
            raise RuntimeError(f"{file} was written before all had read it.")
    check(config, workdir, *more)

if os.environ.get("READS_LATE"):
    resume.check_unchanged = reads_late
loader.BatchIterator.__next__ = disturbed
if os.environ.get("LATE"):
    Checkpoints.save = signalled_late
app.run(train.main, flags_parser=train.parse_flags)
"""


def run_job(folder: Path, processes: int, **more) -> tuple[list[int], list[str]]:
    """`_run_once`, and once more where the processes did not meet.

    JAX gives them 30 s for that on CPUs, which is short on a busy machine (a compilation each comes before it).
    """
    fresh = not (folder / "run").exists()
    codes, logs = _run_once(folder, processes, **more)
    if any("Gloo context initialization failed" in log for log in logs):
        if fresh:
            shutil.rmtree(folder / "run")
        codes, logs = _run_once(folder, processes, **more)
    return codes, logs


def _run_once(
    folder: Path, processes: int, disturbed: int = 0, others: dict[str, str] | None = None, **disturbance: str
) -> tuple[list[int], list[str]]:
    """Exit codes and what was printed, of a job in FOLDER/run with eight devices in all.

    Args:
      folder: with its config.
      processes: of the job.
      disturbed: the process whose environment has `disturbance`.
      others: more for the environment of the others.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", PROGRAM, "--config", str(folder / "config.py"), "--workdir", str(folder / "run")]
    started = []
    for index in range(processes):
        own = {"JAX_NUM_CPU_DEVICES": str(8 // processes)} | (disturbance if index == disturbed else others or {})
        flags = [f"--coordinator={address}", f"--num_processes={processes}", f"--process_id={index}"]
        with open(folder / f"{index}.log", "w") as log:
            started.append(
                subprocess.Popen(
                    command + (flags if processes > 1 else []),
                    cwd=ROOT, env={**os.environ, **own}, stdout=log, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
    try:
        codes = [process.wait(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    return codes, [(folder / f"{index}.log").read_text() for index in range(processes)]


def run_together(command: list[str], processes: int) -> tuple[list[int], list[str]]:
    """Exit codes and output of a command on so many processes of two devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    own = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    flags = lambda index: [f"--coordinator={address}", f"--num_processes={processes}", f"--process_id={index}"]
    started = [
        subprocess.Popen(
            command + flags(index), cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for index in range(processes)
    ]
    try:
        logs = [process.communicate(timeout=600)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], logs
