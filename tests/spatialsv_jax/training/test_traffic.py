"""Bytes of weights are those counted by hand: read by every product in every pass, gradients written once."""

import jax
import jax.numpy as jnp
import pytest

from spatialsv_jax.training import flops, traffic

LAYERS, WIDTH, ROWS, TOKENS = 5, 8, 4, 3


def counted(function, *args, shares):
    """Costs of all parts together."""
    total = flops.Cost()
    for cost in flops.costs(jax.make_jaxpr(function)(*args), shares).values():
        total.add(cost)
    return total


def loss(weights, x, remat=False):
    """Layers of one product each, of weights that are kept in float32 and multiplied in bfloat16 (and kept so too)."""

    def layer(carry, weight):
        return jnp.tanh(carry @ weight.astype(jnp.bfloat16)), None

    return jnp.sum(jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, weights)[0])


@pytest.mark.parametrize("remat, share, times", [(False, 1.0, 3), (True, 1.0, 4), (False, 0.25, 3)])
def test_layers_read_their_weights_in_each_pass(remat, share, times):
    """Forward, input's gradient, the weight's own, and forward again; of a weight split over tensor=4 a quarter."""
    weights, x = jnp.zeros((LAYERS, WIDTH, WIDTH)), jnp.zeros((ROWS, TOKENS, WIDTH), jnp.bfloat16)
    found = counted(jax.grad(lambda w, x: loss(w, x, remat)), weights, x, shares=[share, None])
    assert found.whole == times * LAYERS * WIDTH * WIDTH * 2 * share
    plain = counted(jax.grad(lambda w, x: loss(w, x, remat)), weights, x, shares=())
    assert plain.whole == 0 and plain.bytes == found.bytes + found.whole / share
    assert plain.matrix == found.matrix


def test_products_of_activations_hold_no_weights():
    x = jnp.zeros((ROWS, TOKENS, WIDTH))

    def attention(x):
        with jax.named_scope("language"):
            return jnp.sum(jnp.einsum("bts,bsd->btd", jnp.einsum("btd,bsd->bts", x, x), x) ** 2)

    assert counted(jax.grad(attention), x, shares=[None]).whole == 0


def test_a_table_s_gradient_is_made_whole():
    """Rows are read as they are; the gradient is read and written whole."""
    table, tokens = jnp.zeros((50, WIDTH)), jnp.zeros((ROWS, TOKENS), jnp.int32)
    found = counted(jax.grad(lambda table, t: jnp.sum(table[t] ** 2)), table, tokens, shares=[1.0, None])
    assert found.whole == 2 * 50 * WIDTH * 4 and found.bytes >= 2 * ROWS * TOKENS * WIDTH * 4


def test_convolutions_conditionals_and_what_is_made_of_weights_alone():
    """Kernels that are products of two weights, one of them through a conditional."""
    x, kernel, scale = jnp.zeros((ROWS, 8, 8, 3)), jnp.zeros((3, 3, 3, 5)), jnp.zeros((3, 3))

    def run(x, kernel, scale, flag):
        with jax.named_scope("lifting"):
            made = jnp.einsum("hwio,ij->hwjo", kernel, scale)
            made = jax.lax.cond(flag, lambda k: k, lambda k: 2 * k, made)
            folded = jax.jit(lambda k, s: jnp.einsum("hwio,ij->hwjo", k, s))(kernel, scale)
            conv = lambda k: jax.lax.conv_general_dilated(
                x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return conv(folded) + conv(made)

    found = counted(run, x, kernel, scale, True, shares=[None, 1.0, 1.0, None])
    size = kernel.size * 4  # two products of weights, each of which a convolution reads
    assert found.whole == 2 * (2 * size + scale.size * 4) + 2 * size


def test_operands_of_a_scan_are_told_apart():
    def turns(constant, other, carry, rows):
        return jax.lax.scan(lambda one, row: (one * constant + row * other, one), carry, rows)

    scan = jax.make_jaxpr(turns)(2.0, 3.0, 1.0, jnp.ones(3)).jaxpr.eqns[-1]
    assert traffic.scan_operands(scan) == (2, 1)
    lone = jax.make_jaxpr(lambda carry: jax.lax.scan(lambda one, _: (one + 1, None), carry, length=3))(jnp.ones(2))
    assert traffic.scan_operands(lone.jaxpr.eqns[-1]) == (0, 1)
