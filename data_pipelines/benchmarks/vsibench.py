"""VSI-Bench (full, its multiple-choice half, the debiased subset) and SPBench, which is made like it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from data_pipelines.benchmarks.items import Item, filled
from data_pipelines.benchmarks.raw_files import Raw
from data_pipelines.benchmarks.raw_rows import Row

NUMBERS = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
CHOICES = (
    "object_rel_distance", "object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard",
    "route_planning", "obj_appearance_order",
)  # fmt: skip
DEBIASED = ("test_debiased.jsonl", "*debiased*.parquet")
LETTER = "Answer with the option's letter from the given choices directly."
WORD = "Please answer the question using a single word or phrase."
FRAMES = "These are frames of a video."
TEMPLATES = {
    "choice": f"{FRAMES}\n{{question}}\nOptions:\n{{options}}\n{LETTER}",
    "number": f"{FRAMES}\n{{question}}\n{WORD}",
}
SPBENCH_TEMPLATES = {"choice": f"{{question}}\nOptions:\n{{options}}\n{LETTER}", "number": f"{{question}}\n{WORD}"}


def read(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """test.jsonl or the test parquet; videos dataset/scene_name.mp4. `part`: full, choices or debiased."""
    whole = ("test.jsonl", "test-*.parquet", "test.parquet")
    tables = raw.tables(*DEBIASED, *whole) if part == "debiased" else raw.tables(*whole)
    by_field = part == "debiased" and "debiased" not in tables[0].name
    for row in (row for path in tables for row in raw.rows(path)):
        if by_field:
            if not isinstance(row.fields.get("pruned"), bool):
                wanted = "test_debiased.parquet, or a test.jsonl with the field `pruned`"
                raise row.error("pruned", f"expected true or false; the debiased subset is told by it. Give {wanted}.")
            if row.fields["pruned"]:
                continue
        kind = row.text("question_type")
        if part == "choices" and kind in NUMBERS:
            continue
        dataset, scene = row.text("dataset"), row.text("scene_name")
        yield _item(row, kind, templates, (raw.video(f"{dataset}/{scene}"),), scene, dataset)


def read_spbench(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """SPBench-SI.parquet and SPBench-MV.parquet; pictures SPBench-*-images/scene_name/name. `part`: all, SI or MV."""
    for path in raw.tables("SPBench-*.parquet" if part == "all" else f"SPBench-{part}.parquet"):
        for row in raw.rows(path):
            scene = row.text("scene_name")
            pictures = tuple(
                raw.picture(f"{path.stem}-images/{scene}/{name}", f"{scene}/{name}") for name in row.texts("images")
            )
            name = path.stem.removeprefix("SPBench-")
            yield _item(row, row.text("question_type"), templates, pictures, scene, None, f"{name}-")


def _item(row: Row, kind: str, templates, media, scene: str, dataset: str | None, prefix: str = "") -> Item:
    question = row.text("question")
    if kind in NUMBERS:
        options, truth, prompt = None, row.number("ground_truth"), filled(templates["number"], question=question)
    elif kind in CHOICES or kind == "object_rel_direction":
        options = row.texts("options")
        truth = row.letter("ground_truth", options)
        prompt = filled(templates["choice"], question=question, options="\n".join(options))
    else:
        known = ", ".join((*NUMBERS, *CHOICES))
        raise row.error("question_type", f"there is no {kind!r}; known are {known}.")
    name = f"{prefix}{row.text('id')}"
    return Item(name, row.place, kind, question, prompt, options, truth, media, scene, dataset, row.plain())
