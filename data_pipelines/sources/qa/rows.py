"""One row of a question file, checked: its media, its turns, and every problem with field and expected form."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from data_pipelines.sources.qa.options import Listed, form_of, listed_options, same_options, stated_options
from data_pipelines.sources.qa.problems import Checks, RowError

TAG = re.compile(r"<(image|video)>")
# What tokenizers of the supported families read as markup. A space behind the "<" makes it plain text.
_MARKUP = re.compile(
    r"<(?=\||/?s>|pad>|unk>|/?img>|IMG_CONTEXT>|/?image>|/?video>|view:|/?box>|/?ref>|/?quad>|bos>|end>|empty_output>)"
)
_NO_TEXT = re.compile("[\\0\\ud800-\\udfff]")


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
    options: tuple[str, ...] = ()  # that a field states; those in the question's text stay there
    form: str = "word"  # "letter", "number" or "word", of the first turn's answer
    marks: tuple = ()  # of `markers.Mark`: points and boxes to draw
    clip: tuple[float, float] | None = None  # of the video: seconds
    frames: tuple[int, int] | None = None  # of the video: numbers of the first and the last frame
    notes: tuple[str, ...] = ()  # what was changed, by the names of counts; "field:NAME" of a field that is not read


def text_of(value: object, field: str) -> str:
    """A text that is not empty.

    Raises:
      RowError: something else.
    """
    if not isinstance(value, str):
        raise RowError(field, f"is {shown(value)}, expected a text", "not_a_text")
    if not value.strip():
        raise RowError(field, "is empty, expected a text", "empty_text")
    if _NO_TEXT.search(value):
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
    return escaped(without_tags(text_of(value, field), field))


def without_tags(text: str, field: str) -> str:
    """The text, if it holds no tag of media.

    Raises:
      RowError: it does.
    """
    if TAG.search(text):
        raise RowError(
            field, f"'{text[:60]}' holds the tag of a picture or video, which no answer can", "tag_in_answer"
        )
    return text


def escaped(text: str) -> tuple[str, tuple[str, ...]]:
    """(text, notes): what a tokenizer would read as markup gets a space behind its "<"."""
    plain = _MARKUP.sub("< ", text)
    return plain, (("markup_escaped",) if plain != text else ())


def plain(value: object, field: str) -> str:
    """A name: a text or a whole number as it is, anything else is none.

    Raises:
      RowError: letters that cannot be written.
    """
    if isinstance(value, str):
        return text_of(value, field) if value.strip() else ""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def listed_media(checks: Checks, fields: Mapping, pictures: Sequence[str], videos: Sequence[str]) -> dict[str, list]:
    """Paths by kind that a row's fields of these names hold, in this order; problems go to `checks`."""
    read = {"image": (media_paths, pictures), "video": (video_paths, videos)}
    return {
        kind: [path for name in names for path in checks(paths, fields.get(name), name, default=[])]
        for kind, (paths, names) in read.items()
    }


def media_paths(value: object, field: str) -> list[str]:
    """Paths of a field that holds one or a list of them; nothing for null.

    Raises:
      RowError: something else.
    """
    values = [] if value is None else value if isinstance(value, list) else [value]
    checks = Checks()
    for number, one in enumerate(values):
        if not isinstance(one, str) or not one.strip():
            checks.add(f"{field}[{number}]", f"is {shown(one)}, expected a path", "bad_media")
    checks.close()
    return [one.strip() for one in values]


def video_paths(value: object, field: str) -> list[str | tuple[str, ...]]:
    """Videos of a field: a path, or a list of paths and of lists of pictures; nothing for null.

    Raises:
      RowError: something else.
    """
    found, checks = [], Checks()
    for number, one in enumerate([] if value is None else value if isinstance(value, list) else [value]):
        paths = checks(media_paths, one, f"{field}[{number}]")
        if paths == []:
            checks.add(f"{field}[{number}]", "is an empty list of frames", "bad_media")
        elif paths:
            found.append(tuple(paths) if isinstance(one, list) else paths[0])
    checks.close()
    return found


def in_order(messages: Sequence[tuple], listed: Mapping[str, Sequence], field: str) -> list[Media]:
    """The listed media in the order of their tags; without tags pictures first.

    Args:
      messages: (role, content, field), of which users' texts count.
      listed: "image" and "video" -> what the row lists.
      field: for messages.

    Raises:
      RowError: another number of tags than of media, or tags of the other kind.
    """
    texts = [content for role, content, _ in messages if role == "user" and isinstance(content, str)]
    tags = [tag[1] for text in texts for tag in TAG.finditer(text)]
    left = {kind: list(values) for kind, values in listed.items()}
    number = sum(map(len, left.values()))
    if not tags:
        return [Media(kind, one) for kind, values in left.items() for one in values]
    if len(tags) != number:
        raise _tags(field, f"{len(tags)} tags of media for {number} pictures or videos")
    if not left["image"] and set(tags) == {"image"}:
        tags = ["video"] * len(tags)  # the common mistake of writing <image> for videos
    found = []
    for kind in tags:
        if not left[kind]:
            raise _tags(field, f"has more <{kind}> tags than {kind}s are listed")
        found.append(Media(kind, left[kind].pop(0)))
    return found


