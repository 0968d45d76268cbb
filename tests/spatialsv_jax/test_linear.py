"""Linear layers: the product by rows equals the product, also in its gradients."""

import jax
import numpy as np
import pytest
from jax import lax

from spatialsv_jax.linear import dot_general

NUMBERS = (((2,), (0,)), ((), ()))


def test_equals_lax_with_gradients():
    rng = np.random.default_rng(0)
    x, kernel, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4, 5), (5, 2), (3, 4, 2)))

    def loss(function):
        return lambda x, kernel: (function(x, kernel, NUMBERS, precision="highest") * weight).sum()

    for function in (lambda f: f, lambda f: jax.grad(f, (0, 1))):
        found, expected = (function(loss(product))(x, kernel) for product in (dot_general, lax.dot_general))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_other_contractions_are_refused():
    with pytest.raises(ValueError, match="Only"):
        dot_general(np.ones((2, 3, 4), np.float32), np.ones((3, 4), np.float32), (((1,), (0,)), ((), ())))
