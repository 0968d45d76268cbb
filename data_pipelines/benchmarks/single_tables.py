"""Benchmarks that are tables with the pictures inside: CV-Bench, SPAR-Bench, BLINK, MMSI-Bench, EmbSpatial-Bench, Spatial457."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from data_pipelines.benchmarks.items import LETTERS, Item, filled, lettered
from data_pipelines.benchmarks.raw_files import Raw
from data_pipelines.benchmarks.vsibench import LETTER, WORD

_ONLY = "Note: You only need to respond with {letters} without providing any additional information.\n"
CVBENCH = {"choice": f"{_ONLY}\n{{prompt}}"}
BLINK = {"choice": f"{_ONLY}{{prompt}}"}
MMSI = {"choice": f"{{question}}\n{LETTER} Enclose the option's letter within ``."}
EMBSPATIAL = {"choice": f"{_ONLY}{{question}}\n{{options}}"}
_BOXES = (
    "The values represent the bounding box coordinates normalized to a 0-1000 scale, with the top-left corner as the "
    "origin of the image."
)
SPARBENCH = {
    "number": f"{{question}}\n{WORD}",
    "choice": f"{{question}}\n\n{LETTER}",
    "choice_of_boxes": f"{{question}}\n{_BOXES}\n{LETTER}",
    "view_change": "{question}",
}
_IMAGE = re.compile(r"<image(?:[ _]?(\d+))?>")


def read_cvbench(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """CV-Bench's parquet files. `part`: all, 2D or 3D."""
    for path in raw.tables("test.parquet", "test_[23][dD].parquet", "*.parquet"):
        for row in raw.rows(path):
            kind = row.text("type")
            if kind not in ("2D", "3D"):
                raise row.error("type", f"expected 2D or 3D, found {kind!r}.")
            if part not in ("all", kind):
                continue
            source, choices = row.text("source"), row.texts("choices")
            if source not in ("ADE20K", "COCO", "Omni3D"):
                raise row.error("source", f"expected ADE20K, COCO or Omni3D, found {source!r}.")
            yield Item(
                f"{kind}-{row.text('idx')}",
                row.place,
                row.text("task"),
                row.text("question"),
                filled(templates["choice"], prompt=row.text("prompt"), letters=letters_of(choices)),
                choices,
                row.letter("answer", choices),
                row.media("image"),
                None,
                source,
                row.plain(),
            )


