"""Makes tests/goldens/vggt: a small random VGGT of the published program with what it computes.

    PYTHONPATH=tests python tests/goldens/make_vggt.py RUN

RUN is a folder of one run of the published program (facebookresearch/vggt, commit 44b3afbd, float32 on CPU) with random weights and
synthetic pictures: config.json (sizes, a layout of ours), model.safetensors, inputs.npz, outputs.npz (every intermediate),
outputs_1view.npz (the first picture alone), camera_head_only.npz and preprocess.npz. The checkpoint is copied, reference.npz
holds of each large array what `vggt_runs.cut` leaves.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from vggt_runs import cut

HERE = Path(__file__).parent / "vggt"


def make(run: Path, folder: Path = HERE) -> None:
    """Writes the checkpoint and its reference."""
    read = lambda name: dict(np.load(run / name))
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(run / name, folder / name)
    inputs, prepared = read("inputs.npz"), read("preprocess.npz")
    whole = {"images_uint8": inputs["images_uint8"]}
    whole |= {f"prepare_{name}": values for name, values in prepared.items() if not name.startswith("square126_")}
    squares = {name: values for name, values in prepared.items() if name.startswith("square126_")}
    parts = {"images_normalised": np.moveaxis(inputs["images_normalised"], 2, -1), **read("outputs.npz")}
    parts["dino_norm"] = parts["dino_norm"][:, :, 5:]  # class and registers are dropped behind it
    parts |= {f"one_view_{name}": values for name, values in read("outputs_1view.npz").items()}
    parts |= {f"prepare_{name}": values for name, values in squares.items()}
    np.savez_compressed(
        folder / "reference.npz",
        **whole,
        **{name: cut(values) for name, values in parts.items()},
        **{f"head_only_{name}": values for name, values in read("camera_head_only.npz").items()},
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    print(*(f"{path.name} {path.stat().st_size}" for path in sorted(HERE.iterdir())))
