"""Single answers whose score follows by hand from the rule in docs/benchmarks.md, verbose and odd ones among them."""

from __future__ import annotations

import pytest

from spatialsv_jax.evaluation.benchmarks import lines, quantities, scoring, table, vlmevalkit

FOUR = ["sofa", "table", "chair", "tv"]


# Answer: score by `original`, `lmms_eval_0_7_3` and `vlmevalkit`, worked out by hand from the three rules.
VSI_LETTERS = {
    "B": (1, 1, 1),
    "b.": (1, 1, 0),  # the kit has no rule for a small letter with a full stop
    "B. table": (1, 1, 1),
    "(B)": (0, 0, 1),
    "B)": (0, 0, 1),
    "B,": (0, 0, 1),
    "Answer: B": (0, 0, 1),
    "B\nbecause": (0, 0, 1),
    " B": (0, 0, 1),
    "": (0, 0, 0),
    "The table": (0, 0, 0),
    "<think>A</think><answer>B</answer>": (0, 0, 1),
    "A": (0, 0, 0),
}
# For the truth 4: e = |p - 4| / 4; 4 -> 1; 3 -> e = 0.25, C = 0.5 .. 0.75 -> 0.6; 5 likewise; 6 -> e = 0.5 -> 0.1.
VSI_NUMBERS = {
    "4": (1, 1, 1),
    "4.": (1, 1, 1),
    "4 chairs": (1, 1, 1),
    "4\nchairs": (0, 1, 1),
    "four": (0, 1, 1),
    "There are 4": (0, 1, 1),
    "3": (0.6, 0.6, 0.6),
    "6": (0.1, 0.1, 0.1),
    "6.1": (0, 0, 0),
    "3-4": (0, 0.6, 0),  # not a number; 3; -4
    "twenty-one": (0, 0, 0),  # none; 21; -1
    "3 or 4": (0.6, 0.6, 1),
    "one apple, room 4": (0, 0, 1),
    ".5": (0, 0.6, 0),  # 0.5; 5; 0.5
    "40e-1": (1, 0, 1),
    "": (0, 0, 0),
    "none": (0, 0, 0),
    "nan": (0, 0, 0),
    "inf": (0, 0, 0),
    "<think>9</think> <answer>4</answer>": (0, 0, 1),
}


@pytest.mark.parametrize("place", range(3))
def test_vsibench_answer_by_answer(scored, place):
    dialect = table.DIALECTS[place]
    for text, values in VSI_LETTERS.items():
        result = scored("vsibench", [("route_planning", "B", text, FOUR)], dialect)
        assert result["per_type"]["route_planning"]["score"] == values[place], text
    for text, values in VSI_NUMBERS.items():
        result = scored("vsibench", [("object_counting", "4", text)], dialect)
        assert result["per_type"]["object_counting"]["score"] == pytest.approx(values[place]), text


def test_numbers_of_verbose_answers():
    first = {
        ".5": 5, "1e1": 1, "1,250": 1, "1/2": 1, "three point five": 3, "twenty-one": 21, "3-4": 3, "-2 m": -2,
        "three hundred and twenty-one": 321, "two thousand five hundred": 2500, "hundred": 100, "about 2.50 m": 2.5,
        "one apple, room 2": 1, "room 2, one apple": 2, "": None, "someone": None, "and": None,
    }  # fmt: skip
    assert {text: quantities.first_number(text) for text in first} == first
    last = {
        "twenty-one": -1, "1,250": 250, "3-4": -4, "three point five": 5, ".5": 0.5, "1e1": 10, "1/2": 2, "": None,
        "<answer>7 m</answer> 8": 7, "<think>1</think> 2 or 3": 3, "[4, 5]": 4, "[x": None, "thirty": None,
    }  # fmt: skip
    assert {text: vlmevalkit.number(text) for text in last} == last
    words_win = {"a 3 m wide": 1, "3 m": 3, "two, not one": 1, "twenty-one": 1, "2.5": 2.5, "many": None, "an": 1}
    assert {text: quantities.spbench_number(text) for text in words_win} == words_win


# e against the thresholds in float64, which are 1 - linspace's values: 1 - 0.95 = 0.050000000000000044 and, since the one
# before is 0.8999999999999999, 0.10000000000000009.
AT_THRESHOLDS = [
    ("1", "1", 1.0),
    ("1.05", "1", 1.0),  # e = 0.050000000000000044
    ("0.95", "1", 1.0),
    ("1.0500000000000003", "1", 0.9),
    ("1.1", "1", 0.9),  # e = 0.10000000000000009
    ("1.1000000000000003", "1", 0.8),
    ("0.9", "1", 0.9),  # e = 0.09999999999999998
    ("1.5", "1", 0.1),
    ("0.5", "1", 0.1),
    ("1.5000000000000002", "1", 0.0),
    ("7", "4", 0.0),
]


