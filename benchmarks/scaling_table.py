"""The table of docs/scaling.md: which slice each of the paper's models needs, by compiling its step for TPUs.

    python -m benchmarks.scaling_table [--only qwen2_5_vl_3b-v5e-b16 ...] [--list] [--table]

One JSON per row in docs/plans; what is there is not made again, so a run may be stopped and started at any time. A row
tries the slices of a chip from the smallest that could hold the state and stops at the first that fits; when all rows have
theirs, the next larger slice is added to each. Each plan is a process of its own (a minute, near the limit some more, up to 4 GB).
Rows of GPUs are estimates: a slice then is taken to fit where `memory.likely_peak` does. `--table` writes the table into docs/scaling.md from the rows that are there.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from data_pipelines.manifest import write_atomically
from experiments.configs.pretrained import PRESETS, finetune
from experiments.plan_changes import mesh_sizes
from spatialsv_jax.planning.chips import CHIPS, GIB, Topology, parse_topology
from spatialsv_jax.planning.memory import ESTIMATES_HIGH, likely_peak

ROOT = Path(__file__).parents[1]
PLANS = ROOT / "docs/plans"
PAGE = ROOT / "docs/scaling.md"
MARKS = ("<!-- table: made by benchmarks/scaling_table.py -->", "<!-- end of table -->")
BATCHES = (16, 256)
# Frozen encoders and heads aside: float32 weights and two moments of what is trained, and its gradient.
STATE_BYTES = 12
KEPT = (
    "topology", "mesh", "rows", "tokens", "parameters", "settings", "fits", "bytes_free_per_device",
    "bytes_available_per_device", "peak_bytes_per_device", "bytes_by_kind", "memory_source", "estimated_peak_bytes_per_device", "flops", "lifting_flops_share",
    "collectives", "roofline", "compile_seconds", "notes",
)  # fmt: skip


class Refused(ValueError):
    """A plan that `experiments.plan` says cannot be made, and why."""


def rows() -> list[str]:
    """Names of all rows: the smaller batch and the smaller models first; estimates for a GPU machine last."""
    models = sorted(PRESETS, key=lambda name: PRESETS[name]["parameters"])
    tpus = [f"{model}-{chip}-b{batch}" for batch in BATCHES for model in models for chip in ("v5e", "v5p", "v6e")]
    return tpus + [f"{model}-h100-b16" for model in models]


def attempts(model: str, topology: Topology, batch: int) -> list[tuple[dict, int]] | str:
    """(mesh, microbatches) to try on a slice, the quickest first; or why the batch cannot be split over it."""
    config = finetune(model)
    config.data.sources.train.per_batch = batch
    try:
        mesh = mesh_sizes(config, topology.devices, topology.hosts)[0]
    except ValueError as error:
        return str(error)
    split = math.prod(mesh[axis] for axis in ("data", "fsdp"))
    most = batch // split if "microbatches" in config.training else 1
    return [(mesh, passes) for passes in (2**power for power in range(most.bit_length())) if most % passes == 0]


def plan(model: str, topology: Topology, batch: int, mesh: dict, passes: int, estimate: bool) -> dict:
    """The JSON of one plan, made in a process of its own, with what is kept of it.

    Raises:
      Refused: a setting, mesh or batch that the command refuses.
      RuntimeError: anything else that ended it.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        command = [
            sys.executable, "-m", "experiments.plan", f"--config=experiments/configs/{model}.py", f"--topology={topology}",
            f"--mesh={','.join(f'{axis}={size}' for axis, size in mesh.items())}", f"--out={out}", "--tries=0",
            f"--skip_above={ESTIMATES_HIGH}", f"--config.data.sources.train.per_batch={batch}",
            f"--config.training.microbatches={passes}",
        ]  # fmt: skip
        command += ["--estimate"] * estimate
        if (context := mesh.get("context", 1)) > 1:  # in the heads a context axis splits the views of a chunk
            command.append(f"--config.lifting.chunk_views={min(context, finetune(model).data.views)}")
        began = time.time()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        *_, said = ["", *done.stderr.splitlines()]
        if (
            done.returncode and said.startswith("error: ") and "[Errno" not in said
        ):  # a full disk says nothing of a plan
            raise Refused(said.removeprefix("error: "))
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
        found = json.loads(out.read_text())
    peak, guess = (found[name] / GIB for name in ("peak_bytes_per_device", "estimated_peak_bytes_per_device"))
    print(
        f"    {topology} {mesh} x{passes}: fits {found['fits']}, {peak:.2f} GiB ({found['memory_source']}, estimated "
        f"{guess:.2f}), {time.time() - began:.0f} s",
        flush=True,
    )
    found = {name: found[name] for name in KEPT}
    if estimate and likely_peak(found["peak_bytes_per_device"]) <= found["bytes_available_per_device"]:
        found["fits"] = True
    return found


