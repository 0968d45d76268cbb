"""Answers to a benchmark in the forms of other harnesses: lmms-eval's sample logs, VLMEvalKit's (and so EASI's) prediction tables."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_pipelines.benchmarks.items import LETTERS, Item
from spatialsv_jax.evaluation.statistics import write_json, write_json_lines

_FILE = lambda item: Path(item.place.rpartition(", row ")[0]).stem  # of a TSV: the kit's name of the set
_BLINK = lambda item: f"blink_{item.question_type.lower().replace('-', '_')}"
# Benchmark -> (question, part) -> lmms-eval 0.7.3's task; None: it has none.
LMMS_TASKS: dict[str, Callable[[Item, str], str | None]] = {
    "vsibench": lambda item, part: "vsibench",
    "vsibench_debiased": lambda item, part: "vsibench_debiased",
    "mindcube": lambda item, part: f"mindcube_{part}",
    "cvbench": lambda item, part: "cv_bench" if part == "all" else f"cv_bench_{part.lower()}",
    "sparbench": lambda item, part: "sparbench",
    "blink": lambda item, part: _BLINK(item),
    "mmsi": lambda item, part: "mmsi_bench",
    "viewspatial": lambda item, part: "viewspatial",
    "embspatial": lambda item, part: "embspatial",
    "3dsrbench": lambda item, part: "3dsrbench_circular" if part == "circular" else "3dsrbench",
    "spatial457": lambda item, part: f"spatial457_{item.question_type.lower()}",
    "mmbench": lambda item, part: "mmbench_en_dev_static" if _FILE(item) == "MMBench_DEV_EN" else None,
}
# Those that lmms-eval reads from the authors' own files, in their order; for the others it has repackaged sets.
SAME_ORDER = ("vsibench", "cvbench", "sparbench", "mmsi", "embspatial")

# Benchmark -> (question, part) -> VLMEvalKit's data set (ms-vlmeval 0.0.20); None: it has none.
KIT_SETS: dict[str, Callable[[Item, str], str | None]] = {
    "vsibench": lambda item, part: "VSI-Bench",
    "vsibench_debiased": lambda item, part: "VSI-Bench-Debiased",
    "mindcube": lambda item, part: f"MindCubeBench_{'tiny_' if part == 'tiny' else ''}raw_qa",
    "cvbench": lambda item, part: f"CV-Bench-{item.id[:2]}",
    "sparbench": lambda item, part: "SparBench",
    "blink": lambda item, part: "BLINK",
    "mmsi": lambda item, part: "MMSIBench_wo_circular",
    "viewspatial": lambda item, part: "ViewSpatialBench",
    "embspatial": lambda item, part: "EmbSpatialBench",
    "spbench": lambda item, part: f"SPBench-{item.id[:2]}",
    "3dsrbench": lambda item, part: "3DSRBench" if part == "circular" else None,
    "spatial457": lambda item, part: "Spatial457",
    "topviewrs": lambda item, part: "TopViewRS",
    "mmbench": lambda item, part: _FILE(item),
}


def write(
    folder: Path, benchmark: str, part: str, items: Sequence[Item], lines: Sequence[Mapping], model: str, stamp: str
) -> list[Path]:
    """Writes all forms that the benchmark has, in place of this model's that are there.

    Args:
      folder: OUT; files go to lmms_eval/MODEL/ and vlmevalkit/MODEL/ in it.
      benchmark, part: what was asked.
      items: all questions of the part, in the order of its files.
      lines: answers, of all of them or of some.
      model: how the model is called there.
      stamp: date and time as lmms-eval writes it, YYYYMMDD_HHMMSS.

    Returns:
      The files.
    """
    name = re.sub(r"[^\w.-]+", "__", model)
    said = {line["id"]: line["prediction"] for line in lines}
    written = []
    patterns = {"lmms_eval": ("*_samples_*.jsonl", "from_log_*.json"), "vlmevalkit": (f"{name}_*.tsv",)}
    for kind, names, one in (("lmms_eval", LMMS_TASKS, _lmms), ("vlmevalkit", KIT_SETS, _kit)):
        if benchmark not in names:
            continue
        groups: dict[str, list[Item]] = {}
        for item in items:
            if (group := names[benchmark](item, part)) is not None:
                groups.setdefault(group, []).append(item)
        place = folder / kind / name
        for older in [path for pattern in patterns[kind] for path in place.glob(pattern)]:
            older.unlink()  # and no more: a harness may keep its own results there
        for group, own in groups.items():
            if any(item.id in said for item in own):
                place.mkdir(parents=True, exist_ok=True)
                written += one(place, group, own, said, benchmark, name, stamp)
    return written


def _lmms(
    place: Path, task: str, items: Sequence[Item], said: Mapping, benchmark: str, name: str, stamp: str
) -> list[Path]:
    """DATE_samples_TASK.jsonl, and where documents have lmms-eval's numbers, the log that its model `from_log` reads."""
    samples = []
    for number, item in enumerate(items):
        if item.id not in said:
            continue
        document = json.dumps(dict(item.row), indent=2, ensure_ascii=False, default=str)
        samples.append(
            {
                "doc_id": number,
                "target": str(item.ground_truth),
                "filtered_resps": said[item.id],
                "token_counts": [None],
                "doc_hash": hashlib.sha256(document.encode()).hexdigest(),
                "input": item.prompt,
                "id": item.id,
            }
        )
    files = [place / f"{stamp}_samples_{task}.jsonl"]
    write_json_lines(files[0], samples)
    if benchmark in SAME_ORDER and len(samples) == len(items):
        log = {
            "args": {"model": name, "model_args": "", "limit": None},
            "model_configs": {"task": task},
            "time": f"{stamp[4:8]}_{stamp[9:13]}",
            "logs": [{"doc_id": sample["doc_id"], "resps": [[sample["filtered_resps"]]]} for sample in samples],
        }
        files.append(place / f"from_log_{task}.json")
        write_json(files[1], log)
    return files


