"""Records per second and core of the loader, beside a PyTorch DataLoader that does the same work on the same files.

    python -m benchmarks.input_pipeline [--size 448 --views 4 --records 24 --rounds 5 --data DIR --checkpoint DIR]
    python -m benchmarks.input_pipeline --memory [--records 20000]

A record is 4 views of 448 x 448 (JPEG, 16-bit PNG depth) with as many packed questions as the recipe for Qwen2.5-VL
has (4), at its sizes. Nothing is remembered between records (cache_mb=0): every one is read, decoded, normalised, its
depth brought to the label grid, its cameras and scale to the scene's frame, its questions tokenised, packed and collated. Measured is
CPU time of all processes and threads (a busy machine disturbs it little), wall time beside it; rounds alternate
between ours and the peers (`benchmarks/torch_peer.py`: what they do, and how their batches compare, is printed). Below:
what decoding alone costs, and what training asks for (`benchmarks/input_demand.py`). Figures: docs/performance.md.
"""

from __future__ import annotations

import argparse
import collections
import cProfile
import dataclasses
import io
import pstats
import statistics
import tempfile
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.input_data import prepared
from data_pipelines.loader import DataConfig, Loader, SourceConfig, make_loader
from data_pipelines.packing import choose_questions
from data_pipelines.shards import usable_cores
from spatialsv_jax.processing.qwen2_5_vl import Qwen25VLProcessor