@pytest.mark.parametrize("dialect", table.DIALECTS)
def test_mra_at_its_thresholds(scored, dialect):
    for said, true, value in AT_THRESHOLDS:
        result = scored("vsibench", [("room_size_estimation", true, said)], dialect)
        assert result["micro"]["score"] == pytest.approx(value, abs=1e-15), (said, true)


def test_a_true_zero():
    # |p| against 1 - C instead of |p - y| / y: SPAR-Bench and the kit.
    assert [quantities.relative_accuracy(p, 0.0) for p in (0, 0.05, 0.5, -0.5, 0.51)] == [1, 1, 0.1, 0.1, 0]


# benchmark: rows (answer, letter that is read or None), by the rule of `original` or of `lmms_eval_0_7_3`.
READ = {
    ("mindcube", "original"): {
        "I am at A. So C": "A", "B. table": "B", "(B)": "B", "B)": "B", "Answer: B": "B", "B": "B", "b": None, "": None,
        "<Answer>C</Answer> or D": "C", "My answer is D\nnot A": "D", "x\nB y\nz": "B", "F": None, "A\nB": "A",
    },
    ("blink", "lmms_eval_0_7_3"): {
        "B": "B", "(b)": "B", "The correct answer is (B).": "B", "I pick (C), no, (D)": "D", "The table": None, "": None,
        "Answer: A or answer: B": "B", "A table": "A", "E": None, "(A) or (B)": "B", "B) table": "B",
    },
    ("mmsi", "original"): {
        "``B``": "B", "`{C}`": "C", "a": "A", "a chair": None, "A.": "A", "So B": "B", "f": "F", "G": None, "": None, "(D) tv": "D",
    },
    ("viewspatial", "original"): {
        "a table": "A", "B": "B", "b": "B", "B\nc": "C", "C\n": None, "(D)": "D", "": None, "left": None, "It is a table: B": "A",
    },
    ("embspatial", "original"): {"B": "B", "(b)": "B", "The answer is B": "T", "2": None, "": None, "A) table": "A", " ( c": "C"},
    ("3dsrbench", "lmms_eval_0_7_3"): {
        "A. yes": "A", "B": "B", "b": None, "the answer: B": "B", "is it (A) or B.": "A", "": None, "So B it is": "B",
    },
    ("mmbench", "lmms_eval_0_7_3"): {
        "B": "B", "(B).": "B", "A table is here now": "B", "the table": "B", "": None, "nothing": None, "sofa or tv A": "A",
    },
    ("topviewrs", "original"): {
        "B": "B", "B. table": "B", "the table": "B", "sofa and tv": None, "": None, "A or B": None,
        "B is what I would say here": None,  # more than three words behind
    },
}  # fmt: skip


KINDS = {
    "blink": "Counting", "mmsi": "MSR", "viewspatial": "Person perspective - Relative Direction", "embspatial": "left",
    "3dsrbench": "height_higher", "crossvideo_cvbench": "Joint-video Counting",
}  # fmt: skip


@pytest.mark.parametrize(("benchmark", "dialect"), READ)
def test_letters_of_verbose_answers(scored, benchmark, dialect):
    for text, letter in READ[benchmark, dialect].items():
        name = {"mindcube": "among_q0", "3dsrbench": "ABCDEFGH", "mmbench": "7"}.get(benchmark)
        for true in "ABCD":
            result = scored(benchmark, [(KINDS.get(benchmark, "t"), true, text, FOUR, name)], dialect)
            assert result["micro"]["score"] == float(letter == true), (text, true)
            assert result["unparsable"] == (letter is None), text


def test_fixed_letters(scored):
    def of(benchmark, true, texts, options=FOUR, kind=None):
        variants, kind = scoring.VARIANTS, kind or KINDS[benchmark]
        return [
            tuple(scored(benchmark, [(kind, true, text, options)], "original", v)["overall"] for v in variants)
            for text in texts
        ]

    assert of("viewspatial", "A", ["a chair is left", "a", "B\na lamp", "A\n", "(a)"]) == [
        (1, 0),
        (1, 1),
        (1, 0),
        (0, 1),
        (1, 1),
    ]
    assert of("crossvideo_cvbench", "A", ["A", "Ban", "the man", "Yes", "a."]) == [
        (1, 1),
        (0, 0),
        (1, 0),
        (0, 0),
        (1, 1),
    ]
    assert of("crossvideo_cvbench", "Yes", ["Yes", "yes.", "YES", "A yes"]) == [(0, 1), (0, 1), (0, 1), (0, 0)]
    kind = {"kind": "object_rel_distance"}
    assert of("spbench", "B", ["B", "B. table", "(B)", "Answer: B", "b"], **kind) == [
        (1, 1),
        (1, 1),
        (0, 1),
        (1, 1),
        (1, 1),
    ]
    kind = {"kind": "object_counting", "options": None}
    assert of("spbench", "3", ["3", "a 3 m wide", "three"], **kind) == [(1, 1), (0, 1), (1, 1)]


