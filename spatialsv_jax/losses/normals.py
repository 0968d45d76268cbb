"""Normal residuals of point maps at several scales, as one small program.

All scales are laid side by side in one map (with invalid pixels between them), and the four
cross products per pixel run in a scan whose derivative is written out. Unrolled over scales and
products the same arithmetic took four times longer to compile and twice as long to run on two CPU cores.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from spatialsv_jax.geometry.pointmaps import unit_cross

# Which step of (up, down) and (left, right) makes which product: up x left, left x down,
# down x right, right x up. With v the step down and h the step right each of them is v x h.
_ROWS, _COLUMNS = (0, 1, 1, 0), (0, 0, 1, 1)


def normal_residuals(prediction, target, mask, strides: tuple[int, ...]):
    """Sum over a pixel's valid cross products of 1 - cos(n(prediction), n(target)), per scale.

    docs/method.md, 3.4; see `geometry.neighbour_normals` for the definition of the elements. A
    degenerate normal on either side gives 1 without gradient; equal maps give exactly 0 with
    gradient 0.

    Args:
      prediction: [..., H, W, 3], finite (also where masked).
      target: the same shape; gets no gradient.
      mask: bool[..., H, W].
      strides: subsampling of each scale, the first 1, each at least twice the one before.

    Returns:
      One (residual float[..., h, w], count int32[..., h, w]) per stride: count is the number of
      valid elements of the pixel, 0 to 4.
    """
    regions = _layout(*mask.shape[-2:], strides)
    maps = [_side_by_side(array, regions) for array in (*jnp.moveaxis(prediction, -1, 0), *jnp.moveaxis(target, -1, 0))]
    valid = _side_by_side(mask.astype(jnp.int32), regions) > 0
    vertical_valid = _outer(valid[..., 1:, :] & valid[..., :-1, :], -2)
    horizontal_valid = _outer(valid[..., 1:] & valid[..., :-1], -1)
    vertical = [_outer(array[..., 1:, :] - array[..., :-1, :], -2) for array in maps]
    horizontal = [_outer(array[..., 1:] - array[..., :-1], -1) for array in maps]
    height, width = valid.shape[-2:]

    @jax.checkpoint
    def add_product(total, offsets, vertical, horizontal):
        row, column = offsets

        def at_row(array):
            return jax.lax.dynamic_slice_in_dim(array, row, height, array.ndim - 2)

        def at_column(array):
            return jax.lax.dynamic_slice_in_dim(array, column, width, array.ndim - 1)

        element = at_row(vertical_valid) & at_column(horizontal_valid)
        down, right = [at_row(array) for array in vertical], [at_column(array) for array in horizontal]
        label, _, regular = unit_cross(jnp, down[3:], right[3:], element)
        residual = _residual(tuple(down[:3]), tuple(right[:3]), jax.lax.stop_gradient(label), regular)
        return total + jnp.where(element, residual, 0), None

    total, _ = jax.lax.scan(
        lambda total, offsets: add_product(total, offsets, vertical, horizontal),
        jnp.zeros_like(maps[0]),
        (jnp.asarray(_ROWS), jnp.asarray(_COLUMNS)),
    )
    pairs = vertical_valid.astype(jnp.int32), horizontal_valid.astype(jnp.int32)
    count = (pairs[0][..., 1:, :] + pairs[0][..., :-1, :]) * (pairs[1][..., 1:] + pairs[1][..., :-1])
    return [
        (total[..., top : top + h, left : left + w], count[..., top : top + h, left : left + w])
        for _, top, left, h, w in regions
    ]


@jax.custom_jvp
def _residual(down, right, label, regular):
    """|n - label|^2 / 2 = 1 - cos with n = unit(down x right); 1 where not regular. x, y, z maps."""
    return _residual_and_gradient(down, right, label, regular)[0]


@_residual.defjvp
def _residual_jvp(primals, tangents):
    down, right, label, regular = primals
    residual, gradient = _residual_and_gradient(down, right, label, regular)
    # d(residual) = gradient . (d down x right + down x d right); the label has no derivative.
    return residual, _dot(_cross(right, gradient), tangents[0]) + _dot(_cross(gradient, down), tangents[1])


def _residual_and_gradient(down, right, label, regular):
    """The residual, and its gradient with respect to the cross product (0 where not regular)."""
    normal, inverse, known = unit_cross(jnp, down, right, regular)
    difference = tuple(_rounded(n) - _rounded(t) for n, t in zip(normal, label, strict=True))
    along = _dot(normal, difference)
    gradient = tuple((d - n * along) * inverse for d, n in zip(difference, normal, strict=True))
    return jnp.where(known, _dot(difference, difference) / 2, 1.0), gradient


def _rounded(component):
    """Keeps a compiler from fusing the product before into the difference after.

    A fused multiply-add would leave the rounding error of equal normals instead of 0.
    """
    return jnp.clip(component, -1, 1)


def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _outer(steps, axis: int):
    """Zeros (False) before and after along `axis`: entry k is then the step before pixel k."""
    padding = [(0, 0)] * steps.ndim
    padding[axis] = (1, 1)
    return jnp.pad(steps, padding)


def _layout(height: int, width: int, strides: tuple[int, ...]) -> list[tuple[int, int, int, int, int]]:
    """(stride, top, left, h, w) of every scale: the first at the left, the others stacked beside it."""
    regions, top = [(strides[0], 0, 0, height, width)], 0
    for stride in strides[1:]:
        h, w = -(-height // stride), -(-width // stride)
        regions.append((stride, top, width + 1, h, w))
        top += h + 1
    return regions


def _side_by_side(array, regions):
    """The map at all strides in one, 0 between them."""
    height = max(top + h for _, top, _, h, _ in regions)
    width = max(left + w for _, _, left, _, w in regions)
    lead = [(0, 0)] * (array.ndim - 2)
    total = 0
    for stride, top, left, h, w in regions:
        grid = array[..., ::stride, ::stride]
        total = total + jnp.pad(grid, (*lead, (top, height - top - h), (left, width - left - w)))
    return total
