"""Invented raw folders of published benchmarks, a few rows each, in their real layouts; every word and picture is made up."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import raw_video_benchmarks
from raw_tables import lines, packed, parquet, picture, tsv, video

VSI_ROWS = [
    ("object_counting", None, "4", False),
    ("object_abs_distance", None, "2.5", True),
    ("object_rel_direction_easy", ["A. left", "B. right"], "B", False),
    ("object_rel_direction_medium", ["A. left", "B. right", "C. back"], "A", False),
    ("object_rel_direction_hard", ["A. front-left", "B. back-right"], "A", True),
    ("route_planning", ["A. Turn Left", "B. Turn Right"], "B", False),
    ("object_counting", None, "2", False),
]


def vsibench(folder: Path) -> Path:
    """Seven questions about two films, one in a folder and one in a zip archive."""
    rows = []
    for number, (kind, options, truth, pruned) in enumerate(VSI_ROWS):
        dataset, scene = ("scannet", "scene9000_00") if number % 2 else ("arkitscenes", "41999999")
        question = f"What of things number {number}?"
        rows.append(
            {"id": number, "dataset": dataset, "scene_name": scene, "question_type": kind, "question": question,
             "ground_truth": truth, "options": options, "pruned": pruned}
        )  # fmt: skip
    lines(folder / "test.jsonl", rows)
    video(folder / "arkitscenes" / "41999999.mp4", 12)
    video(folder / "spare.mp4", 5)
    packed(folder / "scannet.zip", {"scannet/scene9000_00.mp4": (folder / "spare.mp4").read_bytes()})
    (folder / "spare.mp4").unlink()
    return folder


def mindcube(folder: Path) -> Path:
    """Three questions, one of whose paths is absolute; MindCube.jsonl has the first only."""
    shown = ["among/mug_9/front_039.png", "among/mug_9/left_123.png", "rotation/scene9/0.png"]
    for number, name in enumerate(shown):
        path = folder / "data" / "other_all_image" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(40 * number))
    pictures = [f"other_all_image/{name}" for name in shown]
    among = {"category": ["linear"], "type": "0_frame", "meta_info": [["mug"], [None]], "images": pictures[:2]}
    rows = [
        {"id": "among_group9_q0_1", **among, "question": "Which way did the camera go? A. Left B. Right C. Forward", "gt_answer": "C"},
        {"id": "among_group9_q1_1", **among, "type": None, "question": "What is behind? A. cup B. door", "gt_answer": "A"},
        {"id": "rotation_group9_q0_1", "category": [], "type": "", "meta_info": ["bed"], "question": "What is left? A. bed B. desk",
         "images": [f"D:\\work\\{pictures[2]}".replace("/", "\\")], "gt_answer": "B"},
    ]  # fmt: skip
    lines(folder / "data" / "raw" / "MindCube_tinybench.jsonl", rows)
    lines(folder / "data" / "raw" / "MindCube.jsonl", rows[:1])
    return folder


def cvbench(folder: Path) -> Path:
    """Four questions of the three sources."""
    rows = [
        {"idx": number, "type": kind, "task": task, "image": picture(50 * number), "question": f"How many of {number}?",
         "choices": ["0", "1", "2"], "answer": f"({letter})", "prompt": f"How many of {number}?\n(A) 0\n(B) 1\n(C) 2", "source": source}
        for number, (kind, task, source, letter) in enumerate(
            [("2D", "Count", "ADE20K", "B"), ("2D", "Relation", "COCO", "A"), ("3D", "Depth", "Omni3D", "C"), ("3D", "Distance", "Omni3D", "A")]
        )
    ]  # fmt: skip
    parquet(folder / "test.parquet", rows)
    return folder


def sparbench(folder: Path) -> Path:
    """A number, boxes to choose from, another choice, a change of view."""
    rows = [
        ("depth_prediction_oc", "How far is the box (red point)?", "1.6", [picture(10)]),
        ("position_matching", "Which box? A. (1,2,3,4) B. (5,6,7,8)", "A", [picture(20), picture(30)]),
        ("spatial_imagination_oo", "Where is it? A. left B. right", "B", [picture(40)]),
        ("view_change_infer", "How did the camera move?", "move_right:0.3,rotate_left:12", [picture(50), picture(60)]),
    ]
    named = [
        {"id": "s", "image": shown, "question": question, "answer": truth, "task": task, "img_type": "x"}
        for task, question, truth, shown in rows
    ]
    parquet(folder / "data" / "test-00000-of-00001.parquet", named)
    return folder


def spbench(folder: Path) -> Path:
    """One question about two pictures, one about one."""
    rows = [
        {"id": 0, "scene_name": "scene9000_00", "question_type": "object_rel_distance", "question": "Which is nearest?",
         "options": ["A. sofa", "B. tv"], "ground_truth": "B", "images": ["0.png", "1.png"]},
        {"id": 1, "scene_name": "scene9000_00", "question_type": "object_counting", "question": "How many chairs?",
         "options": None, "ground_truth": "3", "images": ["1.png"]},
    ]  # fmt: skip
    parquet(folder / "SPBench-MV.parquet", rows)
    shown = {f"SPBench-MV-images/scene9000_00/{n}.png": picture(30 * n) for n in range(2)}
    packed(folder / "SPBench-MV-images.zip", shown)
    return folder


def viewspatial(folder: Path) -> Path:
    """Two questions, the pictures in zip archives without the first folder of the paths."""
    rows = [
        {"question_type": "Camera perspective - Relative Direction", "question": "Where is the shelf?", "answer": "A. right",
         "image_path": ["ViewSpatial-Bench/scannetv2_val/scene9011_00/original_images/280.jpg"], "choices": "A. right\nB. left"},
        {"question_type": "Person perspective - Object View Orientation", "question": "Which way?", "answer": "B. back",
         "image_path": ["ViewSpatial-Bench/val2017/000000999999.jpg"], "choices": "A. front\nB. back"},
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ViewSpatial-Bench.json").write_text(json.dumps(rows), "utf-8")
    packed(folder / "val2017.zip", {"val2017/000000999999.jpg": picture(9, form="JPEG")})
    scene = "scannetv2_val/scene9011_00/original_images/280.jpg"
    packed(folder / "scannetv2_val.zip", {scene: picture(90, form="JPEG"), f"__MACOSX/{scene}": b"x"})
    return folder


def ego3d(folder: Path) -> Path:
    """Views in the order of the text, which is not that of the fields; Argoverse's "Left view" is Side_Left."""
    views = "Front view: <image>\nBack Left view: <image>\nLeft view: <image>\n"
    images = {"Back_Left": "bl.jpg", "Front": "f.jpg", "Side_Left": "sl.jpg", "Side_Right": ""}
    rows = [
        {"idx": 7, "source": "argoverse", "category": "Localization", "question": f"Cameras\n{views}Where is it?",
         "options": ["A. north", "B. south"], "answer": "A", "images": images},
        {"idx": 8, "source": "argoverse", "category": "Ego_Centric_Absolute_Distance", "question": f"Cameras\n{views}How far?",
         "options": None, "answer": "13.7", "images": images},
    ]  # fmt: skip
    lines(folder / "test.jsonl", rows)
    packed(folder / "raw_images.zip", {name: picture(20, form="JPEG") for name in ("bl.jpg", "f.jpg", "sl.jpg")})
    return folder


