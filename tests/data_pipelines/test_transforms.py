"""Decoding, label maps, view choice and teacher features against independent references."""

from __future__ import annotations

import math

import loader_fakes as fakes
import numpy as np
import pytest

from data_pipelines.collate import default_intrinsics
from data_pipelines.labels.files import LabelFile
from data_pipelines.transforms import features, views
from data_pipelines.transforms.decode import decode_depth, decode_image, decode_views
from data_pipelines.transforms.geometry import Measured, label_intrinsics, make_labels, resample_depth
from spatialsv_jax import geometry


def scaling(source, target) -> np.ndarray:
    """label_affine of a picture of (h, w) stretched to (H, W)."""
    return np.array([[source[1] / target[1], 0, 0], [0, source[0] / target[0], 0]])


def plane_depth(intrinsics, height, width, normal=(0.2, -0.3, 1.0), offset=3.0) -> np.ndarray:
    """z-depth of the plane normal . X = offset at the pixel centres, pixel by pixel in float64."""
    inverse = np.linalg.inv(intrinsics)
    depth = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            depth[row, column] = offset / np.dot(normal, inverse @ [column + 0.5, row + 0.5, 1.0])
    return depth


def test_decoding_returns_the_stored_numbers():
    item = fakes.record(3, views=2)
    images, depths = decode_views(item, (1, 0))
    rng = np.random.default_rng(3)
    stored = [rng.integers(0, 255, (16, 16, 3), np.uint8) for _ in range(2)]
    steps = [rng.integers(800, 4000, (16, 16)).astype(np.uint16) for _ in range(2)]
    np.testing.assert_array_equal(images, stored[::-1])
    np.testing.assert_allclose(depths, np.array(steps[::-1]) * fakes.UNIT, rtol=1e-6)
    assert decode_views(item, (0,), with_depth=False)[1] == [None]


def test_broken_pictures_name_record_and_view():
    item = fakes.record(3, views=2)
    broken = fakes.record(3, views=2, images=(item.images[0], item.images[1][:100]))
    with pytest.raises(ValueError, match=r"Record 'r3', view 1 \('v1'\): the image cannot be decoded"):
        decode_views(broken, (0, 1))
    for data in (b"", b"no picture", item.images[0][:40]):
        with pytest.raises(ValueError, match="here: the image"):
            decode_image(data, "here")
    with pytest.raises(ValueError, match="here: the depth map cannot"):
        decode_depth(item.depths[0][:60], 0.001, "here")
    with pytest.raises(ValueError, match="mode 'RGB'"):
        decode_depth(item.images[0], 0.001, "here")
    small = fakes.record(3, views=1, depths=(fakes.png(np.ones((4, 8), np.uint16)),))
    with pytest.raises(ValueError, match=r"view 0 .*depth is \(4, 8\)"):
        decode_views(small, (0,))


@pytest.mark.parametrize("target", [(12, 16), (6, 8), (24, 32), (9, 10)])
def test_resampled_plane_is_the_plane_seen_by_the_label_camera(target):
    intrinsics = np.array([[14.0, 0, 7.3], [0, 15.0, 6.1], [0, 0, 1]])
    depth = plane_depth(intrinsics, 12, 16)
    affine = scaling((12, 16), target)
    wanted = plane_depth(label_intrinsics(intrinsics, affine), *target)
    result = resample_depth(depth.astype(np.float32), affine, *target)
    # Enlarging needs pixels beyond the border, there the nearest one stands.
    inner = (slice(2, -2), slice(2, -2)) if target[0] > 12 else (slice(None), slice(None))
    np.testing.assert_allclose(result[inner], wanted[inner], rtol=2e-6)


