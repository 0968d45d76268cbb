"""VGGT's pictures: the published program's values, where each pixel lies, and what is refused."""

import numpy as np
import pytest
import vggt_runs as runs

from data_pipelines.labels.pictures import picture_places
from spatialsv_jax.teachers.vggt.preprocess import MODES, prepare


@pytest.mark.parametrize("number", range(3))  # the last one has an alpha channel
def test_pictures_are_those_of_the_published_program(number):
    reference = {name.removeprefix("prepare_"): values for name, values in runs.reference().items()}
    picture = reference[f"in_{number}"]
    for mode in ("crop", "pad"):
        found = prepare([picture], mode)
        assert found.pictures[0].shape == tuple(reference[f"shape_{number}_{mode}"][[0, 1]]) + (3,)
        np.testing.assert_array_equal(found.pictures[0, ::7, ::7], reference[f"out_{number}_{mode}_every7"])
        np.testing.assert_array_equal(found.pixel_values, found.pictures.astype(np.float32) / np.float32(255))
    found = prepare([picture], "square", 126)
    np.testing.assert_array_equal(runs.cut(found.pictures[0]), reference[f"square126_{number}"])
    left, top, right, bottom, width, height = reference[f"square126_{number}_coords"]
    corners = found.label_affine[0] @ np.array([[left, top, 1], [right, bottom, 1]]).T
    np.testing.assert_allclose(corners.T, [[0, 0], [width, height]], atol=1e-4)


def ramps(height, width):
    """A picture whose colours tell the place: red grows by x, green by y."""
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    red, green = np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))
    return np.stack([255 * red / width, 255 * green / height, np.full_like(red, 128)], -1).round().astype(np.uint8)


@pytest.mark.parametrize("mode", MODES)
def test_label_affine_says_where_pixels_lie(mode):
    sizes = ((60, 90), (120, 50), (64, 64))
    found = prepare([ramps(*size) for size in sizes], mode, 112)
    rows, columns = np.indices(found.covered.shape[1:]) + 0.5
    for view, (height, width) in enumerate(sizes):
        x, y = np.tensordot(found.label_affine[view], np.stack([columns, rows, np.ones_like(rows)]), 1)
        inside = (x > 0) & (x < width) & (y > 0) & (y < height)
        np.testing.assert_array_equal(found.covered[view], inside)
        deep = (x > 3) & (x < width - 3) & (y > 3) & (y < height - 3)  # away from what bicubic weights mix at the edge
        wanted = np.stack([255 * x / width, 255 * y / height], -1)
        assert deep.sum() > 1000 and np.abs(found.pictures[view][deep][:, :2] - wanted[deep]).max() < 2.5
        if mode != "square":
            assert (found.pictures[view][~inside] == 255).all()
        elif (~inside).any():
            outside = (x < -3) | (x > width + 3) | (y < -3) | (y > height + 3)
            assert outside.any() and (found.pictures[view][outside] == 0).all()


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_exports_are_read_by_the_same_rules(mode):
    sizes = ((60, 90), (120, 50))
    found = prepare([ramps(*size) for size in sizes], mode)
    places = picture_places("vggt", [size[::-1] for size in sizes], found.covered.shape[1:], mode)
    for view, place in enumerate(places):
        np.testing.assert_array_equal(found.label_affine[view], place.affine)
        np.testing.assert_array_equal(found.covered[view], place.inside)


def test_what_is_refused():
    picture = np.zeros((28, 28, 3), np.uint8)
    with pytest.raises(ValueError, match="mode is 'stretch'; choose one of"):
        prepare([picture], "stretch")
    with pytest.raises(ValueError, match="side is 1024; it must be a multiple of 14"):
        prepare([picture], "square", 1024)
    with pytest.raises(ValueError, match=r"Picture 1 is float32\[28, 28, 3\]"):
        prepare([picture, picture.astype(np.float32)])
    with pytest.raises(ValueError, match="No picture"):
        prepare([])


def test_shorter_pictures_lie_in_the_middle_of_white():
    """60 x 90 becomes 70 x 112 (5.33 patches are 5), beside a square of 112."""
    found = prepare([np.zeros((60, 90, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)], "crop", 112)
    rows = np.flatnonzero(found.covered[0].all(1))
    assert (rows[0], rows[-1], len(rows)) == (21, 90, 70) and found.covered[1].all()
    assert (found.pictures[0, rows] == 0).all() and (np.delete(found.pictures[0], rows, 0) == 255).all()
