"""Answers and questions on which the scorers are compared with the published ones; used by make_benchmarks.py."""

from __future__ import annotations

import random

OPTIONS = (
    ["sofa", "table", "red chair", "tv"],
    ["to the left", "to the right", "behind", "in front of it"],
    ["yes", "no"],
    ["top left", "top right", "bottom left"],
)
LETTER_TEXTS = [
    "", " ", "A", "B", "c", "D", "b", "(A)", "(b)", "A)", "A,", "A.", "B.", "D:", "A. sofa", "B) table", "C: red chair", "(D) tv",
    "Answer: A", "answer: (C)", "Answer A", "ANSWER: D", "The answer is B", "The answer is B.", "the correct answer is (D).",
    "The best answer is C", "My answer is C", "my answer is D.", "B because it is nearer", "B\nbecause", "A\nB", " B", "B ",
    "I am at A. So C", "So I think B is right", "<think>A or B</think>\n<answer>C</answer>", "<answer>D. bed</answer>",
    "<Answer>C</Answer>", "<Answer>the answer is A</Answer> or B", "<answer>h</answer>", "<think>maybe A", "B</think>", "(C) </answer>",
    "So a chair is left", "a", "a.", "A chair", "A chair is left of it, and a lamp too", "Option B", "option b", "Option A: sofa\nB",
    "**B**", "*C*", '"D"', "`C`", "``B``", "{A}", "`{D}`", "``x`` `B`", "It is E", "F", "G", "not sure", "none", "None of them",
    "yes", "Yes.", "No", "no way", "sofa", "the tv", "a table.", "red chair and tv", "right", "to the left", "behind it", "top left",
    "bottom left corner", "Cannot determine the answer", "Cannot determine the answer A", "Z", "Z is not there", "A or B", "A, B and C",
    "A A", "B B B", "答案是C", "选B", "所以 D", "final answer: B", "Final Answer: (c).", "correct answer = D", "x\ny\nC", "C\nx\ny",
    "A. sofa\nB. table\nC. red chair\nD. tv", "Option A: x\nOption B: y", "[B]", "the letter is [C]", "banana", "nan", "ABCD", "BAD",
    "The object in the back is nearer to the door than the bed is to you", "x is y and y is z and z is x and so on and on",
    "Failed to obtain answer via API", "Failed to obtain answer via API B", "I choose b", "I pick C or D", "Hence, D", "(A) or (B)",
    ":B", ":C:", "B).", "(C).", "É", "A\u200b", "\u200bB", "C-", "- D", "> A", "_B_", "Step 1: A\nStep 2: C", "1. B", "B. A",
    "the answer is to the left", "Answer: none of A, B", "answer is\nB", "Answers: B", "{'Reasoning': 'x', 'Answer': 'yes'}",
]  # fmt: skip
_PIECES = [
    "A", "B", "C", "D", "E", "a", "b", "(A)", "(B)", "C.", "D)", "A:", "the", "answer", "is", "Answer:", "\n", ".", ",", "<answer>",
    "</answer>", "<think>", "</think>", "sofa", "table", "tv", "option", "My answer is", "`", "**", "left", "yes", "no", "So",
]  # fmt: skip
NUMBER_TEXTS = [
    "4", "4.", "4 chairs", "4.0", " 4", "4\n5", "twenty-one", "Twenty", "1,250", "3-4", "three point five", ".5", "1e1", "1E-1 m",
    "1/2", "about 2.5 meters", "", " ", "none", "many", "a", "an apple", "a 3 m wide", "-1", "-2.3", "2.30", "2.3m", "2.3 m.",
    "three hundred and twenty-one", "one apple, room 2", "there are two, or 3", "two thousand five hundred", "hundred", "one thousand",
    "two and a half", "and two", "seven and blue and eight", "0", "0.0", "zero", "<answer>2.4</answer>", "<answer> 140 cm </answer>",
    "<answer>about 3</answer>", "<think>3</think> 2.2", "<think>I see 5", "5</think>", "[2.3, 4]", "['x']", "[]", "[1", "[two]",
    "x^2 = 4", "2^10", "^5 7", "nan", "inf", "1_000", "1.2.3", "between 1 and 2", "2 to 3", "+2.3", "ten", "eleven", "thirty",
    "ninety-nine", "one hundred", "someone", "tone 3", "1e400", "Answer: 2.3", "approximately 2.3 meters (7.5 ft)", "2,3", "140cm",
    "1.05", "0.95", "1.1", "1.5", "0.5", "1.45", "2.1", "1.9", "3", "1", "1.0500000000000003", "2.4150000000000005", "2.415", "2.185",
    "3.45", "1.15", "133", "147", "154", "210", "70",
]  # fmt: skip
NUMBERS = ["1", "2.3", "4", "140", "2"]
CHANGES = [
    "move_right:1.5,rotate_left:30", "move_right:1.5,move_up:0.2,rotate_left:30", "", "move_left:1.5", "move_right:1.4,rotate_left:28",
    "move_right: 1.5, rotate_left: 30", "move_right:1.5;rotate_left:30", "move_right:x", "move_right:1:2", "move_up:0.04,move_right:1.5",
    "move_right:2,move_left:0.5,rotate_left:31.5", "rotate_right:-30,move_right:1.5", "move_forward:0.3,move_backward:0.3",
    "move_right:1.5,", "nonsense", "move_right:nan", "move_right:1.5\n",
]  # fmt: skip
SPATIAL457_TEXTS = [
    "red", "{'Reasoning': 'it', 'Answer': 'red'}", '{"Reasoning": "it", "Answer": "Red"}', "{'Answer': 3}", "Answer: yes", "Answer: 'no'",
    "answer = \"True\"", "yes", "No", "1", "0", "true", "False", "", "none", "None", "{'Answer': 'None'}", "{'Answer': 'three'}", "three", "3",
    "03", "{'Answer': 'school bus'}", "{'Answer': 'regular bus'}", "{'Answer': 'jet'}", "{'Answer': 'fighter'}", "suv", "wagon",
    "Answer: red car", "The Answer: 'large'", "{'Answer': ''}", "{'Answer': 7}", "{'Answer': '7'}", "two", "ten", "10", "small", "Yes, it is",
]  # fmt: skip
SPATIAL457_TRUTHS = ["red", "Yes", "No", "True", "False", "3", "1", "0", "school bus", "airliner", "large", "10"]
SQA3D_TEXTS = [
    "chair", "the chair", "A chair", "chairs", "two", "2", "2 chairs", "none", "zero", "0", "to my left", "to my letf", "let", "rigth", "behine",
    "backwards", "backward", "TV", "tv", "the tv.", "  the  door ", "o' clock", "2 oclock", "2 o'clock", "washing machine", "wasing machine",
    "no1", "mat2", "mat 2", "yes", "Yes.", "no", "é chair", "it’s red", "it's red", "twenty-three", "23", "21", "a", "an apple and a chair",
    "", " ", "door \n", "\ndoor", "over   there", "x-ray: yes", "black, white", "chai", "waslked", "tehre", "the the door", "a an the table",
]  # fmt: skip
VIEWSPATIAL_TYPES = ["Camera perspective - Relative Direction", "Person perspective - Object View Orientation"]
SPATIAL457_LEVELS = ["L1_single", "L2_objects", "L3_2d_spatial", "L4_occ", "L4_pose", "L5_6d_spatial", "L5_collision"]