def _cell(shade: int) -> str:
    return base64.b64encode(picture(shade)).decode()


def three_d_srbench(folder: Path) -> Path:
    """One question in two rotations, flipped and not."""
    folder.mkdir(parents=True, exist_ok=True)
    base = {"question": "Is it nearer?", "C": "", "D": "", "category": "location_closer_to_camera"}
    rows = [
        {"index": 0, "qid": "ABC1DE2F", **base, "A": "yes", "B": "no", "answer": "A", "image": _cell(1)},
        {"index": 1, "qid": "ABC1DE2F-1", **base, "A": "no", "B": "yes", "answer": "B", "image": _cell(1)},
        {"index": 2, "qid": "ABC1DE2F-flip", **base, "A": "yes", "B": "no", "answer": "B", "image": _cell(2)},
        {"index": 3, "qid": "ABC1DE2F-flip-1", **base, "A": "no", "B": "yes", "answer": "A", "image": _cell(2)},
    ]
    tsv(folder / "3dsrbench_v1_vlmevalkit_circular.tsv", rows)
    tsv(folder / "3dsrbench_v1_vlmevalkit.tsv", rows[::2])
    return folder


def mmbench(folder: Path) -> Path:
    """One question in three rotations, whose copies refer to the first one's picture; a hint; an empty option."""
    folder.mkdir(parents=True, exist_ok=True)
    base = {
        "question": "Where is the box?",
        "D": "",
        "category": "spatial_relationship",
        "l2-category": "x",
        "split": "dev",
    }
    texts = ["left", "right", "behind"]
    rows = [
        {"index": 7 + k * 1_000_000, **base, "hint": "" if k else "It is red.", **dict(zip("ABC", texts[k:] + texts[:k], strict=True)),
         "answer": "BAC"[k], "image": "7" if k else _cell(3)}
        for k in range(3)
    ]  # fmt: skip
    tsv(folder / "MMBench_DEV_EN.tsv", rows)
    return folder


