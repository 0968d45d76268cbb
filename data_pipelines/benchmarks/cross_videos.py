"""CVBench (arXiv 2508.19542): questions about two to four videos. Cambrian's CV-Bench is in `single_tables`.

Rows and prompts as in Hokhim2/CVBench (a70c231, lmms_eval/tasks/mvr) and the card of its data, Dongyh35/CVBench. Video 1 is
told from video 2 by the authors' title pictures: see `showing.show`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from data_pipelines.benchmarks.items import Item, filled
from data_pipelines.benchmarks.raw_files import VIDEO_SUFFIXES, Raw
from data_pipelines.benchmarks.raw_rows import Row

_TITLES = (
    "Please pay close attention to the video frames with special cues that are interspersed at the beginning and end of a "
    'video\'s content. For example, frames with the words "The video X" represent the beginning of the video called video X, '
    'and frames with the words "Video X End" represent the end of the video called video X.'
)
CROSSVIDEO = {
    "choice": f"{_TITLES}\nSelect the best answer to the following multiple-choice based on the listed all videos. Respond with "
    "only the letter (A, B, C, or D) of the correct option.\n{question}\n{options}\n"
    "Answer with the option's letter (A, B, C, or D) from the given choices directly.",
    "yes_no": f"{_TITLES}\nSelect the best answer to the following yes-no question based on the listed all videos. Respond with "
    "only the word (Yes or No) of the correct option.\n{question}\n{options}\n"
    "Answer with the option's word (YES or NO) from the given choices directly.",
}
_FIELDS = ("video_1", "video_2", "video_3", "video_4")


def read_crossvideo(raw: Raw, part: str, templates: Mapping[str, str]) -> Iterator[Item]:
    """The parquet or CVBench.json; videos SET/NAME.mp4, in CVBench.zip or unpacked."""
    tables = raw.tables("test-*.parquet", "CVBench.json", "*.parquet")
    for row in (row for path in tables for row in raw.rows(path)):
        question, listed = row.text("question"), row.texts("options")
        form, truth, options = "choice", row.text("answer"), _apart(listed)
        if all(_word(option) in ("yes", "no") for option in listed):
            form = "yes_no"
            if _word(truth) not in ("yes", "no"):
                raise row.error("answer", f"expected Yes or No, found {truth!r}.")
        else:
            row.letter("answer", options or "ABCD")
        names = [_below(row, field) for field in _FIELDS if row.fields.get(field)]
        if not names:
            raise row.error("video_1", "expected the path of a video, found none.")
        yield Item(
            row.text("id"),
            row.place,
            row.text("task_type"),
            question,
            filled(templates[form], question=question, options="\n".join(listed)),
            options,
            truth,
            tuple(raw.video(name, f"CVBench/{name}", f"videos/{name}") for name in names),
            names[0].rpartition("/")[0] or names[0],
            None,
            row.plain(),
        )


def _apart(options: tuple[str, ...]) -> tuple[str, ...] | None:
    """The options; those of question 996 stand in one text, "A. ..., B. ..., C. ..., D. ...". None: they cannot be told apart."""
    if len(options) > 1:
        return options
    apart = tuple(re.split(r"[,;]?\s+(?=[B-D]\.\s)", options[0]))
    return apart if len(apart) > 1 else None


def _word(text: str) -> str:
    return text.strip().rstrip(".").lower()


def _below(row: Row, field: str) -> str:
    """The path of a video without its ending."""
    name = row.text(field).replace("\\", "/")
    ending = next((suffix for suffix in VIDEO_SUFFIXES if name.lower().endswith(suffix)), None)
    if ending is None:
        raise row.error(field, f"expected a video ({', '.join(VIDEO_SUFFIXES)}), found {name!r}.")
    return name[: -len(ending)]
