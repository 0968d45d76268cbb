"""Lifting: readouts at the visual tokens to depth, ray and point maps with confidences.

Contract: readout[B,V,h,w,C] in, a dict of predictions named in `spec.PREDICTIONS` out, float32.
A head is one line in HEADS.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from spatialsv_jax.lifting.dpt import Fusion, Reassembly
from spatialsv_jax.lifting.pooled_heads import POOLED_HEADS, pooled_heads
from spatialsv_jax.lifting.projectors import Projector
from spatialsv_jax.partitioning import constrain

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

    heads: tuple = ("depth", "ray", "points")  # and, as extensions, "pose" and "scale"
    distill_features: int = 0  # teacher feature width; 0 = no distillation projector
    width: int = 128  # of the shared 3D feature space
    channels: tuple = (32, 64, 64, 64)
    features: int = 32
    output: str = "label"  # or "token": maps of the lifting grid's size
    shared_projector: bool = False  # one projector for the four taps
    dual_dpt: bool = False  # one reassembly shared by the heads
    stop_gradient: bool = False  # the heads learn, no gradient reaches the language model
    fresh: bool = False  # drawn anew, also where the model to start from has heads of the same sizes
    taps: tuple = ()  # four state indices; () = the rule for the model's depth
    dtype: str = "float32"  # of the projectors and DPT bodies; outputs are always float32
    refine: str = "full"  # or "folded": the last convolution and the resize in one, cheaper (`dpt.ResizedConv`)
    remat: str = "none"  # "full" keeps only a head's inputs for its backward pass
    chunk_views: int = 0  # views of a sample that a head treats at once, the others after them (remat "full"); 0 = all
    loop_heads: bool = (
        False  # heads in turn in one loop over their stacked parameters (remat "full"): a smaller program
    )

    def __post_init__(self):
        known = (*HEADS, *POOLED_HEADS)
        unknown = [head for head in self.heads if head not in known]
        if unknown or len(set(self.heads)) != len(self.heads):
            raise ValueError(f"lifting.heads {self.heads}: choose each at most once from {', '.join(known)}.")
        if self.output not in ("label", "token"):
            raise ValueError(f"lifting.output is {self.output!r}; choose 'label' or 'token'.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"lifting.dtype is {self.dtype!r}; choose 'float32' or 'bfloat16'.")
        for name, choices in (("refine", ("full", "folded")), ("remat", ("none", "full"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"lifting.{name} is {getattr(self, name)!r}; choose one of {choices}.")
        if self.chunk_views < 0 or (self.chunk_views and self.remat != "full"):
            raise ValueError(
                f"lifting.chunk_views is {self.chunk_views} with remat {self.remat!r}: expected 0 (all at once), or a number of "
                "views with remat 'full', without which it saves nothing."
            )
        if self.loop_heads and self.remat != "full":
            raise ValueError(
                f"lifting.loop_heads needs remat 'full', not {self.remat!r}: a loop keeps all of a head's maps."
            )
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
    refine: str = "full"

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
        raw = Fusion(self.features, outputs, bias, self.dtype, self.refine, name="fusion")(maps, size)
        return activate(self.head, raw.reshape(number, views, *raw.shape[1:]))


def fold_views(readouts: Sequence[jax.Array]) -> list[jax.Array]:
    """[B,V,h,w,C] to [B*V,h,w,C] each, views split over a context axis."""
    folded = [readout.reshape(-1, *readout.shape[2:]) for readout in readouts]
    return [constrain(maps, "pictures", None, None, None) for maps in folded]


def apply_heads(
    module: nn.Module,
    config: LiftingConfig,
    heads: Sequence[str],
    readouts: Sequence[jax.Array],
    size: tuple[int, int],
) -> dict[str, jax.Array]:
    """All dense heads, as submodules of `module` that are named as the heads; to be called in a compact method.

    With `config.dual_dpt` they share one reassembly (as in DA3's dual-DPT) and keep their own fusion.

    Args:
      module: whose submodules they are.
      config: of which channels, features, dtype, dual_dpt, refine, remat, chunk_views and loop_heads count.
      heads: keys of HEADS.
      readouts: four of [B,V,gh,gw,C].
      size: (H, W) of the maps.

    Raises:
      ValueError: views that chunk_views does not divide.
    """
    views, chunk = readouts[0].shape[1], config.chunk_views
    if chunk and views % min(chunk, views):
        raise ValueError(f"lifting.chunk_views is {chunk}, which does not divide the {views} views of a sample.")
    sizes = (config.channels, config.features, config.dtype)

    def together(module, readouts):
        maps = Reassembly(*sizes, name="reassembly", parent=module)(fold_views(readouts))
        made = {}
        for head in heads:
            made.update(DenseHead(head, *sizes, config.refine, name=head, parent=module)(readouts, size, maps))
        return made

    def alone(head):
        dense = lambda module: DenseHead(head, *sizes, config.refine, name=head, parent=module)
        return lambda module, readouts: dense(module)(readouts, size)

    if config.loop_heads and len(heads) > 1 and not config.dual_dpt and not module.is_initializing():
        return _in_a_loop(module.variables["params"], config, heads, readouts, size)
    functions = [together] if config.dual_dpt and heads else [alone(head) for head in heads]
    predictions = {}
    for function in functions:
        predictions.update(_in_chunks(function, module, list(readouts), config))
    return predictions


def _in_a_loop(
    params: Mapping, config: LiftingConfig, heads: Sequence[str], readouts: Sequence[jax.Array], size: tuple[int, int]
) -> dict[str, jax.Array]:
    """The heads as turns of one loop over their stacked parameters: a program (and its compilation) of one head's size.

    Heads differ in the outputs of their last layer alone, which is padded to the widest.
    """
    outputs = {head: HEADS[head].channels + 1 for head in heads}
    widest = max(outputs.values())

    def padded(head):
        fusion = params[head]["fusion"]
        pad = lambda leaf: jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, widest - outputs[head])])
        return {**params[head], "fusion": {**fusion, "predict": jax.tree.map(pad, fusion["predict"])}}

    def one(params, readouts):
        """Raw values [B,V,H,W,widest] of one head."""
        number, views = readouts[0].shape[:2]
        with jax.named_scope("+".join(heads)):  # `training.flops` gives each head its share
            reassembly = Reassembly(config.channels, config.features, config.dtype)
            maps = reassembly.apply({"params": params["reassembly"]}, fold_views(readouts))
            fusion = Fusion(config.features, widest, (0.0,) * widest, config.dtype, config.refine)
            raw = fusion.apply({"params": params["fusion"]}, maps, size)
        return raw.reshape(number, views, *raw.shape[1:])

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(padded, heads))
    parts, joined = _split_views(readouts, config.chunk_views)
    one = jax.checkpoint(one, prevent_cse=False)
    _, raw = jax.lax.scan(lambda _, params: (None, jax.lax.map(lambda part: one(params, part), parts)), None, stacked)
    predictions = {}
    for place, head in enumerate(heads):
        predictions.update(activate(head, joined(raw[place])[..., : outputs[head]]))
    return predictions


def _split_views(readouts: Sequence[jax.Array], chunk: int) -> tuple[list[jax.Array], Callable]:
    """Arrays [B,V,...] as [V/c,B,c,...] (the batch stays split as it is), and what joins a result [V/c,B,c,...] again."""
    number, views = readouts[0].shape[:2]
    chunk = min(chunk, views) or views
    parts = [jnp.moveaxis(x.reshape(number, views // chunk, chunk, *x.shape[2:]), 1, 0) for x in readouts]
    return parts, lambda x: jnp.moveaxis(x, 0, 1).reshape(number, views, *x.shape[3:])


def _in_chunks(function: Callable, module: nn.Module, readouts: list[jax.Array], config: LiftingConfig) -> dict:
    """function(module, readouts), rematerialised and a few views at a time where the config says so."""
    if config.remat == "none":
        return function(module, readouts)
    if not config.chunk_views or config.chunk_views >= readouts[0].shape[1]:
        return nn.remat(function)(module, readouts)
    parts, joined = _split_views(readouts, config.chunk_views)
    one = nn.remat(function, prevent_cse=False)
    body = lambda module, carry, part: (carry, one(module, part))
    scanned = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
    _, made = scanned(module, (), parts)
    return {name: joined(x) for name, x in made.items()}


class Lifting(nn.Module):
    """Everything that turns tapped hidden states into explicit 3D; absent at inference."""

    config: LiftingConfig

    @nn.compact
    def __call__(
        self,
        taps: jax.Array | None,
        final: jax.Array | None,
        grid_hw: tuple[int, int],
        size: tuple[int, int],
        view_valid: jax.Array,
    ) -> dict[str, jax.Array]:
        """Predictions of all heads, and `features` when distilling.

        Args:
          taps: [4,B,V,P,D] hidden states at the visual tokens; None without heads.
          final: [B,V,P,D] state L, for distillation; None without.
          grid_hw: P = gh * gw.
          size: (H, W) of the maps.
          view_valid: bool[B,V].
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
            dense = [head for head in config.heads if head in HEADS]
            predictions = apply_heads(self, config, dense, readouts, size) | pooled_heads(
                config.heads, config.width, config.dtype, readouts, view_valid
            )
        if config.distill_features:
            distill = Projector(config.width, config.distill_features, "output", config.dtype, name="distill_projector")
            predictions["features"] = distill(final).astype(jnp.float32)
        return predictions
