"""Writes label files: with Depth Anything 3 or VGGT, with a trained teacher of ours, or from what those two exported.

python -m experiments.label --teacher da3 --checkpoint DIR --data DIR --out DIR [--views N] [--config.mesh.fsdp=4]
python -m experiments.label --teacher rooms --model DIR --data DIR --out DIR [--splits train,test]
python -m experiments.label --teacher da3 --from EXPORTS --checkpoint NAME --data DIR --out DIR
python -m experiments.label --pictures --data DIR --out PICTURES        (for those teachers' own programs)
python -m experiments.label --check --data DIR --out LABELS             (files of tools/label_da3.py, or of a run before)

The files hold depth, confidence, cameras and features in the teacher's own unit and world (the
first view's frame). Files that are there already and would be made the same are kept, so a stopped run goes
on. Of all files, new and kept, the agreement between the views is measured; --min_agreement masks scenes below it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from data_pipelines.labels.files import UNFINISHED, label_path
from data_pipelines.manifest import PrepareError, write_atomically
from data_pipelines.paths import as_path, is_remote
from data_pipelines.storage import open_split
from experiments import failures, hosts, stopping
from experiments.label_flags import maker_of, parser
from experiments.label_makers import Exports, Present, Rooms, parameters_hash
from experiments.label_networks import Networks
from experiments.label_pictures import write_pictures
from experiments.label_records import COUNTS, Written, label_records
from spatialsv_jax.training.checkpoints import CheckpointError

__all__ = ["check_labels", "label_data", "label_exports", "label_rooms", "parameters_hash", "write_pictures"]


def label_data(
    maker: Exports | Networks | Present | Rooms,
    data: Path | str,
    out: Path | str,
    splits: Sequence[str],
    least: float = 0.0,
    beam: Sequence[str] | None = None,
) -> dict:
    """Labels every record of `splits`; hosts share the records among them, or the workers of a Beam pipeline do.

    Args:
      maker: what makes the labels; `Present` only checks those that are there.
      data: a prepared data set.
      out: folder for the label files.
      splits: splits of the data set.
      least: agreement between its views below which a scene's depth is masked.
      beam: options of a Beam pipeline; None = in this process.

    Returns:
      The manifest: teacher, checkpoint hash, counts on all hosts, quantiles of the agreement.

    Raises:
      ValueError: a maker without labels for any record, or a broken export; on every host.
    """
    folder = as_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    hosts.on_first(lambda: _remove_leftovers(folder))
    total, failure, began = Written(), None, time.perf_counter()
    try:
        if beam is not None:
            from experiments import label_pipeline

            total.add(label_pipeline.label(maker, data, folder, splits, least, beam))
        for split in splits if beam is None else ():
            source = open_split(data, split)
            own = range(jax.process_index(), len(source), jax.process_count())
            with tqdm(
                total=len(own), desc=f"label {split}", unit="record", file=sys.stdout, mininterval=2.0, disable=not hosts.is_first()
            ) as bar:  # fmt: skip
                for number, done in label_records(maker, folder, least, (source[index] for index in own)):
                    total.add(done)
                    bar.update(number)
    except (CheckpointError, PrepareError, ValueError, OSError) as error:
        failure = error
    _fail_together(failure)
    counts = _sums({name: total.counts[name] for name in (*COUNTS, *maker.counts, "without_pictures")})
    if not counts["written"] + counts["kept"]:  # summed over the hosts: all see the same and end alike
        first = open_split(data, splits[0]).ids[0]
        if isinstance(maker, Exports):
            raise ValueError(
                f"{maker.folder} has no export of any record. That of record '{first}' is looked for in {maker.expected_file(first)}."
            )
        if isinstance(maker, Present):
            raise ValueError(f"{folder} has no label file of any record, e.g. no {label_path(folder, first)}.")
    seconds = time.perf_counter() - began
    done = total.counts["written"]
    if done:
        hosts.say(
            f"{done} scenes in {seconds:.0f} s here: {done / seconds:.2f} scenes/s, with reading, checks and compilation"
        )
    facts = {**maker.facts, "data": str(data), "splits": list(splits)}
    return _finish(maker, folder, least, total, counts, facts)


def _fail_together(failure: Exception | None) -> None:
    """Raises this host's failure; on the others that one failed, so that none waits for it."""
    failed = failure is not None
    if jax.process_count() > 1:
        failed = bool(np.any(multihost_utils.process_allgather(np.int32(failed))))
    if failure is not None:
        raise failure
    if failed:
        raise ValueError("Another host failed, which says why; the same command goes on where this one ended.")


def _sums(counts: dict[str, int]) -> dict[str, int]:
    """The counts of all hosts."""
    if jax.process_count() > 1:
        found = multihost_utils.process_allgather(counts)
        return {name: int(found[name].sum()) for name in counts}
    return counts


def _remove_leftovers(folder: Path, older_s: float = 60.0) -> None:
    """Removes files that killed attempts had begun; younger ones may be another machine's, which takes a moment each."""
    if is_remote(folder):
        return
    for leftover in folder.glob(UNFINISHED):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > older_s:
                leftover.unlink()


def label_rooms(
    model: Path | str, data: Path | str, out: Path | str, splits: Sequence[str], rows: int = 8, least: float = 0.0
) -> dict:
    """`label_data` with the rooms teacher trained in `model`, `rows` records a forward pass.

    Raises:
      ValueError: the model is no teacher.
    """
    return label_data(Rooms(str(model), rows), data, out, splits, least)


