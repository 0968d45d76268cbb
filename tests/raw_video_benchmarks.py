"""Invented raw folders of benchmarks about several videos, and about ScanNet scans; every word and picture is made up."""

from __future__ import annotations

import json
from pathlib import Path

from raw_tables import packed, parquet, picture, video

CROSSVIDEO_ROWS = [
    ("Cross-video Event Retrieval", ("0/aB-1.mp4", "0/c_D2.mp4", None, None), ["A. Video 1.", "B. Video 2."], "B"),
    ("Cross-video Scene Recognition", ("0/aB-1.mp4", "0/c_D2.mp4", None, None), ["Yes. ", "No. "], "No"),
    ("Joint-video Counting", ("7/x_seg1.mp4", "7/x_seg2.mp4", "7/x_seg4.mp4", None), ["A. 1", "B. 2", "C. 3"], "A"),
]


def crossvideo(folder: Path) -> Path:
    """Three questions about two sets of videos, one of them in the archive."""
    rows = [
        {"id": number, "task_type": kind, **dict(zip(("video_1", "video_2", "video_3", "video_4"), names, strict=True)),
         "question": f"Which of thing {number}?", "options": options, "answer": truth}
        for number, (kind, names, options, truth) in enumerate(CROSSVIDEO_ROWS)
    ]  # fmt: skip
    parquet(folder / "data" / "test-00000-of-00001.parquet", rows)
    films = {}
    for number, name in enumerate(CROSSVIDEO_ROWS[0][1][:2]):
        video(folder / "film.mp4", 6 + number, (48, 32 + 16 * number))
        films[name] = (folder / "film.mp4").read_bytes()
    (folder / "film.mp4").unlink()
    packed(folder / "CVBench.zip", films)
    for name in CROSSVIDEO_ROWS[2][1][:3]:
        video(folder / "CVBench" / name, 4)
    return folder


def frames(folder: Path, numbers, form: str = "{}.jpg", depth: bool = False) -> None:
    """Pictures of a scan, as bright as their number; `depth`: EmbodiedScan's maps, poses and cameras beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = folder / form.format(number)
        path.write_bytes(picture(number, form="JPEG"))
        if depth:
            path.with_suffix(".png").write_bytes(picture(200))
            path.with_suffix(".txt").write_text("1 0 0 0")
            (folder / "intrinsic.txt").write_text("1 0 0 0")


def written(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


SQA3D_ROWS = [
    ("scene9000_00", "What is on my left?", "lamp"),
    ("scene9001_00", "How many of them are behind me?", "two"),
    ("scene9000_00", "In which direction is the door?", "right"),
]


def sqa3d(folder: Path) -> Path:
    """Three questions about two scans, annotations in another order; one scan exported, one a film."""
    questions, annotations = [], []
    for number, (scan, question, answer) in enumerate(SQA3D_ROWS):
        shared = {"scene_id": scan, "question_id": 990000000000 + number}
        questions.append(
            {**shared, "situation": f"I sit at table {number}.", "alternative_situation": [], "question": question}
        )
        said = [{"answer": answer, "answer_confidence": "yes", "answer_id": 1}]
        position = {"rotation": {"_x": 0, "_y": 0, "_z": 0, "_w": 1}, "position": {"x": 0, "y": 0, "z": 0}}
        annotations.append({**shared, "question_type": "N/A", "answer_type": "other", "answers": said, **position})
    for part in ("test", "val"):
        count = 3 if part == "test" else 1
        place = folder / "sqa_task" / "balanced"
        about = {"info": {"version": "1.0"}, "data_type": "scannet"}
        written(
            place / f"v1_balanced_questions_{part}_scannetv2.json",
            {**about, "task_type": "x", "questions": questions[:count]},
        )
        written(
            place / f"v1_balanced_sqa_annotations_{part}_scannetv2.json",
            {**about, "annotations": annotations[:count][::-1]},
        )
    frames(folder / "scannet" / "posed_images" / "scene9000_00", (0, 10, 20, 100), "{:05}.jpg", depth=True)
    video(folder / "video" / "scene9001_00.mp4", 5)
    return folder


def scanqa(folder: Path) -> Path:
    """Three questions about an exported scan, of which one has two answers."""
    rows = [
        {"scene_id": "scene9000_00", "question_id": f"val-scene9000-{number}", "question": question, "answers": answers,
         "object_ids": [number], "object_names": ["box"]}
        for number, (question, answers) in enumerate(
            [("Where is the box?", ["on the desk", "desk"]), ("What color is the lid?", ["brown"]), ("Is it full?", ["yes"])]
        )
    ]  # fmt: skip
    written(folder / "ScanQA_v1.0_val.json", rows)
    frames(folder / "scans" / "scene9000_00" / "color", (0, 1, 2, 10))
    return folder


FOLDERS = {"crossvideo_cvbench": crossvideo, "sqa3d": sqa3d, "scanqa": scanqa}
