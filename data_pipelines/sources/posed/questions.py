"""questions.json in a scene's folder, checked as every question file is; a mistake stops the preparation.

A list of {"question", "answer", "options"?, "views"?, "type"?, "group"?, "id"?}. `views` are frame
numbers and make a record of exactly these frames in this order; `<view:K>` in the text means the
K-th of them, from 0. A question without `views` goes to every record of the scene. `answer` is a
word, a number, or with `options` a letter or one of the options.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from data_pipelines.config import TRAINING_GROUPS
from data_pipelines.records import Question
from data_pipelines.sources.posed.scene import Scene
from data_pipelines.sources.qa.files import entries, mapping
from data_pipelines.sources.qa.options import stated_options
from data_pipelines.sources.qa.problems import Checks, RowError, RowsRefused
from data_pipelines.sources.qa.rows import TAG, choice_of, escaped, plain, shown, text_of

_VIEW = re.compile(r"<view:(\d{1,9})>")
_FIELDS = ("question", "answer", "options", "views", "type", "group", "id")


def questions_text(scene: Scene) -> str:
    """The file's text, "" without one; what is no UTF-8 in it is replaced."""
    file = Path(scene.path) / "questions.json"
    return file.read_bytes().decode("utf-8", "replace") if file.is_file() else ""


def scene_questions(scene: Scene) -> list[tuple[tuple[int, ...], Question]]:
    """(frame numbers, question) of each entry; no file, no questions.

    Raises:
      PrepareError: naming the file and, of every entry with a mistake, what is wrong with it.
    """
    file = Path(scene.path) / "questions.json"
    if not file.is_file() or not file.stat().st_size:
        return []
    found, problems, first = [], [], {}
    for entry in entries(file, str(file)):
        try:
            views, question = question_of(mapping(entry.value), scene, entry.number - 1)
            if first.setdefault(question.id, entry.number) != entry.number:
                raise RowError("id", f"'{question.id}' is that of entry {first[question.id]} too", "same_id")
            found.append((views, question))
        except RowError as error:
            problems.append((entry.where, str(error)))
    if problems:
        raise RowsRefused(f"{len(problems)} questions of {file} cannot be used. Mend or remove them:", problems)
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


def question_of(entry: dict, scene: Scene, number: int) -> tuple[tuple[int, ...], Question]:
    """(frame numbers, question) of one entry; `number` is for its id.

    Raises:
      RowError: with everything that is wrong with it.
    """
    checks = Checks()
    if unknown := sorted(set(entry) - set(_FIELDS)):
        checks.add("", f"unknown fields {shown(unknown)}; known: {', '.join(_FIELDS)}", "unknown_field")
    views = entry.get("views") or []
    if not isinstance(views, list) or any(type(view) is not int for view in views) or len(set(views)) != len(views):
        checks.add("views", f"is {shown(views)}, expected a list of different frame numbers", "bad_views")
        views = []
    if strange := [view for view in views if view not in scene.numbers]:
        checks.add("views", f"there is no frame {strange} in {scene.name}", "bad_views")
    options = checks(stated_options, entry.get("options"), "options", default=())
    options = [checks(_text, one, f"options[{place}]", len(views), default="") for place, one in enumerate(options)]
    question = checks(_text, entry.get("question"), "question", len(views))
    answer = entry.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool) and abs(answer) < float("inf"):
        answer = str(answer)
    answer = checks(_text, answer, "answer", len(views))
    names = {key: checks(plain, entry.get(key), key, default="") for key in ("type", "group", "id")}
    for key, name in names.items():
        if entry.get(key) is not None and not name:
            checks.add(key, f"is {shown(entry[key])}, expected a text", "not_a_text")
    if names["group"] and names["group"] not in TRAINING_GROUPS:
        wrong = f"is {shown(entry['group'])}, expected one of {', '.join(TRAINING_GROUPS)}"
        checks.add("group", wrong, "unknown_group")
    checks.close()
    said = checks(choice_of, question, answer, options, "question", "answer")
    checks.close()
    answer, form, options = said
    return tuple(views), Question(
        id=names["id"] or f"{scene.name}.question-{number}",
        type=names["type"] or "own",
        group=names["group"] or "spatial",
        form=form,
        text=question,
        answer=answer,
        options=tuple(options),
    )


def _text(value: object, field: str, views: int) -> str:
    """A text whose `<view:K>` name frames that are there; other markup is made plain."""
    text = text_of(value, field)
    if TAG.search(text):
        raise RowError(field, f"holds {TAG.search(text)[0]}; frames are named <view:0>, <view:1>, ...", "tag_in_text")
    if named := [k for k in map(int, _VIEW.findall(text)) if k >= views]:
        raise RowError(
            field, f"<view:{named[0]}> but 'views' lists {views} frames (counted from 0)", "view_without_frame"
        )
    pieces, at = [], 0
    for view in _VIEW.finditer(text):
        pieces += [escaped(text[at : view.start()])[0], view[0]]
        at = view.end()
    return "".join([*pieces, escaped(text[at:])[0]])
