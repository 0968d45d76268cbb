"""mindcube: MindCube's raw rows: data/raw/MindCube_train.jsonl (10,000), MindCube_tinybench.jsonl (1,050), MindCube.jsonl.

A row has `id`, `question` with its options inside, `images` (paths below data/, in the order of the prompt, which counts),
`gt_answer` (a letter), `category`, `type`, `meta_info`. The setting follows from the id: around, rotation, translation, among, tried
in this order, as the authors' evaluator does. Some paths are absolute ones of the authors' machine; the part from
`other_all_image` on is kept.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from data_pipelines.flags import flag
from data_pipelines.manifest import PrepareError
from data_pipelines.sources import posed_sources
from data_pipelines.sources.llava import plain
from data_pipelines.sources.qa.rows import Media, Row, RowError, escaped, media_paths, split_options, text_of
from data_pipelines.sources.qa.source import QaSettings, qa_source

FILES = {"train": "MindCube_train.jsonl", "tiny": "MindCube_tinybench.jsonl", "full": "MindCube.jsonl"}
SETTINGS = ("around", "rotation", "translation", "among")


@dataclasses.dataclass(frozen=True)
class Settings(QaSettings):
    """Arguments of the source; each is a flag of `experiments.prepare`."""

    part: str = flag("train", "train (10,000 rows), tiny (the benchmark) or full; ignored with --files")


class MindCube:
    """The form; see `qa.source.Form`."""

    def files(self, raw: Path, settings: Settings) -> list[Path]:
        """The file of `--part`, in raw/, data/raw/ or the folder itself."""
        if settings.part not in FILES:
            raise PrepareError(f"--part must be one of {', '.join(FILES)}.")
        name = FILES[settings.part]
        places = [folder / name for folder in (raw / "raw", raw / "data" / "raw", raw)]
        return [next((place for place in places if place.is_file()), places[0])]

    def row(self, fields: dict, settings: Settings) -> Row:
        """See `Form`."""
        question, options = split_options(text_of(fields.get("question"), "question"), "question")
        letters = [chr(ord("A") + place) for place in range(len(options))]
        answer = text_of(fields.get("gt_answer"), "gt_answer")
        if answer not in letters:
            raise RowError(
                "gt_answer", f"is '{answer}', the question has options {letters}", "answer_not_among_options"
            )
        paths = media_paths(fields.get("images"), "images")
        name = plain(fields.get("id"))
        if not name:
            raise RowError("id", "is missing, and the setting follows from it", "no_id")
        own = [escaped(text) for text in (question, *options)]
        return Row(
            media=tuple(Media("image", _path(path)) for path in paths),
            turns=((own[0][0], answer),),
            id=name,
            type=next((setting for setting in SETTINGS if setting in name), "other"),
            options=tuple(text for text, _ in own[1:]),
            form="letter",
            notes=tuple(note for _, notes in own for note in notes),
        )


def _path(path: str) -> str:
    """The part from other_all_image on, with slashes."""
    found = re.search(r"other_all_image[\\/].*", path)
    return (found[0] if found else path).replace("\\", "/")


SOURCE = qa_source("mindcube", "1", Settings, MindCube(), __file__, posed_sources())