def read_sparbench(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """SPAR-Bench's parquet files; the options stand in the question."""
    number = 0
    for path in raw.tables("*.parquet"):
        for row in raw.rows(path):
            task, question = row.text("task"), row.text("question")
            if task.startswith(("depth_prediction", "distance_prediction")):
                form, truth = "number", row.number("answer")
            elif task == "view_change_infer":
                form, truth = "view_change", row.text("answer")
            else:
                form = "choice_of_boxes" if task in ("position_matching", "camera_motion_infer") else "choice"
                truth = row.letter("answer", LETTERS)
            prompt = filled(templates[form], question=views_named(question))
            # The row's number: that ids are unique over the tasks is nowhere said.
            name = f"{number}/{row.text('id')}"
            number += 1
            yield Item(name, row.place, task, question, prompt, None, truth, row.media("image"), row=row.plain())


def read_blink(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """BLINK's validation parquet files, one folder per sub-task; pictures image_1 to image_4."""
    for path in raw.tables("val*.parquet", "*.parquet"):
        for row in raw.rows(path):
            choices = row.texts("choices")
            shown = [name for name in (f"image_{n}" for n in range(1, 5)) if row.fields.get(name)]
            if not shown:
                raise row.error("image_1", "expected an embedded picture, found none.")
            prompt = filled(templates["choice"], prompt=row.text("prompt"), letters=letters_of(choices))
            yield Item(
                row.text("idx"),
                row.place,
                row.text("sub_task"),
                row.text("question"),
                views_named(prompt),
                choices,
                row.letter("answer", choices),
                tuple(one for name in shown for one in row.media(name)),
                row=row.plain(),
            )


def read_mmsi(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """MMSI-Bench's parquet; the options stand in the question."""
    for path in raw.tables("*.parquet"):
        for row in raw.rows(path):
            question = row.text("question").strip()
            yield Item(
                row.text("id"),
                row.place,
                row.text("question_type"),
                question,
                filled(templates["choice"], question=views_named(question)),
                None,
                row.letter("answer", LETTERS[:6]),
                row.media("images"),
                row=row.plain(),
            )


def read_embspatial(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """EmbSpatial-Bench's parquet; the answer is the place of the option."""
    for path in raw.tables("*.parquet"):
        for row in raw.rows(path):
            options, answer = row.texts("answer_options"), row.fields.get("answer")
            if not isinstance(answer, int) or not 0 <= answer < len(options):
                raise row.error("answer", f"expected 0 to {len(options) - 1}, found {answer!r}.")
            yield Item(
                row.text("question_id"),
                row.place,
                row.text("relation"),
                row.text("question"),
                filled(
                    templates["choice"],
                    question=views_named(row.text("question")),
                    options=lettered(options, "{}) {}"),
                    letters=letters_of(options),
                ),
                options,
                LETTERS[answer],
                row.media("image"),
                None,
                row.text("data_source"),
                row.plain(),
            )


LEVELS = {
    "L1_single": "identify attributes of the objects",
    "L2_objects": "identify attributes of multiple objects",
    "L3_2d_spatial": "identify attributes of multiple objects and their spatial relationship from 2D projected camera view",
    "L4_occ": "identify attributes of multiple objects and their occlusion relationships",
    "L4_pose": "identify attributes of multiple objects and their facing direction in 3D space from the camera view",
    "L5_6d_spatial": "identify attributes of multiple objects and their spatial relationship from objects' perspective in 3D space",
    "L5_collision": "identify attributes of multiple objects and their potential collision given the assumption of moving direction in 3D space",
}
SPATIAL457 = {
    "json": "You are an intelligent chatbot designed to answer questions based on an image. Your task is to analyze the "
    "images, {level}, and then determine the answer to the question.\n{question}\n"
    "First, you should identify the related objects referred in the questions, including their shape, color, size; then "
    "add a brief reasoning process about the questions. Each object in the image has a shape (e.g., 'airliner'), a size "
    "(only can be 'small' or 'large'), a color (e.g. 'blue'). The size of the object is either 'small' or 'large'. The "
    "color of the object is one of the following: 'gray', 'blue', 'purple', 'brown', 'green', 'cyan', 'red', 'yellow'. "
    "The direction of the object is one of the following: 'left', 'right', 'front', 'back'.\n\n"
    "Second, give the answer based on the reasoning process. The answer should only be (1) a phrase, or (2) an integer "
    "[0-10] when asked for 'How many' or 'What is the number of', or (3) 'Yes' or 'No' when asked for 'Is there'. If you "
    "think there are no possible answers or the question is not clear, choose the best answer that fits the question.\n\n"
    "Write your response into this json template: {'Reasoning': '<your reasons>', 'Answer': '<Your answer>'}"
}


def read_spatial457(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """Spatial457's parquet files, one folder per level, or VLMEvalKit's TSV, whose category is the level."""
    number = 0
    for path in raw.tables("validation-*.parquet", "*.parquet", "Spatial457*.tsv"):
        for row in raw.rows(path):
            field = "category" if path.suffix == ".tsv" or "category" in row.fields else None
            found = row.text(field) if field else path.parent.name
            level = next((name for name in LEVELS if name.lower() == found.lower()), None)
            if level is None:
                where = f"the folder {found!r}" if field is None else repr(found)
                raise row.error(field or "category", f"the level is one of {', '.join(LEVELS)}, found {where}.")
            question = row.text("question")
            truth = row.fields.get("answer")
            truth = str(truth) if isinstance(truth, bool) else row.text("answer")
            yield Item(
                f"{level}/{number}",
                row.place,
                level,
                question,
                filled(templates["json"], level=LEVELS[level], question=question),
                None,
                truth,
                row.media("image"),
                row=row.plain(),
            )
            number += 1


def letters_of(options) -> str:
    """ "A, B, C" of so many options."""
    return ", ".join(LETTERS[: len(options)])


def views_named(text: str) -> str:
    """A prompt whose `<image>` or `<image 2>` marks name the pictures, which stand before it: `<view:1>`."""
    count = iter(range(len(text)))
    return _IMAGE.sub(lambda match: f"<view:{int(match[1]) - 1 if match[1] and int(match[1]) else next(count)}>", text)
