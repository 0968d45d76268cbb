"""Ego3D-Bench (arXiv 2509.06266): eight categories by letter, two by the root mean squared error of a distance."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spatialsv_jax.evaluation.benchmarks.lines import Line
from spatialsv_jax.evaluation.benchmarks.plan import ALL, Item, Plan, Rule, cluster, known, mean_of, present

DISTANCES = ("Ego_Centric_Absolute_Distance", "Object_Centric_Absolute_Distance")
CHOICES = (
    *(f"{name}_MultiChoice" for name in DISTANCES),
    "Ego_Centric_Relative_Distance", "Object_Centric_Relative_Distance",
    "Ego_Centric_Motion_Reasoning", "Object_Centric_Motion_Reasoning",
    "Localization", "Travel_Time",
)  # fmt: skip
LIMIT_M = 100.0


def _tagged(text: str) -> str:
    """What stands behind the last <answer>, up to </answer>; all of it without them."""
    return text.split("<answer>")[-1].split("</answer>")[0].strip()


def _words(line: Line) -> dict[str, str]:
    """Text of an option -> its letter, of texts that one option has."""
    texts = {letter: text.strip(" .").lower() for letter, text in (line.choices() if line.options else {}).items()}
    return {text: letter for letter, text in texts.items() if list(texts.values()).count(text) == 1}


def _letter(text: str, words: dict[str, str]) -> str | None:
    if match := re.match(r"\W*([A-H])(?:\W|$)", text) or re.fullmatch(r"\W*([a-h])\W*", text):
        return match.group(1).upper()
    return words.get(text.strip(" .!,\n").lower())


def _choice(line: Line, fixed: bool) -> tuple[bool, bool]:
    """(whether the answer is right, whether it could be read); the truth is a letter, or the text of an option."""
    text, words = _tagged(line.prediction), _words(line)
    true = line.truth.strip().lower()
    if true not in words:
        true = line.letter().lower()
    if fixed:
        said = _letter(text, words)
        return said is not None and said == words.get(true, true.upper()), said is not None
    said = text.replace("\n", "").strip().lower()
    return said == true, said in words or re.fullmatch("[a-z]", said) is not None


def ego3d(lines: Sequence[Line], fixed: bool) -> Plan:
    """Overall = unweighted mean accuracy of the letter categories; distances have an RMSE each.

    As published (utils/eval.py) the answer must be written as the truth is, a letter or, of some questions, yes or no,
    though three categories' prompts ask for yes or no, and a distance without a number, or of 0, is left out of the
    RMSE. Fixed: a letter or the text of one option, yes and no among them; 0 counts, and no number counts as the worse
    of 0 m and 100 m. Predictions are cut at 100 m in both.
    """
    known(lines, (*CHOICES, *DISTANCES), "Ego3D-Bench")
    items, dropped = [], 0
    for line in lines:
        kind = line.question_type
        if kind in CHOICES:
            right, read = _choice(line, fixed)
            items.append(Item(float(right), (ALL, kind), cluster(line), read))
            continue
        match = re.search(r"[-+]?\d*\.?\d+", _tagged(line.prediction))
        said, true = float(match.group()) if match else None, line.number()
        if said is None and fixed:
            error = max(abs(true), abs(LIMIT_M - true))
        elif not said and not fixed:
            dropped += 1
            continue
        else:
            error = min(said, LIMIT_M) - true
        items.append(Item(error**2, (kind,), cluster(line), said is not None))
    types = present(lines, (*CHOICES, *DISTANCES))
    letters = [name for name in types if name in CHOICES]
    per_type = {
        name: Rule({name: 1.0}, "RMSE in m", root=True) if name in DISTANCES else Rule({name: 1.0}) for name in types
    }
    left_out = {"distances without a number other than 0": dropped} if dropped else {}
    words = "unweighted mean accuracy of the categories answered by letter; the RMSE of distances stands beside"
    return Plan(items, mean_of(letters) if letters else Rule({ALL: 1.0}), words, per_type, {}, left_out)
