"""Question types, answer forms and the vocabulary that questions are written in.

A question is first a `Draft`: its text and one-word answer, with what the other two forms need.
`finish` turns it into a `Question` in the form asked for:

- "word": one word of an open vocabulary; measures are number words of a stated unit;
- "letter": the letter of one of two to four shuffled options, which stand in `Question.options`,
  not in the text (`packing.question_prompt` writes them out);
- "number": counts as whole numbers and measures with one decimal ("2.4"); types whose answer is
  no number are asked in the word form, and `Question.form` then says "word".
"""

from __future__ import annotations

import dataclasses
import functools

from data_pipelines.records import Question
from data_pipelines.rooms.questions.dice import Dice

FORMS = ("word", "letter", "number")
LETTERS = ("A", "B", "C", "D")

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def number_word(value: int) -> str:
    """The English word of 0 <= value <= 100, hyphenated so that it stays one token ("twenty-five")."""
    if not 0 <= value <= 100:
        raise ValueError(f"number_word({value}): only 0 to 100 have a word here.")
    if value == 100:
        return "hundred"
    if value < 20:
        return _SMALL[value]
    tens, unit = divmod(value, 10)
    return _TENS[tens - 2] + (f"-{_SMALL[unit]}" if unit else "")


def number_value(word: str) -> int:
    """Inverse of `number_word`."""
    return _VALUES[word]


CLASS_MARGIN = 0.35  # of a class width: a measure this near to its class centre keeps its word
HALF_METRE = 0.5  # metres of a class of HALF_METRES


def measure_word(value: float, unit: float, scale: tuple[str, ...], step: int = 1) -> str | None:
    """The word of `scale` whose multiple of `unit` a measure is near; None outside or near a border."""
    place = value / unit
    whole = round(place)
    if abs(place - whole) > CLASS_MARGIN or not 1 <= whole <= len(scale):
        return None
    return number_word(whole * step)


_VALUES = {number_word(value): value for value in range(101)}
COLUMNS = ("leftmost", "left", "right", "rightmost")
ROWS = ("top", "upper", "lower", "bottom")
COUNTS = tuple(number_word(value) for value in range(4))
ROOM_COUNTS = tuple(number_word(value) for value in range(1, 5))
HALF_METRES = tuple(number_word(value) for value in range(1, 13))
QUARTER_METRES = tuple(number_word(value) for value in range(1, 11))
FIVES = tuple(number_word(value) for value in range(5, 101, 5))
SIDES = ("left", "right")
SIDES_BEHIND = ("left", "right", "behind")
QUARTERS = ("front-left", "front-right", "back-left", "back-right")
TURNS = ("left", "right", "back")


@dataclasses.dataclass(frozen=True)
class QuestionType:
    """A kind of question.

    `classes` are the answers that are drawn equally often; () where the answer is any category or
    colour that the record offers. `choices` is how many answers the text leaves open, so that
    1 / choices is chance; 0 = as many as there are categories (colours). `numeric` types have a
    number form.
    """

    group: str
    classes: tuple[str, ...] = ()
    choices: int = 0
    numeric: bool = False


TYPES: dict[str, QuestionType] = {
    "presence": QuestionType("grounding", ("yes", "no"), 2),
    "name_at": QuestionType("grounding"),
    "colour_at": QuestionType("grounding"),
    "colour_of": QuestionType("grounding"),
    "count": QuestionType("grounding", COUNTS, len(COUNTS), numeric=True),
    "left_right": QuestionType("grounding", SIDES, 2),
    "nearer": QuestionType("grounding", ("nearer", "farther"), 2),
    "where": QuestionType("grounding", COLUMNS + ROWS, 4),
    "depth_at": QuestionType("grounding", HALF_METRES, len(HALF_METRES), numeric=True),
    "names_along": QuestionType("scan"),
    "colours_along": QuestionType("scan"),
    "depths_along": QuestionType("scan"),
    "object_count": QuestionType("spatial", ROOM_COUNTS, len(ROOM_COUNTS), numeric=True),
    "object_abs_distance": QuestionType("spatial", HALF_METRES, len(HALF_METRES), numeric=True),
    "camera_distance": QuestionType("spatial", HALF_METRES, len(HALF_METRES), numeric=True),
    "object_size": QuestionType("spatial", QUARTER_METRES, len(QUARTER_METRES), numeric=True),
    "room_size": QuestionType("spatial", FIVES, len(FIVES), numeric=True),
    "object_rel_distance": QuestionType("spatial", choices=3),
    "object_rel_direction_easy": QuestionType("spatial", SIDES, 2),
    "object_rel_direction_medium": QuestionType("spatial", SIDES_BEHIND, 3),
    "object_rel_direction_hard": QuestionType("spatial", QUARTERS, 4),
    "object_appearance_order": QuestionType("spatial", choices=3),
    "route_planning": QuestionType("spatial", TURNS, 3),
    "view_perspective": QuestionType("spatial", SIDES_BEHIND, 3),
}


