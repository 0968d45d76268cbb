"""How VLMEvalKit reads answers by rule, without a judge: its spatial benchmarks, and its older multiple-choice matcher."""

from __future__ import annotations

import ast
import re

_INVISIBLE = re.compile("[\u200b\u200c\u200d\ufeff]")
_NUMBER = r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?"
WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
_WORD = re.compile(r"\b(" + "|".join(WORDS) + r")\b", re.IGNORECASE)
_TAGGED_NUMBER = re.compile(
    rf"<\s*answer\b[^>]*>\s*({_NUMBER})(?:[^\d<][^<]*)?<\s*/\s*answer\s*>", re.IGNORECASE | re.DOTALL
)
_TAGGED_LETTER = re.compile(
    r"<\s*answer\b[^>]*>\s*([A-J])(?:\s*[\.．:：\)\]】、])?.*?<\s*/\s*answer\s*>", re.IGNORECASE | re.DOTALL
)
_OPEN, _CLOSE = r"[\(\[\{（【]?\s*", r"[\)\]\}）】]?"
_BEFORE_TAG = [
    re.compile(rf"(?<![A-Za-z]){_OPEN}([A-F])\s*{_CLOSE}\s*</\s*{tag}\s*>", re.IGNORECASE)
    for tag in ("answer", "think")
]
_OPTION_LINE = re.compile(r"^(?:[*_>\-\s]*)(?:option|选项)\s+[A-J]\s*[:：]", re.IGNORECASE)
_ONLY_LETTER = re.compile(r"\s*[*_`>（）\[\]【】\(\)]*\s*([A-Fa-f])\s*[*_`（）\[\]【】\(\)]*\s*")
_LABEL = re.compile(r"\s*([A-F])\s*[\.．:：\)\]】、-]\s+", re.IGNORECASE)
_IN_LINE = re.compile(r"(?<![A-Za-z])[*_`（\[\{\(]*\s*([A-F])\s*[*_`）\]\})]*(?=$|[\s\.,:;!?\)\]】》」』，。；、：）])")
_STATED = re.compile(
    r"(?:final\s*answer|the\s*answer\s*is|answer(?:\s*is)?|correct\s*answer|"
    r"答案|最终答案|结论|所以|因此|我选(?:择)?|选择|选)"
    rf"\s*[:：>＝=]?\s*{_OPEN}([A-F])\s*{_CLOSE}(?:\b|[.)、。])",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(rf"(?<![A-Za-z]){_OPEN}([A-F])\s*{_CLOSE}(?![A-Za-z])")


def _after_thinking(text: str) -> str:
    for mark in (r"</\s*think\s*>", r"<\s*think\s*>"):
        if found := list(re.finditer(mark, text, re.IGNORECASE)):
            return text[found[-1].end() :].strip()
    return text


def _lowest(lines: list[str]) -> str | None:
    """The letter of the lowest line that has one (or several times the same)."""
    for line in reversed([line.strip() for line in lines if line.strip()]):
        if _OPTION_LINE.search(line):
            continue
        if match := _ONLY_LETTER.fullmatch(line) or _LABEL.match(line):
            return match.group(1).upper()
        if len(found := set(_IN_LINE.findall(line))) == 1:
            return found.pop()
    return None


def letter(text: str) -> str | None:
    """The spatial benchmarks' search for a letter, in seven steps; A to F, inside <answer> tags up to J.

    <answer>X...; X before a closing tag in the last 800 characters; the last six lines after the thinking; the last six
    lines at all; a phrase ("final answer: X"); a capital that is the only one anywhere.
    """
    text = _INVISIBLE.sub("", text.strip())
    if match := _TAGGED_LETTER.search(text):
        return match.group(1).upper()
    for pattern in _BEFORE_TAG:
        if match := pattern.search(text[-800:]):
            return match.group(1).upper()
    for part in (_after_thinking(text), text[-800:]):
        if found := _lowest(part.splitlines()[-6:]):
            return found
    if match := _STATED.search(text):
        return match.group(1).upper()
    rest = "\n".join(line for line in text.splitlines() if not _OPTION_LINE.search(line))
    found = set(_ANYWHERE.findall(rest))
    return found.pop() if len(found) == 1 else None


def number(text: str) -> float | None:
    """The spatial benchmarks' search for a number: the tagged one, else the last one after the thinking, else the last.

    Number words from zero to twenty become digits first, so "twenty-one" is 20-1 and gives -1. A text in the form of a
    Python list stands for its first element.
    """
    if text.strip().startswith("[") and text.strip().endswith("]"):
        try:
            items = ast.literal_eval(text)
        except Exception:  # whatever the text holds, it is then no number
            return None
        text = str(items[0]) if isinstance(items, list) and items else text
    text = _INVISIBLE.sub("", text.strip())
    text = _WORD.sub(lambda match: str(WORDS.index(match.group(1).lower())), text)
    if match := _TAGGED_NUMBER.search(text):
        return float(match.group(1))
    for part in (_after_thinking(text), text):
        if found := re.findall(_NUMBER, part):
            return float(found[-1])
    return None


_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def refuses(text: str) -> bool:
    """Whether the older matcher takes the answer for a refusal."""
    return any(refusal in text for refusal in _REFUSALS)


def matched_letter(text: str, choices: dict[str, str]) -> str | None:
    """The older matcher ("exact matching"): one letter among the last four words, else the only option text in the answer.

    Args:
      text: the answer.
      choices: letter -> text.

    Returns:
      A letter of `choices`, or None, also for a refusal.
    """
    if "Failed to obtain answer via API" not in text:
        if refuses(text):
            return None
        bare = text
        for mark in ".()[],:;!*#{}":
            bare = bare.replace(mark, " ")
        words = bare.split()
        named = [name for name in choices if name in words]
        if len(named) == 1 and words.index(named[0]) > len(words) - 5:
            return named[0]
        if not named and "Z" in words:
            return None
    if len(text.lower()) > 2 * sum(len(option) for option in choices.values()):
        return None
    inside = [name for name, option in choices.items() if option.lower() in text.lower()]
    return inside[0] if len(inside) == 1 else None
