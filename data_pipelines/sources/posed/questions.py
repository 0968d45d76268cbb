"""questions.json in a scene's folder.

A list of {"question", "answer", "options"?, "views"?, "type"?, "group"?, "id"?}. `views` are frame
numbers and make a record of exactly these frames in this order; `<view:K>` in the text means the
K-th of them, from 0. A question without `views` goes to every record of the scene. `answer` is a
word, a number, or with `options` a letter or one of the options.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from data_pipelines.config import TRAINING_GROUPS
from data_pipelines.manifest import PrepareError
from data_pipelines.records import Question
from data_pipelines.sources.posed.scene import Scene

_VIEW = re.compile(r"<view:(\d+)>")


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
    found = [_question(entry, f"{file}, entry {number}", scene, number) for number, entry in enumerate(entries)]
    first: dict[str, int] = {}
    for number, (_, question) in enumerate(found):
        if first.setdefault(question.id, number) != number:
            raise PrepareError(f"{file}, entry {number}: id '{question.id}' is that of entry {first[question.id]} too.")
    return found


def question_words(scenes: Iterable[Scene]) -> tuple[str, ...]:
    """Every word of questions, options and answers, sorted, in lower case but for the letters of choices."""
    words: set[str] = set()
    for scene in scenes:
        for _, question in scene_questions(scene):
            text = " ".join((_VIEW.sub(" ", question.text), *question.options))
            words.update(text.lower().split())
            words.update([question.answer] if question.form == "letter" else question.answer.lower().split())
    return tuple(sorted(words))


def _question(entry: object, where: str, scene: Scene, number: int) -> tuple[tuple[int, ...], Question]:
    if not isinstance(entry, dict):
        raise PrepareError(f"{where}: expected a mapping with 'question' and 'answer'.")
    for key, kind, wanted, needed in _FIELDS:
        value = entry.get(key)
        good = kind(value) if key in entry and value is not None else not needed
        if not good:
            raise PrepareError(f"{where}: '{key}' is {value!r}, expected {wanted}.")
    if unknown := sorted(set(entry) - {key for key, *_ in _FIELDS}):
        raise PrepareError(f"{where}: unknown fields {unknown}; known: {', '.join(key for key, *_ in _FIELDS)}.")
    options, views = tuple(entry.get("options") or ()), tuple(entry.get("views") or ())
    answer = entry["answer"].strip()
    if options and answer in options:
        answer = chr(ord("A") + options.index(answer))
    if options and answer not in [chr(ord("A") + k) for k in range(len(options))]:
        raise PrepareError(f"{where}: answer '{answer}' is neither an option nor a letter of one.")
    if unknown := [view for view in views if view not in scene.numbers]:
        raise PrepareError(f"{where}: there is no frame {unknown} in color/.")
    if named := [k for k in map(int, _VIEW.findall(entry["question"])) if k >= len(views)]:
        raise PrepareError(f"{where}: <view:{named[0]}> but 'views' lists {len(views)} frames (counted from 0).")
    numeric = re.fullmatch(r"-?\d+(\.\d+)?", answer) is not None
    form = "letter" if options else "number" if numeric else "word"
    return views, Question(
        id=entry.get("id") or f"{scene.name}.question-{number}",
        type=entry.get("type") or "own",
        group=entry.get("group") or "spatial",
        form=form,
        text=entry["question"],
        answer=answer,
        options=options,
    )


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _distinct(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(type(part) is kind for part in value) and len(set(value)) == len(value)


_FIELDS = (  # name, check, what is expected, whether it must be there
    ("question", _text, "a text", True),
    ("answer", _text, 'a text (also of a number: "2.5")', True),
    (
        "options",
        lambda value: _distinct(value, str) and len(value) <= 26,
        "a list of at most 26 different texts",
        False,
    ),
    ("views", lambda value: _distinct(value, int), "a list of different frame numbers", False),
    ("type", _text, "a text", False),
    ("group", lambda value: value in TRAINING_GROUPS, f"one of {', '.join(TRAINING_GROUPS)}", False),
    ("id", _text, "a text", False),
)
