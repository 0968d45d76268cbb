"""What one training record is: some views of one scene, their geometry, and questions.

The schema with its units lives here alone; sources produce `Record`, the ArrayRecord builder
stores it, the loader reads it back. No jax here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import numpy as np

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Question:
    """One question with its answer.

    `text` names views as `<view:K>` with K counted from 0 in the record's order; the loader turns
    it into "view 1" (counted from 1) once it knows which views a sample shows.
    """

    id: str
    type: str  # e.g. "colour_at", "object_abs_distance"
    group: str  # "grounding" (one view answers), "spatial", or "scan" (dense grounding for training)
    form: str  # "word", "letter" or "number"
    text: str
    answer: str  # a word, a letter ("B") or a decimal number
    options: tuple[str, ...] = ()  # option texts in order A, B, C ... for form "letter"
    views: tuple[int, ...] = ()  # views that the question needs; () = all views
    turns: tuple[tuple[str, str], ...] = ()  # later (question, answer) pairs of the same conversation


@dataclasses.dataclass(frozen=True)
class Record:
    """Views of one scene in prompt order; all lists have length V, which is 0 for questions without pictures."""

    id: str
    dataset: str
    scene: str
    setting: str  # "rotation", "among", "around", "walk", "free", or a data set's own word
    view_ids: tuple[str, ...]
    images: tuple[bytes, ...]  # encoded PNG or JPEG, RGB
    depths: tuple[bytes, ...]  # encoded 16-bit grey PNG of the image's size, b"" = no depth; 0 = invalid
    depth_unit_m: float  # metres per depth step; 0 = depth in an unknown unit (step 0.001)
    intrinsics: np.ndarray  # float64[V,3,3], pixels of the image, pixel centres at +0.5
    camera_to_world: np.ndarray  # float64[V,4,4], metres, OpenCV axes; identity where not pose_valid
    pose_valid: np.ndarray  # bool[V]
    questions: tuple[Question, ...] = ()
    metadata: Mapping = dataclasses.field(default_factory=dict)  # JSON-able facts of the scene

    def __post_init__(self):
        views = len(self.view_ids)
        sizes = {
            "images": len(self.images),
            "depths": len(self.depths),
            "intrinsics": len(self.intrinsics),
            "camera_to_world": len(self.camera_to_world),
            "pose_valid": len(self.pose_valid),
        }
        wrong = {name: size for name, size in sizes.items() if size != views}
        if wrong or not (views or self.questions):
            raise ValueError(f"Record '{self.id}': {views} view_ids, but {wrong or 'neither view nor question'}.")
        for name in ("intrinsics", "camera_to_world"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"Record '{self.id}': {name} has NaN or inf; mask the view with pose_valid=False.")


def questions_to_json(questions: tuple[Question, ...]) -> str:
    """The questions as JSON text, as stored in the record."""
    rows = [dataclasses.asdict(question) for question in questions]
    for row in rows:
        if not row["turns"]:
            del row["turns"]  # as in data sets of before there were conversations
    return json.dumps(rows, separators=(",", ":"))


def questions_from_json(text: str) -> tuple[Question, ...]:
    """Inverse of `questions_to_json`."""
    rows = json.loads(text)
    return tuple(
        Question(
            **{
                **row,
                "options": tuple(row["options"]),
                "views": tuple(row["views"]),
                "turns": tuple(tuple(turn) for turn in row.get("turns", ())),
            }
        )
        for row in rows
    )
