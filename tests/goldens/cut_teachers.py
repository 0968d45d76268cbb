"""Cuts the committed references of the published teachers' ports from full sets of reference numbers.

    python tests/goldens/cut_teachers.py da3 FOLDER
    python tests/goldens/cut_teachers.py da3_mono FOLDER

A full set is a folder with a tiny random checkpoint (model.safetensors, config.json) and what the published program makes of its
inputs (inputs.npz, outputs*.npz, ...). The checkpoint is copied; of every output each seventh value and the largest absolute
one are kept, inputs whole (`tests/teacher_runs.py` has the rule).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from teacher_runs import cut  # noqa: E402

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
WHOLE = ("ref_idx", "pose_enc", "c2w", "extrinsics_w2c", "intrinsics", "cam_enc_pose_encoding", "cam_enc_token")


def load(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file."""
    with np.load(path) as values:
        return {name: values[name] for name in values.files}


def outputs(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """Small arrays whole, the others cut."""
    return {
        f"{prefix}{name}": value if name in WHOLE or value.dtype.kind != "f" else cut(value)
        for name, value in load(path).items()
    }


def pictures(images: np.ndarray) -> np.ndarray:
    """uint8[B,S,H,W,3] that normalised images float[B,S,3,H,W] were made of."""
    values = np.moveaxis(images, 2, -1) * STD + MEAN
    found = np.rint(255 * values)
    assert np.abs(found - 255 * values).max() < 1e-3
    return found.astype(np.uint8)


def da3(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """The files of the any-view form."""
    inputs = load(folder / "inputs.npz")
    model = {"pictures": pictures(inputs["images"])}
    model |= {name: inputs[name] for name in ("extrinsics_w2c_raw", "extrinsics_w2c_normalised", "intrinsics")}
    for name, prefix in (("", ""), ("_2views", "two/"), ("_1view", "one/"), ("_posed", "posed/")):
        model |= outputs(folder / f"outputs{name}.npz", prefix or "three/")
    chosen = load(folder / "ref_select.npz")
    parts = {f"select/{name}": value for name, value in chosen.items() if name != "reordered"}
    parts["select/tokens"] = parts["select/tokens"][:, :, 0]
    for name in ("centred", "noisy", "offcentre"):
        parts |= {f"{name}/{key}": value for key, value in load(folder / f"ray_decode_{name}.npz").items()}
    for name, value in load(folder / "preprocess.npz").items():
        parts[f"preprocess/{name}"] = cut(value) if name.startswith("out") else value
        if name.startswith("out"):
            parts[f"preprocess/shape_{name}"] = np.array(value.shape[:2])
    return {"reference.npz": model, "parts.npz": parts}


def da3_mono(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """The file of the mono form."""
    model = {"pictures": pictures(load(folder / "inputs.npz")["images"])}
    return {"reference.npz": model | outputs(folder / "outputs.npz")}


SETS = {"da3": da3, "da3_mono": da3_mono}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("folder", type=Path, help="with the full set")
    flags = parser.parse_args()
    out = HERE / flags.set
    out.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(flags.folder / name, out / name)
    for name, arrays in SETS[flags.set](flags.folder).items():
        np.savez_compressed(out / name, **arrays)
    for path in sorted(out.iterdir()):
        path.chmod(0o644)
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
