"""From hidden states at the visual tokens to explicit 3D."""

from __future__ import annotations

from spatialsv_jax.lifting.heads import HEADS, Lifting, LiftingConfig

__all__ = ["HEADS", "Lifting", "LiftingConfig"]
