"""Labels pictures with Depth Anything 3, in an environment of its own: it imports nothing of this library.

    python -m experiments.label --pictures --data DATA --out PICTURES            (in this library's environment)
    python -m venv da3 && da3/bin/pip install depth-anything-3                   (needs numpy < 2, torch, a GPU)
    da3/bin/python tools/label_da3.py --pictures PICTURES --out LABELS --model depth-anything/DA3-LARGE-1.1
    python -m experiments.label --check --data DATA --out LABELS                 (in this library's environment)

Writes the label files that `data_pipelines/labels/files.py` describes and checks (version 4): depth, confidence, cameras in the
first view's frame, and with --layer the features of a backbone layer on the teacher's grid, averaged to at most 24 cells a side.
Whole files that are there already, of the same pictures, weights and settings, are left alone; others are made again.
--shard 0/4 ... --shard 3/4 divide the records among machines. The last command above measures the agreement of the views,
which needs this library. Not run with published weights where it was written: its test uses a
stand-in for the package.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

VERSION = 4
MOST_CELLS = 24
SIZE = 504  # longest side of what the network sees
# Licences of the published weights that give cameras; DA3METRIC and DA3MONO give none.
LICENCES = {
    "DA3-SMALL": "Apache-2.0",
    "DA3-BASE": "Apache-2.0",
    "DA3-LARGE": "CC BY-NC 4.0",
    "DA3-GIANT": "CC BY-NC 4.0",
    "DA3NESTED-GIANT-LARGE": "CC BY-NC 4.0",
}
OPTIONS = {
    "process_res": SIZE,
    "process_res_method": "upper_bound_resize",
    "ref_view_strategy": "first",
    "use_ray_pose": False,
}
TEXTS = ("view_ids", "record_id", "teacher", "checkpoint", "images_hash", "settings", "licence")


def label(model, licence: str, folder: Path, out: Path, checkpoint: str, layer: int | None) -> str:
    """Labels one record's folder (see `experiments.label --pictures`): "written", "kept", or why it was not labelled."""
    views = json.loads((folder / "views.json").read_text(encoding="utf-8"))
    path = out / f"{folder.name}.npz"
    settings = json.dumps({**OPTIONS, "layer": layer, "package": package_version()}, sort_keys=True)
    texts = {
        "view_ids": views["view_ids"], "record_id": views["record_id"], "teacher": "da3", "checkpoint": checkpoint,
        "images_hash": views["images_hash"], "settings": settings, "licence": licence,
    }  # fmt: skip
    if is_there(path, texts):
        return "kept"
    files = [str(folder / file) for file in views["files"]]
    digests = [hashlib.sha256(Path(file).read_bytes()).digest() for file in files]
    if hashlib.sha256(b"".join(digests)).hexdigest() != views["images_hash"]:
        return "its pictures are not those of its views.json; write them again into a new folder"
    sizes = [_size(file) for file in files]
    if len(set(sizes)) > 1:  # the package would crop all to the smallest
        return f"pictures of different sizes {sorted(set(sizes))}; resize them first"
    # "first": with a reference view chosen by features, deep features would stay in another order.
    found = model.inference(
        files, **OPTIONS, export_feat_layers=[] if layer is None else [layer],
    )  # fmt: skip
    if getattr(found, "extrinsics", None) is None or getattr(found, "intrinsics", None) is None:
        sys.exit(
            "error: these weights give no cameras (DA3METRIC and DA3MONO do not), which labels of several views need. Use SMALL, "
            "BASE, LARGE, GIANT or NESTED weights."
        )
    depth = np.array(found.depth, np.float32)  # copied: exports of the package change arrays in place
    confidence = np.array(found.conf if found.conf is not None else np.ones_like(depth), np.float32)
    count, height, width = depth.shape
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3] = np.array(found.extrinsics, np.float64)[:, :3]
    valid = np.isfinite(depth) & (depth > 0) & np.isfinite(confidence)
    if getattr(found, "sky", None) is not None:
        valid &= ~np.array(found.sky, bool)  # its depth there is made up
    affine = np.tile([[sizes[0][0] / width, 0, 0], [0, sizes[0][1] / height, 0]], (count, 1, 1)).astype(np.float64)
    arrays = {
        "depth": np.where(valid, depth, 0),
        "confidence": np.where(np.isfinite(confidence), confidence, 0),
        "valid": valid,
        "intrinsics": np.array(found.intrinsics, np.float64),
        "camera_to_world": poses[0] @ np.linalg.inv(poses),
        "label_affine": affine,
    }
    if layer is not None:
        features, cells = reduce(np.array(found.aux[f"feat_layer_{layer}"], np.float32))
        scale = np.diag([width / cells[1], height / cells[0], 1.0])
        with np.errstate(over="ignore"):
            arrays |= {"features": features.astype(np.float16), "feature_affine": affine @ scale}
        if not np.isfinite(arrays["features"]).all():
            sys.exit(
                f"error: {folder}: features of layer {layer} reach {np.abs(features).max():.3g}, which float16 does not hold (65504), "
                "or are not finite. Take another --layer."
            )
    texts["key"] = key_of(texts, height, width)
    partial = path.with_name(f"+{os.getpid()}+{folder.name[:60]}.tmp")
    with open(partial, "wb") as file:
        metric = np.array(bool(getattr(found, "is_metric", 0)))
        np.savez(file, **arrays, **{k: np.array(v) for k, v in texts.items()}, version=np.array(VERSION), metric=metric)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return "written"


