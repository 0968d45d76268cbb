"""Records of box rooms in closed form, and a stand-in model that knows the labels."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines.loader import DataConfig
from data_pipelines.records import Question, Record
from spatialsv_jax import geometry
from spatialsv_jax.evaluation.benchmarks import scoring
from spatialsv_jax.evaluation.predictions import Engine
from spatialsv_jax.processing.tiny import TinyProcessor, build_tokenizer

SIZE, VIEWS = 16, 3
COLOURS = ("red", "blue", "green", "black")


def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def make_record(index: int, setting: str = "walk", questions: int = 5) -> Record:
    """Room `index`: three views inside a box, one word, letter or number question after the other."""
    rng = np.random.default_rng(index)
    intrinsics = np.tile(np.array([[14.0, 0, 8], [0, 14, 8], [0, 0, 1]]), (VIEWS, 1, 1))
    poses = np.tile(np.eye(4), (VIEWS, 1, 1))
    for view in range(VIEWS):
        angle = 0.25 * view + 0.05 * rng.standard_normal()
        poses[view, :3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        poses[view, :3, 3] = [0.3 * view, 0, 0.1 * rng.standard_normal()] if setting == "walk" else 0
    ray = geometry.rays_from_camera(intrinsics, poses, SIZE, SIZE)
    low, high = np.array([-2.0, -1, -1]), np.array([2.5, 1, rng.uniform(2, 4)])
    depth = np.maximum((low - ray[..., :3]) / ray[..., 3:], (high - ray[..., :3]) / ray[..., 3:]).min(-1)
    pictures = rng.integers(0, 256, (VIEWS, SIZE, SIZE, 3)).astype(np.uint8)
    asked = []
    for number in range(questions):
        form = ("word", "letter", "number")[number % 3]
        colour = COLOURS[(index + number) % 3]
        options = COLOURS if form == "letter" else ()
        answer = {"word": colour, "letter": "ABCD"[COLOURS.index(colour)], "number": f"{1 + number / 2:.1f}"}[form]
        kind = {"word": "colour_at", "letter": "relation", "number": "distance"}[form]
        group = "grounding" if form == "word" else "spatial"
        views = (0,) if form == "word" else ()
        asked.append(Question(f"{index}-{number}", kind, group, form, "what is in <view:0> ?", answer, options, views))
    return Record(
        id=f"record{index}", dataset="boxes", scene=f"scene{index}", setting=setting,
        view_ids=tuple(f"v{view}" for view in range(VIEWS)), images=tuple(_png(picture) for picture in pictures),
        depths=tuple(_png(np.round(plane / 0.0005).astype(np.uint16)) for plane in depth), depth_unit_m=0.0005,
        intrinsics=intrinsics, camera_to_world=poses, pose_valid=np.ones(VIEWS, bool), questions=tuple(asked),
    )  # fmt: skip


@pytest.fixture(scope="session")
def records():
    """Six rooms, four of them walks; room 3 has more questions than fit into a row."""
    settings = ("walk", "walk", "rotation", "walk", "rotation", "walk")
    return [make_record(index, setting, 11 if index == 3 else 5) for index, setting in enumerate(settings)]


@pytest.fixture(scope="session")
def processor():
    """The tiny processor over the words of the rooms."""
    words = ["what", "is", "in", "view", "?", "A .", *"ABCD", *COLOURS]
    return TinyProcessor(build_tokenizer(words), image_size=16, patch_size=4, merge=2)


@pytest.fixture(scope="session")
def data_config():
    """Four questions a row."""
    return DataConfig(questions=4, question_tokens=24, answer_tokens=4, views=VIEWS, label_size=(SIZE, SIZE), threads=0)


@pytest.fixture()
def make_engine(processor):
    """Engine of a model that reads the labels: depth 10 % too deep, words right unless the picture is black."""

    def make(depth_factor=1.1, heads=("depth", "ray", "points"), talks=True, shift=0.0):
        def lift(batch):
            assert batch["question_tokens"].shape[1] == 1
            pose = batch["camera_to_world"].astype(np.float64)
            depth = np.where(batch["valid"], batch["depth"] * depth_factor, 1.0)
            ray = geometry.rays_from_camera(batch["intrinsics"].astype(np.float64), pose, SIZE, SIZE)
            points = geometry.points_from_rays(ray, depth) + shift
            maps = {"depth": depth, "ray": ray, "points": points}
            maps = {name: value.astype(np.float32) for name, value in maps.items() if name in heads}
            return maps | {f"{name}_confidence": np.float32(1.0 + 1 / depth) for name in maps}

        def answer(batch):
            at = batch["answer_positions"]
            tokens = np.take_along_axis(batch["question_tokens"], at, -1)
            tokens = np.where(batch["answer_valid"], tokens, processor.end_id)
            black = (batch["pixel_values"] == -1).all()
            return np.full_like(tokens, processor.tokenizer.token_to_id("black")) if black else tokens

        def dark(views):
            return processor.pixels([np.zeros((16, 16, 3), np.uint8)] * views).pixel_values

        return Engine(lift if heads else None, answer if talks else None, processor.decode, dark)

    return make


@pytest.fixture
def scored(tmp_path):
    """score(benchmark, rows, ...) on rows (type, truth, prediction[, options[, id[, dataset[, scene]]]])."""

    def run(benchmark, rows, dialect="original", variant=None):
        keys = ("question_type", "ground_truth", "prediction", "options", "id", "dataset", "scene")
        filled = []
        for number, row in enumerate(rows):
            line = dict(zip(keys, (*row, *(None,) * (len(keys) - len(row))), strict=True))
            filled.append({**line, "id": line["id"] or f"q{number}"})
        path = tmp_path / "p.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in filled), "utf-8")
        return scoring.score(benchmark, path, dialect, variant, resamples=200)

    return run
