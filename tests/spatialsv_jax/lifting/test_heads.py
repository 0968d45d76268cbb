"""DPT pieces and head activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax.lifting.dpt import Reassembly, resize
from spatialsv_jax.lifting.heads import HEADS, activate
from spatialsv_jax.partitioning import create


@pytest.mark.parametrize("target", [(8, 8), (7, 12), (2, 3), (16, 5), (1, 1)])
def test_resize_is_bilinear_with_half_pixel_centres(target):
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    found = resize(jnp.asarray(x), target)
    expected = jax.image.resize(jnp.asarray(x), (2, *target, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_resize_from_one_pixel_repeats_it():
    x = jnp.asarray([[[[1.0, 2.0]]]])
    np.testing.assert_allclose(resize(x, (2, 3)), np.broadcast_to([1.0, 2.0], (1, 2, 3, 2)))


def test_activations():
    raw = jnp.asarray([[-100.0, 100.0], [0.0, np.log(0.05)], [100.0, -100.0]])
    depth = activate("depth", raw)
    np.testing.assert_allclose(depth["depth"], [np.exp(-8), 1, np.exp(8)], rtol=1e-6)
    np.testing.assert_allclose(depth["depth_confidence"], [1 + np.exp(8), 1.05, 1 + np.exp(-8)], rtol=1e-6)
    assert {name: head.channels for name, head in HEADS.items()} == {"depth": 1, "ray": 6, "points": 3}
    raw = jnp.arange(7.0)[None]
    np.testing.assert_allclose(activate("ray", raw)["ray"], raw[:, :6])


def test_upsampling_keeps_places():
    """A token's features end up in its own 4x4 and 2x2 block, rows before columns."""
    reassembly = Reassembly((3, 3, 3, 3), 3)
    grids = [jnp.zeros((1, 3, 4, 5)) for _ in range(4)]
    params = create(jax.random.key(0), jax.eval_shape(reassembly.init, jax.random.key(0), grids))
    params = jax.tree.map(lambda leaf: leaf, params)
    centre = jnp.zeros((3, 3, 3, 3)).at[1, 1].set(jnp.eye(3))
    for level in range(4):  # the last convolution of each level passes values through
        params["params"][f"reduce_{level}"]["kernel"] = centre
    marked = [grid.at[0, 1, 2].set(1.0) for grid in grids]
    plain, found = reassembly.apply(params, grids), reassembly.apply(params, marked)
    for level, factor in enumerate((4, 2, 1)):
        assert found[level].shape == (1, 3 * factor, 4 * factor, 3)
        change = np.abs(np.asarray(found[level] - plain[level])).max(-1)[0] > 1e-6
        inside = np.zeros_like(change)
        inside[factor : 2 * factor, 2 * factor : 3 * factor] = True
        np.testing.assert_array_equal(change, inside)
    assert found[3].shape == (1, 2, 2, 3)
