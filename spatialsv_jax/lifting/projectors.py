"""Projectors from language hidden states into the shared 3D feature space."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from spatialsv_jax.linear import linear_options
from spatialsv_jax.partitioning import declare, ones, zeros


class Projector(nn.Module):
    """LayerNorm, Linear(D, width), GELU, Linear(width, features), over [...,D].

    Source: the two linear layers and GELU are the paper's; the LayerNorm is ours.
    """

    width: int
    features: int
    features_axis: str = "readout"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.LayerNorm(
            epsilon=1e-6,
            dtype=self.dtype,
            scale_init=declare(ones, "norm"),
            bias_init=declare(zeros, "norm"),
            name="norm",
        )(x)
        x = linear(self.width, ("embed", "lifting"), "up", self.dtype)(x)
        return linear(self.features, ("lifting", self.features_axis), "down", self.dtype)(nn.gelu(x))


def linear(features: int, axes: tuple[str, str], name: str, dtype: Any = jnp.float32, bias: bool = True) -> nn.Dense:
    """A linear map over the last axis (also a 1x1 convolution), its kernel's axes named."""
    return nn.Dense(features, use_bias=bias, dtype=dtype, name=name, **linear_options(axes))
