"""Answers of a model against the truth: per type with intervals, chance, habit and a blind run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spatialsv_jax.evaluation.statistics import mean_with_interval, most_frequent
from spatialsv_jax.metrics import score_answer

CONVENTIONS = {
    "accuracy": "share of right answers; words: equal up to case, blanks around and full stops behind; letters: the text "
    "up to the first blank without full stops equals the truth's letter",
    "mra": "mean relative accuracy of number answers over C = linspace(0.5, 0.95, 10) with |p - y| / y <= 1 - C "
    "(VSI-Bench, dialect 'original': the first word is the number; no number = 0)",
    "chance": "letters: mean of 1 / number of options; words: 1 / number of different true answers of the type in the "
    "evaluated questions; numbers: none",
    "most_frequent": "score of always giving the type's most frequent true answer, counted on the evaluated questions "
    "themselves, so it is a best case for this habit",
    "blind": "the same model and questions with every picture black",
    "micro": "mean over all questions with a word or a letter as answer",
    "macro": "unweighted mean over those types",
}


def score(form: str, prediction: str, truth: str) -> bool | float:
    """Right or wrong for words and letters, MRA in 0..1 for numbers.

    Raises:
      ValueError: an unknown form.
    """
    value = score_answer(form, prediction, truth)
    return value if form == "number" else value == 1.0


def summarise(rows: Sequence[Mapping]) -> dict:
    """Scores per type and in all.

    Args:
      rows: one mapping per question: question_type, group, form, options, scene, ground_truth,
        prediction, correct, and blind (the score of the blind answer) or None.

    Returns:
      {"types": {name: entry}, "groups": {name: micro}, "micro", "macro", "blind_micro", "n", "number_questions"}.
      An entry holds `metric` ("accuracy" or "mra"), the score under that name with `interval_95`, `n`, `scenes`,
      and `chance`, `most_frequent`, `blind`, and the gains over the last two with intervals.
    """
    cells: dict[tuple[str, str], list[Mapping]] = {}
    for row in rows:
        cells.setdefault((row["question_type"], row["form"]), []).append(row)
    forms: dict[str, int] = {}
    for name, _ in cells:
        forms[name] = forms.get(name, 0) + 1
    types = {}
    for (name, form), members in sorted(cells.items()):
        types[name if forms[name] == 1 else f"{name} ({form})"] = _entry(members, form)
    exact = [row for row in rows if row["form"] != "number"]
    scores = [entry["accuracy"] for entry in types.values() if entry["metric"] == "accuracy"]
    return {
        "n": len(rows),
        "number_questions": len(rows) - len(exact),
        "micro": _mean(exact, "correct"),
        "macro": {"value": sum(scores) / len(scores) if scores else None, "types": len(scores)},
        "blind_micro": _mean([row for row in exact if row["blind"] is not None], "blind"),
        "groups": {
            name: _mean([row for row in exact if row["group"] == name], "correct")
            for name in sorted({row["group"] for row in rows})
        },
        "types": types,
    }


def _mean(rows: Sequence[Mapping], name: str) -> dict:
    return mean_with_interval([float(row[name]) for row in rows], [row["scene"] for row in rows], share=True)


def _entry(rows: Sequence[Mapping], form: str) -> dict:
    metric = "mra" if form == "number" else "accuracy"
    own = _mean(rows, "correct")
    habit, _ = most_frequent([row["ground_truth"] for row in rows])
    habits = [float(score(form, habit, row["ground_truth"])) for row in rows]
    seen = [row for row in rows if row["blind"] is not None]
    return {
        "metric": metric,
        "form": form,
        "group": rows[0]["group"],
        metric: own["value"],
        "interval_95": own["interval_95"],
        "n": own["n"],
        "scenes": own["scenes"],
        "chance": _chance(rows, form),
        "most_frequent": {"answer": habit, metric: sum(habits) / len(habits)},
        "blind": _mean(seen, "blind"),
        "gain_over_most_frequent": _gain(rows, habits),
        "gain_over_blind": _gain(seen, [row["blind"] for row in seen]),
    }


def _gain(rows: Sequence[Mapping], other: Sequence[float]) -> dict:
    """Mean difference to another way to answer the same questions, with its clustered interval."""
    differences = [float(row["correct"]) - float(value) for row, value in zip(rows, other, strict=True)]
    return mean_with_interval(differences, [row["scene"] for row in rows])


def _chance(rows: Sequence[Mapping], form: str) -> float | None:
    if form == "number":
        return None
    if form == "letter":
        shares = [1 / len(row["options"]) for row in rows if row["options"]]
        return sum(shares) / len(shares) if shares else None
    return 1 / len({row["ground_truth"] for row in rows})
