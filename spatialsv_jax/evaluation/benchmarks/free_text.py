"""SQA3D, Spatial457 and TopViewRS: answers in words, and options compared word by word."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spatialsv_jax.evaluation.benchmarks import vlmevalkit
from spatialsv_jax.evaluation.benchmarks.letter_benchmarks import matched
from spatialsv_jax.evaluation.benchmarks.lines import Line
from spatialsv_jax.evaluation.benchmarks.plan import ALL, Item, Plan, Rule, choice, cluster, known, present

_TYPOS = {
    "letf": "left", "let": "left", "tehre": "there", "rigth": "right", "rght": "right", "behine": "behind", "tv": "TV",
    "chai": "chair", "wasing": "washing", "waslked": "walked", "oclock": "o'clock",
}  # fmt: skip
_COUNTS = {str(value): word for value, word in enumerate(vlmevalkit.WORDS)} | {"none": "zero", "23": "twenty-three"}


def clean_answer(text: str) -> str:
    """SQA3D's cleaning of an answer: lower case, blanks, odd characters, typos, digits to words, articles off."""
    text = re.sub("^ +", "", re.sub(" +$", "", text.lower()))
    text = re.sub(" {2,}", " ", text)
    text = re.sub(r"[^a-zA-Z0-9,'\s\-:]+", "", text)
    for wrong, right in _TYPOS.items():
        text = re.sub(rf"\b{wrong}\b", right, text)
    text = re.sub(r"\bo'[ ]+clock\b", "o'clock", text)
    for digits, word in _COUNTS.items():
        text = re.sub(rf"\b{digits}\b", word, text)
    text = re.sub(r"\b([a-zA-Z]+)[0-9]\b", r"\1", text)
    for article in ("a", "an", "the"):
        text = re.sub(rf"\b{article}\b ([a-zA-Z]+)", r"\1", text)
    return re.sub(r"\bbackwards\b", "backward", text)


# First word of the question, in any case; "others" begin otherwise.
SQA3D_TYPES = ("what", "is", "how", "can", "which", "others")


def sqa3d(lines: Sequence[Line], fixed: bool) -> Plan:
    """SQA3D: exact match of cleaned answers; `refined` also takes containment either way, blanks apart (LEO's EM-R)."""
    known(lines, SQA3D_TYPES, "SQA3D")
    items = []
    for line in lines:
        said, true = clean_answer(line.prediction), clean_answer(line.truth)
        short = "".join(said.split()), "".join(true.split())
        contained = said == true or (all(short) and (short[0] in short[1] or short[1] in short[0]))
        parsed, whose = bool(said.strip()), cluster(line)
        items.append(Item(float(said == true), (ALL, line.question_type), whose, parsed))
        items.append(Item(float(contained), ("refined",), whose))
    per_type = {name: Rule({name: 1.0}, "exact match") for name in present(lines)}
    words = "share of exact matches after cleaning"
    return Plan(
        items, Rule({ALL: 1.0}, "exact match"), words, per_type, {"refined": Rule({"refined": 1.0}, "refined match")}
    )


LEVELS = ("L1_single", "L2_objects", "L3_2d_spatial", "L4_occ", "L4_pose", "L5_6d_spatial", "L5_collision")
_LMMS_ANSWERS = (
    r"['\"]?Answer['\"]?\s*[:=]\s*['\"]([^'\"]+)['\"]",
    r"Answer['\"]?\s*:\s*['\"]?(\w+)",
)
_KIT_ANSWERS = (r"Answer': '(.*?)'", r'Answer": "(.*?)"', r"Answer': (\d)")
_YES, _NO = {"yes", "true", "1"}, {"no", "false", "0"}
_SHAPES = {
    "car": "suv wagon minivan sedan truck addi car",
    "bus": "articulated regular double school bus",
    "motorbike": "chopper dirtbike scooter cruiser motorbike",
    "aeroplane": "jet fighter biplane airliner aeroplane",
    "bicycle": "road utility mountain tandem bicycle",
}
_SHAPE_OF = {name: shape for shape, names in _SHAPES.items() for name in names.split()}


