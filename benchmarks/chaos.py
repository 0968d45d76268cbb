"""Kills the commands at random moments and compares what comes out with undisturbed runs, bit for bit.

    python -m benchmarks.chaos --kills 50 --out chaos.json

Training (during steps and while a checkpoint is being written), preparing rooms, labelling and exporting: each is killed
with SIGKILL, started again, killed again, until a chain of kills ends with a start that is left alone. After every kill
what can be loaded is loaded and compared: nothing partial may be among it. At the end of a chain everything is
compared with the undisturbed run. `--topologies` also goes on with 8, 4 and 1 devices. Small models; CPU.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos_commands import LOSSES, Commands, Scenario, finish, lines_of, start

LARGEST_DIFFERENCE = 1e-4  # of a loss, relative above 1, between a run and one that changed its number of devices


def kill_once(scenario: Scenario, folder: Path, log: Path, draw: random.Random, window_s: float) -> str:
    """Starts the command and kills it: "work", "start-up" for where it was, or "finished" when it ended before.

    A kill in five comes at any moment from the start on, before the work proper has begun or not.
    """
    before, begun_before = scenario.moment(folder), scenario.begun(folder)
    process, began = start(scenario.command(folder), log), time.monotonic()
    early = draw.random() < 0.2
    if early:
        time.sleep(draw.uniform(0, 2 * max(window_s, 3.0)))
    else:
        while not scenario.moment(folder) - before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, window_s))
    if process.poll() is not None:
        if process.returncode != 0:
            raise RuntimeError(f"{scenario.name} ended with {process.returncode}: {log.read_text()[-3000:]}")
        return "finished"
    at_work = bool(scenario.begun(folder) - begun_before)
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"  {scenario.name}: killed {time.monotonic() - began:.1f} s after its start", flush=True)
    return "work" if at_work else "start-up"


def measure_work(scenario: Scenario, folder: Path, log: Path) -> float:
    """Seconds from the moment to the end, undisturbed."""
    process = start(scenario.command(folder), log)
    while not scenario.moment(folder) and process.poll() is None:
        time.sleep(0.005)
    began = time.monotonic()
    if process.wait() != 0:
        raise RuntimeError(f"{scenario.name} failed: {log.read_text()[-3000:]}")
    return time.monotonic() - began


def run_scenario(scenario: Scenario, work: Path, log: Path, kills: int, chain: int, draw: random.Random) -> dict:
    """Kills a command `kills` times in chains of `chain`, and compares."""
    row = {
        "kills": 0,
        "during_work": 0,
        "during_start_up": 0,
        "comparisons": 0,
        "partial_results": [],
        "differences": [],
    }
    for earlier in work.glob(f"{scenario.name}-*"):
        shutil.rmtree(earlier)
    folder = work / f"{scenario.name}-measured"
    folder.mkdir()
    row["work_s"] = round(measure_work(scenario, folder, log), 2)
    row["differences"] += scenario.compare(folder)
    number, window_s = 0, scenario.window_s or row["work_s"]
    while row["kills"] < kills:
        folder, number = work / f"{scenario.name}-{number}", number + 1
        folder.mkdir()
        for _ in range(chain):
            where = kill_once(scenario, folder, log, draw, window_s)
            if where == "finished":
                window_s = max(0.8 * window_s, 0.02)  # the machine has become quicker
                break
            row["kills"] += 1
            row["during_work" if where == "work" else "during_start_up"] += 1
            row["partial_results"] += scenario.loadable(folder)
            if row["kills"] == kills or scenario.complete(folder):
                break
        if where != "finished" and not scenario.complete(folder):
            finish(scenario.command(folder), log)
        row["comparisons"] += 1
        row["differences"] += scenario.compare(folder)
        shutil.rmtree(folder)
    return row


def run_topologies(commands: Commands, work: Path, log: Path) -> dict:
    """A run killed on 8 devices goes on on 4, and on 1; beside one on 8 that is left alone."""
    whole, moved = work / "devices-whole", work / "devices"
    finish(commands.train(whole, "train"), log, JAX_NUM_CPU_DEVICES="8")
    parts = []
    for devices, until in ((8, 8), (4, 16), (1, None)):
        process = start(commands.train(moved, "train"), log, JAX_NUM_CPU_DEVICES=str(devices))
        while until and not (moved / "checkpoints" / str(until)).exists() and process.poll() is None:
            time.sleep(0.002)
        if until:
            process.send_signal(signal.SIGKILL)
        code = process.wait()
        parts.append({"devices": devices, "exit": code, "steps": len(lines_of(moved, "metrics.jsonl", ()))})
        if not until and code != 0:
            raise RuntimeError(f"Going on on {devices} devices ended with {code}: {log.read_text()[-3000:]}")
    one, other = (lines_of(folder, "metrics.jsonl", LOSSES[:-1]) for folder in (whole, moved))
    largest = max(
        abs(row[name] - other[step][name]) / max(1.0, abs(row[name]))
        for step, row in one.items()
        for name in LOSSES[:-1]
    )
    records = [lines_of(folder, "records-p0.jsonl", ("records",)) for folder in (whole, moved)]
    return {"parts": parts, "largest_difference": largest, "same_records": records[0] == records[1]}


def passed(result: dict) -> bool:
    """Whether nothing differed: nothing at all after kills, and on other numbers of devices records and losses to 1e-4."""
    moved = result.get("topologies", {"same_records": True, "largest_difference": 0.0})
    killed = not any(row["partial_results"] or row["differences"] for row in result["scenarios"].values())
    return killed and moved["same_records"] and moved["largest_difference"] <= LARGEST_DIFFERENCE


def shares(kills: int, names: Sequence[str]) -> dict[str, int]:
    """The kills over the scenarios, as evenly as they go; the first get the rest."""
    return {name: kills // len(names) + (place < kills % len(names)) for place, name in enumerate(names)}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 when anything differed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="over all commands (default 50)")
    parser.add_argument("--chain", type=int, default=5, help="kills before a start is left alone (default 5)")
    parser.add_argument("--only", help="comma-separated scenarios (default all)")
    parser.add_argument("--steps", type=int, default=40, help="of the training (default 40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--topologies", action="store_true", help="also go on on 8, 4 and 1 devices")
    parser.add_argument("--work", help="folder for the runs (default: a temporary one)")
    parser.add_argument("--out", help="JSON file for the results")
    flags = parser.parse_args(argv)
    work = Path(flags.work or tempfile.mkdtemp(prefix="spatialsv-chaos-")).absolute()
    work.mkdir(parents=True, exist_ok=True)
    # Little to compile and less of it twice; every process of a comparison computes with the same settings.
    os.environ.update(
        JAX_COMPILATION_CACHE_DIR=os.environ.get("JAX_COMPILATION_CACHE_DIR", str(work / ".jax_cache")),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PLATFORMS="cpu",
        SPATIALSV_CPU_SETTINGS="off",
        XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    )
    began, commands = time.monotonic(), Commands(work, flags.steps)
    commands.prepare()
    chosen = [one for one in commands.scenarios() if not flags.only or one.name in flags.only.split(",")]
    draw, rows = random.Random(flags.seed), {}
    result = {
        "command": "python -m benchmarks.chaos " + " ".join(argv if argv is not None else sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("jax", "orbax-checkpoint", "grain", "array-record")},
        "scenarios": rows,
    }

    def keep() -> None:
        result["seconds"] = round(time.monotonic() - began)
        if flags.out:
            Path(flags.out).write_text(json.dumps(result, indent=1) + "\n")

    kills = shares(flags.kills, [one.name for one in chosen])
    for scenario in chosen:
        rows[scenario.name] = run_scenario(scenario, work, commands.log, kills[scenario.name], flags.chain, draw)
        print(f"{scenario.name}: {rows[scenario.name]}", flush=True)
        keep()
    if flags.topologies:
        result["topologies"] = run_topologies(commands, work, commands.log)
        print(f"topologies: {result['topologies']}", flush=True)
        keep()
    print(
        "| killed while | kills | during the work | comparisons | partial results loaded | differences |\n|---|---|---|---|---|---|"
    )
    for name, row in rows.items():
        wrong = [len(row[key]) for key in ("partial_results", "differences")]
        print(f"| {name} | {row['kills']} | {row['during_work']} | {row['comparisons']} | {wrong[0]} | {wrong[1]} |")
    if not flags.work:
        shutil.rmtree(work)
    if flags.topologies:
        moved = result["topologies"]
        print(
            f"On 8, 4 and 1 devices: records {'equal' if moved['same_records'] else 'DIFFER'}, losses to "
            f"{moved['largest_difference']:.1e} ({LARGEST_DIFFERENCE:.0e} allowed)."
        )
    return int(not passed(result))


if __name__ == "__main__":
    sys.exit(main())
