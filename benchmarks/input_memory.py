"""Host memory of the loader over many records: resident memory after warm-up, its slope and its peak.

    python -m benchmarks.input_pipeline --memory [--records 20000]

Posed frames of 32 x 32 pixels, two views a record, are prepared like anybody's; the loader iterates with two threads
and a memory for samples (16 MB) that is full long before the end. Every record is read once in a pass.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.loader import DataConfig, Loader, SourceConfig, make_loader
from data_pipelines.sources.posed_rgbd import Settings
from experiments.prepare import prepare
from spatialsv_jax.processing.tiny import TinyProcessor, build_tokenizer

SIDE, VIEWS, ROWS, CACHE_MB = 32, 2, 16, 16
WARM_UP = 0.25  # share of the records before memory must stand still


def resident_mb() -> float:
    """Resident memory of this process now, MB (Linux)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def resident_over(loader: Loader, records: int, samples: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """(records drawn, resident MB) at about so many moments while the loader draws so many records."""
    steps = -(-records // loader.rows_per_process)
    every, found = max(1, steps // samples), []
    with loader.iterate() as batches:
        for step in range(1, steps + 1):
            next(batches)
            if step % every == 0 or step == steps:
                found.append((step * loader.rows_per_process, resident_mb()))
    return np.array([drawn for drawn, _ in found]), np.array([memory for _, memory in found])


def slope(drawn: Sequence[int], memory: Sequence[float]) -> float:
    """MB per 1,000 records behind the warm-up: the median of all pairs' slopes, which single moments do not move."""
    drawn, memory = np.asarray(drawn, np.float64), np.asarray(memory, np.float64)
    kept = drawn > WARM_UP * drawn[-1]
    drawn, memory = drawn[kept], memory[kept]
    first, second = np.triu_indices(len(drawn), 1)
    return float(np.median((memory[second] - memory[first]) / (drawn[second] - drawn[first])) * 1000)


def write_walk(folder: Path, frames: int) -> None:
    """One scene of so many frames, all different, that looks at a wall and moves along it."""
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    rng, pose = np.random.default_rng(5), np.eye(4)
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", [[28, 0, 15.5], [0, 28, 15.5], [0, 0, 1]])
    for frame in range(frames):
        picture = rng.integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(picture).save(folder / "color" / f"{frame}.jpg", quality=90)
        steps = (2000 + rng.integers(0, 9, (SIDE, SIDE))).astype(np.uint16)
        Image.fromarray(steps).save(folder / "depth" / f"{frame}.png", compress_level=1)
        pose[0, 3] = 0.01 * frame
        np.savetxt(folder / "pose" / f"{frame}.txt", pose, fmt="%.6g")


def walk_loader(folder: Path, frames: int, workers: int | None = 0) -> Loader:
    """The loader on the records of such a scene, a record for almost every frame; `workers` prepare them."""
    write_walk(folder / "raw" / "walk", frames)
    settings = Settings(raw=str(folder / "raw"), views=VIEWS, hop=1, validation=0, test=0)
    prepare("posed_rgbd", settings, folder / "data", workers=workers, progress=False)
    processor = TinyProcessor(build_tokenizer(["wall"]), image_size=SIDE, patch_size=8, merge=2)
    source = SourceConfig(path=str(folder / "data"), per_batch=ROWS, text=False)
    config = DataConfig(
        sources=(source,), questions=1, question_tokens=4, answer_tokens=2, views=VIEWS, label_size=(SIDE, SIDE),
        threads=2, cache_mb=CACHE_MB, verify=1,
    )  # fmt: skip
    return make_loader(config, processor)


def run(records: int) -> None:
    """Makes the records, draws each once and prints the memory."""
    with tempfile.TemporaryDirectory() as temporary:
        began = time.perf_counter()
        loader = walk_loader(Path(temporary), records + records // 50 + VIEWS)
        made, began = time.perf_counter() - began, time.perf_counter()
        drawn, memory = resident_over(loader, records)
        seconds, cache = time.perf_counter() - began, loader.sources[0]._cache
        kept = drawn > WARM_UP * drawn[-1]
        print(
            f"{len(loader.sources[0])} distinct records of {VIEWS} views made in {made:.0f} s; {drawn[-1]} drawn in {seconds:.0f} s; "
            f"samples remembered: {len(cache)}, {cache.nbytes / 2**20:.1f} of {CACHE_MB} MB\n"
            f"resident memory: {memory[kept][0]:.0f} MB after {drawn[kept][0]} records, {memory[-1]:.0f} MB at the end, at most "
            f"{memory.max():.0f} MB; slope behind the warm-up {slope(drawn, memory):+.3f} MB per 1,000 records"
        )
