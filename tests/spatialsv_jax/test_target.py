"""Kernels are chosen for the target, not for the machine that compiles."""

import jax
import jax.numpy as jnp
import pytest

from spatialsv_jax import linear, target
from spatialsv_jax.backbones.attention import choose_backend


def test_the_target_decides():
    assert target.platform() == jax.default_backend() == "cpu"
    x = jnp.zeros((2, 3, 4))
    assert linear.as_rows(x).ndim == 2
    with target.compiling_for("tpu"):
        assert choose_backend("auto", jnp.bfloat16) == "splash" and linear.as_rows(x).ndim == 3
        assert choose_backend("xla", jnp.bfloat16) == "xla"
    with target.compiling_for("gpu"):
        assert choose_backend("auto", jnp.bfloat16) == "cudnn" and choose_backend("auto", jnp.float32) == "xla"
    assert choose_backend("auto", jnp.bfloat16) == "xla"
    with pytest.raises(ValueError, match="choose one of"), target.compiling_for("abacus"):
        pass
