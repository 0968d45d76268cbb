"""Synthetic records for the tests of the loader: planes seen by real cameras, and their exact answers."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from data_pipelines.loader import DataConfig, SourceConfig, make_loader
from data_pipelines.records import Question, Record
from data_pipelines.transforms.decode import decode_image
from spatialsv_jax.processing.tiny import TinyProcessor, build_tokenizer

UNIT = 0.001
WORDS = "what colour is at in and red green blue yes no near far chair table A B C".split()


def png(array: np.ndarray) -> bytes:
    """Encodes uint8[h,w,3] or uint16[h,w] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def processor(image_size: int = 16, grid: int = 2) -> TinyProcessor:
    """The tiny family's processor over the words of the fake questions."""
    return TinyProcessor(build_tokenizer(WORDS), image_size=image_size, patch_size=image_size // (2 * grid), merge=2)


def pose(angle: float, centre) -> np.ndarray:
    """camera_to_world of a camera turned about y."""
    matrix = np.eye(4)
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix[:3, :3] = [[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]
    matrix[:3, 3] = centre
    return matrix


def record(
    index: int, views: int = 3, size=(16, 16), questions: int = 5, scene: str | None = None, **changes
) -> Record:
    """A record whose contents all depend on `index`."""
    rng = np.random.default_rng(index)
    height, width = size
    images = tuple(png(rng.integers(0, 255, (height, width, 3), np.uint8)) for _ in range(views))
    depths = tuple(png(rng.integers(800, 4000, (height, width)).astype(np.uint16)) for _ in range(views))
    camera = np.array([[width * 0.9, 0, width * 0.48], [0, height * 1.1, height * 0.51], [0, 0, 1.0]])
    asked = tuple(
        Question(
            id=f"r{index}q{number}",
            type="colour_at" if number % 2 else "name_at",
            group="grounding" if number % 3 else "spatial",
            form="word",
            text=f"what is in <view:{number % views}> at {index % 10}.{number % 10}",
            answer="red" if number % 2 else "green",
            views=(number % views,) if number % 3 else (),
        )
        for number in range(questions)
    )
    values = dict(
        id=f"r{index}",
        dataset="fake",
        scene=scene or f"scene{index}",
        setting="free",
        view_ids=tuple(f"v{view}" for view in range(views)),
        images=images,
        depths=depths,
        depth_unit_m=UNIT,
        intrinsics=np.tile(camera, (views, 1, 1)),
        camera_to_world=np.stack([pose(0.3 * view + index, [view, 0.2 * index, 1.0]) for view in range(views)]),
        pose_valid=np.ones(views, bool),
        questions=asked,
    )
    return Record(**{**values, **changes})


class Records(list):
    """Records in memory with the interface of an opened split."""

    @property
    def ids(self) -> list[str]:
        return [item.id for item in self]

    @property
    def rows(self) -> list[dict]:
        return [
            {"id": item.id, "scene": item.scene, "views": len(item.view_ids), "questions": len(item.questions)}
            for item in self
        ]


PROCESSOR = processor()
RECORDS = Records(record(index, views=2 + index % 2, questions=7) for index in range(6))
MORE = Records(record(100 + index, views=1, size=(20, 12), questions=3) for index in range(5))


def settings(**changes) -> DataConfig:
    values = dict(
        sources=(SourceConfig(path="a", per_batch=5), SourceConfig(path="b", per_batch=3)),
        questions=4, question_tokens=16, answer_tokens=3, views=3, label_size=(12, 12), seed=11, threads=0,
    )  # fmt: skip
    return DataConfig(**{**values, **changes})


def one_source(**changes) -> DataConfig:
    data = {name: changes.pop(name) for name in list(changes) if name in DataConfig.__dataclass_fields__}
    shown = {"views": changes.pop("shown")} if "shown" in changes else {}
    return settings(sources=(SourceConfig(**{"path": "a", "per_batch": 4, **changes, **shown}),), **data)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        assert first[name].dtype == second[name].dtype


def both(config=None, **changes):
    return make_loader(config or settings(), PROCESSOR, records=[RECORDS, MORE], **changes)


def decoded(record):
    return [decode_image(data, "test") for data in record.images]
