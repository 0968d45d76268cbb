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


# By hand from the published rules (side 112 = 8 patches): (picture, rows and columns that show it, what is cut off).
# "pad": longer side to 112, the other to the nearest multiple of 14, in the middle of a square, margins of equal width.
# "crop": width to 112, height to the nearest multiple of 14, of which the middle 112 rows are kept.
PAD = {
    (60, 90): (slice(21, 91), slice(0, 112)),  # 112 * 60 / 90 = 74.7 -> 70 rows, margins of 21
    (100, 48): (slice(0, 112), slice(28, 84)),  # 112 * 48 / 100 = 53.8 -> 56 columns, margins of 28
    (50, 120): (slice(35, 77), slice(0, 112)),  # 46.7 -> 42 rows: margins of 35, no multiple of a patch
    (64, 64): (slice(0, 112), slice(0, 112)),
}


@pytest.mark.parametrize("size", PAD)
def test_padding_is_alike_on_both_sides(size):
    """A black picture on white; its corners are those of the part that shows it."""
    found, (rows, columns) = prepare([np.zeros((*size, 3), np.uint8)], "pad", 112), PAD[size]
    wanted = np.full((112, 112, 3), 255, np.uint8)
    wanted[rows, columns] = 0
    np.testing.assert_array_equal(found.pictures[0], wanted)
    np.testing.assert_array_equal(found.covered[0], wanted[..., 0] == 0)
    corners = [[columns.start, rows.start, 1], [columns.stop, rows.stop, 1]]
    np.testing.assert_allclose(
        (found.label_affine[0] @ np.transpose(corners)).T, [[0, 0], [size[1], size[0]]], atol=1e-9
    )


def test_tall_pictures_lose_as_much_above_as_below():
    """A picture of 100 x 40, 112 wide 280 high: rows 84 to 196 of these are left, 30 to 70 of the picture."""
    image = np.zeros((100, 40, 3), np.uint8)
    image[30:70] = 200
    found = prepare([image], "crop", 112)
    assert found.pictures.shape == (1, 112, 112, 3) and found.covered.all()
    inner = found.pictures[0, 4:-4]  # what bicubic weights mix at the edge is left out
    assert (inner == 200).all()
    corners = found.label_affine[0] @ [[0, 112], [0, 112], [1, 1]]
    np.testing.assert_allclose(corners.T, [[0, 30], [40, 70]], atol=1e-9)
