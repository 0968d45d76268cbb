"""Lifting: readouts at the visual tokens to depth, ray and point maps with confidences.

Contract: readout[B,V,h,w,C] in, a dict of predictions named in `spec.PREDICTIONS` out, float32.
A head is one line in HEADS.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from spatialsv_jax.lifting.dpt import Fusion, Reassembly
from spatialsv_jax.lifting.projectors import Projector

RAW_LIMIT = 8.0  # raw values behind an exponential are clipped to +-8
CONFIDENCE_BIAS = math.log(0.05)  # confidence starts near 1.05


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """What a head predicts: channels (without the confidence) and raw values to predictions."""

    channels: int
    activation: Callable[[jax.Array], jax.Array]


def clipped_exp(raw: jax.Array) -> jax.Array:
    """exp of raw clipped to +-8."""
    return jnp.exp(jnp.clip(raw, -RAW_LIMIT, RAW_LIMIT))


HEADS: dict[str, HeadSpec] = {
    "depth": HeadSpec(1, lambda raw: clipped_exp(raw)[..., 0]),
    "ray": HeadSpec(6, lambda raw: raw),
    "points": HeadSpec(3, lambda raw: raw),
}


@dataclasses.dataclass(frozen=True)
class LiftingConfig:
    """Projectors, heads and distillation output."""

    heads: tuple = ("depth", "ray", "points")
    distill_features: int = 0  # teacher feature width; 0 = no distillation projector
    width: int = 128  # of the shared 3D feature space
    channels: tuple = (32, 64, 64, 64)
    features: int = 32
    output: str = "label"  # or "token": maps of the lifting grid's size
    shared_projector: bool = False  # one projector for the four taps
    dual_dpt: bool = False  # one reassembly shared by the heads
    stop_gradient: bool = False  # the heads learn, no gradient reaches the language model
    taps: tuple = ()  # four state indices; () = the rule for the model's depth
    dtype: str = "float32"  # of the projectors and DPT bodies; outputs are always float32

    def __post_init__(self):
        unknown = [head for head in self.heads if head not in HEADS]
        if unknown or len(set(self.heads)) != len(self.heads):
            raise ValueError(f"lifting.heads {self.heads}: choose each at most once from {', '.join(HEADS)}.")
        if self.output not in ("label", "token"):
            raise ValueError(f"lifting.output is {self.output!r}; choose 'label' or 'token'.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"lifting.dtype is {self.dtype!r}; choose 'float32' or 'bfloat16'.")
        if len(self.channels) != 4 or len(self.taps) not in (0, 4):
            raise ValueError(
                f"lifting.channels {self.channels} and taps {self.taps} need four entries (taps: or none)."
            )


def activate(name: str, raw: jax.Array) -> dict[str, jax.Array]:
    """Predictions of head `name` from raw[...,C+1]: values and `1 + exp(last channel)`."""
    spec = HEADS[name]
    return {name: spec.activation(raw[..., :-1]), f"{name}_confidence": 1.0 + clipped_exp(raw[..., -1])}


class DenseHead(nn.Module):
    """One head: a DPT over four readouts, or over maps that a shared reassembly has made."""

    head: str  # key of HEADS
    channels: Sequence[int]
    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, readouts: Sequence[jax.Array], size: tuple[int, int], maps: Sequence[jax.Array] | None = None
    ) -> dict[str, jax.Array]:
        """Predictions float32[B,V,H,W(,C)] from readouts [B,V,gh,gw,C] (or from `maps`)."""
        number, views = readouts[0].shape[:2]
        if maps is None:
            maps = Reassembly(self.channels, self.features, self.dtype, name="reassembly")(fold_views(readouts))
        outputs = HEADS[self.head].channels + 1
        bias = (0.0,) * (outputs - 1) + (CONFIDENCE_BIAS,)
        raw = Fusion(self.features, outputs, bias, self.dtype, name="fusion")(maps, size)
        return activate(self.head, raw.reshape(number, views, *raw.shape[1:]))


def fold_views(readouts: Sequence[jax.Array]) -> list[jax.Array]:
    """[B,V,h,w,C] to [B*V,h,w,C] each."""
    return [readout.reshape(-1, *readout.shape[2:]) for readout in readouts]


def apply_heads(
    heads: Sequence[str],
    channels: Sequence[int],
    features: int,
    dtype: str,
    dual: bool,
    readouts: Sequence[jax.Array],
    size: tuple[int, int],
) -> dict[str, jax.Array]:
    """All heads, to be called in a compact method: their submodules are named as the heads.

    With `dual` they share one reassembly (as in DA3's dual-DPT) and keep their own fusion.
    """
    maps, predictions = None, {}
    if dual and heads:
        maps = Reassembly(channels, features, dtype, name="reassembly")(fold_views(readouts))
    for head in heads:
        predictions.update(DenseHead(head, channels, features, dtype, name=head)(readouts, size, maps))
    return predictions


class Lifting(nn.Module):
    """Everything that turns tapped hidden states into explicit 3D; absent at inference."""

    config: LiftingConfig

    @nn.compact
    def __call__(
        self, taps: jax.Array | None, final: jax.Array | None, grid_hw: tuple[int, int], size: tuple[int, int]
    ) -> dict[str, jax.Array]:
        """Predictions of all heads, and `features` when distilling.

        Args:
          taps: [4,B,V,P,D] hidden states at the visual tokens; None without heads.
          final: [B,V,P,D] state L, for distillation; None without.
          grid_hw: P = gh * gw.
          size: (H, W) of the maps.
        """
        config = self.config
        predictions = {}
        if config.stop_gradient:
            taps, final = jax.lax.stop_gradient((taps, final))
        if config.heads:
            count = 1 if config.shared_projector else 4
            projectors = [
                Projector(config.width, config.width, dtype=config.dtype, name=f"projector_{level}")
                for level in range(count)
            ]
            readouts = [projectors[level % count](taps[level]) for level in range(4)]
            readouts = [readout.reshape(*readout.shape[:2], *grid_hw, config.width) for readout in readouts]
            predictions = apply_heads(
                config.heads, config.channels, config.features, config.dtype, config.dual_dpt, readouts, size
            )
        if config.distill_features:
            distill = Projector(config.width, config.distill_features, "output", config.dtype, name="distill_projector")
            predictions["features"] = distill(final).astype(jnp.float32)
        return predictions
