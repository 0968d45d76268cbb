"""Numbers in answers: lmms-eval's and SPBench's parsers, and the relative accuracy of the harnesses that divide safely."""

from __future__ import annotations

import re

import numpy as np

from spatialsv_jax.metrics.answers import MRA_CONFIDENCES

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
WORDS = {word: value for value, word in enumerate(_UNITS)}
WORDS |= {word: 10 * (place + 2) for place, word in enumerate(_TENS)} | {"hundred": 100, "thousand": 1000}


def first_number(text: str) -> float | None:
    """VSI-Bench in lmms-eval 0.7.3: the first number, in digits or English words, whichever stands first.

    A run of number words ("three hundred and twenty-one") is one number. Digits are -?d+(.d+)? and nothing else: ".5"
    gives 5, "1,250" 1, "1/2" 1, "1e1" 1, "three point five" 3.
    """
    text = text.strip().lower()
    digits = re.search(r"-?\d+(?:\.\d+)?", text)
    run: list[int] = []
    start = len(text)
    for match in re.finditer(r"[a-z]+", text):
        if match.group() in WORDS:
            start = start if run else match.start()
            run.append(WORDS[match.group()])
        elif run and match.group() != "and":
            break
    if digits and digits.start() < start:
        return float(digits.group())
    if not run:
        return None
    total = current = 0
    for value in run:
        if value == 1000:
            total, current = total + max(current, 1) * 1000, 0
        elif value == 100:
            current = max(current, 1) * 100
        else:
            current += value
    return float(total + current)


# In the order in which SPBench's scorer looks for them: this order, not that of the text, decides.
_SPBENCH_WORDS = {word: WORDS[word] for word in _UNITS[1:]} | {word: WORDS[word] for word in _TENS}
_SPBENCH_WORDS |= {"zero": 0, "a": 1, "an": 1}


def spbench_number(text: str) -> float | None:
    """SPBench: the first of its list of words that occurs anywhere ("a" and "an" are 1), else the first digits."""
    text = text.strip().lower()
    for word, value in _SPBENCH_WORDS.items():
        if re.search(rf"\b{word}\b", text):
            return float(value)
    match = re.search(r"\d+(?:\.\d+)?", text)
    return float(match.group()) if match else None


def spar_number(text: str, last: bool) -> float | None:
    """SPAR-Bench: the first (or last) unsigned number that no ^ precedes."""
    found = re.findall(r"(?<!\^)\d+\.\d+|(?<!\^)\d+", text)
    return float(found[-1 if last else 0]) if found else None


def relative_accuracy(prediction: float, truth: float) -> float:
    """Share of C = linspace(0.5, 0.95, 10) with |(p - y) / y| <= 1 - C, with |p - y| instead where y = 0.

    The form of SPAR-Bench and VLMEvalKit; for y > 0 it equals `metrics.mean_relative_accuracy`.
    """
    error = abs((prediction - truth) / truth) if truth != 0 else abs(prediction - truth)
    return float(np.mean(error <= 1 - MRA_CONFIDENCES))


# Positive and negative word of each axis of a change of view.
_AXES = (
    ("move_right", "move_left"),
    ("move_up", "move_down"),
    ("move_forward", "move_backward"),
    ("rotate_right", "rotate_left"),
    ("rotate_up", "rotate_down"),
)


def view_change(text: str) -> dict[str, float]:
    """SPAR-Bench's "move_right:1.5,rotate_left:30" as a table.

    Raises:
      ValueError: a part without exactly one colon, or without a number behind it.
    """
    parts = [part.split(":") for part in text.split(",")]
    return {name: float(value) for name, value in parts}


def lenient_view_change(text: str) -> dict[str, float]:
    """VLMEvalKit's reading of the same: parts that are no "name:number" are passed over."""
    table = {}
    for part in text.split(","):
        name, _, value = part.partition(":")
        try:
            table[name.strip()] = float(value.strip())
        except ValueError:
            continue
    return table


def view_change_accuracy(prediction: dict[str, float], truth: dict[str, float], swapped: bool) -> float:
    """Mean relative accuracy over the five signed axes; `swapped`: relative to the prediction, as published."""
    scores = []
    for plus, minus in _AXES:
        said, true = (table.get(plus, 0) - table.get(minus, 0) for table in (prediction, truth))
        scores.append(relative_accuracy(true, said) if swapped else relative_accuracy(said, true))
    return float(np.mean(scores))
