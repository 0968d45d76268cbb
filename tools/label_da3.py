"""Labels pictures with Depth Anything 3, in an environment of its own: it imports nothing of this library.

    python -m experiments.label --pictures --data DATA --out PICTURES            (in this library's environment)
    python -m venv da3 && da3/bin/pip install depth-anything-3                   (needs numpy < 2, torch, a GPU)
    da3/bin/python tools/label_da3.py --pictures PICTURES --out LABELS --model depth-anything/DA3-LARGE-1.1

Writes the label files that `data_pipelines/labels/files.py` describes and checks (version 3): depth, confidence, cameras in the
first view's frame, and with --layer the features of a backbone layer on the teacher's grid, averaged to at most 24 cells a side.
Files that are there already are left alone. Not run with published weights where it was written: its test uses a
stand-in for the package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np

VERSION = 3
MOST_CELLS = 24
SIZE = 504  # longest side of what the network sees
# Licences of the published weights, by what their names hold.
LICENCES = (
    ("METRIC", "Apache-2.0"),
    ("MONO", "Apache-2.0"),
    ("SMALL", "Apache-2.0"),
    ("BASE", "Apache-2.0"),
    ("", "CC BY-NC 4.0"),
)


def label(model, name: str, folder: Path, out: Path, checkpoint: str, layer: int | None) -> bool:
    """Labels one record's folder (see `experiments.label --pictures`); False if its file is there already."""
    views = json.loads((folder / "views.json").read_text(encoding="utf-8"))
    path = out / f"{folder.name}.npz"
    if path.exists():
        return False
    files = [str(folder / file) for file in views["files"]]
    # "first": with a reference view chosen by features, deep features would stay in another order.
    found = model.inference(
        files, process_res=SIZE, process_res_method="upper_bound_resize", ref_view_strategy="first",
        export_feat_layers=[] if layer is None else [layer],
    )  # fmt: skip
    depth = np.array(found.depth, np.float32)  # copied: exports of the package change arrays in place
    confidence = np.array(found.conf if found.conf is not None else np.ones_like(depth), np.float32)
    sizes = [_size(file) for file in files]
    count, height, width = depth.shape
    if len({size for size in sizes}) > 1:
        sys.exit(
            f"error: {folder}: pictures of different sizes are cropped to the smallest by the package. Resize them first."
        )
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
        arrays |= {"features": features.astype(np.float16), "feature_affine": affine @ scale}
    texts = {
        "view_ids": views["view_ids"], "record_id": views["record_id"], "teacher": "da3", "checkpoint": checkpoint,
        "images_hash": views["images_hash"], "licence": next(text for part, text in LICENCES if part in name.upper()),
    }  # fmt: skip
    key = [VERSION, "da3", checkpoint, views["view_ids"], views["images_hash"], [height, width]]
    texts["key"] = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    partial = path.with_name(f"+{os.getpid()}+{folder.name[:60]}.tmp")
    with open(partial, "wb") as file:
        metric = np.array(bool(getattr(found, "is_metric", 0)))
        np.savez(file, **arrays, **{k: np.array(v) for k, v in texts.items()}, version=np.array(VERSION), metric=metric)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return True


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
    parser.add_argument("--device", default="cuda")
    flags = parser.parse_args()
    from depth_anything_3.api import DepthAnything3

    model = DepthAnything3.from_pretrained(flags.model).to(flags.device)
    checkpoint = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        checkpoint.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    flags.out.mkdir(parents=True, exist_ok=True)
    folders = sorted(path.parent for path in flags.pictures.glob("*/views.json"))
    if not folders:
        sys.exit(f"error: {flags.pictures} has no */views.json; make it with experiments.label --pictures.")
    written = 0
    for number, folder in enumerate(folders, 1):
        written += label(model, flags.model, folder, flags.out, checkpoint.hexdigest(), flags.layer)
        print(f"\r{number} of {len(folders)} records", end="", flush=True)
    print(f"\n{written} written, {len(folders) - written} there already, in {flags.out}")


if __name__ == "__main__":
    main()
