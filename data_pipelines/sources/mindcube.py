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
from data_pipelines.sources.qa.options import split_options
from data_pipelines.sources.qa.problems import Checks
from data_pipelines.sources.qa.rows import Media, Row, escaped, media_paths, plain, text_of
from data_pipelines.sources.qa.settings import QaSettings
from data_pipelines.sources.qa.source import qa_source

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

    def media(self, raw: Path, files: list[Path]) -> Path:
        """The folder that holds raw/, where the file lies in one."""
        return files[0].parent.parent if files[0].parent.name == "raw" else raw

    def row(self, fields: dict, settings: Settings) -> Row:
        """See `Form`."""
        checks = Checks()
        text = checks(text_of, fields.get("question"), "question")
        asked = checks(split_options, text, "question") if text else None
        answer = checks(text_of, fields.get("gt_answer"), "gt_answer")
        if asked and answer:
            letters = [chr(ord("A") + place) for place in range(len(asked[1]))]
            if answer not in letters:
                wrong = f"is '{answer}', the question has options {letters}"
                checks.add("gt_answer", wrong, "answer_not_among_options")
        before = len(checks.found)
        paths = checks(media_paths, fields.get("images"), "images", default=[])
        if not paths and len(checks.found) == before:
            checks.add("images", "is empty or missing, and every question is about pictures", "no_pictures")
        name = checks(plain, fields.get("id"), "id")
        if name == "":
            checks.add("id", "is missing, and the setting follows from it", "no_id")
        media = tuple(Media("image", below_images(path)) for path in paths)
        checks.close(media)
        question, options = asked
        own = [escaped(text) for text in (question, *options)]
        return Row(
            media=media,
            turns=((own[0][0], answer),),
            id=name,
            type=next((setting for setting in SETTINGS if setting in name), "other"),
            options=tuple(text for text, _ in own[1:]),
            form="letter",
            notes=tuple(note for _, notes in own for note in notes),
        )


def below_images(path: str) -> str:
    """The part from other_all_image on, with slashes."""
    found = re.search(r"other_all_image[\\/].*", path)
    return (found[0] if found else path).replace("\\", "/")


SOURCE = qa_source("mindcube", "5", Settings, MindCube(), __file__, posed_sources())
