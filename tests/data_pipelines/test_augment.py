"""Augmentation keeps geometry true: checked against single points in float64, not against itself."""

from __future__ import annotations

import loader_fakes as fakes
import numpy as np
import pytest

from data_pipelines.loader import DataConfig, SourceConfig, make_loader
from data_pipelines.transforms.augment import Shown, augment, mirror, recolour

PROCESSOR = fakes.processor()
RECORDS = fakes.Records(fakes.record(index, views=3, questions=4) for index in range(6))


def rotation(rng):
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def shown(rng, views=3, height=6, width=9):
    pose = np.tile(np.eye(4), (views, 1, 1))
    pose[:, :3, :3] = [rotation(rng) for _ in range(views)]
    pose[:, :3, 3] = rng.standard_normal((views, 3))
    return Shown(
        record_id="r",
        scene="s",
        metric=True,
        images=tuple(rng.integers(0, 255, (height, width, 3), dtype=np.uint8) for _ in range(views)),
        depths=tuple(rng.uniform(1, 4, (height, width)).astype(np.float32) for _ in range(views)),
        intrinsics=np.tile([[7.0, 0.3, 4.1], [0.0, 6.5, 2.2], [0.0, 0.0, 1.0]], (views, 1, 1)),
        camera_to_world=pose,
        pose_valid=np.ones(views, bool),
    )


def world_point(sample, view, row, column):
    """Of the pixel's centre."""
    pixel = np.array([column + 0.5, row + 0.5, 1.0])
    ray = np.linalg.solve(sample.intrinsics[view], pixel) * float(sample.depths[view][row, column])
    return sample.camera_to_world[view][:3, :3] @ ray + sample.camera_to_world[view][:3, 3]


def test_mirrored_pixels_are_the_mirrored_points():
    rng = np.random.default_rng(0)
    before = shown(rng)
    after = mirror(before)
    for view, row, column in ((0, 0, 0), (1, 5, 8), (2, 3, 4), (1, 2, 7)):
        there = world_point(before, view, row, column) * [-1, 1, 1]
        np.testing.assert_allclose(world_point(after, view, row, 8 - column), there, atol=1e-12)
        assert (after.images[view][row, 8 - column] == before.images[view][row, column]).all()
    np.testing.assert_allclose(np.linalg.det(after.camera_to_world[:, :3, :3]), 1.0, atol=1e-12)


def test_recolour_permutes_and_clips():
    before = shown(np.random.default_rng(1))
    after = recolour(before, np.array([2, 0, 1]), 1.2)
    expected = np.minimum(before.images[1].astype(float) * 1.2, 255)
    assert np.abs(after.images[1][..., 0] - expected[..., 2]).max() <= 1
    assert np.abs(after.images[1][..., 1] - expected[..., 0]).max() <= 1


def test_views_stay_together_with_their_cameras():
    before = shown(np.random.default_rng(2))
    orders = []
    for seed in range(40):
        after = augment(before, np.random.default_rng(seed))
        depths = [tuple(sorted(depth.ravel().tolist())) for depth in before.depths]
        order = tuple(depths.index(tuple(sorted(depth.ravel().tolist()))) for depth in after.depths)
        orders.append(order)
        heights = after.camera_to_world[:, 1, 3]  # the mirror leaves y alone
        np.testing.assert_allclose(heights, before.camera_to_world[list(order), 1, 3], atol=1e-12)
    assert len(set(orders)) > 3
    assert 13 <= orders.count((0, 1, 2)) <= 33  # half of them and a sixth of the other half: 23.3, sigma 3.1


def test_loader_gives_new_samples_without_text_on_every_pass():
    source = SourceConfig(path="a", per_batch=6, text=False, augment=True)
    config = DataConfig(
        sources=(source,), questions=2, question_tokens=16, answer_tokens=3, views=3, label_size=(12, 12), threads=0
    )
    loader = make_loader(config, PROCESSOR, records=[RECORDS])
    first, second = loader.batch(0), loader.batch(1)
    again = make_loader(config, PROCESSOR, records=[RECORDS]).batch(1)
    for name in second:
        np.testing.assert_array_equal(second[name], again[name], err_msg=name)
    assert not first["has_text"].any() and not first["question_valid"].any()
    assert first["has_geometry"].all()
    by_record = lambda batch: batch["pixel_values"][np.argsort(batch["record_index"])]
    assert all((a != b).any() for a, b in zip(by_record(first), by_record(second), strict=True))


@pytest.mark.parametrize("wrong", [{"text": True}, {"labels": "files"}, {"features": "files"}, {"shuffle3d": True}])
def test_what_augmentation_makes_untrue_is_refused(wrong):
    with pytest.raises(ValueError, match="augment changes what words"):
        SourceConfig(**{"path": "a", "text": False, "augment": True, **wrong})