def test_spatial457_equal_words(scored):
    cases = {  # said, true: lmms-eval's rule, the fixed one, the kit's
        ("{'Answer': 'Red'}", "red"): (1, 1, 1),
        ("yes", "True"): (1, 1, 0),
        ("1", "yes"): (1, 0, 1),
        ("7", "Yes"): (0, 0, 1),
        ("0", "No"): (1, 0, 1),
        ("03", "3"): (1, 1, 0),
        ("three", "3"): (0, 0, 1),
        ("suv", "wagon"): (0, 0, 1),
        ("none", "No"): (0, 0, 1),
        ("", "red"): (0, 0, 0),
    }
    for (said, true), values in cases.items():
        rows = [("L1_single", true, said)]
        found = [scored("spatial457", rows, "original", variant)["overall"] for variant in scoring.VARIANTS]
        assert (*found, scored("spatial457", rows, "vlmevalkit")["overall"]) == values, (said, true)
    with pytest.raises(lines.LineError, match="levels are L1_single"):
        scored("spatial457", [("L3_2D_spatial", "red", "red")])


def test_sqa3d_exact_and_refined_match(scored):
    same = [
        ("the chair", "chair"),
        ("2", "Two."),
        ("to my letf", "to my left"),
        ("backwards", "backward"),
        ("none", "0"),
        ("mat2", "mat"),
    ]
    close = [("brown chair", "chair"), ("chair", "brown chair"), ("wash room", "washroom")]
    other = [("", "chair"), ("left", "right"), ("21", "twenty-one")]
    rows = [("what", true, said) for said, true in (*same, *close, *other)]
    result = scored("sqa3d", rows)
    assert result["overall"] == pytest.approx(6 / 12) and result["groups"]["refined"]["score"] == pytest.approx(9 / 12)
    assert result["unparsable"] == 1 and result["n"] == 12


def test_a_type_that_the_benchmark_does_not_have_is_an_error(scored):
    asked = {
        **KINDS,
        "cvbench": "Depth",
        "sqa3d": "which",
        "vsibench": "route_planning",
        "sparbench": "position_matching",
    }
    asked |= {"spbench": "object_rel_distance", "ego3d": "Localization"}
    for benchmark, kind in asked.items():
        for dialect in table.BENCHMARKS[benchmark]:
            row = ("A", "A", FOUR, "ABCDEFGH", "COCO")
            if (benchmark, dialect) != ("spbench", "vlmevalkit"):
                assert kind in scored(benchmark, [(kind, *row)], dialect)["per_type"]
            with pytest.raises(lines.LineError, match=r"p.jsonl, line 2, field 'question_type': .*'invented'"):
                scored(benchmark, [(kind, *row), ("invented", *row[:3], "HGFEDCBA", "COCO")], dialect)
    # Harnesses write the published names with other dashes, blanks and cases.
    loose = {"mmsi": "Positional Relationship (Cam.-Obj.)", "blink": "multi-view reasoning", "embspatial": "Under"}
    for benchmark, kind in loose.items():
        assert scored(benchmark, [(kind, "A", "A", FOUR)])["overall"] == 1


# Benchmark: a type that is answered by letter.
LETTERED = {
    **KINDS, "vsibench": "route_planning", "vsibench_mc": "route_planning", "spbench": "object_rel_distance", "cvbench": "Depth",
    "sparbench": "position_matching", "mindcube": "t", "ego3d": "Localization", "topviewrs": "t", "mmbench": "t",
}  # fmt: skip


@pytest.mark.parametrize("benchmark", LETTERED)
def test_a_truth_that_no_answer_can_match_is_an_error(scored, benchmark):
    name = {"mindcube": "among_q0", "3dsrbench": "ABCDEFGH", "mmbench": "7"}.get(benchmark)
    for dialect in table.BENCHMARKS[benchmark]:
        for options, truth in ((["yes", "no"], "C"), (["A. yes", "B. no"], "D"), (["yes", "no", "", None], "C")):
            for said in ("", truth, "B"):  # whether it could be read or not
                with pytest.raises(lines.LineError, match="line 1, field 'ground_truth': '[CD]' is none of .* A, B"):
                    scored(benchmark, [(LETTERED[benchmark], truth, said, options, name, "COCO")], dialect)
        assert (
            scored(benchmark, [(LETTERED[benchmark], "B", "B", ["A. yes", "B. no"], name, "COCO")], dialect)["n"] == 1
        )
    # The letters of pictures have no text behind them.
    assert scored(benchmark, [(LETTERED[benchmark], "B", "B", ["A.", "B."], name, "COCO")])["n"] == 1


def test_a_truth_beyond_the_letters_that_the_parser_reads_is_an_error(scored):
    for benchmark, last in (("mmsi", "F"), ("viewspatial", "D")):
        for dialect in table.BENCHMARKS[benchmark]:
            with pytest.raises(lines.LineError, match=f"expected an option letter A to {last}, found 'Z'"):
                scored(benchmark, [(KINDS[benchmark], "Z", "Z")], dialect)