LABEL_SHARE = 2  # label maps have half the pictures' side, as in the recipe
TOLERANCE = {"pixel_values": 1e-5, "depth": 1e-4, "camera_to_world": 1e-5, "intrinsics": 1e-4, "scene_scale_m": 1e-4}
RESIZED = 2 / 255 / 0.25  # two grey levels, in normalised colours: Pillow and torch round differently while resizing


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one record, seconds."""

    cpu: float
    wall: float


def cpu_seconds(processes: Sequence[int] = ()) -> float:
    """CPU time of this process and others (Linux) so far."""
    # Linux's number of the clock of another process, as clock_getcpuclockid(3) makes it.
    return time.process_time() + sum(time.clock_gettime(~process << 3 | 2) for process in processes)


def loader_of(data: str, processor, options: argparse.Namespace, threads: int, cache_mb: int = 0) -> Loader:
    """Our loader, by default without any memory for prepared samples."""
    side = options.size // LABEL_SHARE
    source = SourceConfig(path=data, per_batch=options.rows)
    config = DataConfig(
        sources=(source,), questions=options.questions, question_tokens=192, answer_tokens=32, views=options.views,
        label_size=(side, side), threads=threads, buffer=max(1, threads), cache_mb=cache_mb, verify=1,
    )  # fmt: skip
    return make_loader(config, processor)


def order_of(loader: Loader, rows: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """(record, questions) of the first rows of our order, so that others may pack the same."""
    source, order = loader.sources[0], []
    per_record = [row["questions"] for row in source.records.rows]
    for place in range(rows):
        plan = loader.mixture.row(*divmod(place, loader.rows_per_process))
        chosen = choose_questions(
            per_record[plan.record], loader.config.questions, loader.mixture.generator(plan)
        )  # drawn first, as long as all views are shown
        order.append((int(plan.record), tuple(int(question) for question in chosen)))
    return tuple(order)


def measure(batches: Iterator, count: int, rows: int, processes: Callable[[], Sequence[int]]) -> Cost:
    """Cost of a record over `count` batches, from the first on that is complete."""
    before, began = cpu_seconds(processes()), time.perf_counter()
    for _ in range(count):
        next(batches)
    wall, cpu = time.perf_counter() - began, cpu_seconds(processes()) - before
    return Cost(cpu / (count * rows), wall / (count * rows))


def ours(loader: Loader, options: argparse.Namespace) -> Cost:
    """One measurement of our loader."""
    with loader.iterate() as batches:
        for _ in range(1 + loader.config.buffer):
            next(batches)  # from here on there is a batch in work in every thread
        return measure(batches, options.batches, options.rows, lambda: ())


def remembered(loader: Loader, options: argparse.Namespace) -> Cost:
    """One measurement of a loader that remembers all its samples, in one thread, behind the first pass."""
    passed = -(-len(loader.sources[0]) // options.rows)
    with loader.iterate() as batches:
        for _ in range(passed):
            next(batches)
        return measure(batches, options.batches, options.rows, lambda: ())


def peer_cost(peer, options: argparse.Namespace) -> Cost:
    """One measurement of a peer: a whole pass, whose end leaves nothing in work."""
    before, began = cpu_seconds(peer.processes), time.perf_counter()
    count = sum(1 for _ in peer)
    wall, cpu = time.perf_counter() - began, cpu_seconds(peer.processes) - before
    return Cost(cpu / (count * options.rows), wall / (count * options.rows))


def peers_of(loader: Loader, processor, data: str, options: argparse.Namespace, cores: Sequence[int]) -> dict:
    """Name -> started peer; {} with a line printed where torch or transformers is missing."""
    try:
        from benchmarks import torch_peer
    except ImportError as error:
        print(f"PyTorch DataLoader: not measured ({error}); python -m pip install -e '.[parity]' brings what it needs.")
        return {}
    first = loader.batch(0)
    constant = {name: first[name][0] for name in first if name.startswith(("prefix", "question_start", "image_token"))}
    settings, peers = loader.config.sample_settings, {}
    work = torch_peer.Work(
        folder=data, order=order_of(loader, options.batches * options.rows), image_size=processor.image_size,
        label_size=settings.label_size, questions=options.questions, question_tokens=settings.question_tokens,
        answer_tokens=settings.answer_tokens, tokenizer_file=str(processor.directory / "tokenizer.json"),
        end_id=processor.end_id, pad_id=processor.pad_id, mean=processor.pictures.mean, std=processor.pictures.std,
        prefix=constant, pictures="torch",
    )  # fmt: skip
    sizes = {(row["height"], row["width"]) for row in loader.sources[0].records.rows}
    kinds = ["torch", "transformers"]
    if sizes != {tuple(processor.image_size)}:
        kinds.remove("transformers")
        print(
            f"transformers' processor keeps proportions: not measured on pictures of {sorted(sizes)}, only on the training size."
        )
    for kind in kinds:
        for number in cores:
            try:
                peer = torch_peer.Peer(dataclasses.replace(work, pictures=kind), options.rows, number)
            except (ImportError, RuntimeError) as error:
                print(f"peer '{kind}': not measured; its packages (the extra [parity]) cannot be imported: {error}")
                break
            theirs = {name: value.numpy() for name, value in next(iter(list(peer))).items()}
            if number == cores[0]:
                theirs["pixel_values"] = torch_peer.pictures_of(theirs["pixel_values"], processor.image_size)
                compare(kind, first, theirs, resized=sizes != {tuple(processor.image_size)})
            peers[kind, number] = peer
    return peers


def compare(name: str, our_batch: dict, their_batch: dict, resized: bool) -> None:
    """Prints how a peer's batch differs from ours; ends the program if it is not the same work."""
    worst = {}
    if missing := sorted(set(our_batch) - set(their_batch)):
        raise SystemExit(f"{name}: fields {missing} are missing: not the same work.")
    for field, theirs in their_batch.items():
        mine = np.asarray(our_batch[field], np.float64)
        if mine.shape != theirs.shape:
            raise SystemExit(f"{name}: '{field}' is {theirs.shape}, ours {mine.shape}: not the same work.")
        worst[field] = float(np.abs(mine - theirs).max())
        allowed = RESIZED if resized and field == "pixel_values" else TOLERANCE.get(field, 0.0)
        if worst[field] > allowed:
            raise SystemExit(f"{name}: '{field}' differs by {worst[field]:.2g} from ours: not the same work.")
    equal = [field for field, difference in worst.items() if not difference]
    rest = ", ".join(f"{field} {difference:.1g}" for field, difference in worst.items() if difference)
    print(
        f"peer '{name}', first batch: all {len(worst)} fields of ours, {len(equal)} of them equal; largest difference: {rest}"
    )


def floor(data, repeats: int) -> str:
    """CPU time of decoding alone, Pillow on one thread, least of the repeats."""
    records = [data[index] for index in range(min(len(data), 16))]

    def decode(pictures: Iterable[bytes]) -> None:
        for picture in pictures:
            if picture:
                Image.open(io.BytesIO(picture)).load()

    parts, total = [], 0.0
    for name in ("images", "depths"):
        encoded = [picture for record in records for picture in getattr(record, name)]
        times = []
        for _ in range(repeats):
            began = time.process_time()
            decode(encoded)
            times.append((time.process_time() - began) / len(records))
        total += min(times)
        size = sum(map(len, encoded)) / len(records) / 1024
        parts.append(f"{name} {min(times) * 1e3:.1f} ms ({size:.0f} KiB)")
    return f"floor, decoding alone: {total * 1e3:.1f} ms CPU a record: {', '.join(parts)}"


