"""The averaged model that teaches where a sample has no geometry (mean teacher, Tarvainen and Valpola 2017).

An extension of ours (docs/method.md, 3.8), off by default. The training state holds an exponential moving average of the
trained parameters; its depth, ray and point maps are what the loss term `ema` compares with.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from spatialsv_jax.losses.objective import AVERAGED


@dataclasses.dataclass(frozen=True)
class EmaConfig:
    """Settings of the averaged model.

    Attributes:
      decay: of the average; 0 = there is none. In the first steps (1 + step) / (10 + step) where that is less.
      noise: standard deviation of the noise on the pixel values (as the encoder reads them) that the trained model sees
        of samples without geometry; the averaged model sees them clean.
    """

    decay: float = 0.0
    noise: float = 0.0

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"config.ema.decay is {self.decay}, expected 0 (off) or less than 1.")
        if not 0 <= self.noise < float("inf") or (self.noise and not self.decay):
            raise ValueError(
                f"config.ema.noise is {self.noise}, expected 0 or more, and 0 without an average (decay {self.decay})."
            )


def move(average, params, step: jax.Array, decay: float):
    """The average after `params` of optimizer step `step` (counted from 0) entered it."""
    keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(
        lambda old, new: (keep * old.astype(jnp.float32) + (1 - keep) * new).astype(old.dtype), average, params
    )


def with_noise(batch: dict, step: jax.Array, noise: float, seed: int = 0) -> dict:
    """The batch with "noisy_pixels": pixels with noise on samples without geometry, for `with_targets`.

    Drawn for the whole batch, before it is cut into microbatches: a sample's noise does not depend on their number.

    Args:
      batch: fields of spec.BATCH.
      step: the noise is a function of it and of `seed`.
      noise: see `EmaConfig`; 0 = the batch as it is.
      seed: `config.seed`.

    Raises:
      ValueError: noise on a batch that holds no pixels.
    """
    if not noise:
        return batch
    if "vision_features" in batch:
        raise ValueError("config.ema.noise needs pixels, but the batch holds cached features; set it to 0.")
    pixels = batch["pixel_values"]
    drawn = noise * jax.random.normal(jax.random.fold_in(jax.random.key(seed), step), pixels.shape, pixels.dtype)
    unlabelled = ~batch["has_geometry"].reshape(-1, *(1,) * (pixels.ndim - 1))
    return {**batch, "noisy_pixels": pixels + jnp.where(unlabelled, drawn, 0)}


def with_targets(apply, params, batch: dict) -> dict:
    """The batch with the averaged model's maps ("ema_NAME") and, for the trained model, the noisy pixels.

    Args:
      apply: (params, batch) -> predictions.
      params: the averaged model's.
      batch: fields of spec.BATCH, as `with_noise` gives them.
    """
    batch = dict(batch)
    noisy = batch.pop("noisy_pixels", None)
    predictions = jax.lax.stop_gradient(apply(params, batch))
    batch = {**batch, **{f"ema_{name}": predictions[name] for name in AVERAGED}}
    return batch if noisy is None else {**batch, "pixel_values": noisy}