def _fuzz(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        "".join(rng.choice(_PIECES) + rng.choice(["", " "]) for _ in range(rng.randint(1, 7))) for _ in range(count)
    ]


def _row(number: int, kind: str, text: str, truth: str, options=None, dataset=None, name=None) -> dict:
    return {
        "id": f"q{number}" if name is None else name, "question_type": kind, "prediction": text, "ground_truth": truth,
        "options": options, "scene": f"s{number % 7}", "dataset": dataset,
    }  # fmt: skip


def _letter_rows(kinds: list[str], seed: int, sources=(None,), name=None, letters="ABCD") -> list[dict]:
    rows = []
    for number, text in enumerate(LETTER_TEXTS + _fuzz(100, seed)):
        options = OPTIONS[number % len(OPTIONS)]
        truth = letters[(number // len(OPTIONS)) % min(len(options), len(letters))]
        kind, source = kinds[number % len(kinds)], sources[number % len(sources)]
        rows.append(_row(number, kind, text, truth, options, source, name and name(number)))
    return rows


def _number_rows(kinds: list[str], start: int) -> list[dict]:
    pairs = [(text, truth) for truth in NUMBERS for text in NUMBER_TEXTS]
    return [_row(start + n, kinds[(n // 3) % len(kinds)], text, truth) for n, (text, truth) in enumerate(pairs)]


def rows() -> dict[str, list[dict]]:
    """Lines of predictions by benchmark."""
    levels = [f"object_rel_direction_{level}" for level in ("easy", "medium", "hard")]
    vsi = _letter_rows([*levels, "object_rel_distance", "route_planning", "obj_appearance_order"], 0)
    vsi += _number_rows(
        ["object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation"], 1000
    )
    spb = _letter_rows(["object_rel_direction", "object_rel_distance"], 1)
    spb += _number_rows(["object_counting", "object_abs_distance", "object_size_estimation"], 1000)
    depth = [
        f"{kind}_prediction_{pair}{view}"
        for kind in ("depth", "distance")
        for pair in ("oc", "oo")
        for view in ("", "_mv")
    ]
    high = [f"spatial_imagination_{pair}{view}" for pair in ("oc", "oo") for view in ("", "_mv")] + [
        "distance_infer_center_oo"
    ]
    spar = _letter_rows([*high, "position_matching", "camera_motion_infer"], 2) + _number_rows(depth, 1000)
    spar += [_row(2000 + n, "view_change_infer", text, CHANGES[n % 2]) for n, text in enumerate(CHANGES)]
    qids = lambda n: f"QID{n // 4:05d}" + ("", "-1", "-flip", "-flip-1")[n % 4]
    threed = _letter_rows(
        ["location_above"] * 4 + ["height_higher"] * 4 + ["multi_object_facing"] * 4, 3, name=qids, letters="AB"
    )
    for number, row in enumerate(threed):  # some groups that are right as a whole
        if (number // 4) % 5 == 0:
            row["prediction"] = row["ground_truth"]
    mm = _letter_rows(
        ["spatial_relationship"] * 3 + ["attribute"] * 3,
        4,
        name=lambda n: str(n // 3 + n % 3 * 1_000_000),
        letters="AB",
    )
    for number, row in enumerate(mm):
        if (number // 3) % 5 == 0:
            row["prediction"] = row["ground_truth"]
    cross = _letter_rows(["Joint-video Counting", "Cross-video Object Recognition"], 5)
    for number, row in enumerate(cross):
        row["ground_truth"] = ("A", "B", "YES", "NO")[number % 4]
    ids = lambda n: f"{('among', 'around', 'aroundnew', 'rotation')[n % 4]}_group{n}_q0"
    viewspatial = _letter_rows(VIEWSPATIAL_TYPES, 6)
    for row in viewspatial:
        row["ground_truth"] += ". " + row["options"]["ABCD".index(row["ground_truth"])]
    spatial = [
        _row(n, SPATIAL457_LEVELS[n % 7], text, truth)
        for n, (text, truth) in enumerate((text, truth) for text in SPATIAL457_TEXTS for truth in SPATIAL457_TRUTHS)
    ]
    sqa = [
        _row(n, ("what", "is", "how")[n % 3], text, SQA3D_TEXTS[(n * shift) % len(SQA3D_TEXTS)])
        for n, (shift, text) in enumerate((shift, text) for shift in (1, 3, 5) for text in SQA3D_TEXTS)
    ]
    sqa = [row for row in sqa if row["ground_truth"].strip()]  # questions without an answer are no questions
    return {
        "vsibench": vsi,
        "spbench": spb,
        "sparbench": spar,
        "3dsrbench": threed[: len(threed) // 12 * 12],
        "mmbench": mm[: len(mm) // 6 * 6],
        "crossvideo_cvbench": cross,
        "mindcube": _letter_rows(["x"], 7, name=ids),
        "cvbench": _letter_rows(["Count", "Relation", "Depth"], 8, ("ADE20K", "COCO", "Omni3D", "Omni3D", "COCO")),
        "blink": _letter_rows(["Relative_Depth", "Counting"], 9),
        "mmsi": _letter_rows(["Motion (Cam.)", "MSR"], 10),
        "embspatial": _letter_rows(["above", "far"], 11, ("mp3d", "scannet", "ai2thor")),
        "topviewrs": _letter_rows(["Scene Recognition", "Scene Counting"], 12),
        "viewspatial": viewspatial,
        "spatial457": spatial,
        "sqa3d": sqa,
    }
