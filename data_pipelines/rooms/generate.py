"""From (config, split, index) to a finished record: room, views, questions, encoded pictures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from data_pipelines.manifest import PrepareError
from data_pipelines.records import Record
from data_pipelines.rooms.assets import load_assets
from data_pipelines.rooms.cameras import sample_views
from data_pipelines.rooms.config import SPLITS, RoomsConfig
from data_pipelines.rooms.furniture import COLOURS
from data_pipelines.rooms.layout import category_table, make_scene
from data_pipelines.rooms.metadata import vsi_metadata
from data_pipelines.rooms.questions import Words, make_questions
from data_pipelines.rooms.raycast import Raycaster
from data_pipelines.rooms.scene import RenderedView, Scene

GENERATOR_VERSION = "1.6"  # raise it whenever the same arguments give other records
DEPTH_UNIT_M = 0.00025  # 16 bits reach 16.4 m
MAX_ATTEMPTS = 32

__all__ = ["DEPTH_UNIT_M", "GENERATOR_VERSION", "SPLITS", "RoomsConfig", "make_record", "question_words", "scene_seed"]


def scene_seed(seed: int, split: str, index: int, attempt: int = 0) -> int:
    """A different number for each combination, so that no two records and no two splits share a room.

    Raises:
      ValueError: unknown split, or an index outside 0..2^32-1.
    """
    if split not in SPLITS:
        raise ValueError(f"Split '{split}' unknown. Splits: {', '.join(SPLITS)}.")
    if not 0 <= index < 2**32 or not 0 <= attempt < 64:
        raise ValueError(f"Record index {index} (attempt {attempt}) outside 0..2^32-1 (0..63).")
    return ((seed * len(SPLITS) + SPLITS.index(split)) * 2**32 + index) * 64 + attempt


def make_record(config: RoomsConfig, split: str, index: int) -> tuple[Record, dict]:
    """Record number `index` of a split; the same arguments always give the same bytes.

    A room in which the drawn view setting cannot be had is replaced by another one.

    Returns:
      The record, and counts: `setting`; views `tried` and refused as `close`, `empty`, `apart` (see
      cameras.sample_poses); `rooms_rejected`; `assets_left_out`; `objects`; `questions` (the question
      module's own counts).

    Raises:
      ValueError: unknown split or category.
      PrepareError: no room in 32 allowed the setting (a config with too few or too many objects).
    """
    chooser = np.random.default_rng([2, scene_seed(config.seed, split, index)])
    names, shares = zip(*config.mix, strict=True)
    setting = names[int(chooser.choice(len(names), p=np.array(shares) / np.sum(shares)))]
    counts = {"tried": 0, "close": 0, "empty": 0, "apart": 0}
    for attempt in range(MAX_ATTEMPTS):
        seed = scene_seed(config.seed, split, index, attempt)
        rng = np.random.default_rng([3, seed])
        scene = make_scene(seed, split, config)
        views, refused = sample_views(scene, Raycaster(scene), setting, config.views, config.size, rng, config, split)
        counts = {name: value + refused[name] for name, value in counts.items()}
        if views:
            break
    else:
        raise PrepareError(
            f"Record {index} of '{split}': no '{setting}' views in {MAX_ATTEMPTS} rooms ({counts}). "
            f"Change objects={config.objects}, categories or the mix."
        )
    questions, question_stats = _questions(config, scene, views, setting, rng)
    stats = {
        "setting": setting,
        **counts,
        "rooms_rejected": attempt,
        "assets_left_out": len(load_assets(config.assets).left_out),
        "objects": len(scene.objects),
        "questions": question_stats,
    }
    return _record(f"rooms-{split}-{index:06d}", scene, views, setting, questions), stats


def question_words(config: RoomsConfig) -> Words:
    """The categories and colours that rooms of this config can hold, so that questions name no others."""
    return Words(tuple(category_table(config, load_assets(config.assets))), tuple(COLOURS))


def _questions(config: RoomsConfig, scene: Scene, views: list[RenderedView], setting: str, rng):
    return make_questions(
        scene,
        views,
        setting,
        rng,
        form=config.form,
        grounding_per_view=config.questions_per_view,
        spatial_count=config.spatial_questions,
        words=question_words(config),
        scan=config.scans,
    )


def _record(name: str, scene: Scene, views: list[RenderedView], setting: str, questions) -> Record:
    return Record(
        id=name,
        dataset="rooms",
        scene=name,
        setting=setting,
        view_ids=tuple(f"{name}/{number}" for number in range(len(views))),
        images=tuple(_png(view.rgb) for view in views),
        depths=tuple(_png(depth_code(view.depth)) for view in views),
        depth_unit_m=DEPTH_UNIT_M,
        intrinsics=np.stack([view.intrinsics for view in views]),
        camera_to_world=np.stack([view.camera_to_world for view in views]),
        pose_valid=np.ones(len(views), bool),
        questions=questions,
        metadata={**vsi_metadata(scene, f"rooms/{name}"), "scene_seed": str(scene.seed)},
    )


def depth_code(depth: np.ndarray) -> np.ndarray:
    """uint16[H,W] steps of DEPTH_UNIT_M; 0 where there is no surface or beyond 16 bits."""
    steps = np.round(np.asarray(depth, np.float64) / DEPTH_UNIT_M)
    return np.where(steps <= 65535, steps, 0).astype(np.uint16)


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()