def surface_or_nearest(depth, affine, height, width) -> np.ndarray:
    """The rule of `resample_depth`, a label pixel after the other, from its words."""
    rows, columns = depth.shape
    good = lambda r, c: 0 <= r < rows and 0 <= c < columns and np.isfinite(depth[r, c]) and depth[r, c] > 0

    def on_line(r, c, dr, dc):
        if not (good(r - dr, c - dc) and good(r, c) and good(r + dr, c + dc)):
            return False
        before, middle, behind = (1 / float(depth[r + k * dr, c + k * dc]) for k in (-1, 0, 1))
        return abs(before - 2 * middle + behind) < 0.02 * middle

    result = np.zeros((height, width))
    for row, column in np.ndindex(height, width):
        x, y = affine @ [column + 0.5, row + 0.5, 1]
        if not (0 <= x < columns and 0 <= y < rows):
            continue
        left, top = int(np.floor(x - 0.5)), int(np.floor(y - 0.5))
        a, b = x - 0.5 - left, y - 0.5 - top
        xs, ys = (np.clip([k, k + 1], 0, n - 1) for k, n in ((left, columns), (top, rows)))
        corners = [(r, c) for r in ys for c in xs]
        across = all(on_line(r, xs[0], 0, 1) or on_line(r, xs[1], 0, 1) for r in ys)
        down = all(on_line(ys[0], c, 1, 0) or on_line(ys[1], c, 1, 0) for c in xs)
        if across and down and all(good(r, c) for r, c in corners):
            shares = [(1 - b) * (1 - a), (1 - b) * a, b * (1 - a), b * a]
            inverse = sum(share / float(depth[place]) for share, place in zip(shares, corners, strict=True))
            result[row, column] = 1 / inverse
        elif good(int(y), int(x)):
            result[row, column] = depth[int(y), int(x)]
    return result


@pytest.mark.parametrize(
    "affine", [((2, 0, 0), (0, 2, 0)), ((1.3, 0, -2), (0, 0.7, 1.2)), ((1, 0.2, -1), (-0.1, 1, 1))]
)
def test_resampling_against_a_loop(affine):
    rng = np.random.default_rng(4)
    depth = (2 + 0.05 * np.arange(18) + 0.01 * rng.random((3, 14, 18))).astype(np.float32)
    depth[0, 4:7, 9:] += 1
    depth[1, 2, 3], depth[1, 9, 9:12], depth[1, 0, 0] = np.nan, 0, np.inf
    depth[2, 5, 5], depth[2, 8:, :4] = -1, 0
    affine = np.array(affine, float)
    result = resample_depth(depth, affine, 9, 11)
    wanted = np.stack([surface_or_nearest(one, affine, 9, 11) for one in depth])
    assert len(np.unique(np.isin(result, depth))) == 2  # both happen
    np.testing.assert_allclose(result, wanted, rtol=2e-6)


def test_depth_edges_and_holes_are_not_blended():
    depth = np.full((8, 8), 2.0, np.float32)
    depth[:, 3:] = 4.0
    depth[0, 0] = 0.0
    depth[7, 7] = np.nan
    result = resample_depth(depth, scaling((8, 8), (4, 4)), 4, 4)
    assert set(np.unique(result)) <= {0.0, 2.0, 4.0}
    assert result[0, 0] == 2.0 and result[3, 3] == 0.0  # the nearest pixel decides beside a hole
    odd = resample_depth(depth, scaling((8, 8), (5, 5)), 5, 5)
    assert set(np.unique(odd)) <= {0.0, 2.0, 4.0}
    same = resample_depth(depth, scaling((8, 8), (8, 8)), 8, 8)
    np.testing.assert_array_equal(same, np.nan_to_num(depth))


def test_outside_of_the_picture_is_invalid():
    depth = np.full((4, 4), 2.0, np.float32)
    padded = resample_depth(depth, np.array([[1.0, 0, -2.0], [0, 1.0, 0]]), 4, 8)
    np.testing.assert_array_equal(padded > 0, np.tile((np.arange(8) >= 2) & (np.arange(8) < 6), (4, 1)))


