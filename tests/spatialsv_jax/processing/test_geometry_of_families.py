"""A known 3D point lands where `label_affine` says, whatever a family does to pictures: portrait, padded, cropped, tiled."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.transforms.geometry import Measured, make_labels
from spatialsv_jax import geometry
from spatialsv_jax.processing import PROCESSORS

GOLDENS = Path(__file__).parents[2] / "goldens"
LABELS = (40, 60)  # H, W
SIZES = [(300, 400), (400, 300), (500, 180), (256, 256)]  # (height, width) of pictures
# Family and (height, width) of training pictures; None = its usual size.
CASES = [
    ("qwen2_5_vl", (168, 224)), ("qwen2_5_vl", (224, 112)), ("llava_onevision1_5", (168, 224)), ("internvl3", None),
    ("llava_next_video", None), ("llava_next_video", (56, 84)),
]  # fmt: skip


def processor_of(family, size):
    return PROCESSORS[family].from_checkpoint(GOLDENS / family, size)


def marked_picture(height, width, centre, radius):
    """A black picture with a white disc around pixel coordinates `centre` (x, y)."""
    y, x = np.mgrid[:height, :width] + 0.5
    disc = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    return np.repeat(np.where(disc, 255, 0)[..., None], 3, axis=2).astype(np.uint8)


def centroid(weights):
    """(x, y) centre of mass of a map, pixel centres at +0.5."""
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()


def whole_picture_tile(family, values, view):
    """What the network sees of a view on the pixels that the label map covers."""
    if family == "llava_next_video" and values.shape[0] > len(SIZES):
        return values[view * (values.shape[0] // len(SIZES))]  # the whole picture comes before its crops
    return values[view]


@pytest.mark.parametrize("family, size", CASES)
def test_a_point_of_the_world_lands_on_its_label_pixel(family, size):
    """Projected by the picture's camera, mapped by the affine's inverse: half a pixel of the network's picture at most."""
    processor, point = processor_of(family, size), np.array([0.11, -0.07, 2.0])
    cameras, pictures = [], []
    for height, width in SIZES:
        camera = np.array([[0.9 * width, 0, 0.48 * width], [0, 0.9 * width, 0.52 * height], [0, 0, 1]])
        x, y, depth = camera @ point
        cameras.append((x / depth, y / depth))
        pictures.append(marked_picture(height, width, cameras[-1], 0.06 * min(height, width)))
    pixels = processor.pixels(pictures, LABELS)
    assert pixels.covered.all()
    for view, (at, affine) in enumerate(zip(cameras, pixels.label_affine, strict=True)):
        label = np.linalg.solve(affine[:, :2], np.array(at) - affine[:, 2])
        seen = whole_picture_tile(family, pixels.pixel_values, view).mean(-1)
        expected = centroid(seen - seen.min()) * np.array([LABELS[1] / seen.shape[1], LABELS[0] / seen.shape[0]])
        per_pixel = np.array([LABELS[1] / seen.shape[1], LABELS[0] / seen.shape[0]])
        assert np.all(np.abs(label - expected) < 0.5 * per_pixel), (SIZES[view], label, expected)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision1_5"])
def test_pictures_on_a_common_canvas(family):
    """Of different sizes: label pixels beyond a picture are not covered, those within lie in it."""
    processor = processor_of(family, None)
    pictures = [marked_picture(h, w, (0.3 * w, 0.6 * h), 0.1 * min(h, w)) for h, w in ((56, 140), (112, 60))]
    prefix, pixels = processor.native(pictures)
    assert prefix.feature_valid is not None
    for view, picture in enumerate(pictures):
        rows, columns = np.nonzero(pixels.covered[view])
        x, y = pixels.label_affine[view] @ np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
        height, width = picture.shape[:2]
        assert x.max() < width and y.max() < height and x.max() > width - 2 and y.max() > height - 2
        beyond = ~pixels.covered[view]
        assert beyond.any() and (pixels.pixel_values[view][beyond] == 0).all()
        seen = pixels.pixel_values[view].mean(-1)
        found = centroid(np.where(pixels.covered[view], seen - seen[pixels.covered[view]].min(), 0))
        at = pixels.label_affine[view] @ np.array([*found, 1])
        assert np.abs(at - np.array([0.3 * width, 0.6 * height])).max() < 0.5 * max(picture.shape[:2]) / 56


def test_tiles_and_crops_of_the_published_rules_lift_the_whole_picture():
    """The lifting grid is the thumbnail, or the whole picture's tile: the affine maps corner to corner."""
    for family in ("internvl3", "llava_next_video"):
        processor = processor_of(family, None)
        prefix, pixels = processor.native([np.zeros((50, 90, 3), np.uint8), np.zeros((110, 41, 3), np.uint8)])
        assert len(pixels.pixel_values) > 2 and len(prefix.image_token_index) == 2
        for affine, (height, width) in zip(pixels.label_affine, ((50, 90), (110, 41)), strict=True):
            np.testing.assert_allclose(affine @ [0, 0, 1], [0, 0])
            tile = pixels.pixel_values.shape[1]
            np.testing.assert_allclose(affine @ [tile, tile, 1], [width, height])


@pytest.mark.parametrize("family, size", CASES)
def test_labels_rays_and_intrinsics_follow(family, size):
    """A plane with a step in front: labels keep both depths and none between; points are where the camera sees them."""
    processor, measured = processor_of(family, size), []
    cameras = []
    for height, width in SIZES:
        depth = np.full((height, width), 3.0, np.float32)
        depth[:, : width // 2] = 1.5
        measured.append(depth)
        cameras.append(np.array([[0.9 * width, 0, 0.5 * width], [0, 0.9 * width, 0.5 * height], [0, 0, 1]]))
    pixels = processor.pixels([np.zeros((*size_, 3), np.uint8) for size_ in SIZES], LABELS)
    count = len(SIZES)
    labels = make_labels(
        Measured(
            depths=measured, intrinsics=np.stack(cameras), camera_to_world=np.tile(np.eye(4), (count, 1, 1)),
            pose_valid=np.ones(count, bool), label_affine=pixels.label_affine, metric=True,
        ),
        pixels.covered,
        "x",
    )  # fmt: skip
    found = labels.depth[labels.valid] * labels.scene_scale_m
    assert labels.valid.mean() > 0.9
    assert set(np.unique(found.round(4))) == {1.5, 3.0}
    for view in range(count):
        row, column = LABELS[0] // 3, LABELS[1] // 4
        x, y = pixels.label_affine[view] @ [column + 0.5, row + 0.5, 1]
        direction = np.linalg.solve(cameras[view], [x, y, 1])
        ray = geometry.rays_from_camera(labels.intrinsics[view], labels.camera_to_world[view], *LABELS)
        np.testing.assert_allclose(ray[row, column, 3:], direction, atol=1e-4)
