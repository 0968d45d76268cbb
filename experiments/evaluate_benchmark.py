"""`python -m experiments.evaluate --model PATH --benchmark NAME --raw DIR`: a published benchmark from its raw files.

Writes OUT/predictions.jsonl line by line, OUT/asked.json with it, and at the end OUT/benchmark.json and the answers in the forms of
lmms-eval and VLMEvalKit. A run that was stopped goes on where it was. docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines.benchmarks import table
from data_pipelines.benchmarks.items import Item, RawError
from data_pipelines.benchmarks.raw_files import media_hash
from data_pipelines.benchmarks.showing import Showing, Shown, show
from data_pipelines.sources.qa.video import SAMPLERS
from experiments import benchmark_logs, model_and_data
from experiments.answer_file import PREDICTIONS, AnswerFile
from spatialsv_jax.evaluation.benchmarks import scoring
from spatialsv_jax.evaluation.statistics import plain, write_json

FORMAT_VERSION = 1
QUESTIONS_OF_A_ROW = 8  # questions about the same pictures are asked together, each unaware of the others
LISTED = 20


# Flags that mean something with --benchmark alone, and without it alone.
OF_A_BENCHMARK = (
    "raw", "part", "dialect", "variant", "frames", "sampler", "videos_as", "max_size", "max_new_tokens", "prompts",
    "max_questions", "allow_missing",
)  # fmt: skip
OF_PREPARED_DATA = (
    "data", "split", "max_scenes", "report_scenes", "report_like", "exports", "no_report", "no_blind", "depth_alignment",
    "pose_auc",
)  # fmt: skip


def check_flags(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
    """Ends the command where a flag is given that would have no effect."""
    others = OF_PREPARED_DATA if flags.benchmark else OF_A_BENCHMARK
    if given := [f"--{name}" for name in others if getattr(flags, name) != parser.get_default(name)]:
        why = (
            f"without effect beside --benchmark {flags.benchmark}" if flags.benchmark else "only with --benchmark NAME"
        )
        parser.error(f"{', '.join(given)}: {why}.")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The arguments of a benchmark."""
    group = parser.add_argument_group("a published benchmark (docs/benchmarks.md)")
    group.add_argument("--benchmark", help=f"one of {', '.join(table.BENCHMARKS)}")
    group.add_argument("--raw", help="the folder with the benchmark's files as they were published")
    group.add_argument("--part", help="which part, where there are several (default: the first; the error lists them)")
    group.add_argument("--dialect", default="original", help="whose scorer (default original)")
    group.add_argument("--variant", help="as_published (default) or fixed, where the published scorer is faulty")
    group.add_argument("--frames", type=int, default=32, help="most frames of a video (default 32)")
    group.add_argument("--sampler", choices=SAMPLERS, default="uniform", help="which frames (default uniform)")
    group.add_argument(
        "--videos_as", choices=("pictures", "video"), default="pictures",
        help="show frames one by one, or as the family reads videos (default pictures)",
    )  # fmt: skip
    group.add_argument(
        "--max_size", type=int, default=0, help="shrink pictures to this longest side (default: as they are)"
    )
    group.add_argument("--max_new_tokens", type=int, help="longest answer (default: the benchmark's)")
    group.add_argument("--prompts", help="JSON file {form: prompt} in place of the benchmark's own")
    group.add_argument("--max_questions", type=int, help="a random choice of that many questions (default: all)")
    group.add_argument(
        "--allow_missing", action="store_true", help="go on without the questions whose pictures are missing"
    )