def reference_labels(measured: Measured, covered):
    """docs/method.md, 1.1, as a loop in float64; label size = map size."""
    count, height, width = covered.shape
    first = next(
        view
        for view in range(count)
        if measured.pose_valid[view] and measured.depths[view] is not None and (measured.depths[view] > 0).any()
    )
    norms, poses = [], []
    for view in range(count):
        pose = np.linalg.inv(measured.camera_to_world[first]) @ measured.camera_to_world[view]
        poses.append(pose)
        if not measured.pose_valid[view] or measured.depths[view] is None:
            continue
        inverse = np.linalg.inv(measured.intrinsics[view])
        for row in range(height):
            for column in range(width):
                depth = float(measured.depths[view][row, column])
                if depth > 0 and covered[view, row, column]:
                    point = pose[:3, :3] @ (inverse @ [column + 0.5, row + 0.5, 1.0]) * depth + pose[:3, 3]
                    norms.append(np.sqrt((point**2).sum()))
    return first, np.mean(norms), poses


@pytest.mark.parametrize("case", ["complete", "first view unposed", "first view without depth"])
def test_normalisation_against_a_loop(case):
    item = fakes.record(5, views=3)
    depths = decode_views(item, (0, 1, 2))[1]
    depths[1][:4] = 0
    pose_valid = np.array([case != "first view unposed", True, True])
    if case == "first view without depth":
        depths[0] = None
    affine = np.tile(scaling((16, 16), (16, 16)), (3, 1, 1))
    measured = Measured(depths, item.intrinsics, item.camera_to_world, pose_valid, affine, metric=True)
    covered = np.ones((3, 16, 16), bool)
    covered[2, :, 10:] = False
    labels = make_labels(measured, covered, "r5")
    first, scale, poses = reference_labels(measured, covered)
    assert first == (0 if case == "complete" else 1)
    np.testing.assert_allclose(labels.scene_scale_m, scale, rtol=1e-12)
    np.testing.assert_array_equal(labels.camera_to_world[first], np.eye(4))
    for view in range(3):
        depth = np.zeros((16, 16)) if depths[view] is None else np.where(covered[view], depths[view], 0)
        np.testing.assert_allclose(labels.depth[view], depth / scale, rtol=1e-6)
        np.testing.assert_array_equal(labels.valid[view], depth > 0)
        pose = poses[view].copy()
        pose[:3, 3] /= scale
        np.testing.assert_allclose(labels.camera_to_world[view], pose if pose_valid[view] else np.eye(4), atol=1e-6)
    assert labels.depth_valid.tolist() == [depth is not None for depth in depths]
    assert labels.pose_valid.tolist() == pose_valid.tolist()
    assert labels.has_geometry
    # The mean distance of all labelled points is 1 in the new frame.
    points = geometry.points_from_depth(
        labels.depth.astype(float), labels.intrinsics.astype(float), labels.camera_to_world.astype(float)
    )
    counted = labels.valid & labels.pose_valid[:, None, None]
    np.testing.assert_allclose(np.linalg.norm(points[counted], axis=-1).mean(), 1.0, rtol=1e-6)


@pytest.mark.parametrize("case", ["no pose", "no depth", "few pixels", "depth and pose on different views"])
def test_samples_without_geometry(case):
    item = fakes.record(5, views=2)
    depths, pose_valid = decode_views(item, (0, 1))[1], np.ones(2, bool)
    if case == "no pose":
        pose_valid[:] = False
    elif case == "no depth":
        depths = [None, None]
    elif case == "few pixels":
        depths[0], depths[1] = None, np.where(np.arange(256).reshape(16, 16) < 99, depths[1], 0)
    else:
        depths[0], pose_valid[1] = None, False
    affine = np.tile(scaling((16, 16), (16, 16)), (2, 1, 1))
    measured = Measured(depths, item.intrinsics, item.camera_to_world, pose_valid, affine, metric=True)
    labels = make_labels(measured, np.ones((2, 16, 16), bool), "r5")
    assert not labels.has_geometry and labels.scene_scale_m == 0
    assert not labels.valid.any() and not labels.depth.any() and not labels.pose_valid.any()
    np.testing.assert_array_equal(labels.camera_to_world, np.tile(np.eye(4), (2, 1, 1)))
    np.testing.assert_array_equal(labels.intrinsics, np.tile(default_intrinsics(16, 16), (2, 1, 1)))


