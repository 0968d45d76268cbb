"""The same training steps from pixels and from cached features of the frozen encoder, one after the other.

    python -m benchmarks.vision_cache [--rooms 16 --size 224 --steps 3 --rounds 5 --vision_layers 12]

A small Qwen2.5-VL of random weights (encoder 320 wide, language model 256 wide and 8 layers deep) trains on rooms, four
views a sample, two samples a step. Rounds of steps alternate between the two; medians are printed, with the time to fill
the cache, its size, the waiting for data, and after how many passes over the data the filling has paid. The losses of both
are compared first.
"""

from __future__ import annotations

from experiments import cpu_settings

if __name__ == "__main__":
    cpu_settings.apply()

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from data_pipelines.loader import make_loader
from data_pipelines.manifest import read_manifest
from experiments.configs.pretrained import finetune
from experiments.phases import data_settings
from experiments.prepare import prepare_rooms
from experiments.starting import processor_for
from experiments.startup import compile_step, size
from experiments.train import model_functions
from experiments.vision_features import Filler
from spatialsv_jax import assembly
from spatialsv_jax.training import optimizer, sharding, state, step


def small_config(data: Path, side: int, vision_layers: int):
    """A phase whose encoder costs more than its language model, as those of the published models do at 448 x 448."""
    config = finetune("qwen2_5_vl_3b", "tiny").phases.finetune
    config.vision.update(
        image_size=(side, side), patch_size=14, width=320, layers=vision_layers, heads=5, mlp_width=856, window_size=112,
        full_attention_layers=(vision_layers - 1,), trainable=False,
    )  # fmt: skip
    config.language.update(
        width=256, layers=8, heads=4, kv_heads=2, head_dim=64, mlp_width=688, rope_sections=(8, 12, 12)
    )
    config.lifting.update(width=64)
    config.data.sources.train.update(path=str(data), views=4)
    config.data.update(views=4, label_size=(side // 4, side // 4), questions=4, cache_mb=0)
    return config


class Training:
    """One way of training, ready to go step by step."""

    def __init__(self, name: str, loader, parts, shapes, mesh, make_state):
        self.name, self._mesh = name, mesh
        batch = loader.batch(0)
        self._compiled = compile_step(parts, shapes, batch, mesh)
        self._batches = loader.iterate(0)
        self._state = make_state()
        self.flops = self._compiled.flops
        self.batch_bytes = sum(value.nbytes for value in batch.values())
        self.losses: list[float] = []

    def steps(self, number: int) -> tuple[float, float]:
        """(seconds of a step, of these waiting for data), means over `number` steps."""
        began, waited = time.perf_counter(), 0.0
        for _ in range(number):
            drawn = time.perf_counter()
            _, batch = next(self._batches)
            waited += time.perf_counter() - drawn
            self._state, metrics = self._compiled.step(self._state, sharding.put_batch(batch, self._mesh))
            self.losses.append(float(metrics["total"]))
        return (time.perf_counter() - began) / number, waited / number


def measure(folder: Path, rooms: int, side: int, steps: int, rounds: int, vision_layers: int) -> None:
    """Makes the data, fills the cache, times both."""
    prepare_rooms(folder / "rooms", scenes=rooms, validation=0, test=1, ood=0, views=4, size=side)
    config = small_config(folder / "rooms", side, vision_layers)
    settings, data = assembly.read_settings(config), data_settings(config)
    processor = processor_for(config, settings, {str(folder / "rooms"): read_manifest(folder / "rooms")})
    model = assembly.build_model(settings, processor)
    pixels = make_loader(data, processor)
    init, apply, axes = model_functions(model, settings, pixels.batch(0), 0)
    mesh = sharding.make_mesh(settings.mesh)
    tx = optimizer.make_optimizer(settings.optimizer, 1000)
    parts = step.StepParts(apply, settings.losses, tx, settings.frozen_groups, {})
    shapes, _ = state.state_shapes(init, tx, settings.frozen_groups, axes, mesh)
    make_state = lambda: state.create_state(init, tx, settings.frozen_groups, shapes)
    encoder = make_state().params["backbone"]["vision"]
    began = time.perf_counter()
    cached = make_loader(data, processor, vision=Filler(folder / "cache", settings, model, processor, encoder, data))
    filling = time.perf_counter() - began
    kept = sum(file.stat().st_size for file in (folder / "cache").rglob("*.npy"))
    both = [
        Training(name, loader, parts, shapes, mesh, make_state)
        for name, loader in (("pixels", pixels), ("cache", cached))
    ]
    for training in both:
        training.steps(2)
    times = {training.name: [] for training in both}
    for _ in range(rounds):
        for training in both:
            times[training.name].append(training.steps(steps))
    apart = np.abs(np.subtract(*(training.losses for training in both))).max()
    print(f"largest difference of the totals of {len(both[0].losses)} steps: {apart:.1e}")
    medians = {}
    for training in both:
        medians[training.name] = statistics.median(seconds for seconds, _ in times[training.name])
        waiting = statistics.median(waited for _, waited in times[training.name])
        print(
            f"{training.name}: {medians[training.name] * 1e3:.0f} ms a step, {waiting * 1e3:.1f} ms of it waiting for data, "
            f"{sum(training.flops.values()) / 1e9:.1f} GFLOP (encoder {training.flops.get('vision', 0) / 1e9:.1f}), "
            f"{size(training.batch_bytes)} a batch"
        )
    saved = (medians["pixels"] - medians["cache"]) * rooms / 2
    print(
        f"speed-up {medians['pixels'] / medians['cache']:.2f}; {rooms * 4} pictures, {size(kept)}, filled in {filling:.1f} s with "
        f"compilation, which is paid after {filling / saved:.1f} passes over the data"
    )
    for loader in (pixels, cached):
        loader.close()


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="side of the pictures, a multiple of 28")
    parser.add_argument("--steps", type=int, default=3, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vision_layers", type=int, default=12)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), given.rooms, given.size, given.steps, given.rounds, given.vision_layers)


if __name__ == "__main__":
    main()
