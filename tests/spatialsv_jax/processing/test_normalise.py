"""Colours against the published definition, value by value."""

import numpy as np

from spatialsv_jax.processing.grid_pictures import CLIP_MEAN, CLIP_STD
from spatialsv_jax.processing.pretrained import normalise, normalise_all


def test_every_value_is_rescaled_then_standardised():
    """Rescaled by 1 / 255 in float64, rounded, then in float32: the bits that published processors give."""
    image = np.arange(3 * 256, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
    image = np.concatenate([image, image[..., ::-1], np.roll(image, 1, -1)], axis=1)  # every value in every channel
    values = normalise(image, CLIP_MEAN, CLIP_STD)
    assert values.dtype == np.float32
    for channel in range(3):
        assert len(np.unique(image[..., channel])) == 256
        mean, std = np.float32(CLIP_MEAN[channel]), np.float32(CLIP_STD[channel])
        table = np.array([(np.float32(np.float64(value) * (1 / 255)) - mean) / std for value in range(256)])
        np.testing.assert_array_equal(values[..., channel], table[image[..., channel]])
    canvas = np.zeros((20, 60, 3), np.float32)
    normalise(image, CLIP_MEAN, CLIP_STD, out=canvas[2:18, 5:53])
    np.testing.assert_array_equal(canvas[2:18, 5:53], values)
    assert not canvas[:, :5].any() and not canvas[18:].any()
    np.testing.assert_array_equal(normalise_all([image, image[::-1]], CLIP_MEAN, CLIP_STD), [values, values[::-1]])
