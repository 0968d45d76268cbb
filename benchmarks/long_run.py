"""A long training of the quickstart's spatial step: does memory grow, does the step slow down, what do starts and saves cost?

    python -m benchmarks.long_run [--steps 3000] [--out long_run.json]

The quickstart on a few rooms, its spatial phase `--steps` long. The first start has an empty compilation cache and is
stopped by SIGTERM in the base phase; the second goes on to the end. Printed: seconds from the start (of the second; from
the data's end of the first) to the first step, resident memory of the process and its children against the step, anonymous
(heap, stacks) and of files (libraries, data) apart, with its slopes behind the first fifth and in the second half, step time,
share of waiting for data, stall of a save. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
STOP_AT = 10  # step of the base in which the first start is stopped


def command(work: Path, steps: int) -> list[str]:
    """The training."""
    return [
        sys.executable, "-m", "experiments.train", "--config", "experiments/configs/quickstart.py",
        "--workdir", str(work / "run"), "--config.prepare.rooms.scenes=120", "--config.prepare.rooms.test=8",
        "--config.phases.base.training.steps=40", f"--config.phases.spatial.training.steps={steps}",
        "--config.phases.base.training.log_every=1", "--config.phases.spatial.training.log_every=10",
    ]  # fmt: skip


def lines(path: Path) -> list[dict]:
    """The whole lines of a metrics file."""
    return (
        [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")] if path.exists() else []
    )


def resident(pid: int) -> dict[str, int]:
    """Resident bytes of a process and its children: "anonymous" memory, and pages of "files" (shared memory among them)."""
    total = {"anonymous": 0, "files": 0}
    for one in (pid, *(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())):
        try:
            status = Path(f"/proc/{one}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        for kind, kilobytes in re.findall(r"^Rss(Anon|File|Shmem):\s+(\d+) kB$", status, re.MULTILINE):
            total["anonymous" if kind == "Anon" else "files"] += int(kilobytes) * 1024
    return total


def memory_rows(memory: list[tuple[int, dict[str, int]]], steps: int) -> dict[str, dict[str, float]]:
    """Megabytes behind the first fifth, and slopes in MB per 1,000 steps, by kind of memory and of their "total".

    Args:
      memory: (step, `resident`), in order.
      steps: of the whole run.
    """
    at = np.array([step for step, _ in memory], np.float64)
    kinds = {kind: np.array([found[kind] for _, found in memory]) / 1e6 for kind in ("anonymous", "files")}
    kinds["total"] = kinds["anonymous"] + kinds["files"]

    def slope(values: np.ndarray, first: float) -> float:
        return float(np.polyfit(at[at >= first], values[at >= first], 1)[0] * 1000)

    return {
        kind: {
            "at_a_fifth_mb": float(values[at >= steps // 5][0]),
            "at_the_end_mb": float(values[-1]),
            "largest_mb": float(values[at >= steps // 5].max()),
            "slope": slope(values, steps // 5),
            "slope_of_second_half": slope(values, steps / 2),
        }
        for kind, values in kinds.items()
    }


def first_start(work: Path, steps: int, environment: dict) -> float:
    """Seconds from the finished data to the first step, without a compilation cache; stops the run in its base phase."""
    metrics, manifest = work / "run/base/metrics.jsonl", work / "run/data/rooms/manifest.json"
    process = subprocess.Popen(command(work, steps), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    seconds = 0.0
    while (found := len(lines(metrics))) < STOP_AT:
        if process.poll() is not None:
            raise SystemExit(f"The training ended with {process.returncode}; its message is above.")
        if found and not seconds:
            seconds = time.time() - manifest.stat().st_mtime
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    if process.wait() != 75:
        raise SystemExit(f"A stopped training should end with 75, not {process.returncode}.")
    return seconds


def second_start(work: Path, steps: int, environment: dict) -> tuple[float, list[tuple[int, dict[str, int]]]]:
    """Seconds to the first step from the cache, and (step of the spatial phase, `resident`) once a second to the end."""
    base, spatial = work / "run/base/metrics.jsonl", work / "run/spatial/metrics.jsonl"
    before, began = len(lines(base)), time.time()
    process = subprocess.Popen(command(work, steps), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    seconds, memory = 0.0, []
    while process.poll() is None:
        if not seconds:
            seconds = time.time() - began if len(lines(base)) > before else 0.0
            time.sleep(0.05)
            continue
        if done := lines(spatial):
            memory.append((done[-1]["step"], resident(process.pid)))
            if done[-1]["step"] >= steps - 1:  # what follows is the evaluation
                process.send_signal(signal.SIGTERM)
                break
        time.sleep(1)
    process.wait()
    return seconds, memory


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", default="", help="a JSON file for the results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(work / "cache"), "JAX_PLATFORMS": "cpu"}
        cold = first_start(work, arguments.steps, environment)
        warm, memory = second_start(work, arguments.steps, environment)
        rows = lines(work / "run/spatial/metrics.jsonl")
    warmed_up = arguments.steps // 5
    fifths = [
        statistics.median(
            row["step_time_s"] for row in rows if fifth * warmed_up <= row["step"] < (fifth + 1) * warmed_up
        )
        for fifth in range(5)
    ]
    stalls = [row["checkpoint_stall_s"] for row in rows if row.get("checkpoint_stall_s")]
    result = {
        "steps": len(rows) and rows[-1]["step"] + 1,
        "first_step_cold_s": cold,
        "first_step_cached_s": warm,
        "resident": memory_rows(memory, arguments.steps),
        "step_ms_by_fifth": [1e3 * value for value in fifths],
        "data_wait_share": sum(row["data_wait_s"] for row in rows) / sum(row["step_time_s"] for row in rows),
        "checkpoint_stall_s": {"median": statistics.median(stalls), "largest": max(stalls)} if stalls else None,
        "versions": {"python": platform.python_version(), "jax": importlib.metadata.version("jax")},
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
