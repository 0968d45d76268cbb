"""One row of a question file, checked: its media, its turns, and every problem with field and expected form."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

TAG = re.compile(r"<(image|video)>")
# What tokenizers of the supported families read as markup. A space behind the "<" makes it plain text.
_MARKUP = re.compile(
    r"<(?=\||/?s>|pad>|unk>|/?img>|IMG_CONTEXT>|/?image>|/?video>|view:|/?box>|/?ref>|/?quad>|bos>|end>|empty_output>)"
)
_LETTER_LINE = re.compile(r"^\s*\(?([A-Z])[.):]\s", re.MULTILINE)
MEDIA_KINDS = ("image", "video")


class RowError(ValueError):
    """A row that cannot be used: the field, and what is wrong with it or was expected.

    Args:
      field: name of the field, "" = the whole row.
      problem: what is wrong.
      kind: one word for the counts.
    """

    def __init__(self, field: str, problem: str, kind: str):
        self.field, self.problem, self.kind = field, problem, kind
        super().__init__(f"'{field}': {problem}" if field else problem)


@dataclasses.dataclass(frozen=True)
class Media:
    """One picture or video in the order of the prompt."""

    kind: str  # "image" or "video"
    source: str | tuple[str, ...]  # path below the raw folder, a data: URL, or of a video the paths of its frames


@dataclasses.dataclass(frozen=True)
class Row:
    """One conversation.

    In its texts the tags of media at the very beginning are left out, since pictures come first in every prompt; a
    later one reads `<view:K>` (a picture, K from 0) or "the video".
    """

    media: tuple[Media, ...]
    turns: tuple[tuple[str, str], ...]  # (question, answer), at least one
    id: str = ""
    type: str = "own"
    scene: str = ""  # "" = known from the media's paths alone
    options: tuple[str, ...] = ()
    form: str = "word"  # "letter", "number" or "word", of a single turn's answer
    marks: tuple = ()  # of `markers.Mark`: points and boxes to draw
    clip: tuple[float, float] | None = None  # seconds of the video
    notes: tuple[str, ...] = ()  # what was changed, by the names of counts


def text_of(value: object, field: str) -> str:
    """A text that is not empty.

    Raises:
      RowError: something else.
    """
    if not isinstance(value, str):
        raise RowError(field, f"is {_shown(value)}, expected a text", "not_a_text")
    if not value.strip():
        raise RowError(field, "is empty, expected a text", "empty_text")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RowError(field, "holds letters that are no text (NUL or half a pair)", "broken_text")
    return value.strip()


def answer_of(value: object, field: str) -> tuple[str, tuple[str, ...]]:
    """(answer, notes); a finite number becomes its text.

    Raises:
      RowError: null, something that is neither text nor number, or a tag of media.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value != value or value in (float("inf"), float("-inf")):
            raise RowError(field, f"is {value}, expected a text or a finite number", "not_a_text")
        return str(value), ("numbers_as_text",)
    text = text_of(value, field)
    if TAG.search(text):
        raise RowError(
            field, f"'{text[:60]}' holds the tag of a picture or video, which no answer can", "tag_in_answer"
        )
    return escaped(text)


def escaped(text: str) -> tuple[str, tuple[str, ...]]:
    """(text, notes): what a tokenizer would read as markup gets a space behind its "<"."""
    plain = _MARKUP.sub("< ", text)
    return plain, (("markup_escaped",) if plain != text else ())


def media_paths(value: object, field: str) -> list[str]:
    """Paths of a field that holds one or a list of them; nothing for null.

    Raises:
      RowError: something else.
    """
    values = [] if value is None else value if isinstance(value, list) else [value]
    for number, one in enumerate(values):
        if not isinstance(one, str) or not one.strip():
            raise RowError(f"{field}[{number}]", f"is {_shown(one)}, expected a path", "bad_media")
    return [one.strip() for one in values]


