"""Wording, forms, balance and margins of the questions; right answers are the oracle test's business."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter, defaultdict

import box_rooms
import numpy as np
import pytest
from box_rooms import WORDS, box_object, cast, look_at, scene_of

from data_pipelines.packing import question_prompt
from data_pipelines.rooms.questions import TYPES, chance_level, make_questions, vocabulary
from data_pipelines.rooms.questions.facts import Facts, box_gaps
from data_pipelines.rooms.questions.forms import number_word

FORMS = ("word", "letter", "number")


@pytest.fixture(scope="module")
def asked():
    """Form -> questions of 60 rooms, room by room."""
    rooms = [box_rooms.random_room(seed, pixels=32) for seed in range(60)]
    return {
        form: [
            make_questions(scene, views, "walk", np.random.default_rng(seed), form, words=WORDS, scan=True)[0]
            for seed, (scene, views) in enumerate(rooms)
        ]
        for form in FORMS
    }


def tokens(text: str) -> list[str]:
    """As a word-level tokenizer splits: white space, then view names, then single digits and the point."""
    text = re.sub(r"<view:(\d+)>", r"view \1", text)
    return [piece for word in text.split() for piece in (word if re.fullmatch(r"[\d.]+", word) else [word])]


@pytest.mark.parametrize("form", FORMS)
def test_vocabulary_covers_all_words_and_questions_are_short(asked, form):
    known = set(vocabulary(WORDS))
    for question in (question for room in asked[form] for question in room):
        used = tokens(question_prompt(question)) + tokens(question.answer)
        assert set(used) <= known, question
        limit = {"grounding": 16, "scan": 10, "spatial": 40}[question.group]
        assert len(tokens(question.text)) <= limit, question
        if question.form == "word":
            assert len(tokens(question.answer)) == (4 if question.group == "scan" else 1)


def test_vocabulary_has_no_unused_words(asked):
    """All but classes and digits that sixty rooms need not reach."""
    used = set()
    for form in FORMS:
        for question in (question for room in asked[form] for question in room):
            used |= set(tokens(question_prompt(question))) | set(tokens(question.answer))
    classes = {answer for kind in TYPES.values() for answer in kind.classes}
    spare = set(vocabulary(WORDS)) - used - classes - set("0123456789") - set(WORDS.categories)
    assert not spare


def test_default_vocabulary_holds_the_furniture():
    furniture = pytest.importorskip("data_pipelines.rooms.furniture")
    words = vocabulary()
    assert words == sorted(set(words))
    assert set(furniture.CATEGORIES) | set(furniture.COLOURS) <= set(words)


@pytest.mark.parametrize("form", FORMS)
def test_fields_of_questions(asked, form):
    for room in asked[form]:
        assert len({question.id for question in room}) == len(room)
        assert len({question.text for question in room}) == len(room)
        for question in room:
            kind = TYPES[question.type]
            assert question.group == kind.group
            changes = kind.group != "scan" and (form != "number" or kind.numeric)
            assert question.form == (form if changes else "word")
            if kind.group != "spatial":
                (view,) = question.views
                assert f"<view:{view}>" in question.text
            if question.form == "letter":
                assert 2 <= len(question.options) <= 4 == len("ABCD")
                assert len(set(question.options)) == len(question.options)
                assert question.answer in "ABCD"[: len(question.options)]
            else:
                assert question.options == ()
            if question.form == "number":
                count = question.type in ("count", "object_count")
                assert re.fullmatch(r"\d+" if count else r"\d+\.\d", question.answer)


def test_same_generator_state_gives_the_same_questions():
    scene, views = box_rooms.random_room(5, pixels=32)

    def make(seed):
        return make_questions(scene, views, "walk", np.random.default_rng(seed), words=WORDS)

    assert make(1) == make(1)
    assert make(1)[0] != make(2)[0]


def test_scans_come_beside_the_other_questions():
    scene, views = box_rooms.random_room(5, pixels=32)
    plain, full = (
        make_questions(scene, views, "walk", np.random.default_rng(3), words=WORDS, scan=scan)[0]
        for scan in (False, True)
    )
    assert {question.group for question in plain} == {"grounding", "spatial"}
    text = lambda questions: [(question.text, question.answer) for question in questions if question.group != "scan"]
    assert text(full) == text(plain)
    for view in range(len(views)):
        rows = [question.type for question in full if question.group == "scan" and question.views == (view,)]
        assert Counter(rows) == {"names_along": 4, "colours_along": 4, "depths_along": 4}


def test_answers_are_balanced_per_type(asked):
    counts = defaultdict(Counter)
    letters = defaultdict(Counter)
    for form in ("word", "letter"):
        for question in (question for room in asked[form] for question in room):
            if form == "word":
                counts[question.type][question.answer] += 1
            elif question.form == "letter":
                letters[len(question.options)][question.answer] += 1
    for kind in ("presence", "left_right", "nearer", "object_rel_direction_easy"):
        number = sum(counts[kind].values())
        assert number > 150 and max(counts[kind].values()) < 0.5 * number + 2.5 * np.sqrt(number)
    for kind in ("object_rel_direction_medium", "object_rel_direction_hard", "route_planning"):
        classes = TYPES[kind].classes
        number = sum(counts[kind].values())
        assert number > 100 and set(counts[kind]) == set(classes)
        assert max(counts[kind].values()) < number / len(classes) + 3 * np.sqrt(number / len(classes))
    for size, counter in letters.items():
        number = sum(counter.values())
        assert max(counter.values()) < number / size + 4 * np.sqrt(number / size)


def test_wording_of_presence_tells_nothing_of_the_answer(asked):
    coloured = Counter()
    for question in (question for room in asked["word"] for question in room if question.type == "presence"):
        coloured[len(question.text.split()), question.answer] += 1
    plain, full = sorted({length for length, _ in coloured})
    for length in (plain, full):
        yes, no = coloured[length, "yes"], coloured[length, "no"]
        assert abs(yes - no) < 3 * np.sqrt(yes + no)


@pytest.mark.parametrize(
    ("other", "yaw", "expected"),
    [
        ((3.0, 0.0, 0.5), 0.0, 2.0),  # side by side
        ((3.0, 4.0, 0.5), 0.0, np.hypot(2.0, 3.0)),  # corner to corner
        ((3.0, 0.0, 0.5), np.pi / 4, 2.5 - np.sqrt(0.5)),  # an edge points at the other box
        ((0.0, 0.0, 2.5), 0.3, 1.0),  # above, with a vertical gap
        ((2.0, 0.0, 2.5), 0.0, np.sqrt(2.0)),
        ((0.2, 0.1, 0.5), 0.7, 0.0),  # one in the other
    ],
)
def test_box_gap_closed_forms(other, yaw, expected):
    first = box_object(0, "box", "red", (1, 1, 1), (0, 0, 0.5), 0.0)
    second = box_object(1, "bed", "red", (1, 1, 1), other, yaw)
    gap = box_gaps(scene_of([first, second]))
    np.testing.assert_allclose(gap, [[0, expected], [expected, 0]], atol=1e-12)


def test_crossing_planks_without_a_corner_inside_touch():
    first = box_object(0, "box", "red", (4, 0.2, 1), (0, 0, 0.5), 0.0)
    second = box_object(1, "bed", "red", (4, 0.2, 1), (0, 0, 0.5), 1.2)
    assert box_gaps(scene_of([first, second]))[0, 1] == 0.0


def _facing_wall(*objects):
    """One view from (2.5, 0.2) along +y, x of the world runs right in the picture."""
    scene = scene_of(objects, (5.0, 6.0, 2.6))
    return scene, [cast(scene, look_at(np.array([2.5, 0.2, 1.0]), (2.5, 4.0, 0.9)), 64)]


def _made(scene, views, kind, seeds=20):
    texts = {}
    for seed in range(seeds):
        questions, _ = make_questions(scene, views, "walk", np.random.default_rng(seed), words=WORDS)
        texts |= {question.text: question.answer for question in questions if question.type == kind}
    return texts


def test_a_known_room():
    chair = box_object(0, "chair", "red", (0.5, 0.5, 1.0), (1.5, 4.0, 0.5), 0.0)
    table = box_object(1, "table", "blue", (0.8, 0.5, 0.9), (3.6, 3.0, 0.45), 0.0)
    scene, views = _facing_wall(chair, table)
    assert _made(scene, views, "left_right") == {
        "in <view:0> is the red chair left or right of the blue table ?": "left",
        "in <view:0> is the blue table left or right of the red chair ?": "right",
    }
    assert _made(scene, views, "nearer") == {
        "in <view:0> is the red chair nearer or farther than the blue table ?": "farther",
        "in <view:0> is the blue table nearer or farther than the red chair ?": "nearer",
    }
    assert _made(scene, views, "colour_of")["in <view:0> what colour is the table ?"] == "blue"
    presence = _made(scene, views, "presence")
    assert presence["in <view:0> is there a red chair ?"] == "yes"
    assert presence["in <view:0> is there a blue chair ?"] == "no"
    # 1.75 to 3.2 along x, 3.25 to 3.75 along y.
    questions, _ = make_questions(scene, views, "walk", np.random.default_rng(0), "number", words=WORDS)
    answers = {question.type: question.answer for question in questions}
    assert answers["object_abs_distance"] == f"{np.hypot(1.45, 0.5):.1f}" == "1.5"
    assert answers["object_size"] in ("10.0", "9.0")


def test_near_ties_are_not_asked():
    chair = box_object(0, "chair", "red", (0.5, 0.5, 1.0), (2.5, 4.0, 0.5), 0.0)
    table = box_object(1, "table", "blue", (0.4, 0.4, 0.4), (2.6, 4.05, 1.3), 0.0)
    scene, views = _facing_wall(chair, table)
    assert not _made(scene, views, "left_right", 3) and not _made(scene, views, "nearer", 3)
    _, stats = make_questions(scene, views, "walk", np.random.default_rng(0), words=WORDS)
    assert stats["rejected/left_right/near_tie"] == 1 and stats["rejected/nearer/near_tie"] == 1
    assert stats["rejected/object_abs_distance/too_close"] == 1


def test_things_of_one_colour_and_category_are_no_referents():
    twins = [box_object(i, "chair", "red", (0.5, 0.5, 1.0), (1.2 + 1.2 * i, 4.0, 0.5), 0.0) for i in range(2)]
    table = box_object(2, "table", "blue", (0.8, 0.5, 0.9), (3.6, 2.5, 0.45), 0.0)
    scene, views = _facing_wall(*twins, table)
    assert not _made(scene, views, "left_right", 3) and not _made(scene, views, "object_abs_distance", 3)
    assert _made(scene, views, "count", 8)["in <view:0> how many chair objects are there ?"] == "two"


def test_glimpsed_things_are_neither_counted_nor_denied():
    """A picture edited so that one chair keeps three pixels."""
    chairs = [
        box_object(i, "chair", c, (0.5, 0.5, 1.0), (1.2 + 1.2 * i, 4.0, 0.5), 0.0)
        for i, c in ((0, "red"), (1, "green"))
    ]
    scene, views = _facing_wall(*chairs)
    instance = views[0].instance.copy()
    keep = np.argwhere(instance == 1)[:3]
    instance[instance == 1] = -1
    instance[tuple(keep.T)] = 1
    views = [dataclasses.replace(views[0], instance=instance)]
    assert "in <view:0> how many chair objects are there ?" not in _made(scene, views, "count", 8)
    assert "in <view:0> is there a green chair ?" not in _made(scene, views, "presence", 8)
    assert not _made(scene, views, "object_count", 8)


def test_a_thing_cut_by_the_border_is_not_placed_across_it():
    """The bed runs out of the picture on the right: it may be right of the chair, never left of the lamp."""
    bed = box_object(0, "bed", "blue", (2.6, 0.6, 0.8), (3.6, 2.0, 0.4), 0.0)
    chair = box_object(1, "chair", "red", (0.4, 0.4, 1.0), (1.6, 3.0, 0.5), 0.0)
    lamp = box_object(2, "lamp", "white", (0.3, 0.3, 0.5), (4.3, 4.2, 1.6), 0.0)
    scene, views = _facing_wall(bed, chair, lamp)
    facts = Facts(scene, views, WORDS).views[0]
    assert facts.cut_right[0] and not facts.cut_left[0] and facts.x[0] + 0.06 < facts.x[2]
    texts = " ".join(_made(scene, views, "left_right"))
    assert "red chair left or right of the blue bed" in texts
    assert "lamp left or right of the blue bed" not in texts and "bed left or right of the white lamp" not in texts


def test_stats_count_what_was_made(asked):
    scene, views = box_rooms.random_room(7, pixels=32)
    questions, stats = make_questions(scene, views, "walk", np.random.default_rng(0), words=WORDS)
    json.dumps(stats)
    made = {name.split("/")[1]: number for name, number in stats.items() if name.startswith("made/")}
    assert made == Counter(question.type for question in questions)


def test_limits_and_settings():
    scene, views = box_rooms.random_room(7, pixels=32)
    questions, _ = make_questions(scene, views, "free", np.random.default_rng(0), "word", 5, 7, words=WORDS)
    per_view = Counter(question.views for question in questions if question.group == "grounding")
    assert max(per_view.values()) == 5
    assert sum(question.group == "spatial" for question in questions) == 7
    questions, _ = make_questions(scene, views, "free", np.random.default_rng(0), "word", 0, 400, words=WORDS)
    assert {question.group for question in questions} == {"spatial"}
    assert "object_appearance_order" not in {question.type for question in questions}


def test_an_empty_room_has_nothing_to_ask_but_its_size_and_how_far_its_walls_are():
    scene, views = _facing_wall()
    questions, _ = make_questions(scene, views, "walk", np.random.default_rng(0), words=WORDS)
    assert {question.type for question in questions} <= {"room_size", "depth_at"}


def test_errors_name_the_cause():
    scene, views = box_rooms.random_room(1, pixels=32)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="form 'words' is unknown.*word, letter, number"):
        make_questions(scene, views, "walk", rng, "words")
    with pytest.raises(ValueError, match="must not be negative"):
        make_questions(scene, views, "walk", rng, spatial_count=-1)
    with pytest.raises(ValueError, match="no views"):
        make_questions(scene, [], "walk", rng)
    with pytest.raises(ValueError, match="view 0: the instance map names object"):
        make_questions(dataclasses.replace(scene, objects=scene.objects[:1]), views, "walk", rng, words=WORDS)


def test_number_words():
    assert [number_word(value) for value in (0, 13, 20, 25, 99, 100)] == [
        "zero",
        "thirteen",
        "twenty",
        "twenty-five",
        "ninety-nine",
        "hundred",
    ]
    with pytest.raises(ValueError, match="0 to 100"):
        number_word(101)


def test_chance_levels(asked):
    for form in FORMS:
        for question in (question for room in asked[form][:5] for question in room):
            chance = chance_level(question, WORDS)
            if question.group == "scan":
                assert chance is None
            elif form == "letter":
                assert chance == 1 / len(question.options)
            elif question.form == "number":
                assert chance is None
            elif question.type == "name_at":
                assert chance == 1 / len(WORDS.categories)
            elif question.type in ("presence", "object_rel_direction_easy"):
                assert chance == 0.5
