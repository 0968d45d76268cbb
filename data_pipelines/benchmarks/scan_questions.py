"""Questions about ScanNet scans, answered in words: SQA3D (arXiv 2210.07474) and ScanQA (arXiv 2112.10482).

Files as SilongYong/SQA3D (0083981, assets/dataset.md; the test files in LLM/, e4e2cec) and ATR-DBI/ScanQA (6ff5975,
its page on the dataset) describe them. Prompts and SQA3D's question types are those of zd11024/Video-3D-LLM (62d518f,
scripts/3d/preprocessing), whose scores papers compare with; ScanQA's types are its authors' (422dde5, scripts/score.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from data_pipelines.benchmarks.items import Item, filled
from data_pipelines.benchmarks.raw_files import Raw
from data_pipelines.benchmarks.raw_rows import Row

SQA3D = {"words": "{situation} {question} Answer the question using a single word or phrase."}
SCANQA = {"words": "{question} Answer the question simply."}
SQA3D_PARTS, SCANQA_PARTS = ("test", "val"), ("val",)  # the answers of ScanQA's test files are hidden
_SQA3D_FOLDERS = ("balanced", "sqa_task/balanced", "assets/data/sqa_task/balanced")
_SCANQA_FOLDERS = ("qa", "data/qa")
_FIRST_WORDS = ("what", "is", "how", "can", "which")
_SCANQA_TYPES = (
    ("Where", "Place"), ("How many", "Number"), ("What color", "Color"), ("What is the color", "Color"),
    ("What shape", "Object nature"), ("What type", "Object nature"), ("What kind", "Object nature"), ("What is", "Object"),
)  # fmt: skip


def sqa3d_type(question: str) -> str:
    """SQA3D's type of a question: what it begins with, in any case, letter by letter ("Isn't it?" is `is`)."""
    begins = question.lstrip().lower()
    return next((word for word in _FIRST_WORDS if begins.startswith(word)), "others")


def scanqa_type(question: str) -> str:
    """ScanQA's type of a question, by the first of the authors' phrases that stands anywhere in it, in this case."""
    return next((kind for phrase, kind in _SCANQA_TYPES if phrase in question), "Other")


def read_sqa3d(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """v1_balanced_questions_PART_scannetv2.json, the annotations beside it, and the scans. `part`: test or val."""
    questions = raw.named(f"v1_balanced_questions_{part}_scannetv2.json", *_SQA3D_FOLDERS)
    annotations = raw.named(f"v1_balanced_sqa_annotations_{part}_scannetv2.json", *_SQA3D_FOLDERS)
    known: dict[str, Row] = {}
    for row in raw.rows(annotations, "annotations"):
        name = row.text("question_id")
        if name in known:
            raise row.error("question_id", f"{name} stands at {known[name].place} already.")
        known[name] = row
    asked = set()
    for row in raw.rows(questions, "questions"):
        name, scan, question = row.text("question_id"), row.text("scene_id"), row.text("question")
        if name not in known:
            raise row.error("question_id", f"{name} has no annotation in {annotations.name}.")
        annotation = known[name]
        asked.add(name)
        if annotation.text("scene_id") != scan:
            raise annotation.error("scene_id", f"the question, {row.place}, is about {scan}.")
        yield Item(
            name,
            row.place,
            sqa3d_type(question),
            question,
            filled(templates["words"], situation=row.text("situation"), question=question),
            None,
            _only_answer(annotation),
            (raw.scan(scan),),
            scan,
            None,
            {**annotation.plain(), **row.plain()},
        )
    for name, row in known.items():
        if name not in asked:
            raise row.error("question_id", f"{name} has no question in {questions.name}.")


def _only_answer(annotation: Row) -> str:
    answers = annotation.fields.get("answers")
    if not isinstance(answers, list) or len(answers) != 1:
        raise annotation.error("answers", "expected a list of one answer {answer, answer_confidence, answer_id}.")
    return Row(f"{annotation.place}, field 'answers'", answers[0]).text("answer")


def read_scanqa(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """ScanQA_v1.0_val.json and the scans."""
    for row in raw.rows(raw.named(f"ScanQA_v1.0_{part}.json", *_SCANQA_FOLDERS)):
        scan, question, answers = row.text("scene_id"), row.text("question"), row.texts("answers")
        if not all(answer.strip() for answer in answers):
            raise row.error("answers", "expected texts, one of them is empty.")
        yield Item(
            row.text("question_id"),
            row.place,
            scanqa_type(question),
            question,
            filled(templates["words"], question=question),
            None,
            answers,
            (raw.scan(scan),),
            scan,
            None,
            row.plain(),
        )
