"""Pictures: colours, splats, radii and URIs against closed forms."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
from PIL import Image

from spatialsv_jax.report import images


def test_data_uri_holds_the_picture_itself():
    picture = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    head, data = images.data_uri(picture).split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), picture)


def test_few_colours_are_written_with_a_table_and_come_back_exactly():
    values = np.random.default_rng(1).normal(size=(40, 50))
    picture = images.colourise(values, values > -1, (-1.0, 2.0), "turbo_r")
    picture[0, 0] = 10, 20, 30, 128
    opened = Image.open(io.BytesIO(images.encode(picture)))
    assert opened.mode == "P"
    np.testing.assert_array_equal(np.asarray(opened.convert("RGBA")), picture)
    many = np.random.default_rng(0).integers(0, 256, (20, 20, 4)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(images.encode(many)))), many)


def test_sixteen_bit_depth_survives():
    depth = np.array([[0, 1], [4095, 65535]], np.uint16)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(images.encode(depth)))), depth)


def test_colourise_uses_one_scale_and_hides_invalid_pixels():
    values = np.array([[0.0, 1.0, 2.0], [5.0, -3.0, np.nan]])
    picture = images.colourise(values, ~np.isnan(values), (0.0, 2.0), "viridis")
    table = matplotlib.colormaps["viridis"]
    for place, share in (((0, 0), 0.0), ((0, 1), 0.5), ((0, 2), 1.0), ((1, 0), 1.0), ((1, 1), 0.0)):
        np.testing.assert_allclose(picture[place], np.array(table(share)) * 255, atol=1)
    np.testing.assert_array_equal(picture[1, 2], 0)


def test_value_range_of_nothing_and_of_a_constant_is_usable():
    assert images.value_range((np.ones((2, 2)), np.zeros((2, 2), bool))) == (0.0, 1.0)
    low, high = images.value_range((np.full((2, 2), 3.0), np.ones((2, 2), bool)))
    assert low == 3.0 and high > low


def test_the_nearer_point_wins_whatever_the_order():
    points = np.array([[0.0, 0, 2], [0, 0, 1], [0, 0, 3]])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        picture = images.render_cloud(points[order], colours[order], np.eye(4), (20, 30), radius=0.05)
        assert picture[10, 15, 1] > 200 and picture[10, 15, 0] < 60
    assert tuple(picture[0, 0]) == images.BACKDROP


def test_a_point_lands_where_the_pinhole_says():
    pose = images.look_at(np.array([0.0, 0, -2]), np.zeros(3), np.array([0.0, -1, 0]))
    np.testing.assert_allclose(pose, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -2], [0, 0, 0, 1]], atol=1e-12)
    point = np.array([[0.4, -0.2, 0.0]])
    picture = images.render_cloud(point, np.array([[255, 255, 255]], np.uint8), pose, (100, 200), 90.0, radius=0.0)
    rows, columns = np.nonzero(picture.sum(-1) > 3 * 60)
    focal = 100.0  # 200 pixels at 90 degrees
    np.testing.assert_allclose(
        [columns.mean() + 0.5, rows.mean() + 0.5], [100 + focal * 0.2, 50 - focal * 0.1], atol=0.8
    )


def test_points_behind_the_camera_or_turned_away_are_not_drawn():
    white = np.full((1, 3), 255, np.uint8)
    behind = images.render_cloud(np.array([[0.0, 0, -1]]), white, np.eye(4), (20, 20))
    away = images.render_cloud(np.array([[0.0, 0, 1]]), white, np.eye(4), (20, 20), normals=np.array([[0.0, 0, 1]]))
    towards = images.render_cloud(np.array([[0.0, 0, 1]]), white, np.eye(4), (20, 20), normals=np.array([[0.0, 0, -1]]))
    assert behind.max() == away.max() == max(images.BACKDROP) and towards.max() > 200
    assert images.render_cloud(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.eye(4), (8, 8)).shape == (8, 8, 3)


def test_viewpoints_look_at_the_cloud_and_stand_upright(room):
    cloud = room.true.points["true"].reshape(-1, 3)
    for pose in images.two_viewpoints(cloud):
        rotation = pose[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) > 0
        assert rotation[1, 1] > 0  # image down is world down (y)
        local = (cloud - pose[:3, 3]) @ rotation
        assert (local[:, 2] > 0).mean() > 0.9


def test_splat_radius_is_half_the_pixel_spacing_and_ignores_jumps():
    row, column = np.meshgrid(np.arange(5.0), np.arange(6.0), indexing="ij")
    points = np.stack([0.2 * column, 0.3 * row, np.ones_like(row)], -1)[None]
    np.testing.assert_allclose(images.splat_radii(points), 0.15)
    points[0, :, 3:, 2] = 9.0
    np.testing.assert_allclose(images.splat_radii(points)[0, :, 1], 0.15)
    np.testing.assert_allclose(images.splat_radii(points)[0, :, 2], 0.15)
