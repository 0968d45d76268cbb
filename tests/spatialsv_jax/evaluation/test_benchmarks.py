"""Small files whose totals follow by hand from the benchmarks' rules: tasks, sources, groups of rows, variants."""

from __future__ import annotations

import math

import pytest

from spatialsv_jax.evaluation.benchmarks import lines, scoring

FOUR = ["sofa", "table", "chair", "tv"]


def test_vsibench_groups_eight_tasks_whatever_their_sizes(scored):
    levels = [f"object_rel_direction_{level}" for level in ("easy", "medium", "hard")]
    rows = [(levels[0], "A", "A", FOUR)] * 6 + [(levels[1], "A", "B", FOUR)] * 2 + [(levels[2], "A", "A", FOUR)]
    rows += [("object_counting", "4", "3"), ("object_counting", "4", "4"), ("route_planning", "C", "C", FOUR)]
    result = scored("vsibench", rows)
    assert result["per_type"]["object_rel_direction"]["score"] == pytest.approx(2 / 3)
    assert result["per_type"]["object_rel_direction"]["n"] == 9
    assert [result["groups"][name]["score"] for name in levels] == [1.0, 0.0, 1.0]
    assert result["overall"] == pytest.approx((2 / 3 + 0.8 + 1) / 3)
    assert result["macro"]["score"] == pytest.approx(result["overall"]) and result["macro"]["types"] == 3
    assert result["micro"]["score"] == pytest.approx((7 + 1.6 + 1) / 12)
    # The multiple-choice half: questions, not tasks; the number questions are counted, not scored.
    half = scored("vsibench_mc", rows)
    assert half["overall"] == half["micro"]["score"] == pytest.approx(8 / 10) and half["n"] == 10
    assert half["groups"]["official_grouping"]["score"] == pytest.approx((2 / 3 + 1) / 2)
    assert half["left_out"] == {"number questions": 2}


def test_vsibench_without_a_level(scored):
    rows = [("object_rel_direction_easy", "A", "A", FOUR), ("object_rel_distance", "A", "B", FOUR)]
    assert scored("vsibench", rows)["overall"] == 0.5  # the level is a task of its own
    harness = scored("vsibench", rows, "lmms_eval_0_7_3")
    assert harness["overall"] is None
    assert harness["overall_missing"] == ["object_rel_direction_medium", "object_rel_direction_hard"]


def test_cvbench_official_formula_and_plain_accuracy(scored):
    rows = [("Count", "(B)", text, FOUR, None, "ADE20K") for text in ("B", "(B)", "b)", "The answer is B")]
    rows += [("Count", "(B)", "A", FOUR, None, "COCO"), ("Depth", "(A)", "A", FOUR, None, "Omni3D")]
    official = scored("cvbench", rows)
    assert official["overall"] == pytest.approx(0.5 * ((0.75 + 0) / 2 + 1)) and official["unparsable"] == 0
    assert official["groups"]["2D"]["score"] == pytest.approx(0.375) and official["groups"]["3D"]["score"] == 1
    plain = scored("cvbench", rows, "lmms_eval_0_7_3")
    assert plain["overall"] == pytest.approx(4 / 6)
    assert plain["groups"]["official"]["score"] == pytest.approx(official["overall"])
    with pytest.raises(lines.LineError, match=r"line 1, field 'dataset': CV-Bench needs the source"):
        scored("cvbench", [("Count", "(B)", "B", FOUR)])