def make(name: str, larger: bool) -> None:
    """Makes one row, with the next larger slice or without, going on from what its file holds."""
    model, chip, batch = name.rsplit("-", 2)
    batch = int(batch[1:])
    path = PLANS / f"{name}.json"
    estimate = CHIPS[chip].platform == "gpu"
    row = json.loads(path.read_text()) if path.exists() else {}
    row = row or {"model": model, "chip": chip, "batch": batch, "slices": {}}
    if row.get("finished") or ("smallest" in row and not larger):
        return
    print(f"  {name}", flush=True)
    smallest = None
    for shape in CHIPS[chip].slices:
        topology = parse_topology(f"{chip}:{shape}")
        if PRESETS[model]["parameters"] * STATE_BYTES / topology.devices > CHIPS[chip].memory_bytes:
            continue
        if str(topology) not in row["slices"]:
            row["slices"][str(topology)] = try_slice(model, topology, batch, estimate)
            _write(path, row)
        found = row["slices"][str(topology)]
        if smallest is not None:  # this is the next larger one
            break
        if any(one["fits"] for one in found["plans"]):
            smallest = row["smallest"] = str(topology)
            _write(path, row)
            if not larger:
                return
    row["finished"] = True
    _write(path, row)


def _write(path: Path, row: dict) -> None:
    write_atomically(path, (json.dumps(row, indent=1) + "\n").encode())  # half a row would be read by the next start


def try_slice(model: str, topology: Topology, batch: int, estimate: bool) -> dict:
    """{"plans": tried ones, one that fits stands last, "why_not": "" or why none fits}; an estimate may leave that open."""
    options = attempts(model, topology, batch)
    if isinstance(options, str):
        return {"plans": [], "why_not": options}
    tried, why = [], "too large"
    # Where the compiler refuses, its figure is of what it had tried last. Estimates go down with the pass from the second on.
    peak_of = lambda found: found["estimated_peak_bytes_per_device"]
    for mesh, passes in options:
        # What is estimated so far above the memory that no estimate was ever as wrong is not compiled.
        try:
            tried.append(plan(model, topology, batch, mesh, passes, estimate))
        except Refused as error:
            why = str(error)
            continue
        if tried[-1]["fits"]:
            break
        if len(tried) > 2 and peak_of(tried[-1]) > 0.98 * peak_of(tried[-2]):  # the second pass adds a sum of gradients
            break  # what is left does not shrink with the pass
    return {"plans": tried, "why_not": "" if tried and tried[-1]["fits"] is not False else why}


def table() -> str:
    """The rows that are there, as a Markdown table."""
    lines = [
        "| model | chip | batch | slice | mesh | passes | peak GiB of | about ms | bound by | MFU, about |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    missing, alone = [], 0
    for name in rows():
        path = PLANS / f"{name}.json"
        row = json.loads(path.read_text()) if path.exists() else {}
        if not row.get("slices"):
            missing.append(name)
            continue
        alone += "smallest" in row and not row.get("finished")
        for slice_name, found in row["slices"].items():
            label = f"| `{row['model']}` | {row['chip']} | {row['batch']} | {slice_name.split(':')[1]} "
            if not found["plans"]:
                lines.append(f"{label}| no: {found['why_not']} | | | | | |")
                continue
            # The one that fits; else one of which it is not known; else the one that lacks least.
            rank = {True: 0, None: 1, False: 2}
            one = min(found["plans"], key=lambda each: (rank[each["fits"]], each["peak_bytes_per_device"]))
            mesh = " ".join(f"{axis} {size}" for axis, size in one["mesh"].items() if size > 1) or "one device"
            peak = f"{one['peak_bytes_per_device'] / GIB:.1f} of {one['bytes_available_per_device'] / GIB:.1f}"
            source = {"compiler refused": " (refused)", "estimate": " (estimate)"}.get(one["memory_source"], "")
            verdict = {True: "", False: "**no**: ", None: "not known: "}[one["fits"]]
            if source == " (estimate)" and one["fits"]:
                verdict = "likely: "
            times = one["roofline"]
            cells = f"{times['seconds'] * 1e3:.0f} | {times['bound']} | {times['mfu']:.0%}" if one["fits"] else "| |"
            lines.append(
                f"{label}| {mesh} | {one['settings'].get('training.microbatches', 1)} | {verdict}{peak}{source} | {cells} |"
            )
    if missing:
        lines += ["", f"Not made yet ({len(missing)} of {len(rows())} rows): {', '.join(missing)}."]
    if alone:
        lines += ["", f"Rows without the next larger slice yet: {alone}."]
    return "\n".join(lines)


def write_table() -> None:
    """Puts the table between its marks in docs/scaling.md."""
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{table()}\n\n{MARKS[1]}{after}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help="names of rows, or their beginnings")
    parser.add_argument("--list", action="store_true", help="prints the names of all rows")
    parser.add_argument("--table", action="store_true", help="writes the table alone")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(rows()))
        return
    if not arguments.table and find_spec("libtpu") is None:  # else every row would say so
        sys.exit("error: plans for TPUs need libtpu: python -m pip install -e '.[tpu_programs]'")
    PLANS.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in rows() if not arguments.only or name.startswith(tuple(arguments.only))]
    for larger in () if arguments.table else (False, True):
        for name in wanted:
            try:
                make(name, larger)
            except RuntimeError as error:  # one row that cannot be made does not stop the others
                print(f"    {name} failed: {error}", flush=True)
    write_table()


if __name__ == "__main__":
    main()