def _kit(
    place: Path, dataset: str, items: Sequence[Item], said: Mapping, benchmark: str, name: str, stamp: str
) -> list[Path]:
    """MODEL_DATASET.tsv: the columns that the kit's scorers read, and `prediction`."""
    rows = []
    for number, item in enumerate(items):
        if item.id not in said:
            continue
        options = list(item.options or ())
        bare = [re.sub(rf"^\(?{letter}[.):]\s*", "", text) for letter, text in zip(LETTERS, options, strict=False)]
        listed = repr(options) if options else ""
        row = {
            "index": item.row.get("index", number), "id": item.id, "qid": item.id, "question": item.question,
            "question_type": item.question_type, "task": item.question_type, "category": item.question_type,
            "l2-category": item.row.get("l2-category"), "split": item.row.get("split", item.row.get("type")),
            "source": item.dataset, **dict(zip(LETTERS, bare, strict=False)), "candidates": listed, "options": listed,
        }  # fmt: skip
        rows.append({**row, "answer": _answer(item), "prediction": said[item.id]})
    # A column without values would be a category of its own in the kit.
    columns = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if any(row.get(name) not in (None, "") for row in rows)
    ]
    path = place / f"{name}_{dataset}.tsv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        needed = [*(name for name in columns if name not in ("answer", "prediction")), "answer", "prediction"]
        writer = csv.DictWriter(file, needed, delimiter="\t", quoting=csv.QUOTE_ALL, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return [path]


def _answer(item: Item) -> str:
    """The letter alone where the answer is one, as the kit's tables have it."""
    truth = str(item.ground_truth)
    match = re.match(r"\(?([A-Z])\)?(?:[.:]|$)", truth.strip())
    return match[1] if match else truth