def key_of(texts: dict, height: int, width: int) -> str:
    """The file's key, as `data_pipelines/labels/files.py` makes it."""
    made = [list(texts["view_ids"]), texts["images_hash"], [height, width], texts["settings"]]
    return hashlib.sha256(json.dumps([VERSION, texts["teacher"], texts["checkpoint"], *made]).encode()).hexdigest()


def is_there(path: Path, texts: dict) -> bool:
    """Whether there is a whole file of the same record, pictures, weights and settings."""
    try:
        with np.load(path, allow_pickle=False) as file:
            there = {name: file[name] for name in file.files}
        height, width = there["depth"].shape[1:]
        same = all(there[name].tolist() == texts[name] for name in TEXTS)
        return same and int(there["version"]) == VERSION and str(there["key"]) == key_of(texts, height, width)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return False


def package_version() -> str:
    """Of depth-anything-3."""
    try:
        return importlib.metadata.version("depth-anything-3")
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        return "unknown"


def licence_of(model: str) -> str | None:
    """Of published weights, by the last part of their name or folder; None if it is another."""
    return LICENCES.get(Path(model.rstrip("/")).name.upper().removesuffix("-1.1"))


def shard_of(text: str) -> tuple[int, int]:
    """(number, of how many) of "0/4"."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no NUMBER/OF, e.g. 0/4 ... 3/4")
    return int(number), int(count)


def reduce(features: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """float32[V,gh,gw,F] averaged, by the area that cells share, to at most `MOST_CELLS` a side; and the new cells."""
    rows, columns = (min(MOST_CELLS, cells) for cells in features.shape[1:3])
    down, across = _shares(features.shape[1], rows), _shares(features.shape[2], columns)
    return np.einsum("ir,vrcf,jc->vijf", down, features, across, optimize=True), (rows, columns)


def _shares(source: int, target: int) -> np.ndarray:
    edges, cells = np.arange(target + 1) * source / target, np.arange(source)
    shared = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.maximum(shared, 0) / (source / target)


def _size(file: str) -> tuple[int, int]:
    from PIL import Image

    with Image.open(file) as picture:
        return picture.size


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", required=True, type=Path, help="of experiments.label --pictures")
    parser.add_argument("--out", required=True, type=Path, help="folder for the label files")
    parser.add_argument("--model", required=True, help="name or folder of the weights, as the package takes them")
    parser.add_argument("--layer", type=int, help="backbone layer whose features are kept (default: none)")
    parser.add_argument("--licence", help="of the weights (default: that of the published ones of this name)")
    parser.add_argument("--shard", type=shard_of, default=(0, 1), help="label only this part of the records, e.g. 0/4")
    parser.add_argument("--device", default="cuda")
    flags = parser.parse_args()
    licence = flags.licence or licence_of(flags.model)
    if licence is None:
        parser.error(f"'{flags.model}' is none of the published weights {sorted(LICENCES)}; state their --licence.")
    from depth_anything_3.api import DepthAnything3

    model = DepthAnything3.from_pretrained(flags.model).to(flags.device)
    checkpoint = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        checkpoint.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    flags.out.mkdir(parents=True, exist_ok=True)
    folders = sorted(path.parent for path in flags.pictures.glob("*/views.json"))
    if not folders:
        sys.exit(f"error: {flags.pictures} has no */views.json; make it with experiments.label --pictures.")
    folders = folders[flags.shard[0] :: flags.shard[1]]
    done, skipped = {"written": 0, "kept": 0}, []
    for number, folder in enumerate(folders, 1):
        came = label(model, licence, folder, flags.out, checkpoint.hexdigest(), flags.layer)
        if came in done:
            done[came] += 1
        else:
            skipped.append(f"{folder}: {came}")
        print(f"\r{number} of {len(folders)} records", end="", flush=True)
    print(f"\n{done['written']} written, {done['kept']} there already, {len(skipped)} not labelled, in {flags.out}")
    for line in skipped:
        print(f"not labelled: {line}")


if __name__ == "__main__":
    main()