def run_benchmark(flags: argparse.Namespace, command: str | None = None) -> dict:
    """Asks, scores, writes the files, and returns the contents of benchmark.json.

    Args:
      flags: of `experiments.evaluate`, with `benchmark`.
      command: what to record as the command; by default this process's.

    Raises:
      RawError: raw files that are wrong or missing.
      ValueError: options that do not fit, or answers in OUT that were made otherwise.
    """
    from experiments import placing
    from spatialsv_jax import loading
    from spatialsv_jax.evaluation import runner

    began = time.perf_counter()
    _check(flags)
    scoring.resolve(flags.benchmark, flags.dialect, flags.variant)
    templates = _templates(flags.prompts)
    questions = table.read(flags.benchmark, flags.raw, flags.part, templates)
    items, missing = _present(_chosen(questions.items, flags.max_questions, flags.seed), flags.allow_missing)
    showing = Showing(flags.frames, flags.sampler, flags.max_size)
    loaded = loading.load(flags.model, placing.mesh_of(flags.fsdp, flags.tensor), flags.dtype)
    own = model_and_data.is_ours(loaded)
    if not own and not flags.out:
        raise ValueError(f"{loaded.path} is a checkpoint of others: say with --out where the answers go.")
    if loaded.settings.model != "mllm":
        raise ValueError(f"The model at {loaded.path} cannot talk: it is a '{loaded.settings.model}'.")
    out = Path(flags.out) if flags.out else loaded.path / "evaluation" / f"{flags.benchmark}-{loaded.step}"
    model_and_data.use_compile_cache(out)
    most = flags.max_new_tokens or table.benchmark(flags.benchmark).max_new_tokens
    asked = {
        "benchmark": flags.benchmark,
        "part": questions.part,
        "questions": {"sha256": questions.sha256, "asked": len(items), "max_questions": flags.max_questions,
                      "seed": flags.seed if flags.max_questions else None},
        "data": {**questions.data, "media_sha256": media_hash(one for item in items for one in item.media)},
        "model": {"sha256": model_hash(loaded, own), "parameters": _dtype(loaded)},
        "prompts": {"source": questions.prompt_source, "templates": dict(questions.templates)},
        "decoding": {"method": "greedy", "max_new_tokens": most},
        "views": {"frames": flags.frames, "sampler": flags.sampler, "videos_as": flags.videos_as, "max_size": flags.max_size,
                  "resolution": "the family's own rule for pictures of any size"},
    }  # fmt: skip
    answers = AnswerFile(out, asked, {item.id for item in items})
    before = len(answers.done)
    _ask(loaded, items, answers, showing, most, flags.batch_size, flags.videos_as == "video")
    lines, now = answers.lines(), datetime.datetime.now(datetime.UTC)
    logs = benchmark_logs.write(
        out, flags.benchmark, questions.part, questions.items, lines, loaded.path.name, now.strftime("%Y%m%d_%H%M%S")
    )
    result = {
        "format_version": FORMAT_VERSION,
        "trained": runner.describe_model(loaded, str(flags.model)),
        "asked": asked,
        "missing": missing,
        "pictures": _sizes(lines),
        "scores": scoring.score(flags.benchmark, out / PREDICTIONS, flags.dialect, flags.variant),
        "logs": [str(path.relative_to(out)) for path in logs],
        "provenance": _provenance(loaded, command, flags.seed),
        "time": {
            "finished_utc": now.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - began, 1),
            "answered_before": before,
            "answered_now": len(answers.done) - before,
        },
    }
    write_json(out / "benchmark.json", result)
    print(scoring.shown(result["scores"]))
    if missing["questions"]:
        print(
            f"left out: {missing['questions']} questions without all of their pictures (benchmark.json lists the files)"
        )
    print(f"wrote {out / 'benchmark.json'} and {out / PREDICTIONS}", flush=True)
    return plain(result)


def _provenance(loaded, command: str | None, seed: int) -> dict:
    from spatialsv_jax.evaluation import runner

    typed = command or model_and_data.typed_command()
    found = runner.provenance(loaded.config, loaded.path / "no manifest", typed, seed)
    return {name: value for name, value in found.items() if name != "manifest_sha256"}


