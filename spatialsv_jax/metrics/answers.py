"""Scores of text answers: words, letters and numbers (VSI-Bench's own rules, dialect `original`)."""

from __future__ import annotations

import math

import numpy as np

# linspace as in VSI-Bench's code; 1 - this in float64 gives its exact thresholds.
MRA_CONFIDENCES = np.linspace(0.5, 0.95, 10)


def _first_word(text: str) -> str:
    return text.split(" ")[0].rstrip(".").strip()


def parse_letter(text: str) -> str:
    """Option letter of an answer: text up to the first blank without trailing stops, upper case.

    VSI-Bench's rule: "B.", "b" and "B because" give "B"; "(B)", "B)" and "Answer: B" stay as they
    are and so match no letter.
    """
    return _first_word(text).upper()


def parse_number(text: str) -> float | None:
    """Number of an answer, dialect `original`: float(first word without trailing stops) or None."""
    try:
        return float(_first_word(text))
    except ValueError:
        return None


def exact_match(prediction: str, ground_truth: str) -> bool:
    """Equality up to case, surrounding blanks and trailing stops."""
    cleaned = [text.strip().rstrip(".").strip().lower() for text in (prediction, ground_truth)]
    return cleaned[0] == cleaned[1]


def mean_relative_accuracy(prediction: float | None, ground_truth: float) -> float:
    """MRA of VSI-Bench: mean over theta in linspace(0.5, 0.95, 10) of [|p - y| / y <= 1 - theta].

    The benchmark's code compares with <= (its paper prints <), so p = 1.5 y scores 0.1. A missing
    or non-finite prediction scores 0. For y = 0, which the benchmark never asks, p = 0 scores 1 and
    all else 0.

    Raises:
      ValueError: a negative or non-finite `ground_truth`.
    """
    if not (math.isfinite(ground_truth) and ground_truth >= 0):
        raise ValueError(f"The true number must be finite and not negative, not {ground_truth}.")
    if prediction is None or not math.isfinite(prediction):
        return 0.0
    if ground_truth == 0:
        return float(prediction == 0)
    error = abs(prediction - ground_truth) / ground_truth
    return float(np.mean(error <= 1 - MRA_CONFIDENCES))


def score_answer(form: str, prediction: str, ground_truth: str) -> float:
    """Score in 0..1 of one answer.

    Args:
      form: "word" (exact match), "letter" (VSI-Bench's letter rule) or "number" (MRA).
      prediction: the model's text.
      ground_truth: a word, a letter or a decimal number.

    Raises:
      ValueError: an unknown form, or a true number that does not parse.
    """
    if form == "word":
        return float(exact_match(prediction, ground_truth))
    if form == "letter":
        return float(parse_letter(prediction) == ground_truth.strip().upper())
    if form == "number":
        truth = parse_number(ground_truth)
        if truth is None:
            raise ValueError(f"The true answer {ground_truth!r} of a number question is not a number.")
        return mean_relative_accuracy(parse_number(prediction), truth)
    raise ValueError(f"Unknown answer form {form!r}. Known: word, letter, number.")