def place_media(texts: Sequence[str], media: Sequence[Media], field: str) -> tuple[list[str], tuple[str, ...]]:
    """(questions without tags, notes): leading tags are left out, later ones name their picture.

    A row whose texts have no tag at all shows its media first. `<image>` may stand for a video.

    Args:
      texts: the questions of all turns.
      media: in the order of the prompt.
      field: for messages.

    Raises:
      RowError: another number of tags than of media.
    """
    tags = sum(len(TAG.findall(text)) for text in texts)
    if tags and tags != len(media):
        raise RowError(field, f"{tags} tags of media for {len(media)} pictures or videos", "tags_do_not_match_media")
    notes = ("media_without_tags",) if media and not tags else ()
    pictures = [sum(one.kind == "image" for one in media[:place]) for place in range(len(media))]
    many = sum(one.kind == "video" for one in media) > 1
    found, place, leading = [], 0, True
    for number, text in enumerate(texts):
        pieces, at = [], 0
        for tag in TAG.finditer(text):
            before = text[at : tag.start()]
            at = tag.end()
            leading = leading and number == 0 and not before.strip() and not "".join(pieces).strip()
            plain, own = escaped(before)
            notes += own
            name = ""
            if not leading:
                one = media[place]
                video = f"video {place - pictures[place] + 1}" if many else "the video"
                name = f"<view:{pictures[place]}>" if one.kind == "image" else video
                notes += ("media_inside_text",)
            pieces += [plain, name]
            place += 1
        plain, own = escaped(text[at:])
        notes += own
        whole = "".join([*pieces, plain]).strip()
        if not whole:
            raise RowError(field, f"turn {number + 1} asks nothing beside its media", "empty_text")
        found.append(whole)
        leading = False
    return found, notes


def turns_of(messages: Sequence[tuple[str, object, str]], media: Sequence[Media], field: str) -> tuple[tuple, tuple]:
    """(turns, notes) of messages (role, content, field); a system message is put before the first question.

    Raises:
      RowError: roles that do not alternate from user to assistant, no answer at the end, or bad texts.
    """
    system, questions, answers, notes = "", [], [], ()
    for number, (role, content, where) in enumerate(messages):
        if role == "system" and number == 0:
            system = text_of(content, where) if content not in (None, "") else ""
            notes += ("system_messages_moved",) if system else ()
        elif role == "user" and len(questions) == len(answers):
            questions.append(text_of(content, where))
        elif role == "assistant" and len(questions) == len(answers) + 1:
            answer, own = answer_of(content, where)
            answers.append(answer)
            notes += own
        else:
            raise RowError(
                where, f"role '{role}' out of turn: expected user and assistant by turns", "roles_out_of_turn"
            )
    if not answers or len(questions) != len(answers):
        raise RowError(field, "ends without an answer" if questions else "holds no question", "no_answer")
    questions, own = place_media(questions, media, field)
    if system:
        plain, more = escaped(TAG.sub("", system))
        questions[0], own = f"{plain}\n{questions[0]}", own + more
    return tuple(zip(questions, answers, strict=True)), notes + own


def form_of(question: str, answer: str, field: str) -> str:
    """ "letter", "number" or "word"; a lone capital letter must be one of the options that the question lists.

    Raises:
      RowError: a letter that no option has.
    """
    listed = _LETTER_LINE.findall(question)
    letter = re.fullmatch(r"\(?([A-Z])\)?[.)]?", answer)
    if letter and len(listed) > 1:
        if letter[1] not in listed:
            raise RowError(field, f"'{answer}' is none of the options {listed}", "answer_not_among_options")
        return "letter"
    return "number" if re.fullmatch(r"[-+]?\d+(\.\d+)?", answer) else "word"


def split_options(text: str, field: str) -> tuple[str, tuple[str, ...]]:
    """(question, options) of "... ? A. one B. two": letters that go on from A, behind the last question mark.

    Raises:
      RowError: fewer than two options, or an empty one.
    """
    start = text.rfind("?", 0, (text.rfind("A. ") if "A. " in text else len(text)) + 1) + 1
    head, tail, places = text[:start], text[start:], []
    at = 0
    for number in range(26):
        mark = re.compile(rf"(?:^|\s){chr(ord('A') + number)}\.\s+").search(tail, at)
        if mark is None:
            break
        places.append((mark.start(), mark.end()))
        at = mark.end() - 1
    if len(places) < 2 or not head.strip():
        raise RowError(field, "lists no options A., B., ... behind a question mark", "no_options")
    ends = [start for start, _ in places[1:]] + [len(tail)]
    options = tuple(tail[stop:end].strip() for (_, stop), end in zip(places, ends, strict=True))
    between = tail[: places[0][0]].strip()
    if not all(options) or len(set(options)) != len(options):
        raise RowError(field, f"has empty or equal options {list(options)}", "bad_options")
    return f"{head.strip()} {between}".strip(), options


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
