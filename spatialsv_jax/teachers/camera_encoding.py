"""What nine-number camera encodings share: rotations of quaternions of any length, intrinsics of two fields of view."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Narrower or wider fields of view are taken as these: a focal length of 1,000 heights, or a thousandth of one.
LEAST_FIELD = 1e-3


def rotation_of(quaternion: jax.Array) -> jax.Array:
    """Rotations [...,3,3] of quaternions [...,4] x y z w of any length; the identity for the zero quaternion."""
    x, y, z, w = (quaternion[..., slot] for slot in range(4))
    squared = jnp.square(quaternion).sum(-1)
    twice = 2 / jnp.where(squared > 0, squared, 1)
    rows = [
        [1 - twice * (y * y + z * z), twice * (x * y - z * w), twice * (x * z + y * w)],
        [twice * (x * y + z * w), 1 - twice * (x * x + z * z), twice * (y * z - x * w)],
        [twice * (x * z - y * w), twice * (y * z + x * w), 1 - twice * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def clip_fields(fields: jax.Array) -> jax.Array:
    """Fields of view in radians, at least `LEAST_FIELD` and at most pi less it, so that focal lengths are finite and positive."""
    return jnp.clip(fields, LEAST_FIELD, jnp.pi - LEAST_FIELD)


def intrinsics_of(fields: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Intrinsics [...,3,3] in pixels of a picture of `size` (H, W), of its (vertical, horizontal) fields of view [...,2].

    Fields are clipped. The principal point is the picture's centre, (W/2, H/2) from its corner, pixel centres at +0.5.
    """
    tangents = jnp.tan(clip_fields(fields) / 2)
    focal_y, focal_x = (side / 2 / tangents[..., slot] for slot, side in enumerate(size))
    zero, one = jnp.zeros_like(focal_x), jnp.ones_like(focal_x)
    rows = [[focal_x, zero, one * (size[1] / 2)], [zero, focal_y, one * (size[0] / 2)], [zero, zero, one]]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)