def place_media(texts: Sequence[str], media: Sequence[Media], field: str) -> tuple[list[str], tuple[str, ...]]:
    """(questions without tags, notes): leading tags are left out, later ones name their picture.

    A row whose texts have no tag at all shows its media first. `<image>` may stand for a video.

    Args:
      texts: the questions of all turns.
      media: in the order of the prompt.
      field: for messages.

    Raises:
      RowError: another number of tags than of media, or nothing beside them.
    """
    tags = sum(len(TAG.findall(text)) for text in texts)
    if tags and tags != len(media):
        raise _tags(field, f"{tags} tags of media for {len(media)} pictures or videos")
    notes = ("media_without_tags",) if media and not tags else ()
    pictures = [sum(one.kind == "image" for one in media[:place]) for place in range(len(media))]
    many = sum(one.kind == "video" for one in media) > 1
    found, place, leading, checks = [], 0, True, Checks()
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
            checks.add(field, f"turn {number + 1} asks nothing beside its media", "empty_text")
        found.append(whole)
        leading = False
    checks.close()
    return found, notes


@dataclasses.dataclass(frozen=True)
class Turns:
    """A conversation, checked."""

    turns: tuple[tuple[str, str], ...]
    form: str
    options: tuple[str, ...]
    notes: tuple[str, ...]


def turns_of(
    checks: Checks, messages: Sequence[tuple], media: Sequence[Media] | None, field: str, options: object = None
) -> Turns | None:
    """The turns of messages (role, content, field); a system message is put before the first question.

    Args:
      checks: keeps roles that do not alternate from user to assistant, no answer at the end, bad texts, options that
        cannot be read, and answers that are none of them.
      messages: in order.
      media: in the order of the prompt; None = their own mistake is known already.
      field: for messages.
      options: of the row's field `options`, which belong to a single question.

    Returns:
      None if anything was found.
    """
    system, questions, answers, places, notes, before = "", [], [], [], (), len(checks.found)
    broken = False
    for number, (role, content, where) in enumerate(messages):
        if role == "system" and number == 0:
            system = checks(text_of, content, where, default="") if content not in (None, "") else ""
            notes += ("system_messages_moved",) if system else ()
        elif role == "user" and len(questions) == len(answers):
            questions.append(checks(text_of, content, where, default=""))
        elif role == "assistant" and len(questions) == len(answers) + 1:
            answer, own = checks(answer_of, content, where, default=("", ()))
            answers.append(answer)
            places.append((messages[number - 1][2], where))
            notes += own
        else:
            if not broken:
                wrong = f"role '{role}' out of turn: expected user and assistant by turns"
                checks.add(where, wrong, "roles_out_of_turn")
            broken = True
    if not broken and (not answers or len(questions) != len(answers)):
        checks.add(field, "ends without an answer" if questions else "holds no question", "no_answer")
    stated = checks(stated_options, options, "options", default=())
    for number, one in enumerate(stated):
        checks(text_of, one, f"options[{number}]")
    if stated and len(answers) > 1:
        checks.add("options", "stand beside several questions: list them in their texts", "bad_options")
    if len(checks.found) > before or media is None:
        return None
    placed = checks(place_media, questions, media, field)
    if placed is None:
        return None
    questions, own = placed
    forms = [
        checks(
            choice_of, question, answer, tuple(escaped(one)[0] for one in stated), *where, default=(answer, "word", ())
        )
        for question, answer, where in zip(questions, answers, places, strict=True)
    ]
    notes += own + tuple(
        "answers_as_letters" for (said, *_), answer in zip(forms, answers, strict=True) if said != answer
    )
    if system:
        plain, more = escaped(TAG.sub("", system))
        questions[0], notes = f"{plain}\n{questions[0]}", notes + more
    turns = tuple((question, said) for question, (said, *_) in zip(questions, forms, strict=True))
    return Turns(turns, *forms[0][1:], notes) if len(checks.found) == before else None


def choice_of(
    question: str, answer: str, stated: Sequence[str], asked_in: str, answered_in: str
) -> tuple[str, str, tuple[str, ...]]:
    """(answer, form, options to show) of a question whose options stand in its text, in a field (`stated`), or nowhere.

    Raises:
      RowError: the two differ, or the answer is none of the options.
    """
    listed = listed_options(question, asked_in)
    if not stated:
        return *form_of(answer, listed, answered_in), ()
    plain = tuple(stated)
    if listed is not None and not same_options(listed, plain):
        raise RowError("options", f"is {list(plain)}, the question lists {list(listed.texts)}", "bad_options")
    own = Listed(tuple(chr(ord("A") + place) for place in range(len(plain))), plain)
    return *form_of(answer, listed or own, answered_in, by_letter=True), () if listed else plain


def _tags(field: str, problem: str) -> RowError:
    return RowError(field, problem, "tags_do_not_match_media")


def shown(value: object) -> str:
    """A value for a message, cut to 60 letters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
