"""FLOPs counted from a program equal the closed form, loops and rematerialisation included."""

import jax
import jax.numpy as jnp

from spatialsv_jax.training import flops


def test_matrix_product_in_a_scan_counts_every_turn():
    x, weights = jnp.zeros((5, 7)), jnp.zeros((3, 7, 7))

    def run(x, weights):
        return jax.lax.scan(lambda carry, w: (carry @ w, None), x, weights)[0]

    assert sum(flops.count(run, x, weights).values()) == 3 * 2 * 5 * 7 * 7


def test_backward_is_twice_forward_and_remat_adds_one():
    x, w = jnp.zeros((5, 7)), jnp.zeros((7, 6))
    one = 2 * 5 * 7 * 6

    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w) @ w.T)

    assert sum(flops.count(loss, w, x).values()) == 2 * one
    assert sum(flops.count(jax.grad(loss), w, x).values()) == 2 * one + 3 * one  # x needs no gradient
    assert sum(flops.count(jax.grad(jax.checkpoint(loss)), w, x).values()) >= 6 * one


def test_convolution_and_its_dilated_form():
    x, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))
    conv = lambda x, k, **more: jax.lax.conv_general_dilated(
        x, k, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), **more
    )
    assert sum(flops.count(conv, x, kernel).values()) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)
    dilated = lambda x, k: conv(x, k, lhs_dilation=(2, 2))
    outputs = jax.eval_shape(dilated, x, kernel).size
    assert sum(flops.count(dilated, x, kernel).values()) == 2 * outputs * (3 * 3 * 3) // 4


def test_parts_follow_the_module_names():
    x, w = jnp.zeros((4, 4)), jnp.zeros((4, 4))

    def run(x, w):
        with jax.named_scope("vision"):
            x = x @ w
        with jax.named_scope("lifting"):
            return x @ w

    counted = flops.count(run, x, w)
    assert counted["vision"] == counted["lifting"] == 2 * 4**3


def test_fine_parts_of_name_stacks():
    assert flops.part_of("/jvp(SpatialMLLM)/lifting/lifting.<lambda>/depth/fusion/refine/") == "lifting/depth"
    inner = "/transpose(jvp(SpatialMLLM))/lifting/lifting.<lambda>//rematted_computation/ray/reassembly"
    assert flops.part_of(inner) == "lifting/ray"
    assert flops.part_of("/jvp(SpatialMLLM)/lifting/projector_2/up") == "lifting/projectors"
    assert flops.part_of("/jvp(SpatialMLLM)/lifting/distill_projector/up") == "lifting/distill"
    assert flops.part_of("/jvp(SpatialMLLM)/backbone.logits/language.logits") == "logits"
    assert flops.part_of("/transpose(jvp(losses/points))/") == "losses/points"
    assert flops.part_of("/jvp()") == "losses" and flops.part_of("/") == "optimizer"


def test_heads_that_are_turns_of_one_loop_get_equal_shares():
    x, w = jnp.zeros((4, 5)), jnp.zeros((2, 5, 5))

    def run(x, w):
        with jax.named_scope("lifting"), jax.named_scope("depth+ray"):
            return jax.lax.map(lambda w: x @ w, w)

    found = flops.costs(jax.make_jaxpr(run)(x, w))
    assert {name: cost.matrix for name, cost in found.items()} == dict.fromkeys(
        ("lifting/depth", "lifting/ray"), 2 * 4 * 5 * 5
    )


def test_recomputed_products_are_named_and_costs_add_up_with_loops():
    x, w = jnp.zeros((5, 7)), jnp.zeros((3, 7, 7))
    one = 2 * 5 * 7 * 7

    def loss(w, x):
        layer = jax.checkpoint(lambda carry, w: jnp.sin(jnp.sin(carry @ w) @ w))
        return jnp.sum(jax.lax.scan(lambda carry, w: (layer(carry, w), None), x, w)[0])

    (cost,) = flops.costs(jax.make_jaxpr(jax.grad(loss))(w, x)).values()
    assert cost.matrix == 3 * 8 * one and cost.recomputed == 3 * 2 * one  # forward 2, again 2, backward 4
    assert cost.bytes >= 3 * 8 * 4 * (5 * 7 * 2 + 7 * 7) and cost.vector >= 3 * 2 * 5 * 7


def test_precise_products_count_their_further_passes():
    x, w = jnp.zeros((5, 7)), jnp.zeros((7, 6))
    work = 2 * 5 * 7 * 6

    def run(x, w):
        with jax.default_matmul_precision("high"):
            y = x @ w + (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(jnp.float32)
        return y + x @ w, jnp.matmul(x, w, precision="highest")

    (found,) = flops.costs(jax.make_jaxpr(run)(x, w)).values()
    assert found.matrix == 4 * work and found.passes == (2 + 5) * work