@dataclasses.dataclass(frozen=True)
class Words:
    """Categories and colours that questions may name."""

    categories: tuple[str, ...]
    colours: tuple[str, ...]


@functools.cache
def default_words() -> Words:
    """The words of the procedural furniture."""
    from data_pipelines.rooms import furniture

    return Words(tuple(furniture.CATEGORIES), tuple(furniture.COLOURS))


@dataclasses.dataclass(frozen=True)
class Draft:
    """A question before its answer form is chosen.

    `wrong` are tiers of wrong options, nearer ones first; `scale` the ordered classes of a measure,
    from which neighbours of the answer become the wrong options. `number` and `letter` replace
    (text, answer) and (text, answer, wrong) in those forms.
    """

    type: str
    text: str
    answer: str
    views: tuple[int, ...] = ()
    wrong: tuple[tuple[str, ...], ...] = ()
    scale: tuple[str, ...] = ()
    number: tuple[str, str] | None = None
    letter: tuple[str, str, tuple[str, ...]] | None = None


def _window(scale: tuple[str, ...], answer: str, dice: Dice) -> list[str]:
    """The wrong ones of up to four neighbouring classes; the answer's place among them is uniform."""
    size = min(len(LETTERS), len(scale))
    place = scale.index(answer)
    start = min(max(place - dice.below(size), 0), len(scale) - size)
    return [word for word in scale[start : start + size] if word != answer]


def _options(draft: Draft, dice: Dice) -> tuple[str, str, tuple[str, ...]]:
    text, answer = draft.text, draft.answer
    tiers = draft.wrong
    if draft.letter is not None:
        text, answer, only = draft.letter
        tiers = (only,)
    wrong = _window(draft.scale, answer, dice) if draft.scale else []
    for tier in tiers:
        fresh = [word for word in dict.fromkeys(tier) if word != answer and word not in wrong]
        wrong += dice.shuffled(fresh)[: len(LETTERS) - 1 - len(wrong)]
    return text, answer, tuple(dice.shuffled([answer, *wrong]))


def finish(draft: Draft, form: str, identity: str, dice: Dice) -> Question:
    """The question of a draft in the answer form asked for (see the head of this file)."""
    common = {"id": identity, "type": draft.type, "group": TYPES[draft.type].group, "views": draft.views}
    if form == "letter":
        text, answer, options = _options(draft, dice)
        return Question(form="letter", text=text, answer=LETTERS[options.index(answer)], options=options, **common)
    if form == "number" and draft.number is not None:
        text, answer = draft.number
        return Question(form="number", text=text, answer=answer, **common)
    return Question(form="word", text=draft.text, answer=draft.answer, **common)


def chance_level(question: Question, words: Words | None = None) -> float | None:
    """Expected score of a uniform guess among the answers that the question leaves open; None for numbers and scans."""
    if question.form == "letter":
        return 1.0 / len(question.options)
    if question.form == "number" or question.group == "scan":
        return None
    choices = TYPES[question.type].choices
    if not choices:
        words = words or default_words()
        choices = len(words.categories if question.type == "name_at" else words.colours)
    return 1.0 / choices


_TEXT_WORDS = """
a along an and apart appear appears are as at away back bare behind bottom ceiling closest colour colours column
decimetres do does face farther first five floor from half how in is it left leftmost long longest lower make many
metres nearer nearest no objects of on or order quarter right rightmost room row show side square stand than the then
there things to top turn turns unclear upper view views walk wall way what where which yes you your
"""
_SYMBOLS = "? . , :"


def vocabulary(words: Words | None = None) -> list[str]:
    """Every word and symbol that questions, options and answers can hold, sorted.

    Texts split at white space; `<view:K>` counts as "view" and a number, numbers as single digits
    and the point.

    Args:
        words: categories and colours; default those of `furniture`. Give your own with other assets.
    """
    words = words or default_words()
    closed = {answer for kind in TYPES.values() for answer in kind.classes}
    own = set(_TEXT_WORDS.split()) | set(_SYMBOLS.split()) | set("0123456789") | set(LETTERS)
    return sorted(own | closed | set(words.categories) | set(words.colours))