def table(costs: dict[tuple[str, int], list[Cost]]) -> float:
    """Prints the medians and ratios; returns CPU seconds of our record on all cores."""
    print(f"{'':28s} {'CPU ms/record':>14s} {'records/s/core':>15s} {'records/s, wall':>16s} {'CPU, ours = 1':>14s}")
    for (name, cores), found in costs.items():
        cpu, wall = (statistics.median(getattr(cost, part) for cost in found) for part in ("cpu", "wall"))
        mine = statistics.median(cost.cpu for cost in costs["ours", cores])
        unit = "thread" if name.startswith("ours") else "worker"
        label = f"{name}, {cores} {unit}{'s' if cores > 1 else ''}"
        print(f"{label:28s} {cpu * 1e3:14.1f} {1 / cpu:15.1f} {1 / wall:16.1f} {cpu / mine:14.2f}")
    return statistics.median(cost.cpu for cost in costs["ours", max(cores for _, cores in costs)])


def run(options: argparse.Namespace) -> None:
    """Measures and prints everything but memory."""
    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or str(prepared(Path(temporary), options.records, options.size, options.views))
        if options.checkpoint:
            processor = Qwen25VLProcessor.from_checkpoint(options.checkpoint, (options.size, options.size))
        else:
            sizes = types.SimpleNamespace(image_size=(options.size, options.size), patch_size=14, merge=2, frames=2)
            (Path(temporary) / "tokenizer").mkdir()
            processor = Qwen25VLProcessor.from_scratch(Path(temporary) / "tokenizer", sizes)
        cores = sorted({1, usable_cores()})
        loaders = {number: loader_of(data, processor, options, number) for number in cores}
        print(
            f"{len(loaders[1].sources[0])} records of {data}, {options.rounds} rounds of {options.batches} batches of {options.rows}"
        )
        peers = peers_of(loaders[1], processor, data, options, cores)
        costs: dict[tuple[str, int], list[Cost]] = {}
        try:
            for _ in range(options.rounds):
                for number in cores:
                    costs.setdefault(("ours", number), []).append(ours(loaders[number], options))
                    for kind in dict.fromkeys(kind for kind, _ in peers):
                        costs.setdefault((kind, number), []).append(peer_cost(peers[kind, number], options))
        finally:
            for peer in peers.values():
                peer.close()
        cached = loader_of(data, processor, options, 0, cache_mb=1 << 14)
        costs["ours, from memory", 1] = [remembered(cached, options)]
        print(floor(loaders[1].sources[0].records, options.rounds))
        cpu = table(costs)
        if options.profile:
            profiler = cProfile.Profile()
            drawn = (loaders[1].batch(step) for step in range(options.batches))
            profiler.runcall(collections.deque, drawn, 0)  # none is kept, so that memory is used again
            pstats.Stats(profiler).sort_stats("tottime").print_stats(20)
        if options.demand:
            from benchmarks import input_demand

            print(input_demand.text(loaders[1].batch(0), processor, cpu, options))


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=448, help="side of the pictures, a multiple of 28")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--questions", type=int, default=4, help="packed into a row")
    parser.add_argument("--records", type=int, help="made for the measurement [24; with --memory 20,000]")
    parser.add_argument("--rows", type=int, default=8, help="of a batch")
    parser.add_argument("--batches", type=int, default=6, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="", help="a prepared data set instead")
    parser.add_argument(
        "--checkpoint", default="", help="folder of Qwen2.5-VL, for its tokenizer [one that spells bytes]"
    )
    parser.add_argument("--no_demand", dest="demand", action="store_false", help="without the demand (half a minute)")
    parser.add_argument("--profile", action="store_true", help="also print where the time of our batches goes")
    parser.add_argument("--memory", action="store_true", help="host memory over many records instead")
    options = parser.parse_args()
    if options.memory:
        from benchmarks import input_memory

        input_memory.run(options.records or 20_000)
    else:
        options.records = options.records or 24
        run(options)


if __name__ == "__main__":
    main()