def label_exports(
    teacher: str,
    exports: Path | str,
    data: Path | str,
    out: Path | str,
    splits: Sequence[str],
    checkpoint: str,
    resize: str = "",
    metric: bool = False,
    licence: str = "",
    least: float = 0.0,
    process_res: int = 0,
    made_of: str = "",
) -> dict:
    """`label_data` with what another teacher exported (`label_makers.Exports`); records without an export are counted."""
    maker = Exports(teacher, str(exports), checkpoint, resize, metric, licence, process_res, made_of)
    return label_data(maker, data, out, splits, least)


def check_labels(data: Path | str, out: Path | str, splits: Sequence[str], least: float = 0.0) -> dict:
    """`label_data` with the files that are in `out`: the agreement of their views is measured, scenes below `least` masked.

    Raises:
      ValueError: a damaged file or one of other pictures, no file at all, or files of several teachers.
    """
    return label_data(Present(), data, out, splits, least)


def _finish(maker, out: Path, least: float, done: Written, counts: dict, facts: dict) -> dict:
    """Writes labels.json and agreement.jsonl of all hosts' records."""
    own = [{"id": name, "agreement": round(value, 4), "masked": masked} for name, value, masked in done.agreements]
    write_atomically(_part(out, jax.process_index()), "".join(json.dumps(line) + "\n" for line in own).encode())
    hosts.wait()  # all parts are there
    values = hosts.on_first(lambda: _merge_agreements(out, jax.process_count()))
    quantiles = [float(np.quantile(values, share)) for share in (0.05, 0.5, 0.95)] if values else []
    known = {"teacher": maker.teacher, "checkpoint": maker.checkpoint}
    if isinstance(maker, Present):
        known = _kind_of(out, done)
    manifest = {**known, "min_agreement": least, **facts, **counts, "agreement_5_50_95_percent": quantiles}
    hosts.write_json(out / "labels.json", manifest)
    hosts.say(f"labels in {out}: " + ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in counts.items()))
    if quantiles:
        hosts.say(
            "agreement of the views (5, 50, 95 % of the records): "
            + ", ".join(f"{value:.2f}" for value in quantiles) + "; by record in agreement.jsonl"
        )  # fmt: skip
    return manifest


def _part(out: Path, host: int) -> Path:
    return out / f"agreement-{host}.jsonl"


def _merge_agreements(out: Path, count: int) -> list[float]:
    """Takes the hosts' parts into agreement.jsonl, which has a line for each file that can be judged; their values."""
    whole = out / "agreement.jsonl"
    parts = [_part(out, host) for host in range(count)]
    others = sorted({file.name for file in out.glob("agreement-*.jsonl")} - {part.name for part in parts})
    older = [whole] * whole.exists() + [out / name for name in others]  # of hosts that a run before had
    read = lambda file: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    own = [line for part in parts for line in read(part)]
    lines = {line["id"]: line for line in [*(line for file in older for line in read(file)), *own]}
    names = {file.name for file in out.glob("*.npz")}
    kept = [lines[name] for name in sorted(lines) if label_path(out, name).name in names]
    write_atomically(whole, "".join(json.dumps(line) + "\n" for line in kept).encode())
    for file in {*older, *parts} - {whole}:
        file.unlink()
    return [line["agreement"] for line in own]


def _kind_of(out: Path, done: Written) -> dict:
    """Teacher and checkpoint of files that were checked, and what labels.json said of them before.

    Raises:
      ValueError: they are of several.
    """
    file, before = out / "labels.json", {}
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
    kinds = done.kinds or {(before.get("teacher"), before.get("checkpoint"))}
    if len(kinds) > 1:
        raise ValueError(f"{out} holds labels of several teachers or weights: {sorted(kinds)}. Give each a folder.")
    teacher, checkpoint = next(iter(kinds))
    same = (before.get("teacher"), before.get("checkpoint")) == (teacher, checkpoint)
    return {**(before if same else {}), "teacher": teacher, "checkpoint": checkpoint}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    args = parser().parse_args(argv)
    splits = args.splits.split(",")
    missing = ("model" if args.teacher == "rooms" else "checkpoint") if not (args.pictures or args.check) else ""
    if missing and not getattr(args, missing):
        parser().error(f"--teacher {args.teacher} needs --{missing}.")
    if not 0 <= args.min_agreement <= 1:
        parser().error("--min_agreement lies between 0 and 1.")
    try:
        hosts.join(args.coordinator, args.num_processes, args.process_id)
        if warning := failures.check_accelerator():
            hosts.say(warning)
        with hosts.stopping(args.grace_s), failures.named_memory(dict):
            _run(args, splits)
    except stopping.Interrupted as reason:
        hosts.stopped(reason)
    except failures.REPORTED as error:
        hosts.fail(error)


def _run(args: argparse.Namespace, splits: list[str]) -> None:
    if args.pictures:
        hosts.say(f"pictures of {write_pictures(args.data, args.out, splits)} records in {args.out}")
        return
    maker = maker_of(args)
    if isinstance(maker, Networks):
        network = maker.network
        use = "commercial use allowed" if network.commercial else "commercial use not allowed, or not known to be"
        hosts.say(f"{args.teacher}, weights {network.name} ({network.checkpoint[:12]}): {network.licence}; {use}")
    beam = None if args.beam is None else shlex.split(args.beam)
    label_data(maker, args.data, args.out, splits, args.min_agreement, beam)


if __name__ == "__main__":
    main()
