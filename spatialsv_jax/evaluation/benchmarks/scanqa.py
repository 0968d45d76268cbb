"""ScanQA (arXiv 2112.10482): exact match, and BLEU, ROUGE-L and CIDEr of pycocoevalcap without PTB tokenisation."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence

from spatialsv_jax.evaluation.benchmarks.lines import Line
from spatialsv_jax.evaluation.benchmarks.plan import ALL, Item, Plan, Rule, cluster, present


def caption_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict:
    """Corpus scores of short texts, words split at blanks; CIDEr is 0..10, the others 0..1.

    Args:
      predictions: id -> text.
      references: id -> true texts.

    Returns:
      {"bleu_1" .. "bleu_4", "rouge_l", "cider"}, and under "rouge_l_each" and "cider_each" the values per id, in order.

    Raises:
      ValueError: the extra `captions` is not installed.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise ValueError(
            f'scanqa needs pycocoevalcap ({error}); install the extra: python -m pip install -e ".[captions]".'
        ) from None
    texts = {name: [text] for name, text in predictions.items()}
    truths = {name: list(references[name]) for name in predictions}
    with contextlib.redirect_stdout(io.StringIO()):  # Bleu prints lengths
        bleu, _ = Bleu(4).compute_score(truths, texts)
        rouge, rouge_each = Rouge().compute_score(truths, texts)
        cider, cider_each = Cider().compute_score(truths, texts)
    return {
        **{f"bleu_{order}": float(value) for order, value in enumerate(bleu, 1)},
        "rouge_l": float(rouge),
        "cider": float(cider),
        "rouge_l_each": [float(value) for value in rouge_each],
        "cider_each": [float(value) for value in cider_each],
    }


def scanqa(lines: Sequence[Line], fixed: bool) -> Plan:
    """Exact match is the headline; the prediction as it is must be one of the answers, the captions lose full stops behind."""
    truths = {line.id: (line.truth,) if isinstance(line.ground_truth, str) else line.ground_truth for line in lines}
    scores = caption_scores({line.id: line.prediction.rstrip(".") for line in lines}, truths)
    items = []
    for line, rouge, cider in zip(lines, scores.pop("rouge_l_each"), scores.pop("cider_each"), strict=True):
        whose, parsed = cluster(line), bool(line.prediction.strip())
        items.append(Item(float(line.prediction in truths[line.id]), (ALL, line.question_type), whose, parsed))
        items += [Item(rouge, ("rouge_l",), whose), Item(cider, ("cider",), whose)]
    return Plan(
        items,
        Rule({ALL: 1.0}, "exact match"),
        "share of predictions that equal one of the answers (EM@1)",
        {name: Rule({name: 1.0}, "exact match") for name in present(lines)},
        {"rouge_l": Rule({"rouge_l": 1.0}, "ROUGE-L"), "cider": Rule({"cider": 1.0}, "CIDEr, 0 to 10")},
        extra={name: scores[name] for name in scores if name.startswith("bleu")},
    )
