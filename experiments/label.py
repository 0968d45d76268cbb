"""Writes label files: with a trained teacher of ours, or from what Depth Anything 3 or VGGT exported.

python -m experiments.label --teacher rooms --model DIR --data DIR --out DIR [--splits train,test]
python -m experiments.label --teacher da3 --from EXPORTS --data DIR --out DIR
python -m experiments.label --pictures --data DIR --out PICTURES        (for those teachers' own programs)

The files hold depth, confidence, cameras and features in the teacher's own unit and world (the
first view's frame). Records that have a file already are left alone, so a stopped run goes on.
On arrival the agreement between the views is measured; --min_agreement masks scenes below it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from data_pipelines.labels.arrival import check_arrival
from data_pipelines.labels.exports import NAMES, RESIZES, export_file, read_export
from data_pipelines.labels.files import LabelError, LabelFile, images_hash, label_path, read_labels, write_labels
from data_pipelines.manifest import PrepareError
from data_pipelines.records import Record
from data_pipelines.storage import RecordSource, open_split
from data_pipelines.transforms.decode import decode_image
from experiments import hosts
from spatialsv_jax import loading
from spatialsv_jax.geometry import solve_camera
from spatialsv_jax.training.checkpoints import CheckpointError

PNG = b"\x89PNG"  # how such a file begins


def label_rooms(
    model: Path | str, data: Path | str, out: Path | str, splits: Sequence[str], rows: int = 8, least: float = 0.0
) -> dict:
    """Labels every record of `splits` with the rooms teacher; hosts share the records among them.

    Args:
      model: where the teacher was trained (a workdir or checkpoint step).
      data: a prepared data set.
      out: folder for the label files.
      splits: splits of the data set.
      rows: records per forward pass.
      least: agreement between its views below which a scene's depth is masked.

    Returns:
      The manifest: teacher, checkpoint hash, counts on all hosts, agreement per scene.

    Raises:
      ValueError: the model is no teacher.
    """
    teacher = loading.load(model)
    if teacher.settings.model != "teacher":
        raise ValueError(
            f"{model} is a '{teacher.settings.model}', not a teacher; train experiments/configs/teacher_rooms.py."
        )
    forward = jax.jit(teacher.apply)
    run = _Run(out, "rooms", parameters_hash(teacher.params), least)

    def label(records: list[Record]) -> None:
        _label(teacher, forward, records, rows, run)

    for split in splits:
        run.over(open_split(data, split), label, rows, split)
    return run.finish({"model": str(teacher.path), "step": teacher.step, "data": str(data), "splits": list(splits)})


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
) -> dict:
    """Makes label files of what another teacher exported (`labels.exports`); records without an export are counted.

    Args:
      teacher: "da3" or "vggt".
      exports: the folder of exports.
      data, out, splits, least: as for `label_rooms`.
      checkpoint: name or hash of the weights, for the key of the files.
      resize: how the teacher brought pictures to its size; its default if "".
      metric: lengths are metres.
      licence: of the weights.

    Raises:
      ValueError: an unknown way of resizing, a broken export, or none for any record.
    """
    if resize and resize not in RESIZES[teacher]:
        raise ValueError(f"--resize is '{resize}'; {teacher} has {', '.join(RESIZES[teacher])}.")
    if not Path(exports).is_dir():
        raise ValueError(f"--from '{exports}' is not a folder.")
    run = _Run(out, teacher, checkpoint, least)
    run.counts["without_export"] = 0

    def label(records: list[Record]) -> None:
        for record in records:
            file = export_file(Path(exports), record.id, teacher)
            if file is None:
                run.counts["without_export"] += 1
                continue
            sizes = [decode_image(image, f"record '{record.id}'").shape[1::-1] for image in record.images]
            texts = dict(
                view_ids=record.view_ids, checkpoint=checkpoint, images_hash=images_hash(record.images), licence=licence
            )
            run.write(record, read_export(file, teacher, sizes, resize or RESIZES[teacher][0], metric, **texts))

    for split in splits:
        run.over(open_split(data, split), label, 1, split)
    if not run.counts["written"] + run.counts["kept"]:
        first = open_split(data, splits[0]).ids[0]
        raise ValueError(
            f"{exports} has no export of any record. That of record '{first}' is looked for in "
            f"{label_path(exports, first).with_suffix('')}/{' or '.join(NAMES[teacher])}."
        )
    return run.finish({"exports": str(exports), "data": str(data), "splits": list(splits), "licence": licence})


def write_pictures(data: Path | str, out: Path | str, splits: Sequence[str]) -> int:
    """Writes every record's pictures as files, for programs that do not read our data: OUT/NAME/00.png, ... and views.json.

    Returns:
      The number of records.
    """
    number = 0
    for split in splits:
        source = open_split(data, split)
        for index in range(jax.process_index(), len(source), jax.process_count()):
            record = source[index]
            folder = label_path(out, record.id).with_suffix("")
            folder.mkdir(parents=True, exist_ok=True)
            files = []
            for place, image in enumerate(record.images):
                kind = "png" if image.startswith(PNG) else "jpg"
                files.append(f"{place:02d}.{kind}")
                (folder / files[-1]).write_bytes(image)
            views = {
                "record_id": record.id,
                "view_ids": list(record.view_ids),
                "files": files,
                "images_hash": images_hash(record.images),
            }
            (folder / "views.json").write_text(json.dumps(views) + "\n", encoding="utf-8")
            number += 1
    return number


class _Run:
    """Label files of one teacher in one folder: what is there already, what is written, and how views agree.

    Args:
      out: the folder.
      teacher, checkpoint: of the files.
      least: agreement below which a scene is masked.
    """

    def __init__(self, out: Path | str, teacher: str, checkpoint: str, least: float):
        self.out, self.teacher, self.checkpoint, self.least = Path(out), teacher, checkpoint, least
        self.out.mkdir(parents=True, exist_ok=True)
        self.counts = {"written": 0, "kept": 0, "views": 0, "views_without_camera": 0, "masked_for_disagreement": 0}
        self.agreements: list[tuple[str, float]] = []

    def over(self, source: RecordSource, label: Callable[[list[Record]], None], rows: int, split: str) -> None:
        """Labels this host's share of a split."""
        own = range(jax.process_index(), len(source), jax.process_count())
        bar = tqdm(
            total=len(own), desc=f"label {split}", unit="record", file=sys.stdout, mininterval=2.0, disable=not hosts.is_first()
        )  # fmt: skip
        with bar:
            for records in _groups(self._unlabelled(source, own, bar), rows):
                label(records)
                bar.update(len(records))

    def _unlabelled(self, source: RecordSource, indices: range, bar: tqdm) -> Iterator[Record]:
        """The records without a good file of this teacher; the others are counted as kept."""
        for index in indices:
            record = source[index]
            known = dict(
                view_ids=record.view_ids, images=record.images, teacher=self.teacher, checkpoint=self.checkpoint
            )
            try:
                read_labels(self.out, record.id, **known)
                self.counts["kept"] += 1
                bar.update(1)
            except LabelError:
                yield record

    def write(self, record: Record, labels: LabelFile) -> None:
        """Checks labels and writes their file."""
        labels, found = check_arrival(labels, self.least)
        write_labels(self.out, record.id, labels)
        self.counts["written"] += 1
        self.counts["views"] += len(labels.view_ids)
        self.counts["masked_for_disagreement"] += found.masked
        if found.agreement is not None:
            self.agreements.append((record.id, found.agreement))

    def finish(self, facts: dict) -> dict:
        """Sums over the hosts and writes labels.json, and agreement.jsonl of this host's new files."""
        counts, values = self.counts, np.array([value for _, value in self.agreements])
        quantiles = [float(np.quantile(values, share)) for share in (0.05, 0.5, 0.95)] if len(values) else []
        own = self.out / f"agreement-{jax.process_index()}.jsonl"
        with open(own, "a", encoding="utf-8") as file:
            file.writelines(
                json.dumps({"id": name, "agreement": round(value, 4)}) + "\n" for name, value in self.agreements
            )
        if jax.process_count() > 1:
            counts = jax.tree.map(lambda mine: int(mine.sum()), multihost_utils.process_allgather(counts))
        manifest = {
            "teacher": self.teacher,
            "checkpoint": self.checkpoint,
            "min_agreement": self.least,
            **facts,
            **counts,
        }
        manifest["agreement_5_50_95_percent"] = quantiles
        hosts.write_json(self.out / "labels.json", manifest)
        hosts.say(
            f"labels in {self.out}: "
            + ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in counts.items())
        )
        if quantiles:
            hosts.say(
                "agreement of the views (5, 50, 95 % of the new records on this host): "
                + ", ".join(f"{value:.2f}" for value in quantiles) + f"; by record in {own.name}"
            )  # fmt: skip
        return manifest


