"""Posed RGB-D frames as users have them (JPEG pictures, 16-bit PNG depth), prepared by the `posed_rgbd` source.

Rooms of the generator are rendered at the wanted size, get the noise of a camera and of a depth sensor, and are written
in ScanNet's export layout with their questions; from there on they go the way of anybody's own frames.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.rooms.config import RoomsConfig
from data_pipelines.rooms.generate import DEPTH_UNIT_M, make_record
from data_pipelines.sources.posed_rgbd import Settings
from data_pipelines.transforms.decode import decode_views
from experiments.prepare import prepare

JPEG_QUALITY = 90
COLOUR_NOISE = 3.0  # standard deviation, grey levels: a room's flat walls would compress better than photographs do
DEPTH_NOISE_M = 0.002  # standard deviation
DEPTH_RANGE_M = 8.0  # beyond which a sensor sees nothing
QUESTIONS = 24  # of a record; training packs some of them


def write_scene(folder: Path, index: int, size: int, views: int) -> None:
    """One room as a scene folder of `views` frames of size x size pixels, with questions.json."""
    rng = np.random.default_rng([7, index])
    config = RoomsConfig(size=size, views=views, questions_per_view=QUESTIONS // (2 * views) + 1)
    record, _ = make_record(config, "train", index)
    images, depths = decode_views(record, tuple(range(views)))
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    for view, (image, depth) in enumerate(zip(images, depths, strict=True)):
        noisy = np.clip(image + rng.normal(0, COLOUR_NOISE, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "color" / f"{view}.jpg", quality=JPEG_QUALITY)
        seen = (depth > DEPTH_UNIT_M) & (depth < DEPTH_RANGE_M)
        steps = np.where(seen, np.round((depth + rng.normal(0, DEPTH_NOISE_M, depth.shape)) * 1000), 0)
        Image.fromarray(steps.clip(0).astype(np.uint16)).save(folder / "depth" / f"{view}.png")
        np.savetxt(folder / "pose" / f"{view}.txt", record.camera_to_world[view])
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", record.intrinsics[0])
    entries = [
        {
            "question": question.text,
            "answer": question.answer,
            "views": list(range(views)),
            "type": question.type,
            "group": question.group,
            **({"options": list(question.options)} if question.options else {}),
        }
        for question in record.questions[:QUESTIONS]
    ]
    (folder / "questions.json").write_text(json.dumps(entries), encoding="utf-8")


def prepared(folder: Path, records: int, size: int, views: int) -> Path:
    """A prepared data set of so many records under `folder`, made unless it is there."""
    name = f"{records}x{views}x{size}"
    raw, out = folder / f"raw-{name}", folder / f"data-{name}"
    if not (out / "manifest.json").is_file():
        for index in range(records):
            if not (scene := raw / f"scene{index:04d}").exists():
                write_scene(scene, index, size, views)
        more = views + 1  # longer than a scene: no records but those that the questions name
        settings = Settings(raw=str(raw), views=more, validation=0, test=0, principal_point="corner")
        prepare("posed_rgbd", settings, out, workers=None, progress=False)
    return out
