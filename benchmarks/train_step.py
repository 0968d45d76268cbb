"""Questions per second of a fine-tuning step, ours beside transformers + PyTorch, on the same weights and samples.

    python -m pip install -e ".[parity]" && python -m benchmarks.train_step            # two CPU cores, minutes
    python -m benchmarks.train_step --size 3b --side 448 --dtype bfloat16 --isolate --peak_tflops 989     # one H200

A Qwen2.5-VL of random weights answers `--questions` questions about each of `--scenes` scenes of four views. Both sides
train projector and decoder with AdamW and clipping by the global norm, the vision encoder frozen and outside of the
backward pass, attention by each side's default kernel, the same dtype and threads. The losses of the first batch are
compared before any step and after two: more than 1e-4 (float32) ends the program.

Rows: `packed`: ours, the questions of a scene behind one copy of its pictures. `unpacked`: ours, a row for each question.
`peer`: transformers as users run it, logits at all positions and labels. `peer_tricks`: logits at the answers alone
(`logits_to_keep`). Each peer row is the better of eager and torch.compile; both times are printed. Rows of a side share
weights and optimizer state. Repetitions go round the rows, medians are printed. `--isolate` gives each side a process of
its own, one after the other, for models of which two do not fit, the peer's without the settings of
`experiments.cpu_settings`; `--profile DIR` keeps a trace of our steps. The MFU counts a product once, recomputation is
none of it.

Needs jax, flax, optax, numpy and this package; torch and transformers for the peer.
"""

from __future__ import annotations

from experiments import cpu_settings

if __name__ == "__main__":
    cpu_settings.apply()

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time

from benchmarks.train_step_data import SIZES, Task

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
OURS, PEERS = ("unpacked", "packed"), ("peer", "peer_tricks")
COMPARED = (("unpacked", False), ("peer", False))
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")


def make(name: str, task: Task, compiled: bool, beside=None):
    """The runner of a row: `.loss()`, `.step()`, and facts; its modules are imported here, for `--isolate`."""
    if name in OURS:
        from benchmarks import train_step_ours

        return train_step_ours.Ours(task, name == "packed", beside)
    from benchmarks import train_step_peer

    return train_step_peer.Peer(task, name == "peer_tricks", compiled, beside)


def rows_of(arguments) -> list[tuple[str, bool]]:
    """(row, compiled by torch.compile) of everything that is timed."""
    rows = [(name, False) for name in OURS]
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        print("torch or transformers is not installed: our rows alone.", file=sys.stderr)
        return rows
    modes = (False,) if arguments.no_compile else (False, True)
    return rows + [(name, mode) for name in PEERS for mode in modes]


def label(row: tuple[str, bool]) -> str:
    """What a row is called in the output."""
    name, compiled = row
    return name if name in OURS else f"{name} {'compiled' if compiled else 'eager'}"


def timed(runner, steps: int) -> float:
    """Seconds of a step, over `steps` of them."""
    began = time.perf_counter()
    for _ in range(steps):
        runner.step()
    runner.wait()
    return (time.perf_counter() - began) / steps


def measure_here(rows, task: Task, arguments) -> dict[str, dict]:
    """Times rows in this process, going round them."""
    runners, found, sides = {}, {}, {}
    for row in rows:
        began = time.perf_counter()
        side = row[0] in OURS
        runners[row] = make(row[0], task, row[1], sides.get(side))
        sides.setdefault(side, runners[row])
        # Before any step: rows of a side share their weights.
        found[label(row)] = {"loss": runners[row].loss(), "seconds": [], "facts": runners[row].facts()}
        found[label(row)]["first_step_s"] = time.perf_counter() - began
    for row in rows:
        began = time.perf_counter()
        timed(runners[row], 1)  # compiles
        found[label(row)]["first_step_s"] += time.perf_counter() - began
        timed(runners[row], 1)
        if row in COMPARED:  # each is the first of its side that steps
            found[label(row)]["loss_after_2"] = runners[row].loss()
        print(
            f"  {label(row)}: first step after {found[label(row)]['first_step_s']:.0f} s", file=sys.stderr, flush=True
        )
    for repetition in range(arguments.repetitions):
        for row in rows:
            found[label(row)]["seconds"].append(timed(runners[row], arguments.steps))
        last = ", ".join(f"{name} {entry['seconds'][-1] * 1e3:.0f} ms" for name, entry in found.items())
        print(f"  round {repetition + 1}: {last}", file=sys.stderr, flush=True)
    for row in rows:
        found[label(row)]["facts"] |= runners[row].memory()
    if arguments.profile:
        profile({row: runner for row, runner in runners.items() if row[0] in OURS}, arguments.profile)
    return found