def topviewrs(folder: Path) -> Path:
    """One question."""
    folder.mkdir(parents=True, exist_ok=True)
    options = dict(zip("ABCD", ["top left", "top right", "bottom left", "bottom right"], strict=True))
    row = {
        "index": 0,
        "question": "Where is the sofa?",
        **options,
        "answer": "B",
        "category": "Scene Recognition",
        "split": "test",
    }
    tsv(folder / "TopViewRS.tsv", [{**row, "image": _cell(4)}])
    return folder


def spatial457(folder: Path) -> Path:
    """Two levels, told by the folder."""
    for level, question, truth in (("L1_single", "What color is it?", "red"), ("L3_2d_spatial", "Is it left?", "True")):
        row = {
            "image": picture(5),
            "image_filename": "x.png",
            "question": question,
            "answer": truth,
            "question_index": 1,
        }
        parquet(folder / level / "validation-00000-of-00001.parquet", [row])
    return folder


def blink(folder: Path) -> Path:
    """A question about two pictures and one about one."""
    row = {"question": "Which is nearer?", "choices": ["A", "B"], "answer": "(B)", "prompt": "Nearer?\n(A) A\n(B) B"}
    rows = [
        {"idx": f"val_{n}", "sub_task": task, "image_1": picture(n), "image_2": second, **row}
        for n, (task, second) in enumerate([("Relative_Depth", None), ("Multi-view_Reasoning", picture(99))])
    ]
    parquet(folder / "Relative_Depth" / "val-00000-of-00001.parquet", rows)
    return folder


def mmsi(folder: Path) -> Path:
    """One question; the pictures are bare bytes."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    row = {
        "id": 3,
        "images": [picture(1), picture(2)],
        "question_type": "MSR",
        "question": "Where? Options: A: left, B: right\n",
        "answer": "B",
    }
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "MMSI_bench.parquet")
    return folder


def embspatial(folder: Path) -> Path:
    """One question, the answer by place."""
    row = {
        "question_id": "mp3d_1",
        "relation": "left",
        "question": "What is left?",
        "image": picture(6),
        "data_source": "mp3d",
    }
    parquet(folder / "test.parquet", [{**row, "answer_options": ["sofa", "tv", "bed", "lamp"], "answer": 2}])
    return folder


FOLDERS = {
    "vsibench": vsibench, "vsibench_mc": vsibench, "vsibench_debiased": vsibench, "mindcube": mindcube, "cvbench": cvbench,
    "sparbench": sparbench, "spbench": spbench, "viewspatial": viewspatial, "ego3d": ego3d, "3dsrbench": three_d_srbench,
    "mmbench": mmbench, "topviewrs": topviewrs, "spatial457": spatial457, "blink": blink, "mmsi": mmsi, "embspatial": embspatial,
    **raw_video_benchmarks.FOLDERS,
}  # fmt: skip