def test_hundred_pixels_are_enough_and_unknown_units_have_no_scale():
    item = fakes.record(5, views=1)
    depth = np.where(np.arange(256).reshape(16, 16) < 100, decode_views(item, (0,))[1][0], 0)
    affine = scaling((16, 16), (16, 16))[None]
    measured = Measured([depth], item.intrinsics, item.camera_to_world, np.ones(1, bool), affine, metric=False)
    labels = make_labels(measured, np.ones((1, 16, 16), bool), "r5")
    assert labels.has_geometry and labels.scene_scale_m == 0 and labels.valid.sum() == 100


def test_singular_intrinsics_name_record_and_view():
    item = fakes.record(5, views=2)
    broken = item.intrinsics.copy()
    broken[1] = 0
    affine = np.tile(scaling((16, 16), (16, 16)), (2, 1, 1))
    measured = Measured([None, None], broken, item.camera_to_world, np.ones(2, bool), affine, metric=True)
    with pytest.raises(ValueError, match="Record 'r5', view 1: intrinsics"):
        make_labels(measured, np.ones((2, 16, 16), bool), "r5")


def test_ray_identity_holds_after_resizing():
    """t + depth d of a label pixel is the point that the source camera sees there."""
    intrinsics = np.array([[14.0, 0, 7.3], [0, 15.0, 6.1], [0, 0, 1]])
    affine = scaling((12, 16), (6, 8))
    smaller = label_intrinsics(intrinsics, affine)
    ray = geometry.rays_from_camera(smaller, np.eye(4), 6, 8)
    for row, column in ((0, 0), (3, 5), (5, 7)):
        x, y = affine @ [column + 0.5, row + 0.5, 1]
        np.testing.assert_allclose(ray[row, column, 3:], np.linalg.inv(intrinsics) @ [x, y, 1], atol=1e-12)


def test_one_view_per_sample_shows_every_view_equally_often():
    rng = np.random.default_rng(0)
    for record in range(5):
        shown = [views.choose_views(4, 1, record, visit, rng)[0] for visit in range(8)]
        assert sorted(shown) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert views.choose_views(4, 0, 1, 7, rng) == views.choose_views(4, 4, 1, 7, rng) == (0, 1, 2, 3)
    assert views.choose_views(2, 3, 1, 7, rng) == (0, 1)
    subsets = {views.choose_views(4, 2, 0, 0, np.random.default_rng(seed)) for seed in range(60)}
    assert len(subsets) == 6 and all(first < second for first, second in subsets)


def test_questions_follow_their_views():
    questions = fakes.record(0, views=3, questions=9).questions
    groups = ("grounding", "spatial")
    assert views.applicable_questions(questions, (0, 1, 2), 3, groups) == list(questions)
    chosen = views.applicable_questions(questions, (1, 2), 3, groups)
    needed = [question for question in questions if question.views and set(question.views) <= {1, 2}]
    assert [question.id for question in chosen] == [question.id for question in needed]
    for question, original in zip(chosen, needed, strict=True):
        old = original.views[0]
        assert question.views == (old - 1,)
        assert question.text == original.text.replace(f"<view:{old}>", f"<view:{old - 1}>")
    types = views.applicable_questions(questions, (0, 1, 2), 3, ("grounding",), ("name_at",))
    assert types and all(question.type == "name_at" and question.group == "grounding" for question in types)


def test_question_that_names_a_hidden_view_is_left_out():
    question = fakes.Question(
        "a", "t", "spatial", "letter", "what is in <view:1>", "A", options=("chair", "<view:1>"), views=(1,)
    )
    (kept,) = views.applicable_questions([question], (1,), 2, ("spatial",))
    assert kept.text == "what is in <view:0>" and kept.options == ("chair", "<view:0>") and kept.views == (0,)
    other = fakes.Question("a", "t", "spatial", "word", "is <view:0> left of <view:1>", "yes", views=(1,))
    assert views.applicable_questions([other], (1,), 2, ("spatial",)) == []


