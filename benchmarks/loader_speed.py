"""CPU time of one batch of the loader, cold and from memory, on synthetic records.

    python -m benchmarks.loader_speed [--rows 16 --views 4 --size 64 --questions 24 --profile]

Records have 24 questions per view, labels have half the pictures' size. Printed per mixture: CPU
milliseconds per batch on the first visit of every record (stored bytes decoded, questions
tokenised, depth normalised) and on later visits (from memory), wall time with the reading threads,
the memory that prepared samples take, and its growth over 200 batches.

Measured with the default arguments, Python 3.11, on a busy two-core machine: all views with
geometry 132 cold, 10 from memory; one view, text only 60 cold, 4 from memory; growth 0.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
import resource
import time

import numpy as np
from PIL import Image

from data_pipelines.loader import DataConfig, SourceConfig, make_loader
from data_pipelines.records import Question, Record
from data_pipelines.serialization import decode_record, encode_record
from spatialsv_jax.processing.tiny import TinyProcessor, build_tokenizer

WORDS = "what is the colour of thing at column row in red green blue chair table lamp left right".split()


class StoredRecords:
    """Records kept as their storage bytes, decoded on every access like those on disk."""

    def __init__(self, records: list[Record]):
        self._bytes = [encode_record(record) for record in records]
        self.ids = tuple(record.id for record in records)
        self.rows = tuple({"id": item.id, "scene": item.scene, "views": len(item.view_ids)} for item in records)

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, index: int) -> Record:
        return decode_record(self._bytes[index])


def synthetic_record(index: int, views: int, size: int, per_view: int = 24) -> Record:
    """A smooth picture with a little noise, so that PNG sizes are those of rooms."""
    rng = np.random.default_rng(index)
    across = np.linspace(0, 1, size)

    def png(array):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, format="PNG")
        return buffer.getvalue()

    def picture():
        plane = 60 + 120 * across[None, :, None] * rng.uniform(0.2, 1, 3) + rng.normal(0, 3, (size, size, 3))
        return png(plane.clip(0, 255).astype(np.uint8))

    def depth():
        return png((8000 / (1 + across[:, None] * rng.uniform(0.5, 2) + 0 * across)).astype(np.uint16))

    def question(number):
        view, thing = number % views, WORDS[9 + number % 6]
        return Question(
            id=f"{index}-{number}", type="colour_at", group="grounding" if number % 2 else "spatial", form="word",
            text=f"what is the colour of the {thing} at column {number % 10} row {number % 7} in <view:{view}>",
            answer=WORDS[9 + number % 3], views=(view,),
        )  # fmt: skip

    poses = np.tile(np.eye(4), (views, 1, 1))
    poses[:, 0, 3] = 0.2 * np.arange(views)
    camera = np.array([[size * 0.7, 0, size / 2], [0, size * 0.7, size / 2], [0, 0, 1.0]])
    return Record(
        id=f"room{index}", dataset="synthetic", scene=f"scene{index}", setting="walk",
        view_ids=tuple(f"v{view}" for view in range(views)), images=tuple(picture() for _ in range(views)),
        depths=tuple(depth() for _ in range(views)), depth_unit_m=0.001, intrinsics=np.tile(camera, (views, 1, 1)),
        camera_to_world=poses, pose_valid=np.ones(views, bool),
        questions=tuple(question(number) for number in range(per_view * views)),
    )  # fmt: skip


def cpu_ms(loader, steps: range) -> float:
    """CPU milliseconds per batch over `steps`, in this thread."""
    start = time.process_time()
    for step in steps:
        loader.batch(step)
    return (time.process_time() - start) * 1e3 / len(steps)


def measure(name: str, source: dict, records: StoredRecords, options: argparse.Namespace, profile: bool) -> None:
    processor = TinyProcessor(build_tokenizer(WORDS), image_size=options.size, patch_size=8, merge=2)
    config = DataConfig(
        sources=(SourceConfig(path=name, per_batch=options.rows, **source),), questions=options.questions,
        question_tokens=24, answer_tokens=2, views=source.get("views") or options.views,
        label_size=(options.size // 2, options.size // 2), threads=0, verify=1,
    )  # fmt: skip
    loader = make_loader(config, processor, records=[records])
    per_pass = len(records) // options.rows
    visits = options.views if source.get("views") == 1 else 1
    cold = cpu_ms(loader, range(per_pass * visits))
    first = per_pass * visits
    cached = min(cpu_ms(loader, range(first + number * 20, first + number * 20 + 20)) for number in range(3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with loader.iterate(first) as batches:
        start = time.perf_counter()
        for _ in range(200):
            next(batches)
        wall = (time.perf_counter() - start) * 1e3 / 200
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    mb = loader.sources[0]._cache.nbytes / 2**20
    print(
        f"{name:24s} cold {cold:6.1f} ms CPU/batch   cached {cached:5.1f} ms CPU/batch   iterated {wall:5.1f} ms/batch   "
        f"memory of {len(records)} records {mb:.0f} MB, growth over 200 batches {grown:.1f} MB"
    )
    if profile:
        profiler = cProfile.Profile()
        profiler.enable()
        for step in range(first, first + 20):
            loader.batch(step)
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(14)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--records", type=int, default=128)
    parser.add_argument("--profile", action="store_true", help="also print where the time of a cached batch goes")
    options = parser.parse_args()
    records = StoredRecords([synthetic_record(index, options.views, options.size) for index in range(options.records)])
    measure("all views, geometry", {}, records, options, options.profile)
    measure("all views, shuffle3d", {"shuffle3d": True}, records, options, False)
    measure("one view, text only", {"views": 1, "geometry": False}, records, options, options.profile)


if __name__ == "__main__":
    main()
