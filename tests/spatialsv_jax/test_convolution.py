"""Convolution with a kernel gradient in parts."""

import jax
import numpy as np
import pytest
from jax import lax

from spatialsv_jax import convolution

NUMBERS = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("stride, padding", [(1, ((1, 1), (1, 1))), (2, "SAME")])
def test_gradients_equal_lax(monkeypatch, stride, padding):
    monkeypatch.setattr(convolution, "_PIXELS", 32)  # forces several parts
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.standard_normal((6, 8, 6, 3)).astype(np.float32),
        rng.standard_normal((3, 3, 3, 5)).astype(np.float32),
    )
    weight = rng.standard_normal((6, 8 // stride, 6 // stride, 5)).astype(np.float32)
    assert convolution.parts_of(6, 12) > 1

    def loss(function):
        return lambda x, k: (function(x, k, (stride, stride), padding, dimension_numbers=NUMBERS) * weight).sum()

    for found, expected in zip(
        jax.grad(loss(convolution.conv_general_dilated), (0, 1))(x, kernel),
        jax.grad(loss(lax.conv_general_dilated), (0, 1))(x, kernel),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_parts_divide_the_batch():
    assert convolution.parts_of(64, 1024) == 4
    assert convolution.parts_of(7, 16 * 1024) == 7
    assert convolution.parts_of(3, 4) == 1
    assert all(number % convolution.parts_of(number, 5000) == 0 for number in range(1, 40))


def test_groups_are_refused():
    with pytest.raises(ValueError, match="feature_group_count"):
        convolution.conv_general_dilated(None, None, (1, 1), "SAME", dimension_numbers=NUMBERS, feature_group_count=2)