def _stated(text: str, patterns: Sequence[str], flags: int = 0) -> str | None:
    for pattern in patterns:
        if match := re.search(pattern, text, flags):
            return match.group(1)
    return None


def _same_lmms(said: str, true: str, fixed: bool) -> bool:
    said, true = said.strip().lower(), true.strip().lower()
    if said == true:
        return True
    for words in (_YES, _NO):
        if said in words and true in words:
            # Fixed: a count is no yes.
            return not fixed or said.isdigit() == true.isdigit()
    return said.isdecimal() and true.isdecimal() and int(said) == int(true)


def _same_kit(said: str, true: str) -> bool:
    said = "no" if said.lower() == "none" else said
    words = vlmevalkit.WORDS[:11]
    if said.lower() == true.lower() or (said == "0" and true == "No"):
        return True
    if said.lower() in words and str(words.index(said.lower())) == true:
        return True
    if true.lower() == "yes" and said in "1 2 3 4 5 6 7 8 9".split():
        return True
    first = [_SHAPE_OF.get(text.lower().split(" ")[0]) for text in (said, true)]
    return first[0] is not None and first[0] == first[1]


def spatial457(lines: Sequence[Line], fixed: bool, kit: bool = False) -> Plan:
    """Spatial457: the stated answer (else the whole text) against the truth; plain accuracy, per level.

    Args:
      lines: the predictions, the level as question_type.
      fixed: yes and no equal true and false, but not the counts 1 and 0.
      kit: VLMEvalKit's rule: number words, any count for "yes", any sub-type of the same shape; else lmms-eval's.
    """
    items = []
    for line in lines:
        if line.question_type not in LEVELS:
            raise line.error(
                "question_type", f"Spatial457's levels are {', '.join(LEVELS)}; found {line.question_type!r}."
            )
        text = line.prediction
        if kit:
            stated = _stated(text, _KIT_ANSWERS)
            right = _same_kit(text if stated is None else stated, line.truth)
        else:
            stated = _stated(text, _LMMS_ANSWERS, re.IGNORECASE)
            right = _same_lmms(text if stated is None else stated, line.truth, fixed)
        items.append(Item(float(right), (ALL, line.question_type), cluster(line), stated is not None))
    per_type = {name: Rule({name: 1.0}) for name in present(lines, LEVELS)}
    return Plan(items, Rule({ALL: 1.0}), "share of right answers over all questions", per_type)


def _words(text: str) -> set[str]:
    return set(text.lower().split())


def _partial(said: str, true: str) -> float:
    """Shared words over the larger number of words."""
    first, second = _words(said), _words(true)
    return len(first & second) / max(len(first), len(second)) if first and second else 0.0


def _logged_letter(line: Line) -> str | None:
    """What VLMEvalKit takes for the letter when it scores partial matches: see docs/benchmarks.md."""
    text = line.prediction
    if matched(line) is None and not vlmevalkit.refuses(text):
        return None
    log = f"Match Log: {text}. "
    if "[" in log and "]" in log:
        return log[log.index("[") + 1 : log.index("]")]
    return log.rstrip(". ").split()[-1]


def topviewrs(lines: Sequence[Line], fixed: bool, kit: bool = False) -> Plan:
    """TopViewRS: exact match of the letter, and partial match of the option texts' words.

    Args:
      lines: the predictions.
      fixed: without effect.
      kit: the partial match looks up the last word of the raw answer, as VLMEvalKit does, instead of the letter read.
    """
    plan = choice(lines, fixed, letter=matched)
    items = list(plan.items)
    for line in lines:
        choices = line.choices()
        letter = _logged_letter(line) if kit else matched(line)
        value = _partial(choices.get(letter, ""), choices.get(line.letter(), ""))
        items.append(Item(value, ("partial", f"partial: {line.question_type}"), cluster(line)))
    groups = {"partial_match": Rule({"partial": 1.0}, "partial match")}
    groups |= {f"partial_match {name}": Rule({f"partial: {name}": 1.0}, "partial match") for name in plan.per_type}
    return Plan(items, plan.overall, "share of right letters over all questions (exact match)", plan.per_type, groups)
