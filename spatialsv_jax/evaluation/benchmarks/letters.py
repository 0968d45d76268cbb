"""How the benchmarks' own code and lmms-eval 0.7.3 find the option letter in an answer.

Each function takes the raw text and returns an upper-case letter, or None where its rule finds none. The rules are the
published ones to the bit, odd ones among them; docs/benchmarks.md has them in words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from spatialsv_jax.metrics.answers import parse_letter


def first_word(text: str) -> str | None:
    """VSI-Bench: the text up to the first blank, without full stops behind, where that is one letter."""
    found = parse_letter(text)
    return found if len(found) == 1 and found.isalpha() else None


def leading(text: str) -> str | None:
    """CV-Bench and EmbSpatial: the first character after blanks and "(", if it is a letter ("The ..." gives "T")."""
    match = re.match(r"[\(\s]*([A-Z])[\)\.\s]*", text.strip(), re.IGNORECASE)
    return match.group(1).upper() if match else None


def of_options(text: str, letters: str) -> str | None:
    """BLINK: a short first line, the last "answer is X", the last "(X)", a leading letter; only among `letters`."""
    text, allowed = text.strip(), re.escape(letters)
    start = text.split("\n", 1)[0].strip()
    if len(start) <= 4 and (match := re.match(rf"\(?([{allowed}])\)?[\.\s:,)]*$", start, re.IGNORECASE)):
        return match.group(1).upper()
    stated = rf"answers?(?:\s+is)?\s*[:\-]?\s*\(?([{allowed}])\)?(?![A-Za-z])"
    for found in (re.findall(stated, text, re.IGNORECASE), re.findall(rf"\(([{allowed}])\)", text)):
        if found:
            return found[-1].upper()
    match = re.match(rf"[\(\s]*([{allowed}])", text, re.IGNORECASE)
    return match.group(1).upper() if match else None


# Of these the last match counts, in this order.
_MINDCUBE_TAGGED = (r"[Mm]y answer is ([A-E])", r"[Tt]he answer is ([A-E])", r"\b([A-E])\b")
_MINDCUBE = (
    r"(?:^|\n)(?:Answer: )?([A-E])(?:\.|$|\s)",
    r"[\*\"]([A-E])[\*\"]",
    r"\bAnswer:?\s*([A-E])\b",
    r"[Mm]y answer is ([A-E])",
    r"answer is ([A-E])",
)


def mindcube(text: str) -> str | None:
    """MindCube: the last "X." (A to E) anywhere, an <Answer> section, set phrases, the lowest line with a lone letter.

    The published list has more patterns; those with a full stop after the letter never get a turn, because the first
    rule has taken every such text.
    """
    text = text.strip()
    if found := re.findall(r"([A-E])\.", text):
        return found[-1]
    section = re.search(r"<Answer>(.*?)(?:<|$)", text, re.DOTALL)
    for part, patterns in ((section.group(1) if section else "", _MINDCUBE_TAGGED), (text, _MINDCUBE)):
        for pattern in patterns:
            if found := re.findall(pattern, part):
                return found[-1]
    for line in reversed(text.split("\n")):
        if match := re.search(r"\b([A-E])\b", line):
            return match.group(1)
    return None


def mmsi(text: str) -> str | None:
    """MMSI-Bench: inside double backticks, then single ones, then braces; the first A to F that is no article."""
    for marks in (r"``([^`]*)``", r"`([^`]*)`", r"\{([^}]*)\}"):
        if match := re.search(marks, text):
            text = match.group(1)
    match = re.search(r"\b[A-F]\b(?!\s[a-zA-Z])", text, re.IGNORECASE)
    return match.group().upper() if match else None


def viewspatial(text: str) -> str | None:
    """ViewSpatial: the first lone a to d of any case in the last line, so the article "a" is option A."""
    match = re.search(r"\b([A-D])\b", text.split("\n")[-1], re.IGNORECASE)
    return match.group(1).upper() if match else None


def viewspatial_fixed(text: str) -> str | None:
    """Ours: in the last line that is not blank, the first lone capital A to D; or a small one that is all there is."""
    line = text.rstrip().split("\n")[-1]
    match = re.search(r"\b([A-D])\b", line) or re.fullmatch(r"\W*([a-d])\W*", line)
    return match.group(1).upper() if match else None


_THREED_SRBENCH = (
    r"^([A-D])[\.\s\)]",
    r"^([A-D])$",
    r"[Aa]nswer[:\s]+([A-D])",
    r"[Tt]he answer is[:\s]+([A-D])",
    r"[Mm]y answer is[:\s]+([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\.",
    r"\b([A-D])\b",
)


def threed_srbench(text: str) -> str | None:
    """3DSRBench in lmms-eval: the first match of the first of eight patterns, capitals A to D."""
    for pattern in _THREED_SRBENCH:
        if match := re.search(pattern, text.strip()):
            return match.group(1)
    return None


_CROSSVIDEO_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)


def crossvideo(text: str) -> str | None:
    """CVBench (cross-video): the first a, b, c, d, "yes" or "no" anywhere, inside words too, after set phrases are cut."""
    text = text.strip()
    for phrase in _CROSSVIDEO_PHRASES:
        text = text.replace(phrase, "")
    if len(text.split()) > 10 and not re.search("[ABCDYESNO]", text):
        return None
    match = re.search(r"[ABCD]|YES|NO", text, re.IGNORECASE)
    return match.group().upper() if match else None


def crossvideo_fixed(text: str) -> str | None:
    """Ours: the same, but a lone capital A to D, or "yes" or "no" as a word of its own in any case."""
    for phrase in _CROSSVIDEO_PHRASES:
        text = text.replace(phrase, "")
    match = re.search(r"\b([A-D]|(?i:yes|no))\b", text) or re.fullmatch(r"\W*([a-d])\W*", text)
    return match.group(1).upper() if match else None


def _one_of(words: Sequence[str], forms: Sequence[str]) -> int | None:
    """Place of the only form that stands among the words; None for none or several."""
    found = [place for place, form in enumerate(forms) if form in words]
    return found[0] if len(found) == 1 else None


# What may stand around a letter that is a word of its own, in the order of the search.
_AROUND = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."),
    (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."),
)  # fmt: skip


def mmbench(text: str, choices: dict[str, str]) -> str | None:
    """MMBench in lmms-eval without a judge: a lone letter A to E, the only option text in it, then `ranked`.

    Args:
      text: the answer.
      choices: texts of A to D; an option that is missing has the text "nan" there, and counts.
    """
    words = text.split()
    if "Failed to obtain answer via API" not in text:
        place = _one_of(words, "ABCDE")
        # A lone "A" in a longer text may be an article.
        if place is not None and not ("A" in words and len(words) > 3):
            return "ABCDE"[place]
        for before, after in _AROUND:
            if (place := _one_of(words, [f"{before}{letter}{after}" for letter in "ABCDE"])) is not None:
                return "ABCDE"[place]
    inside = [letter for letter in choices if choices[letter].lower() in text.lower()]
    return inside[0] if len(inside) == 1 else ranked(text, sorted(choices))


_PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is", "best answer is",
    "the correct option is", "correct option is", "the best option is", "best option is", "the choice is", "choice is",
    "the correct choice is", "correct choice is", "i choose", "i select", "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip


def ranked(text: str, letters: Sequence[str]) -> str | None:
    """lmms-eval's general search: of all sightings the best form, and of these the last one.

    Forms from best to worst: at the start, at the end, behind a phrase, (X), X., X:, X), X and a blank, anywhere.
    """
    text = text.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    bare, text = text.strip(), f" {text} "
    found = []
    for rank, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
        found += [(rank, text.rfind(form.format(x)), x) for x in letters if form.format(x) in text]
    for phrase in _PHRASES:
        if (start := text.lower().find(phrase)) != -1:
            places = [(text.find(x, start + len(phrase)), x) for x in letters]
            found += [(7, place, x) for place, x in places if place != -1]
    for x in letters:
        if bare.startswith(x) and not bare[1:2].isalpha():
            found.append((10, 0, x))
        if bare.endswith(x) and not bare[-2:-1].isalpha():
            found.append((9, len(text) - 1, x))
    if not found:
        found = [(0, text.rfind(x), x) for x in letters if x in text]
    # max keeps the first of equals, as the reference's stable sort does.
    return max(found, key=lambda sighting: sighting[:2])[2] if found else None
