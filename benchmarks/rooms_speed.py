"""Speed of the room generator on one core.

    python -m benchmarks.rooms_speed [--scenes 24] [--views 4] [--sizes 64 128]

Prints, per picture size, views per second of CPU time: ray casting and shading alone (textures,
shadows, anti-aliasing), with scene building at `--views` a scene, and for whole records (view choice,
questions and PNG encoding too). CPU time is used, so other processes on the machine disturb little.
Expected on one core of a current server: at 128 x 128 at least 40 and 20 views/s for the first two.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from data_pipelines.rooms.cameras import make_intrinsics, sample_poses
from data_pipelines.rooms.config import RoomsConfig, distribution
from data_pipelines.rooms.generate import make_record
from data_pipelines.rooms.layout import make_scene
from data_pipelines.rooms.raycast import Raycaster


def measure(size: int, scenes: int, views: int) -> dict[str, float]:
    """Views per second of CPU time: `shading`, `with_building`, `records`."""
    config = RoomsConfig(size=size, views=views)
    make_record(config, "train", 0)  # fills caches
    building = shading = 0.0
    count = 0
    for number in range(scenes):
        rng = np.random.default_rng(number)
        start = time.process_time()
        scene = make_scene(number, "train", config)
        raycaster = Raycaster(scene)
        building += time.process_time() - start
        poses, _ = sample_poses(scene, raycaster, "walk", views, 68.0, rng, distribution("train"))
        start = time.process_time()
        for pose in poses:
            raycaster.render(make_intrinsics(68.0, size), pose, size, size, config.antialias)
        shading += time.process_time() - start
        count += len(poses)
    start = time.process_time()
    for number in range(1, scenes + 1):
        make_record(config, "train", number)
    records = time.process_time() - start
    return {
        "shading": count / shading,
        "with_building": count / (shading + building * count / (scenes * views)),
        "records": scenes * views / records,
    }


def main() -> None:
    """Parses the arguments and prints the table."""
    parser = argparse.ArgumentParser(description="Views per second and core of the room generator.")
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    options = parser.parse_args()
    print(f"{options.scenes} scenes, {options.views} views each; views/s of CPU time on one core")
    print(f"{'size':>6} {'rays+shading':>14} {'with building':>14} {'whole records':>14}")
    for size in options.sizes:
        rates = measure(size, options.scenes, options.views)
        print(f"{size:>6} {rates['shading']:>14.1f} {rates['with_building']:>14.1f} {rates['records']:>14.1f}")


if __name__ == "__main__":
    main()
