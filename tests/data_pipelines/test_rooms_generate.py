"""Whole records: purity, encoding, metadata, splits, mix."""

import ast
import dataclasses
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines.manifest import PrepareError
from data_pipelines.rooms import generate
from data_pipelines.rooms.config import SPLITS, RoomsConfig
from data_pipelines.rooms.layout import make_scene
from data_pipelines.rooms.raycast import Raycaster

CONFIG = RoomsConfig(size=32, views=3, questions_per_view=4, spatial_questions=4)


def _decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_record_is_a_pure_function_of_its_arguments():
    first, stats = generate.make_record(CONFIG, "train", 7)
    generate.make_record(CONFIG, "test", 3)
    again, stats_again = generate.make_record(dataclasses.replace(CONFIG), "train", 7)
    assert first.images == again.images and first.depths == again.depths and first.questions == again.questions
    assert first.metadata == again.metadata and stats == stats_again
    np.testing.assert_array_equal(first.camera_to_world, again.camera_to_world)
    others = [generate.make_record(CONFIG, "train", 8), generate.make_record(CONFIG, "validation", 7)]
    others.append(generate.make_record(dataclasses.replace(CONFIG, seed=1), "train", 7))
    for other, _ in others:
        assert other.images != first.images and other.metadata["scene_seed"] != first.metadata["scene_seed"]


def test_splits_and_seeds_never_share_a_room():
    numbers = [
        generate.scene_seed(seed, split, index, attempt)
        for seed, split, index, attempt in itertools.product((0, 1, 2, 17), SPLITS, (0, 1, 2**32 - 1), (0, 1, 63))
    ]
    assert len(set(numbers)) == len(numbers)
    with pytest.raises(ValueError, match="Split 'dev'"):
        generate.scene_seed(0, "dev", 0)
    with pytest.raises(ValueError, match="index -1"):
        generate.scene_seed(0, "train", -1)


def test_pictures_and_depth_are_those_of_the_room():
    record, stats = generate.make_record(CONFIG, "train", 2)
    assert len(record.view_ids) == 3 and record.setting == stats["setting"] and record.pose_valid.all()
    scene = make_scene(int(record.metadata["scene_seed"]), "train", CONFIG)
    raycaster = Raycaster(scene)
    for number in range(3):
        view = raycaster.render(record.intrinsics[number], record.camera_to_world[number], 32, 32)
        np.testing.assert_array_equal(_decode(record.images[number]), view.rgb)
        depth = _decode(record.depths[number])
        assert depth.dtype in (np.uint16, np.int32) and depth.shape == (32, 32) and depth.min() > 0
        error = depth.astype(np.float64) * record.depth_unit_m - view.depth
        assert np.abs(error).max() <= record.depth_unit_m / 2 + 1e-6


def test_depth_code_masks_what_it_cannot_hold():
    depth = np.array([[0.0, 0.35, 16.38, 16.5]])
    np.testing.assert_array_equal(generate.depth_code(depth), [[0, 1400, 65520, 0]])


def test_metadata_has_the_field_layout_of_vsi_bench():
    record, stats = generate.make_record(CONFIG, "test", 1)
    facts = record.metadata
    json.dumps(facts)
    scene = make_scene(int(facts["scene_seed"]), "test", CONFIG)
    assert set(facts) == {
        "video_path", "room_size", "room_center", "object_counts", "object_bbox", "object_colours", "dataset", "scene_seed",
    }  # fmt: skip
    assert abs(facts["room_size"] - scene.size[0] * scene.size[1]) < 1e-3
    np.testing.assert_allclose(facts["room_center"], scene.size / 2, atol=1e-4)
    boxes = ast.literal_eval(facts["object_bbox"])
    assert {name: len(rows) for name, rows in boxes.items()} == facts["object_counts"]
    assert sum(facts["object_counts"].values()) == len(scene.objects) == stats["objects"]
    for name, rows in boxes.items():
        for row, item in zip(rows, [item for item in scene.objects if item.category == name], strict=True):
            axes = np.array(row["normalizedAxes"]).reshape(3, 3)
            np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-4)
            np.testing.assert_allclose(row["min"], item.vertices.min(0), atol=1e-4)
            np.testing.assert_allclose(row["max"], item.vertices.max(0), atol=1e-4)
            own = (item.vertices - np.array(row["centroid"])) @ axes.T
            np.testing.assert_allclose(2 * np.abs(own).max(0), row["axesLengths"], atol=1e-3)


def test_the_mix_decides_the_settings():
    only = dataclasses.replace(CONFIG, mix="rotation=1", questions_per_view=0, spatial_questions=0, size=16, views=2)
    assert {generate.make_record(only, "train", index)[1]["setting"] for index in range(4)} == {"rotation"}
    both = dataclasses.replace(only, mix="rotation=.5,free=.5")
    settings = [generate.make_record(both, "train", index)[1]["setting"] for index in range(24)]
    assert 5 <= settings.count("free") <= 19


def test_impossible_settings_are_an_error():
    few = dataclasses.replace(CONFIG, mix="among=1", objects=(2, 2), small_objects=(0, 0))
    with pytest.raises(RuntimeError, match="no 'among' views in 32 rooms"):
        generate.make_record(few, "train", 0)


def test_a_setting_that_no_room_allows_is_explained(monkeypatch):
    monkeypatch.setattr(generate, "MAX_ATTEMPTS", 2)
    config = RoomsConfig(mix="among", objects=(2, 2), categories=("table",), size=32)
    with pytest.raises(
        PrepareError, match=r"Record 0 of 'train': no 'among' views in 2 rooms.*Change objects=\(2, 2\)"
    ):
        generate.make_record(config, "train", 0)
