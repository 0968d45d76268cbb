"""Sizes, resampling, intrinsics and affine maps of Depth Anything 3's preprocessing."""

import numpy as np
import pytest
import teacher_runs as runs

from data_pipelines.labels.pictures import picture_places
from spatialsv_jax.teachers.da3.preprocess import MEAN, METHODS, STD, prepare, resize


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", range(3))
def test_the_published_pictures(number, method):
    wanted = runs.reference("da3", "parts.npz")
    made = prepare([wanted[f"preprocess/in_{number}"]], method, 70)
    name = f"preprocess/{{}}_{number}_{method}"
    assert made.pictures.shape[1:3] == tuple(wanted[name.format("shape_out")])
    difference = np.abs(runs.cut(made.pictures) - wanted[name.format("out")])
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
    found = made.intrinsics(wanted[f"preprocess/K_{number}"][None])[0]
    np.testing.assert_allclose(found, wanted[name.format("Kout")], rtol=1e-5)


def pictures(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def ramps(height, width):
    """A picture whose colours tell the place: red grows by x, green by y."""
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    red, green = np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))
    return np.stack([255 * red / width, 255 * green / height, np.full_like(red, 128)], -1).round().astype(np.uint8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [[(300, 400)], [(123, 87)], [(300, 400), (400, 300), (220, 500)]])
def test_places(sizes, method):
    """The map says where each pixel lies; sets of different sizes are cut to the smallest, in the middle."""
    made = prepare([ramps(*size) for size in sizes], method, 140)
    rows, columns = np.indices(made.pictures.shape[1:3]) + 0.5
    own = [prepare([ramps(*size)], method, 140).pictures.shape[1:3] for size in sizes]
    assert made.pictures.shape[1:3] == tuple(np.min(own, axis=0))
    for (height, width), picture, affine in zip(sizes, made.pictures, made.label_affine, strict=True):
        x, y = np.tensordot(affine, np.stack([columns, rows, np.ones_like(rows)]), 1)
        wanted = np.stack([255 * x / width, 255 * y / height], -1)
        step = 255 / min(picture.shape[:2])  # of one pixel
        assert np.abs(picture[2:-2, 2:-2, :2] - wanted[2:-2, 2:-2]).max() < 0.6 * step + 1
        margin = max(14 * width / 140, 14 * height / 140) if method.endswith("crop") else 0
        assert np.abs([x.mean() - width / 2, y.mean() - height / 2]).max() <= margin / 2 + 1e-9
    places = picture_places("da3", [size[::-1] for size in sizes], made.pictures.shape[1:3], method, 140)
    np.testing.assert_allclose(made.label_affine, [place.affine for place in places], atol=1e-9)


def test_the_affine_map_finds_the_picture():
    """A bright square's middle, in the processed picture and through the map in the original."""
    image = np.zeros((300, 400, 3), np.uint8)
    image[120:150, 210:250] = 255
    for method in METHODS:
        made = prepare([image], method, 140)
        weight = made.pictures[0, ..., 0].astype(np.float64)
        v, u = (np.average(axis + 0.5, weights=weight) for axis in np.indices(weight.shape))
        x, y = made.label_affine[0] @ [u, v, 1]
        np.testing.assert_allclose((x, y), (230, 135), atol=0.5)


def test_colours():
    made = prepare(pictures((28, 42)), process_res=42)
    wanted = (made.pictures / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(made.pixel_values, wanted, atol=1e-5)


def test_rounding():
    """The longer side half to even, then multiples of 14 with ties up."""
    assert prepare(pictures((100, 200)), process_res=70).pictures.shape[1:3] == (42, 70)  # 35 is half way: up
    assert prepare(pictures((5, 8)), process_res=28).pictures.shape[1:3] == (14, 28)  # 17.5 -> 18 -> 14
    assert prepare(pictures((9, 300)), process_res=70).pictures.shape[1:3] == (14, 70)  # never below a patch


def test_resampling():
    """Shrinking averages areas, also shares of cells; enlarging is the cubic of constant -0.75, once any side grows."""
    image = np.array([[0, 30, 90]], np.uint8)[..., None].repeat(3, -1)
    np.testing.assert_array_equal(resize(image, (1, 2))[0, :, 0], [10, 70])  # (0 + 15) / 1.5, (15 + 90) / 1.5
    line = np.array([[0, 0, 100, 0, 0]], np.uint8)[..., None].repeat(3, -1)
    near, far = (lambda x: 1.25 * x**3 - 2.25 * x**2 + 1), (lambda x: -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3)
    weights = [
        near(abs((i + 0.5) / 2 - 2.5)) if abs((i + 0.5) / 2 - 2.5) < 1 else far(abs((i + 0.5) / 2 - 2.5))
        for i in range(1, 9)
    ]
    np.testing.assert_array_equal(resize(line, (1, 10))[0, 1:9, 0], np.clip(np.rint(100 * np.array(weights)), 0, 255))
    assert resize(image, (2, 2)).std() > 0 and resize(image, (2, 2))[0, 0, 0] != 10


def test_bad_input():
    with pytest.raises(ValueError, match="upper_bound_resize"):
        prepare(pictures((28, 28)), "stretch")
    with pytest.raises(ValueError, match="less than a patch"):
        prepare(pictures((9, 300)), "upper_bound_crop", 70)
    with pytest.raises(ValueError, match="uint8"):
        prepare([np.zeros((28, 28))])