def measure_apart(rows, arguments) -> dict[str, dict]:
    """The same with a process for each side."""
    found: dict[str, dict] = {}
    for side in (OURS, PEERS):
        if not any(row[0] in side for row in rows):
            continue
        command = [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--side_of", side[0]]
        environment = dict(os.environ)
        if side is PEERS:
            # JAX makes the peer's weights; what they took is torch's afterwards.
            environment["XLA_PYTHON_CLIENT_ALLOCATOR"] = "platform"
            if environment.get("GLIBC_TUNABLES") == cpu_settings.GLIBC_TUNABLES:  # ours, not its users'
                del environment["GLIBC_TUNABLES"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"The process of side '{side[0]}' ended with {done.returncode}; its message is above.")
        found |= json.loads(done.stdout.splitlines()[-1])
    return found


def profile(runners: dict, folder: str) -> None:
    """Keeps a trace of two steps of each row under a folder."""
    import jax

    for row, runner in runners.items():
        with jax.profiler.trace(os.path.join(folder, label(row))):
            timed(runner, 2)


def check(found: dict[str, dict], dtype: str) -> None:
    """Compares the losses of the first batch, before any step and after two.

    Raises:
      SystemExit: they differ by more than `TOLERANCE`.
    """
    for moment in ("loss", "loss_after_2"):
        losses = {name: entry[moment] for name, entry in found.items() if moment in entry}
        if losses and max(losses.values()) - min(losses.values()) > TOLERANCE[dtype]:
            raise SystemExit(f"The rows do not compute the same {moment}: {losses}")


def report(found: dict[str, dict], task: Task, arguments) -> dict:
    """Prints the table and returns what `--out` keeps."""
    import jax

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "-"
    device = jax.devices()[0].device_kind
    print(
        f"\n{task.describe()}, {arguments.dtype}, {device}, {os.cpu_count()} CPU cores, Python {platform.python_version()}"
    )
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    table = {}
    for name, entry in found.items():
        seconds = statistics.median(entry["seconds"])
        table[name] = {
            "ms": seconds * 1e3,
            "spread": (max(entry["seconds"]) - min(entry["seconds"])) / seconds,
            "questions_per_s": task.asked / seconds,
            "tokens_per_s": entry["facts"]["tokens"] / seconds,
            "loss": entry["loss"],
            **({"loss_after_2": entry["loss_after_2"]} if "loss_after_2" in entry else {}),
            "first_step_s": entry["first_step_s"],
            **entry["facts"],
        }
        if arguments.peak_tflops and entry["facts"].get("flops"):
            table[name]["mfu"] = entry["facts"]["flops"] / seconds / arguments.peak_tflops / 1e12
    best = {
        peer: min((n for n in table if n.startswith(f"{peer} ")), key=lambda n: table[n]["ms"], default=None)
        for peer in PEERS
    }
    heads = "".join(f"  /{peer}" for peer in PEERS if best[peer])
    print(f"{'row':<22} {'ms a step':>10} {'spread':>7} {'questions/s':>12} {'tokens/s':>9} {'first step':>11}{heads}")
    for name, entry in table.items():
        ratios = ""
        for peer in PEERS:
            if best[peer]:
                entry[f"over_{peer}"] = table[best[peer]]["ms"] / entry["ms"]
                ratios += f"  {entry[f'over_{peer}']:>{len(peer) + 1}.2f}"
        mfu = f"  MFU {entry['mfu']:.1%}" if "mfu" in entry else ""
        mfu += f"  encoder {entry['encoder_s'] * 1e3:.0f} ms" if "encoder_s" in entry else ""
        mfu += f"  out of memory and retried {entry['retries']} times" if entry.get("retries") else ""
        print(
            f"{name:<22} {entry['ms']:>10.0f} {entry['spread']:>7.0%} {entry['questions_per_s']:>12.2f} "
            f"{entry['tokens_per_s']:>9.0f} {entry['first_step_s']:>9.1f} s{ratios}{mfu}"
        )
    return {"task": task.describe(), "device": device, "dtype": arguments.dtype, "versions": versions, "rows": table}


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="small", help="of the model")
    parser.add_argument("--scenes", type=int, default=1, help="of a step")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument(
        "--side",
        type=int,
        default=224,
        help="of the pictures in pixels, a multiple of 28; others than of 112 pad windows",
    )
    parser.add_argument("--questions", type=int, default=8, help="about each scene")
    parser.add_argument(
        "--dtype", choices=tuple(TOLERANCE), default="float32", help="of the arithmetic; weights are float32"
    )
    parser.add_argument("--remat", default="", help="of the decoder's layers: none, dots or full (large models)")
    parser.add_argument("--rows", default="", help="some of them, comma-separated")
    parser.add_argument("--steps", type=int, default=2, help="of one measurement")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--no_compile", action="store_true", help="without torch.compile")
    parser.add_argument("--isolate", action="store_true", help="a process for each side, one after the other")
    parser.add_argument("--side_of", default="", help="used by --isolate")
    parser.add_argument("--profile", default="", metavar="DIR", help="keeps traces of our rows there")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="of the device in this dtype, for the MFU")
    parser.add_argument("--out", default="", help="a JSON file for the results")
    arguments = parser.parse_args()
    large = SIZES[arguments.size].language["width"] > 1024
    task = Task(
        arguments.size, arguments.scenes, arguments.views, arguments.side, arguments.questions, arguments.dtype,
        arguments.remat or ("full" if large else "none"),
    )  # fmt: skip
    rows = rows_of(arguments)
    if arguments.rows:
        rows = [row for row in rows if row[0] in arguments.rows.split(",")]
    if arguments.side_of:
        side = OURS if arguments.side_of in OURS else PEERS
        print(json.dumps(measure_here([row for row in rows if row[0] in side], task, arguments)))
        return
    found = measure_apart(rows, arguments) if arguments.isolate else measure_here(rows, task, arguments)
    result = report(found, task, arguments)
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    check(found, arguments.dtype)


if __name__ == "__main__":
    main()
