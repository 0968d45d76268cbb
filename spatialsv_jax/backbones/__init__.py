"""Model families: one line each in BACKBONES."""

from __future__ import annotations

from spatialsv_jax.backbones.base import Backbone, BackboneOutput, Decoding, default_taps
from spatialsv_jax.backbones.tiny import TinyBackbone

BACKBONES = {"tiny": TinyBackbone}

__all__ = ["BACKBONES", "Backbone", "BackboneOutput", "Decoding", "default_taps"]
