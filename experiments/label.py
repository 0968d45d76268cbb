"""Writes label files with a trained teacher.

python -m experiments.label --teacher rooms --model DIR --data DIR --out DIR [--splits train,test]

The files hold depth, confidence, cameras and features in the teacher's own unit and world (the
first view's frame). Records that have a file already are left alone, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from data_pipelines.labels.files import LabelError, LabelFile, images_hash, read_labels, write_labels
from data_pipelines.manifest import PrepareError
from data_pipelines.records import Record
from data_pipelines.storage import RecordSource, open_split
from data_pipelines.transforms.decode import decode_image
from experiments import hosts
from spatialsv_jax import loading
from spatialsv_jax.geometry import solve_camera
from spatialsv_jax.training.checkpoints import CheckpointError


def label_rooms(model: Path | str, data: Path | str, out: Path | str, splits: Sequence[str], rows: int = 8) -> dict:
    """Labels every record of `splits` with the rooms teacher; hosts share the records among them.

    Args:
      model: where the teacher was trained (a workdir or checkpoint step).
      data: a prepared data set.
      out: folder for the label files.
      splits: splits of the data set.
      rows: records per forward pass.

    Returns:
      The manifest: teacher, checkpoint hash, counts of written, kept and camera failures on all hosts.

    Raises:
      ValueError: the model is no teacher.
    """
    teacher = loading.load(model)
    if teacher.settings.model != "teacher":
        raise ValueError(
            f"{model} is a '{teacher.settings.model}', not a teacher; train experiments/configs/teacher_rooms.py."
        )
    checkpoint, out = parameters_hash(teacher.params), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    forward = jax.jit(teacher.apply)
    counts = {"written": 0, "kept": 0, "views": 0, "views_without_camera": 0}
    for split in splits:
        source = open_split(data, split)
        own = range(jax.process_index(), len(source), jax.process_count())
        with tqdm(
            total=len(own),
            desc=f"label {split}",
            unit="record",
            file=sys.stdout,
            mininterval=2.0,
            disable=not hosts.is_first(),
        ) as bar:
            for records in _groups(_unlabelled(source, own, out, checkpoint, counts, bar), rows):
                _label(teacher, forward, records, rows, out, checkpoint, counts)
                bar.update(len(records))
    if jax.process_count() > 1:
        counts = jax.tree.map(lambda own: int(own.sum()), multihost_utils.process_allgather(counts))
    manifest = {"teacher": "rooms", "model": str(teacher.path), "step": teacher.step, "checkpoint": checkpoint}
    manifest |= {"data": str(data), "splits": list(splits), **counts}
    hosts.write_json(out / "labels.json", manifest)
    hosts.say(
        f"labels in {out}: {counts['written']} written, {counts['kept']} there already, "
        f"{counts['views_without_camera']} of {counts['views']} new views without a camera"
    )
    return manifest


def parameters_hash(params) -> str:
    """SHA-256 over all parameters with their paths: the identity of a teacher's weights."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _unlabelled(
    source: RecordSource, indices: range, out: Path, checkpoint: str, counts: dict, bar: tqdm
) -> Iterator[Record]:
    """The records without a good file of this teacher; the others are counted as kept."""
    for index in indices:
        record = source[index]
        try:
            known = dict(view_ids=record.view_ids, images=record.images, teacher="rooms", checkpoint=checkpoint)
            read_labels(out, record.id, **known)
            counts["kept"] += 1
            bar.update(1)
        except LabelError:
            yield record


def _groups(records: Iterator[Record], rows: int) -> Iterator[list[Record]]:
    """Up to `rows` records with the same number of views at a time."""
    waiting: dict[int, list[Record]] = {}
    for record in records:
        same = waiting.setdefault(len(record.view_ids), [])
        same.append(record)
        if len(same) == rows:
            yield waiting.pop(len(record.view_ids))
    yield from waiting.values()


def _label(teacher, forward, records: list[Record], rows: int, out: Path, checkpoint: str, counts: dict) -> None:
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
            checkpoint=checkpoint,
            images_hash=images_hash(record.images),
            features=features.reshape(*features.shape[:1], *teacher.processor.grid_hw, -1).astype(np.float16),
        )
        write_labels(out, record.id, labels)
        counts["written"] += 1
        counts["views"] += len(ok)
        counts["views_without_camera"] += int((~ok).sum())


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--teacher", choices=("rooms",), default="rooms", help="which network labels")
    result.add_argument("--model", required=True, help="workdir of a trained teacher")
    result.add_argument("--data", required=True, help="a prepared data set")
    result.add_argument("--out", required=True, help="folder for the label files")
    result.add_argument("--splits", default="train", help="comma-separated splits")
    result.add_argument("--rows", type=int, default=8, help="records per forward pass")
    return result


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    args = parser().parse_args(argv)
    try:
        hosts.join()
        label_rooms(args.model, args.data, args.out, args.splits.split(","), args.rows)
    except (CheckpointError, PrepareError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