def test_sparbench_as_published_and_fixed(scored):
    rows = [
        ("position_matching", "A", ""),  # contained in every truth
        ("position_matching", "A", "a) this one"),  # first character
        ("position_matching", "A", "(A)"),
        ("depth_prediction_oc", "2", "3 or 2"),  # the first number: e = 0.5
        ("depth_prediction_oc_mv", "2", "3 or 2"),  # the last one
        ("distance_prediction_oo", "2", "x^2 metres"),  # an exponent is no number
        # Said 2 of 1, four axes 0 = 0: relative to the truth e = 1, to the prediction 0.5.
        ("view_change_infer", "move_right:1", "move_right:2"),
        ("view_change_infer", "move_right:1", "right"),
    ]
    published, fixed = (scored("sparbench", rows, "original", variant) for variant in scoring.VARIANTS)
    assert published["variant"] == "as_published" and fixed["variant"] == "fixed"
    assert scored("sparbench", rows)["variant"] == "as_published"
    assert (published["scorer"]["kind"], fixed["scorer"]["kind"]) == ("exact", "ours")
    assert published["per_type"]["position_matching"]["score"] == pytest.approx(2 / 3)
    assert fixed["per_type"]["position_matching"]["score"] == pytest.approx(1 / 3)
    scores = {name: entry["score"] for name, entry in fixed["per_type"].items()}
    assert scores["depth_prediction_oc"] == pytest.approx(0.1) and scores["depth_prediction_oc_mv"] == 1
    assert scores["distance_prediction_oo"] == 0 and scores["view_change_infer"] == pytest.approx((4 + 0) / 5 / 2)
    change = published["per_type"]["view_change_infer"]["score"]
    assert change == pytest.approx((4 + 0.1) / 5 / 2)
    # 20 types: unweighted mean; the published middle group lacks the change of view.
    assert published["overall"] == pytest.approx((2 / 3 + 0.1 + 1 + 0 + change) / 5)
    assert published["groups"]["middle"]["score"] == pytest.approx(2 / 3)
    assert fixed["groups"]["middle"]["score"] == pytest.approx((1 / 3 + 0.4) / 2)
    assert fixed["groups"]["low"]["score"] == pytest.approx((0.1 + 1 + 0) / 3)
    assert published["unparsable"] == 4  # "", "(A)", the exponent, "right"
    harness = scored("sparbench", rows, "lmms_eval_0_7_3")
    assert harness["groups"]["low"]["score"] == 0 and harness["groups"]["middle"]["score"] == pytest.approx(2 / 3)
    assert scored("sparbench", rows, "lmms_eval_0_7_3", "fixed")["groups"] == fixed["groups"]


def test_mindcube_settings(scored):
    rows = [
        ("x", "A", "A", FOUR, "among_group1_q0"), ("x", "A", "B", FOUR, "aroundnew_group1_q0"), ("x", "A", "A", FOUR, "around_g_q1"),
        ("x", "A", "B", FOUR, "rotation_g_q1"), ("x", "A", "A", FOUR, "translation_g_q1"),
    ]  # fmt: skip
    result = scored("mindcube", rows)
    assert {name: entry["score"] for name, entry in result["per_type"].items()} == {
        "around": 0.5, "rotation": 0.0, "translation": 1.0, "among": 1.0,
    }  # fmt: skip
    assert result["overall"] == 0.5 and result["n"] == 4  # translation is shown, not counted
    assert scored("mindcube", rows, "lmms_eval_0_7_3")["overall"] == 0.6
    # Ids as `experiments.evaluate` writes them for a prepared MindCube.
    own = [(f"mindcube-test-000000/{name}", *rest) for name, *rest in rows]
    assert (
        scored("mindcube", own, "lmms_eval_0_7_3")["per_type"]
        == scored("mindcube", rows, "lmms_eval_0_7_3")["per_type"]
    )
    with pytest.raises(lines.LineError, match="field 'id': MindCube's ids hold one of"):
        scored("mindcube", [("x", "A", "A", FOUR, "7")])


def test_blink_mean_of_sub_tasks_and_of_questions(scored):
    rows = [("Counting", "A", "A", FOUR), ("Counting", "A", "A", FOUR), ("Relative_Depth", "A", "B", FOUR)]
    assert scored("blink", rows)["overall"] == 0.5
    assert scored("blink", rows, "lmms_eval_0_7_3")["overall"] == pytest.approx(2 / 3)


def test_3dsrbench_counts_groups(scored):
    right = {"AAAAAAAA": 1, "AAAAAAAA-1": 1, "AAAAAAAA-flip": 1, "AAAAAAAA-flip-1": 0, "BBBBBBBB": 1, "BBBBBBBB-1": 1}
    rows = [
        ("height_higher" if q[0] == "A" else "location_above", "A", "A" if r else "B", FOUR, q)
        for q, r in right.items()
    ]
    result = scored("3dsrbench", rows)
    scores = {name: entry["score"] for name, entry in result["groups"].items()}
    # flip: AAAAAAAA (1), AAAAAAAA-1 (0), BBBBBBBB (1), BBBBBBBB-1 (1); circular: A (1), A-flip (0), B (1); both: A (0), B (1).
    assert scores == pytest.approx(
        {"vanilla": 5 / 6, "flip": 3 / 4, "circular": 2 / 3, "flip_circular": 1 / 2, "height": 3 / 4, "location": 1}
    )
    assert result["overall"] == 0.5 and result["n"] == 2
    assert result["per_type"]["height_higher"]["score"] == 0 and result["per_type"]["location_above"]["score"] == 1
    assert result["clusters"] == {"n": 2, "with_scene": 0}
    assert scored("3dsrbench", rows, "vlmevalkit")["overall"] == pytest.approx(5 / 6)
    with pytest.raises(lines.LineError, match="field 'id': question 'AAAAAAAA', to which this row belongs"):
        scored("3dsrbench", rows[1:])
    assert scored("3dsrbench", rows[1:], "lmms_eval_0_7_3")["overall"] == pytest.approx(4 / 5)


