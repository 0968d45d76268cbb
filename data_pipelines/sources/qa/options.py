"""Options that a question lists, and whether its answer is one of them.

Options are listed line by line ("A. red", "(B) blue", "c) green") or on one line behind a question mark, a colon or a
sentence: letters from A on, each once and in order. A listing that cannot be read so is a mistake and no guess is made.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines.sources.qa.problems import RowError

_END = r"(?:[.:．：、](?=\s|$)|[)）])"
_LINE = re.compile(r"^[ \t]*[(（]?([A-Za-z])[.:．：、)）]", re.MULTILINE)
_MARK = re.compile(rf"(?:(?:^|(?<=[\s?:;,.!]))([A-Za-z]){_END}|[(（]([A-Za-z])[)）])[ \t]*", re.MULTILINE)
_MINDCUBE = re.compile(r"(?:^|(?<=\s))([A-Z])\.\s+")
_ONE_LETTER = re.compile(r"[(（\[]?([A-Za-z])[)）\]]?[.:、]?")
_LETTER_AND_TEXT = re.compile(r"[(（\[]?([A-Za-z])[)）\].:．：、]+\s*(.+)", re.DOTALL)
_SOME_LETTERS = re.compile(r"[A-Z](?:(?:\s*,\s*and\s+|\s*[,;/&+]\s*|\s+(?:and|or)\s+|\s+)[A-Z])+")
_CONCLUDED = re.compile(r"(?:(?i:answer)\s*(?:is|:)?|<answer>|[Oo]ption|[Cc]hoice)\s*[(（\[]?([A-Za-z])(?![A-Za-z'])")
_FIRST_LINE = re.compile(r"[(（]?([A-Za-z])[)）]?[.:]?[ \t]*\n")
MOST = 26


class Listed(NamedTuple):
    """Options: their letters as they stand there, and their texts."""

    letters: tuple[str, ...]
    texts: tuple[str, ...]
    open_end: bool = False  # whether words that are no option's may follow the last one on its line


def listed_options(question: str, field: str) -> Listed | None:
    """The options that a question lists, None if it lists none.

    Raises:
      RowError: letters that do not run A, B, C, ... or occur twice, equal or empty options.
    """
    lines = list(_LINE.finditer(question))
    first = next((place for place, line in enumerate(lines) if line[1] in "Aa"), None)
    lines = [] if first is None else [line for line in lines[first:] if line[1].isupper() == lines[first][1].isupper()]
    if len(lines) > 1 and _runs([line[1] for line in lines]):
        texts = [question[line.end() :].split("\n", 1)[0].strip() for line in lines]
        following = chr(ord(lines[-1][1]) + 1)
        if not any(following == (mark[1] or mark[2]) for text in texts for mark in _MARK.finditer(text)):
            return _checked([line[1] for line in lines], texts, False, field)
    found = _on_one_line(question, field)
    if found is None and len(lines) > 1:
        raise RowError(
            field, f"lists options {[line[1] for line in lines]}, expected A, B, ... once each", "bad_options"
        )
    return found


def _on_one_line(question: str, field: str) -> Listed | None:
    marks = list(_MARK.finditer(question))
    starts = [(mark, strong) for mark in marks if (mark[1] or mark[2]) in "Aa" and (strong := _begins(question, mark))]
    if not starts:
        return None
    asked = question.rfind("?", 0, starts[-1][0].start())
    start, strong = next(((mark, strong) for mark, strong in starts if mark.start() > asked), starts[0])
    upper = (start[1] or start[2]).isupper()
    end = question.find("\n", start.end())
    end = len(question) if end < 0 else end
    while end < len(question):  # further lines belong to it as long as they begin with a letter
        line = re.compile(r"\s*").match(question, end).end()
        if not _LINE.match(question, line):
            break
        end = question.find("\n", line)
        end = len(question) if end < 0 else end
    marks = [mark for mark in marks if start.start() <= mark.start() < end]
    marks = [mark for mark in marks if (mark[1] or mark[2]).isupper() == upper]
    letters = [mark[1] or mark[2] for mark in marks]
    if len(letters) < 2 or (strong == "weak" and letters[:2] not in (["A", "B"], ["a", "b"])):
        return None
    kept = _kept(letters, field)
    places = [marks[place] for place in kept]
    ends = [mark.start() for mark in places[1:]] + [end]
    texts = [_without_separator(question[mark.end() : stop]) for mark, stop in zip(places, ends, strict=True)]
    return _checked([letters[place] for place in kept], texts, True, field)


def _begins(question: str, mark: re.Match) -> str:
    """How sure it is that a list begins at a letter A: "strong", "weak", "" = it is none (an initial, a name in brackets)."""
    before = question[: mark.start()]
    if not before.strip():
        return ""
    last, asked_later = before.rstrip()[-1], "?" in question[mark.end() :]
    if last == "?" or re.search(r"(?i)\b(?:options|choices|answers)\s*:\s*$", before):
        return "strong"
    if last == ":" or before.rstrip(" \t(（").endswith("\n"):
        return "weak" if asked_later else "strong"
    return "weak" if last in ".!;,)" and not asked_later else ""


def _runs(letters: Sequence[str]) -> bool:
    start = "A" if letters[0].isupper() else "a"
    return [ord(letter) - ord(start) for letter in letters] == list(range(len(letters)))


def _kept(letters: Sequence[str], field: str) -> list[int]:
    """Places of the letters that begin options: A, B, C, ... in order.

    Raises:
      RowError: one of these occurs twice, or another letter stands where an option could begin.
    """
    wanted = string.ascii_uppercase if letters[0].isupper() else string.ascii_lowercase
    kept: list[int] = []
    for place, letter in enumerate(letters):
        if len(kept) < MOST and letter == wanted[len(kept)]:
            kept.append(place)
    known = wanted[: len(kept) + 1]  # those that were found and the one that would follow
    odd = [
        letter for place, letter in enumerate(letters) if place not in kept and (letter in known or place > kept[-1])
    ]
    if odd or len(kept) < 2:
        raise RowError(
            field, f"lists options by the letters {list(letters)}, expected A, B, ... once each", "ambiguous_options"
        )
    return kept


def _checked(letters: Sequence[str], texts: Sequence[str], open_end: bool, field: str) -> Listed:
    plain = [text.rstrip(" .") for text in texts]
    if not all(plain) or len(set(plain)) != len(plain):
        raise RowError(field, f"has empty or equal options {list(texts)}", "bad_options")
    return Listed(tuple(letters), tuple(texts), open_end)


def _without_separator(text: str) -> str:
    """An option of several on one line, without what separates it from the next."""
    return text.strip().rstrip(" ,;")


def split_options(text: str, field: str) -> tuple[str, tuple[str, ...]]:
    """(question, options) of "... ? A. one B. two": letters that go on from A, behind the last question mark.

    Raises:
      RowError: fewer than two options, an empty one, or a letter that may or may not begin one.
    """
    start = text.rfind("?", 0, (text.rfind("A. ") if "A. " in text else len(text)) + 1) + 1
    head, tail = text[:start], text[start:]
    marks = list(_MINDCUBE.finditer(tail))
    first = next((place for place, mark in enumerate(marks) if mark[1] == "A"), len(marks))
    marks = marks[first:]
    if len(marks) < 2 or not head.strip():
        raise RowError(field, "lists no options A., B., ... behind a question mark", "no_options")
    kept = [marks[place] for place in _kept([mark[1] for mark in marks], field)]
    ends = [mark.start() for mark in kept[1:]] + [len(tail)]
    options = [_without_separator(tail[mark.end() : end]) for mark, end in zip(kept, ends, strict=True)]
    _checked([mark[1] for mark in kept], options, False, field)
    return f"{head.strip()} {tail[: kept[0].start()].strip()}".strip(), tuple(options)


def stated_options(value: object, field: str) -> tuple[str, ...]:
    """The texts of a field of options, without the letters that may stand in front of all of them; () for none.

    Raises:
      RowError: no list of 2 to 26 different texts.
    """
    if value is None or value == []:
        return ()
    good = isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
    if not good or not 2 <= len(value) <= MOST or len({one.strip().rstrip(" .") for one in value}) != len(value):
        raise RowError(field, f"is {str(value)[:60]!r}, expected a list of 2 to {MOST} different texts", "bad_options")
    marks = [_LETTER_AND_TEXT.fullmatch(one.strip()) for one in value]
    if all(marks) and _runs([mark[1] for mark in marks]) and len({mark[2].strip() for mark in marks}) == len(marks):
        return tuple(mark[2].strip() for mark in marks)
    return tuple(one.strip() for one in value)


def same_options(listed: Listed, stated: Sequence[str]) -> bool:
    """Whether a question lists what a field of options says."""
    return len(listed.texts) == len(stated) and all(
        _is(listed, place, text) for place, text in enumerate(map(_plain, stated))
    )


def form_of(answer: str, listed: Listed | None, field: str, by_letter: bool = False) -> tuple[str, str]:
    """(answer, form): "letter" (its letter alone), "number" or "word" (as it is).

    With options an answer is a letter of one ("B", "(b)", "B. blue"), an option's text, several letters of options, or a
    sentence that says an option's text, concludes with its letter ("so the answer is B") or explains it on further lines.

    Args:
      answer: a text that is not empty.
      listed: the question's options, None = it has none and any answer will do.
      field: for messages.
      by_letter: only a letter or an option's text will do, and becomes the letter.

    Raises:
      RowError: none of the options.
    """
    if listed is None:
        return answer, "number" if re.fullmatch(r"[-+]?\d+(\.\d+)?", answer) else "word"
    by_name = {letter.upper(): place for place, letter in enumerate(listed.letters)}
    texts = [_plain(text) for text in listed.texts]
    alone = _ONE_LETTER.fullmatch(answer)
    if alone and alone[1].upper() in by_name:
        return listed.letters[by_name[alone[1].upper()]], "letter"
    said = [place for place in range(len(texts)) if _is(listed, place, _plain(answer))]
    if said:
        return (listed.letters[said[0]], "letter") if by_letter else (answer, "word")
    both = _LETTER_AND_TEXT.fullmatch(answer)
    place = by_name.get(both[1].upper()) if both else None
    if place is not None and _is(listed, place, _plain(both[2])):
        return listed.letters[place], "letter"
    explained = both is None or _FIRST_LINE.match(answer) or (place is not None and _says(both[2], texts[place], True))
    sentence = not by_letter and not alone and explained
    if sentence and _stands(answer, listed, texts):
        return answer, "word"
    raise RowError(field, f"'{answer[:60]}' is none of the options {list(listed.letters)}", "answer_not_among_options")


def _stands(answer: str, listed: Listed, texts: Sequence[str]) -> bool:
    """Whether a longer answer is about the options."""
    if _SOME_LETTERS.fullmatch(answer):
        return set(re.findall(r"\b[A-Z]\b", answer)) <= set(listed.letters)
    if first := _FIRST_LINE.match(answer):
        return first[1] in listed.letters
    if concluded := _CONCLUDED.findall(answer):
        named = [letter for letter in concluded if letter.isupper() == listed.letters[0].isupper()]
        if named:
            return named[-1] in listed.letters
    return any(_says(answer, text) for text in texts)


def _says(answer: str, text: str, first: bool = False) -> bool:
    """Whether the words of an option stand in an answer, or begin it."""
    found = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", _plain(answer)) if text else None
    return found is not None and (not first or found.start() == 0)


def _is(listed: Listed, place: int, plain: str) -> bool:
    own = _plain(listed.texts[place])
    if listed.open_end and place == len(listed.texts) - 1 and plain:
        return _says(own, plain, True)
    return own == plain


def _plain(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return (text.strip(" .,;:!\"'") or text).casefold()
