"""Intervals by scene, errors of lines, and captions."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from spatialsv_jax.evaluation.benchmarks import lines, scanqa, scoring, table
from spatialsv_jax.evaluation.statistics import bootstrap_intervals

ROW = {"id": "a", "question_type": "MSR", "prediction": "A", "ground_truth": "A", "options": ["x", "y"]}


def _write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def test_intervals_of_three_scenes_are_those_of_all_27_resamples():
    # A scene drawn three times has probability 1/27 > 2.5 %: the bounds are the least and the largest scene mean.
    values, scenes = [1, 0, 0, 0, 1, 1, 0.5], ["a"] * 4 + ["b"] * 2 + ["c"]
    means = {"a": 0.25, "b": 1.0, "c": 0.5}
    found = bootstrap_intervals(values, np.ones((7, 1), bool), scenes, np.ones((1, 1)))
    assert found == [[pytest.approx(min(means.values())), pytest.approx(max(means.values()))]]
    # A macro mean: the second bin holds one question of b and that of c, so the resample of a alone (1 of 27) does not count.
    members = np.array([[True, False]] * 5 + [[True, True]] * 2)
    rules, second = np.array([[0.5, 0.5]]), {"a": [], "b": [1], "c": [0.5]}
    exact = []
    for drawn in itertools.product("abc", repeat=3):
        if set(drawn) != {"a"}:
            total = sum(sum(v for v, s in zip(values, scenes, strict=True) if s == name) for name in drawn)
            few = [value for name in drawn for value in second[name]]
            exact.append(0.5 * total / sum(scenes.count(name) for name in drawn) + 0.5 * np.mean(few))
    exact = np.repeat(exact, 1000)  # quantiles of the distribution, not between its 26 values
    low, high = bootstrap_intervals(values, members, scenes, rules, 20000)[0]
    assert low == pytest.approx(np.quantile(exact, 0.025), abs=1e-9) and high == pytest.approx(
        np.quantile(exact, 0.975), abs=1e-9
    )
    # Of a mean that one scene holds alone nothing says how it varies.
    assert bootstrap_intervals(values, np.array([[True, False]] * 6 + [[True, True]]), scenes, rules) == [None]


def test_intervals_of_independent_questions_are_binomial():
    values = np.array([1.0] * 90 + [0.0] * 60)
    low, high = bootstrap_intervals(values, np.ones((150, 1), bool), np.arange(150), np.ones((1, 1)), 4000)[0]
    exact = stats.binom(150, 0.6).ppf([0.025, 0.975]) / 150
    assert [low, high] == pytest.approx(exact, abs=0.015)
    # Ten copies of each question in one scene tell nothing new.
    again = bootstrap_intervals(
        np.repeat(values, 10), np.ones((1500, 1), bool), np.repeat(np.arange(150), 10), np.ones((1, 1)), 4000
    )
    assert again[0] == pytest.approx([low, high], abs=1e-12)


def test_intervals_of_few_scenes_and_of_answers_all_right():
    one = bootstrap_intervals([1, 0], np.ones((2, 1), bool), ["a", "a"], np.ones((1, 1)))
    assert one == [None]
    alike = ([1.0] * 8, np.ones((8, 1), bool), list("aabbccdd"), np.ones((1, 1)))
    assert bootstrap_intervals(*alike) == [None]  # errors and differences know no Wilson
    low, high = bootstrap_intervals(*alike, shares=[True])[0]
    z = stats.norm.ppf(0.975)
    assert high == 1.0 and low == pytest.approx(4 / (4 + z * z))  # Wilson with n = 4 scenes
    constant = bootstrap_intervals([0.4] * 8, *alike[1:], shares=[True])
    assert constant == [None]
    assert bootstrap_intervals([], np.zeros((0, 1), bool), [], np.ones((1, 1))) == [None]


def test_scenes_of_two_data_sets_are_different_clusters(tmp_path):
    rows = [{**ROW, "id": n, "scene": "s", "dataset": "one" if n % 2 else "two"} for n in range(4)] + [{**ROW, "id": 9}]
    result = scoring.score("mmsi", _write(tmp_path / "p.jsonl", rows))
    assert result["clusters"] == {"n": 3, "with_scene": 2}


@pytest.mark.parametrize(
    ("benchmark", "names"),
    [
        (
            "3dsrbench",
            ["AAAAAAAA", "AAAAAAAA-1", "AAAAAAAA-flip", "AAAAAAAA-flip-1", "BBBBBBBB", "CCCCCCCC", "DDDDDDDD"],
        ),
        ("mmbench", ["1", "1000001", "2000001", "3000001", "2", "3", "4"]),
    ],
)
def test_rotations_of_a_question_and_questions_of_a_scene_are_drawn_together(tmp_path, benchmark, names):
    scenes = [
        None,
        "s",
        "t",
        None,
        "s",
        "u",
        None,
    ]  # the second row of the first question says s: so the question is of s
    rows = [
        {**ROW, "id": name, "scene": scene, "question_type": "height_higher", "ground_truth": "AB"[n > 4]}
        for n, (name, scene) in enumerate(zip(names, scenes, strict=True))
    ]
    plan = table.cell(benchmark, "original").plan(lines.read(_write(tmp_path / "p.jsonl", rows)), False)
    asked = [item for item in plan.items if "all" in item.bins]  # a question each, in the order of the file
    last = f"question {names[-1]}"
    assert [item.cluster for item in asked] == ["scene None s", "scene None s", "scene None u", last]
    assert {item.cluster for item in plan.items} == {"scene None s", "scene None u", last}
    result = scoring.score(benchmark, tmp_path / "p.jsonl")
    assert result["overall"] == 0.5 and result["clusters"] == {"n": 3, "with_scene": 2}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected a JSON object, found list"),
        (
            {k: v for k, v in ROW.items() if k != "options"},
            "line 2, field 'options': missing. Needed are id, question_type",
        ),
        ({**ROW, "prediction": None}, "line 2, field 'prediction': expected text .empty for no answer., found None"),
        ({**ROW, "prediction": 3}, "line 2, field 'prediction': expected text"),
        ({**ROW, "ground_truth": {"a": 1}}, "line 2, field 'ground_truth': expected text or a number, found dict"),
        ({**ROW, "ground_truth": []}, "line 2, field 'ground_truth': an empty list"),
        ({**ROW, "ground_truth": " "}, "line 2, field 'ground_truth': is empty"),
        ({**ROW, "ground_truth": ["A", ""]}, "line 2, field 'ground_truth': is empty"),
        ({**ROW, "ground_truth": ["A", "B"]}, "line 2, field 'ground_truth': expected one text, not a list"),
        (
            {**ROW, "ground_truth": "left"},
            "line 2, field 'ground_truth': expected an option letter A to F, found 'left'",
        ),
        ({**ROW, "options": "A. x"}, "line 2, field 'options': expected a list of texts or null"),
        ({**ROW, "scene": ["s"]}, "line 2, field 'scene': expected text or a number"),
        # A JSON true is no text, though Python has one for it.
        *(
            ({**ROW, field: True}, f"line 2, field '{field}': expected text or a number, found bool")
            for field in ("id", "question_type", "ground_truth", "scene", "dataset")
        ),
        ({**ROW, "ground_truth": [False]}, "line 2, field 'ground_truth': expected text or a number, found bool"),
        ({**ROW, "options": [True, "y"]}, "line 2, field 'options': expected text or a number, found bool"),
        ({**ROW, "prediction": True}, "line 2, field 'prediction': expected text"),
        ({**ROW, "id": "z"}, "line 2, field 'id': 'z' stands on line 1 already"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, row, message):
    path = _write(tmp_path / "p.jsonl", [{**ROW, "id": "z"}, row])
    with pytest.raises(lines.LineError, match=f"p.jsonl, {message}"):
        scoring.score("mmsi", path)


def test_what_each_benchmark_needs_is_named(tmp_path):
    cases = [
        ("vsibench", {**ROW}, "field 'question_type': VSI-Bench has no 'MSR'; it has object_counting"),
        ("vsibench", {**ROW, "question_type": "object_counting"}, "field 'ground_truth': expected a number, found 'A'"),
        ("vsibench", {**ROW, "question_type": "object_counting", "ground_truth": "-1"}, "that is not negative"),
        ("topviewrs", {**ROW, "options": None}, "field 'options': this scorer needs the texts of the options"),
        ("sparbench", {**ROW, "question_type": "view_change_infer"}, "expected a change of view like"),
        ("3dsrbench", {**ROW, "question_type": "height_higher"}, "field 'id': expected a qid"),
    ]
    for benchmark, row, message in cases:
        with pytest.raises(lines.LineError, match=message):
            scoring.score(benchmark, _write(tmp_path / "p.jsonl", [row]))
    with pytest.raises(lines.LineError, match="no predictions in it"):
        scoring.score("mmsi", _write(tmp_path / "p.jsonl", ["", " "]))


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b"\x89PNG\xff")
    with pytest.raises(lines.LineError, match="p.jsonl: not UTF-8 text .byte 0."):
        lines.read(tmp_path / "p.jsonl")


def test_option_letters_before_the_texts_are_taken_off(tmp_path):
    def choices(options):
        (line,) = lines.read(_write(tmp_path / "p.jsonl", [{**ROW, "options": options}]))
        return line.choices()

    assert choices(["A. sofa", "B) tv"]) == choices(["(A) sofa", "B. tv"]) == {"A": "sofa", "B": "tv"}
    assert choices(["A. Smith", "tv"]) == {"A": "A. Smith", "B": "tv"}  # not every text has its letter
    assert choices(["B. x", "A. y"]) == {"A": "B. x", "B": "A. y"}
    assert choices(["sofa", "tv", "", None]) == {"A": "sofa", "B": "tv"}


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("\ufeff" + json.dumps(ROW) + "\n\n" + json.dumps({**ROW, "id": 2}, ensure_ascii=False), "utf-8")
    assert [line.id for line in lines.read(path)] == ["a", "2"]


def test_without_the_extra_captions_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(ValueError, match=r'scanqa needs pycocoevalcap .*pip install -e "\.\[captions\]"'):
        scoring.score("scanqa", _write(tmp_path / "p.jsonl", [{**ROW, "ground_truth": ["A", "B"]}]))


def _bleu(said, true, order):
    """Corpus BLEU-n for single references, after Papineni et al. 2002."""
    logs = 0.0
    for n in range(1, order + 1):
        hits = total = 0
        for a, b in zip(said, true, strict=True):
            grams = [Counter(tuple(x.split()[i : i + n]) for i in range(len(x.split()) - n + 1)) for x in (a, b)]
            hits, total = hits + sum((grams[0] & grams[1]).values()), total + sum(grams[0].values())
        logs += math.log(hits / total) / order
    c, r = (sum(len(x.split()) for x in side) for side in (said, true))
    return math.exp(logs) * (1.0 if c >= r else math.exp(1 - r / c))


def _cider(said, true):
    """CIDEr-D for single references, after Vedantam et al. 2015: clipped tf-idf cosine, Gaussian length penalty, times 10."""
    grams = lambda text, n: Counter(tuple(text.split()[i : i + n]) for i in range(len(text.split()) - n + 1))
    scores = []
    for a, b in zip(said, true, strict=True):
        value = 0.0
        for n in range(1, 5):
            idf = lambda g, n=n: math.log(len(true)) - math.log(max(1, sum(g in grams(t, n) for t in true)))
            first, second = ({g: k * idf(g) for g, k in grams(x, n).items()} for x in (a, b))
            norm = math.sqrt(sum(v * v for v in first.values())) * math.sqrt(sum(v * v for v in second.values()))
            dot = sum(min(v, second.get(g, 0.0)) * second.get(g, 0.0) for g, v in first.items())
            # The reference measures lengths in pairs of words.
            gap = max(len(a.split()) - 1, 0) - max(len(b.split()) - 1, 0)
            value += (dot / norm if norm else 0.0) * math.exp(-(gap**2) / 72.0) / 4
        scores.append(10 * value)
    return scores


def test_captions_against_the_formulas(tmp_path):
    pytest.importorskip("pycocoevalcap", reason='needs the extra "captions"')
    said = ["a brown wooden chair near the door", "on the left side of the black desk", "two blue chairs in the room"]
    true = ["a brown chair near the door", "on the left side of the desk", "two blue chairs in the big room"]
    found = scanqa.caption_scores(dict(enumerate(said)), {n: [text] for n, text in enumerate(true)})
    for order in range(1, 5):
        assert found[f"bleu_{order}"] == pytest.approx(_bleu(said, true, order), abs=1e-6)
    # Longest common subsequences 6, 7, 6 of (7, 6), (8, 7), (6, 7) words; F with beta = 1.2.
    f = [(1 + 1.44) * p * r / (r + 1.44 * p) for p, r in ((6 / 7, 1), (7 / 8, 1), (1, 6 / 7))]
    assert found["rouge_l_each"] == pytest.approx(f) and found["rouge_l"] == pytest.approx(np.mean(f))
    assert found["cider_each"] == pytest.approx(_cider(said, true)) and found["cider"] == pytest.approx(
        np.mean(_cider(said, true))
    )
    rows = [
        {**ROW, "id": n, "prediction": a, "ground_truth": [b, "x"]}
        for n, (a, b) in enumerate(zip(said, true, strict=True))
    ]
    rows += [{**ROW, "id": "e", "prediction": "desk", "ground_truth": ["desk", "table"]}]
    rows += [{**ROW, "id": "s", "prediction": "desk.", "ground_truth": ["desk", "table"]}]
    result = scoring.score("scanqa", _write(tmp_path / "p.jsonl", rows))
    assert result["overall"] == 0.2  # the full stop counts here, though not for the captions
    assert set(result["extra"]) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4"}
    assert result["groups"]["rouge_l"]["score"] == pytest.approx((sum(f) + 2) / 5)