def test_mmbench_counts_a_question_if_all_rotations_are_right(scored):
    rows = [("relation", "B", "B", FOUR, "7"), ("relation", "A", "A", FOUR, "1000007"), ("colour", "A", "A", FOUR, "8")]
    assert scored("mmbench", rows)["overall"] == 1.0
    wrong = [*rows, ("relation", "C", "B", FOUR, "2000007")]
    result = scored("mmbench", wrong)
    assert result["overall"] == 0.5 and result["n"] == 2 and result["groups"]["rows"]["score"] == 0.75
    assert {name: entry["score"] for name, entry in result["per_type"].items()} == {"relation": 0.0, "colour": 1.0}
    with pytest.raises(lines.LineError, match="whole number"):
        scored("mmbench", [("relation", "B", "B", FOUR, "7a")])


def test_topviewrs_partial_match(scored):
    options = ["top left", "top right", "bottom right"]
    rows = [("r", "A", "B", options), ("r", "A", "A", options), ("r", "A", "C", options), ("r", "A", "x", options)]
    result = scored("topviewrs", rows)
    assert result["overall"] == 0.25 and result["groups"]["partial_match"]["score"] == pytest.approx(
        (0.5 + 1 + 0 + 0) / 4
    )
    longer = scored("topviewrs", [("r", "A", "B", ["left", "top left"])])
    assert longer["groups"]["partial_match"]["score"] == 0.5  # one shared word of two
    # The kit looks up the last word of the raw answer.
    kit = scored("topviewrs", [("r", "A", "A. top left", options), ("r", "A", "A.", options)], "vlmevalkit")
    assert kit["overall"] == 1 and kit["groups"]["partial_match"]["score"] == 0.5


def test_ego3d_letters_and_distances(scored):
    rows = [
        ("Localization", "A", "<answer>A</answer>", ["A. left", "B. right"]),
        ("Ego_Centric_Motion_Reasoning", "B", "no", ["A. yes", "B. no"]),  # what the prompt asks for
        ("Ego_Centric_Absolute_Distance", "10", "<answer>13</answer>"),
        ("Ego_Centric_Absolute_Distance", "10", "far away"),
        ("Ego_Centric_Absolute_Distance", "10", "0"),
        ("Ego_Centric_Absolute_Distance", "96", "250 m"),
    ]
    published, fixed = (scored("ego3d", rows, "original", variant) for variant in scoring.VARIANTS)
    assert published["overall"] == 0.5 and fixed["overall"] == 1.0
    distance = published["per_type"]["Ego_Centric_Absolute_Distance"]
    assert distance["score"] == pytest.approx(math.sqrt((9 + 16) / 2)) and distance["metric"] == "RMSE in m"
    assert distance["n"] == 2 and published["left_out"] == {"distances without a number other than 0": 2}
    # Fixed: 0 m is 10 m off, no number counts as 100 m, 90 m off.
    assert fixed["per_type"]["Ego_Centric_Absolute_Distance"]["score"] == pytest.approx(
        math.sqrt((9 + 8100 + 100 + 16) / 4)
    )
    assert published["macro"]["types"] == 2 and published["micro"]["n"] == 2


def test_ego3d_truths_in_words(scored):
    """The authors' logs have letters as truth in some yes-or-no questions, and the words in others."""
    options = ["A. yes", "B. no"]
    for truth, said, published, fixed in (
        ("no", "<answer> No </answer>", 1, 1), ("no", "<answer>B</answer>", 0, 1), ("no", "<answer>yes</answer>", 0, 0),
        ("B", "<answer>no</answer>", 0, 1), ("B", "<answer>b</answer>", 1, 1), ("A", "<answer>B. no</answer>", 0, 0),
        ("no", "<think>so <answer>yes</answer></think><answer>\nno\n</answer>", 1, 1), ("no", "no idea", 0, 0),
    ):  # fmt: skip
        rows = [("Ego_Centric_Relative_Distance", truth, said, options)]
        found = [scored("ego3d", rows, "original", variant)["overall"] for variant in scoring.VARIANTS]
        assert found == [published, fixed], (truth, said)
    with pytest.raises(ValueError, match="expected an option letter"):
        scored("ego3d", [("Localization", "maybe", "A", options)], "original", "fixed")
