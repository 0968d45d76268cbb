"""The two resizes of position tables against loops over samples and against jax."""

import da3_oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax.teachers.position_tables import antialiased_bicubic, offset_bicubic, resize_table

TABLE = np.random.default_rng(0).standard_normal((37 * 37, 5)).astype(np.float32)


@pytest.mark.parametrize("grid", [(4, 5), (37, 20), (36, 36), (50, 2)])
def test_offset(grid):
    found = resize_table(jnp.asarray(TABLE), 37, grid, "offset")
    np.testing.assert_allclose(found, da3_oracle.resized(TABLE.astype(np.float64), grid), atol=5e-6)


@pytest.mark.parametrize("grid", [(4, 5), (37, 20), (36, 36), (50, 2)])
def test_antialiased(grid):
    found = resize_table(jnp.asarray(TABLE), 37, grid, "antialiased")
    wanted = jax.image.resize(jnp.asarray(TABLE).reshape(37, 37, 5), (*grid, 5), "cubic", antialias=True)
    np.testing.assert_allclose(found.reshape(*grid, 5), wanted, atol=2e-5)


def test_the_own_grid_is_untouched():
    for resize in ("offset", "antialiased"):
        assert resize_table(jnp.asarray(TABLE), 37, (37, 37), resize) is not None
        np.testing.assert_array_equal(resize_table(jnp.asarray(TABLE), 37, (37, 37), resize), TABLE)
    assert np.abs(offset_bicubic(37, 37) - np.eye(37)).max() > 1e-2  # the offset would move it


def test_the_offset_and_the_constants_matter():
    """A tenth of a patch, a = -0.75 and no antialiasing: each would be noticed."""
    plain = np.array([[max(0.0, 1 - abs((i + 0.5) * 37 / 5 - 0.5 - j)) for j in range(37)] for i in range(5)])
    offset, smooth = offset_bicubic(37, 5), antialiased_bicubic(37, 5)
    np.testing.assert_allclose([offset.sum(-1), smooth.sum(-1)], 1, atol=1e-12)
    centres = (offset * np.arange(37)).sum(-1)
    np.testing.assert_allclose(centres, (np.arange(5) + 0.5) * 37 / 5.1 - 0.5, atol=0.3)
    assert np.abs(centres - (plain * np.arange(37)).sum(-1)).max() > 0.3
    assert (offset != 0).sum(-1).max() <= 4 < (smooth != 0).sum(-1).min()