def parameters_hash(params) -> str:
    """SHA-256 over all parameters with their paths: the identity of a teacher's weights."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _groups(records: Iterator[Record], rows: int) -> Iterator[list[Record]]:
    """Up to `rows` records with the same number of views at a time."""
    waiting: dict[int, list[Record]] = {}
    for record in records:
        same = waiting.setdefault(len(record.view_ids), [])
        same.append(record)
        if len(same) == rows:
            yield waiting.pop(len(record.view_ids))
    yield from waiting.values()


def _label(teacher, forward, records: list[Record], rows: int, run: _Run) -> None:
    images = [
        [decode_image(data, f"record '{record.id}', view {number}") for number, data in enumerate(record.images)]
        for record in records
    ]
    inputs = [teacher.inputs(pictures, ()) for pictures in images]
    inputs += inputs[:1] * (rows - len(inputs))  # one shape, one program
    batch = {name: np.concatenate([row[name] for row in inputs]) for name in inputs[0]}
    found = {name: np.asarray(value) for name, value in forward(teacher.params, batch).items()}
    fit = solve_camera(found["ray"].astype(np.float64), found["ray_confidence"].astype(np.float64))
    for row, record in enumerate(records):
        features = found["teacher_features"][row]
        ok = np.asarray(fit.ok[row])
        labels = LabelFile(
            depth=np.where(ok[:, None, None], found["depth"][row], 0.0).astype(np.float32),
            confidence=found["depth_confidence"][row],
            intrinsics=fit.intrinsics[row],
            camera_to_world=fit.camera_to_world[row],
            valid=np.broadcast_to(ok[:, None, None], found["depth"][row].shape).copy(),
            label_affine=teacher.processor.pixels(images[row], teacher.label_hw).label_affine,
            view_ids=record.view_ids,
            teacher="rooms",
            checkpoint=run.checkpoint,
            images_hash=images_hash(record.images),
            features=features.reshape(*features.shape[:1], *teacher.processor.grid_hw, -1).astype(np.float16),
        )
        run.write(record, labels)
        run.counts["views_without_camera"] += int((~ok).sum())


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    result = argparse.ArgumentParser(prog="python -m experiments.label", description=__doc__.splitlines()[0])
    result.add_argument(
        "--teacher", choices=("rooms", *NAMES), default="rooms", help="which network labels (default rooms)"
    )
    result.add_argument("--model", help="rooms: workdir of the trained teacher")
    result.add_argument("--from", dest="exports", help="da3, vggt: folder of their exports, one folder a record")
    result.add_argument("--checkpoint", default="", help="da3, vggt: name or hash of the weights (needed)")
    result.add_argument("--resize", default="", help="da3: resize (default) or crop; vggt: crop (default) or pad")
    result.add_argument("--metric", action="store_true", help="da3, vggt: lengths are metres")
    result.add_argument("--licence", default="", help="da3, vggt: licence of the weights, kept in the files")
    result.add_argument(
        "--pictures", action="store_true", help="write the records' pictures for other programs, no labels"
    )
    result.add_argument("--data", required=True, help="a prepared data set")
    result.add_argument("--out", required=True, help="folder for the label files (or pictures)")
    result.add_argument("--splits", default="train", help="comma-separated splits (default train)")
    result.add_argument("--rows", type=int, default=8, help="rooms: records per forward pass (default 8)")
    result.add_argument(
        "--min_agreement", type=float, default=0.0, help="mask scenes whose views agree less, 0..1 (default 0: none)"
    )
    return result


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    args = parser().parse_args(argv)
    splits = args.splits.split(",")
    needed = {"rooms": ("model",)}.get(args.teacher, ("exports", "checkpoint"))
    if missing := [name for name in needed if not getattr(args, name) and not args.pictures]:
        parser().error(
            f"--teacher {args.teacher} needs --{' --'.join('from' if n == 'exports' else n for n in missing)}."
        )
    if not 0 <= args.min_agreement <= 1:
        parser().error("--min_agreement lies between 0 and 1.")
    try:
        hosts.join()
        if args.pictures:
            hosts.say(f"pictures of {write_pictures(args.data, args.out, splits)} records in {args.out}")
        elif args.teacher == "rooms":
            label_rooms(args.model, args.data, args.out, splits, args.rows, args.min_agreement)
        else:
            label_exports(
                args.teacher, args.exports, args.data, args.out, splits, args.checkpoint, args.resize, args.metric,
                args.licence, args.min_agreement,
            )  # fmt: skip
    except (CheckpointError, PrepareError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
