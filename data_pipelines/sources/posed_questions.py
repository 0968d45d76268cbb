"""questions.json of a posed_rgbd scene, beside color/.

A list of {"question", "answer", "options"?, "views"?, "type"?, "group"?, "id"?}. `views` are frame
numbers and make a record of exactly these frames in this order; `<view:K>` in the text means the
K-th of them, from 0. A question without `views` goes to every record of the scene. `answer` is a
word, a number, or with `options` a letter or one of the options.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from data_pipelines.manifest import PrepareError
from data_pipelines.records import Question
from data_pipelines.sources.posed_frames import Scene


def questions_text(scene: Scene) -> str:
    """The file's text, "" without one."""
    file = Path(scene.path) / "questions.json"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def scene_questions(scene: Scene) -> list[tuple[tuple[int, ...], Question]]:
    """(frame numbers, question) of each entry; no file, no questions.

    Raises:
      PrepareError: naming the file, the entry and what is wrong with it.
    """
    file = Path(scene.path) / "questions.json"
    text = questions_text(scene)
    if not text:
        return []
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise PrepareError(f"{file} is not JSON: {error}.") from error
    if not isinstance(entries, list):
        raise PrepareError(f"{file}: expected a list of questions.")
    return [_question(entry, f"{file}, entry {number}", scene, number) for number, entry in enumerate(entries)]


def _question(entry: object, where: str, scene: Scene, number: int) -> tuple[tuple[int, ...], Question]:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("question", "answer")):
        raise PrepareError(f"{where}: needs the texts 'question' and 'answer'.")
    options, views = tuple(entry.get("options") or ()), tuple(entry.get("views") or ())
    answer = entry["answer"].strip()
    if options and answer in options:
        answer = chr(ord("A") + options.index(answer))
    if options and answer not in [chr(ord("A") + k) for k in range(len(options))]:
        raise PrepareError(f"{where}: answer '{answer}' is neither an option nor a letter of one.")
    if unknown := [view for view in views if view not in scene.numbers]:
        raise PrepareError(f"{where}: there is no frame {unknown} in color/.")
    if named := [k for k in map(int, re.findall(r"<view:(\d+)>", entry["question"])) if k >= len(views)]:
        raise PrepareError(f"{where}: <view:{named[0]}> but 'views' lists {len(views)} frames (counted from 0).")
    numeric = re.fullmatch(r"-?\d+(\.\d+)?", answer) is not None
    form = "letter" if options else "number" if numeric else "word"
    return views, Question(
        id=str(entry.get("id", f"{scene.name}.question-{number}")),
        type=str(entry.get("type", "own")),
        group=str(entry.get("group", "spatial")),
        form=form,
        text=entry["question"],
        answer=answer,
        options=options,
    )