def label_file(**changes):
    rng = np.random.default_rng(2)
    values = dict(
        depth=rng.uniform(1, 4, (2, 8, 12)).astype(np.float32),
        valid=np.ones((2, 8, 12), bool),
        intrinsics=np.tile([[10.0, 0, 6], [0, 11.0, 4], [0, 0, 1]], (2, 1, 1)),
        camera_to_world=np.stack([fakes.pose(0.1, [0, 0, 0]), fakes.pose(0.4, [1, 0, 0])]),
        features=rng.standard_normal((2, 4, 6, 5)).astype(np.float16),
        label_affine=np.tile(scaling((16, 24), (8, 12)), (2, 1, 1)),
        view_ids=("v0", "v1"),
    )
    values |= dict(confidence=values["depth"], teacher="t", checkpoint="c", images_hash="i")
    return LabelFile(**{**values, **changes})


def test_features_are_area_pooled_to_the_grid():
    file = label_file()
    ours = np.tile(scaling((16, 24), (10, 10)), (2, 1, 1))
    for grid in ((2, 3), (4, 6), (3, 4), (5, 7)):
        pooled = features.pool_features(file, [1, 0], ours, (10, 10), grid)
        # Exact areas: both grids in cells of their common refinement.
        rows, columns = math.lcm(4, grid[0]), math.lcm(6, grid[1])
        fine = file.features.astype(np.float64)[[1, 0]].repeat(rows // 4, 1).repeat(columns // 6, 2)
        wanted = fine.reshape(2, grid[0], rows // grid[0], grid[1], columns // grid[1], 5).mean((2, 4))
        np.testing.assert_allclose(pooled, wanted.reshape(2, -1, 5), rtol=1e-6, atol=1e-6)
        if grid in ((2, 3), (4, 6)):  # whole cells: adaptive average pooling
            adaptive = geometry.area_pool(file.features.astype(np.float64)[[1, 0]], *grid)
            np.testing.assert_allclose(pooled, adaptive.reshape(2, -1, 5), rtol=1e-6, atol=1e-6)


def test_features_of_a_centre_crop_come_from_the_crop():
    file = label_file()
    # Our label map shows columns 4..20 of the 24: teacher columns 1..5 of 6.
    ours = np.tile([[1.0, 0, 4.0], [0, 1.0, 0]], (2, 1, 1))
    pooled = features.pool_features(file, [0, 1], ours, (16, 16), (2, 2)).reshape(2, 2, 2, 5)
    source = file.features.astype(np.float64)
    for row in range(2):
        for column in range(2):
            block = source[:, 2 * row : 2 * row + 2, 1 + 2 * column : 3 + 2 * column]
            np.testing.assert_allclose(pooled[:, row, column], block.mean(axis=(1, 2)), rtol=1e-6, atol=1e-6)


def test_label_files_give_the_same_geometry_through_another_resolution():
    """A file at half size, read at full label size: the same camera rays and plane."""
    intrinsics = np.array([[20.0, 0, 12.0], [0, 22.0, 8.0], [0, 0, 1]])  # of the 16 x 24 original
    half = label_intrinsics(intrinsics, scaling((16, 24), (8, 12)))
    depth = np.stack([plane_depth(half, 8, 12)] * 2).astype(np.float32)
    file = label_file(depth=depth, intrinsics=np.stack([half] * 2))
    ours = np.tile(scaling((16, 24), (4, 6)), (2, 1, 1))
    measured = features.file_to_measured(file, [0, 1], ours)
    labels = make_labels(measured, np.ones((2, 4, 6), bool), "r0")
    assert not labels.has_geometry  # 48 pixels
    np.testing.assert_allclose(
        label_intrinsics(measured.intrinsics, measured.label_affine), label_intrinsics(np.stack([intrinsics] * 2), ours)
    )
    small = resample_depth(measured.depths[0], measured.label_affine[0], 4, 6)
    np.testing.assert_allclose(small, plane_depth(label_intrinsics(intrinsics, ours[0]), 4, 6), rtol=1e-5)
