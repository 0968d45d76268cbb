"""Coarse feature distillation on the lifting grid (docs/method.md, 3.7)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from spatialsv_jax.losses.base import Part

# A feature of this length or less counts as the zero vector.
ZERO_FEATURE = 1e-8


def distill_terms(features, teacher_features, mask) -> dict[str, Part]:
    """Mean over tokens of 1 - cos(feature, teacher feature).

    A zero vector on either side has residual 1 and gradient 0; the teacher gets no gradient.
    Pool teacher maps to the grid with `geometry.area_pool`.

    Args:
      features: [..., P, F].
      teacher_features: the same shape.
      mask: bool[..., P].

    Returns:
      cos: one value per token, in [0, 2].

    Raises:
      ValueError: shapes that do not fit, named.
    """
    features, teacher_features, mask = jnp.asarray(features), jnp.asarray(teacher_features), jnp.asarray(mask)
    if features.shape != teacher_features.shape:
        raise ValueError(f"'features' {features.shape} and 'teacher_features' {teacher_features.shape} differ.")
    if mask.shape != features.shape[:-1]:
        raise ValueError(f"'mask' has shape {mask.shape}, but 'features' asks for {features.shape[:-1]}.")
    student, known = _unit(features, mask)
    teacher, teacher_known = _unit(jax.lax.stop_gradient(teacher_features), mask)
    # |a - b|^2 / 2 = 1 - cos for unit vectors, exactly 0 with gradient 0 at a = b.
    residual = jnp.where(known & teacher_known, jnp.square(student - teacher).sum(-1) / 2, 1.0)
    return {"cos": Part(residual, mask, mask)}


def _unit(vectors, mask):
    vectors = jnp.where(mask[..., None], vectors.astype(jnp.float32), 0)
    squared = jnp.square(vectors).sum(-1)
    known = squared > ZERO_FEATURE**2
    length = jnp.sqrt(jnp.where(known, squared, 1))
    return jnp.where(known[..., None], vectors / length[..., None], 0), known