def _check(flags: argparse.Namespace) -> None:
    if not flags.raw:
        raise ValueError(f"--benchmark {flags.benchmark} needs --raw, the folder with its files.")
    for name in ("frames", "max_new_tokens", "max_questions"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            raise ValueError(f"--{name} is {getattr(flags, name)}, expected at least 1.")
    if flags.max_size < 0:
        raise ValueError(f"--max_size is {flags.max_size}, expected 0 (as they are) or more.")


def _templates(path: str | None) -> dict[str, str] | None:
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError(f"{path} must hold an object form -> prompt, with {{question}} and {{options}} in it.")
    return found


def _chosen(items: Sequence[Item], count: int | None, seed: int) -> list[Item]:
    if count is None or count >= len(items):
        return list(items)
    return [items[place] for place in sorted(np.random.default_rng(seed).permutation(len(items))[:count].tolist())]


def _present(items: Sequence[Item], allowed: bool) -> tuple[list[Item], dict]:
    """The questions all of whose pictures are there, and what is missing.

    Raises:
      RawError: something is missing that is not `allowed` to be; lists files and counts.
    """
    files = sorted({one.name for item in items for one in item.media if one.missing})
    kept = [item for item in items if not any(one.missing for one in item.media)]
    if files and (not allowed or not kept):
        shown = "".join(f"\n  {name}" for name in files[:LISTED])
        more = f"\n  and {len(files) - LISTED} more" if len(files) > LISTED else ""
        raise RawError(
            f"{len(files)} pictures or videos of {len(items) - len(kept)} of {len(items)} questions are neither below --raw nor in its "
            f"zip archives:{shown}{more}\nPut them there, or go on without these questions: --allow_missing."
        )
    return kept, {"questions": len(items) - len(kept), "files": files}


def _ask(loaded, items, answers: AnswerFile, showing: Showing, most: int, batch_size: int, as_video: bool) -> None:
    """Answers what is not answered yet, batch by batch; the next batch's pictures are read meanwhile."""
    batches = list(batches_of(items, answers.done, batch_size))
    with ThreadPoolExecutor(1) as reader, tqdm(total=len(items), initial=len(answers.done), desc="questions") as bar:
        coming = [reader.submit(_shown, batch, showing) for batch in batches[:1]]
        for number, batch in enumerate(batches):
            shown = coming.pop().result()
            if number + 1 < len(batches):
                coming.append(reader.submit(_shown, batches[number + 1], showing))
            rows = [(one.images, [item.prompt for item in row]) for one, row in zip(shown, batch, strict=True)]
            rates = [(one.rate or 1.0) if as_video and one.rate is not None else None for one in shown]
            widest = max(len(row) for row in batch)
            try:
                said = loaded.answer_rows(rows, most, batch_size, 1 << (widest - 1).bit_length(), rates)
            except ValueError as error:
                raise ValueError(f"{batch[0][0].place} (or a question of its batch): {error}") from error
            lines = [
                _line(item, text, one)
                for row, texts, one in zip(batch, said, shown, strict=True)
                for item, text in zip(row, texts, strict=True)
            ]
            answers.append(lines)
            bar.update(len(lines))


def batches_of(items: Sequence[Item], done: set[str], batch_size: int) -> Iterator[list[list[Item]]]:
    """Rows of questions about the same pictures, in batches of like numbers of pictures and questions.

    The order does not depend on `done`: a run that goes on writes what an unbroken one would have written.
    """
    together: dict[tuple, list[Item]] = {}
    for item in items:
        together.setdefault(tuple(one.name for one in item.media), []).append(item)
    rows = [
        same[place : place + QUESTIONS_OF_A_ROW]
        for same in together.values()
        for place in range(0, len(same), QUESTIONS_OF_A_ROW)
    ]
    rows = [row for row in rows if not all(item.id in done for item in row)]
    rows.sort(key=lambda row: (len(row[0].media), -len(row)))
    rows = [[item for item in row if item.id not in done] for row in rows]
    while rows:
        like = [row for row in rows[:batch_size] if len(row[0].media) == len(rows[0][0].media)]
        yield like
        rows = rows[len(like) :]


def _shown(batch: Sequence[Sequence[Item]], showing: Showing) -> list[Shown]:
    found = []
    for row in batch:
        try:
            found.append(show(row[0].media, showing))
        except RawError as error:
            raise RawError(f"{row[0].place}: {error}") from error
    return found


def _line(item: Item, said: str, shown: Shown) -> dict:
    truth = item.ground_truth
    return {
        "id": item.id,
        "dataset": item.dataset,
        "scene": item.scene,
        "question_type": item.question_type,
        "question": item.question,
        "options": list(item.options) if item.options is not None else None,
        "prediction": said,
        "ground_truth": truth,
        "prompt": item.prompt,
        "media": [one.name for one in item.media],
        "views": list(shown.views),
        "sizes": sorted({f"{height}x{width}" for height, width in shown.sizes}),
        "shown_sizes": sorted({f"{image.shape[0]}x{image.shape[1]}" for image in shown.images}),
    }


def _sizes(lines: Sequence[dict]) -> dict:
    """How many questions show pictures of which (height x width), as stored and as handed to the model's own rule."""
    counts: dict[str, dict[str, int]] = {"sizes": {}, "shown_sizes": {}}
    for line in lines:
        for kind, found in counts.items():
            for size in line[kind]:
                found[size] = found.get(size, 0) + 1
    views = sorted({len(line["views"]) for line in lines})
    return {"stored": counts["sizes"], "shown": counts["shown_sizes"], "views_of_a_question": views}


def model_hash(loaded, own: bool) -> str:
    """SHA-256 of a checkpoint's files and their names: of a step of ours with config and processor, or of a folder of others."""
    root = loaded.path
    if own:
        parts = [root / "config.json", root / "processor", root / "checkpoints" / str(loaded.step)]
        files = [file for part in parts for file in (part.rglob("*") if part.is_dir() else [part])]
    else:
        files = [file for file in root.iterdir() if file.suffix in (".safetensors", ".bin", ".json", ".gguf", ".model")]
    total = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        with open(file, "rb") as content:
            total.update(
                f"{file.relative_to(root).as_posix()}\n{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode()
            )
    return total.hexdigest()


def _dtype(loaded) -> str:
    import jax

    return ", ".join(sorted({str(leaf.dtype) for leaf in jax.tree.leaves(loaded.params)}))
