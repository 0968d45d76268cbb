"""DPT pieces and head activations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax.lifting.dpt import Reassembly, ResizedConv, conv3, resize
from spatialsv_jax.lifting.heads import HEADS, Lifting, LiftingConfig, activate
from spatialsv_jax.partitioning import create


@pytest.mark.parametrize("target", [(8, 8), (7, 12), (2, 3), (16, 5), (1, 1)])
def test_resize_is_bilinear_with_half_pixel_centres(target):
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    found = resize(jnp.asarray(x), target)
    expected = jax.image.resize(jnp.asarray(x), (2, *target, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_resize_from_one_pixel_repeats_it():
    x = jnp.asarray([[[[1.0, 2.0]]]])
    np.testing.assert_allclose(resize(x, (2, 3)), np.broadcast_to([1.0, 2.0], (1, 2, 3, 2)))


def test_activations():
    raw = jnp.asarray([[-100.0, 100.0], [0.0, np.log(0.05)], [100.0, -100.0]])
    depth = activate("depth", raw)
    np.testing.assert_allclose(depth["depth"], [np.exp(-8), 1, np.exp(8)], rtol=1e-6)
    np.testing.assert_allclose(depth["depth_confidence"], [1 + np.exp(8), 1.05, 1 + np.exp(-8)], rtol=1e-6)
    assert {name: head.channels for name, head in HEADS.items()} == {"depth": 1, "ray": 6, "points": 3}
    raw = jnp.arange(7.0)[None]
    np.testing.assert_allclose(activate("ray", raw)["ray"], raw[:, :6])


def test_upsampling_keeps_places():
    """A token's features end up in its own 4x4 and 2x2 block, rows before columns."""
    reassembly = Reassembly((3, 3, 3, 3), 3)
    grids = [jnp.zeros((1, 3, 4, 5)) for _ in range(4)]
    params = create(jax.random.key(0), jax.eval_shape(reassembly.init, jax.random.key(0), grids))
    params = jax.tree.map(lambda leaf: leaf, params)
    centre = jnp.zeros((3, 3, 3, 3)).at[1, 1].set(jnp.eye(3))
    for level in range(4):  # the last convolution of each level passes values through
        params["params"][f"reduce_{level}"]["kernel"] = centre
    marked = [grid.at[0, 1, 2].set(1.0) for grid in grids]
    plain, found = reassembly.apply(params, grids), reassembly.apply(params, marked)
    for level, factor in enumerate((4, 2, 1)):
        assert found[level].shape == (1, 3 * factor, 4 * factor, 3)
        change = np.abs(np.asarray(found[level] - plain[level])).max(-1)[0] > 1e-6
        inside = np.zeros_like(change)
        inside[factor : 2 * factor, 2 * factor : 3 * factor] = True
        np.testing.assert_array_equal(change, inside)
    assert found[3].shape == (1, 2, 2, 3)


class _Refined(nn.Module):
    """The end of a DPT body, in both orders."""

    folded: bool

    @nn.compact
    def __call__(self, x, size):
        if self.folded:
            return ResizedConv(4, name="refine")(x, size)
        return conv3(4, "refine", jnp.float32)(resize(x, size))


@pytest.mark.parametrize("source, size", [((8, 6), (29, 40)), ((4, 4), (32, 32)), ((1, 5), (7, 10)), ((6, 6), (6, 6))])
def test_the_folded_convolution_is_that_of_the_resized_map(source, size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *source, 5)), jnp.float32)
    modules = [_Refined(folded) for folded in (False, True)]
    declared = [jax.eval_shape(lambda m=m: m.init(jax.random.key(0), x, size))["params"] for m in modules]
    made = [create(jax.random.key(0), boxes) for boxes in declared]
    assert jax.tree.map(jnp.shape, made[0]) == jax.tree.map(jnp.shape, made[1])
    params = jax.tree.map(lambda leaf: leaf + rng.standard_normal(leaf.shape).astype(np.float32), made[0])
    weights = jnp.asarray(rng.standard_normal((2, *size, 4)), jnp.float32)

    def value(params, x, module):
        out = module.apply({"params": params}, x, size)
        return (out * weights).sum(), out

    (wanted, out), (found, folded) = (jax.grad(value, (0, 1), has_aux=True)(params, x, module) for module in modules)
    np.testing.assert_allclose(folded, out, atol=2e-5)
    for have, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4)


def test_folding_pays_where_the_label_is_much_larger_than_the_map():
    assert ResizedConv.is_cheaper((64, 64), (448, 448), 256, 32)
    assert not ResizedConv.is_cheaper((64, 64), (64, 64), 256, 32)


@pytest.mark.parametrize("options", [
    dict(remat="full", chunk_views=2), dict(remat="full", dual_dpt=True),
    dict(remat="full", loop_heads=True, chunk_views=1), dict(remat="full", loop_heads=True),
])  # fmt: skip
def test_rematerialised_and_chunked_heads_are_the_same(options):
    rng = np.random.default_rng(0)
    taps = jnp.asarray(rng.standard_normal((4, 2, 4, 4, 12)), jnp.float32)
    results = []
    for chosen in (dict(dual_dpt=options.get("dual_dpt", False)), options):
        config = LiftingConfig(width=8, channels=(4, 4, 4, 4), features=4, heads=("depth", "ray", "points"), **chosen)
        call = (taps, None, (2, 2), (8, 8), jnp.ones((2, 4), bool))
        module = Lifting(config)
        declared = jax.eval_shape(lambda module=module, call=call: module.init(jax.random.key(0), *call))["params"]
        params = create(jax.random.key(0), declared)

        def value(params, module=module, call=call):
            out = module.apply({"params": params}, *call)
            return sum(jnp.sin(x).sum() for x in out.values()), out

        results.append(jax.jit(jax.grad(value, has_aux=True))(params))
    (gradients, out), (found, same) = results
    assert jax.tree.structure(gradients) == jax.tree.structure(found)
    for name in out:
        np.testing.assert_allclose(same[name], out[name], rtol=1e-6, atol=1e-6)
    for have, want in zip(jax.tree.leaves(found), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(have, want, atol=1e-5 * float(jnp.abs(want).max()), rtol=0)


def test_chunks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="lifting.chunk_views is 2 with remat 'none'"):
        LiftingConfig(chunk_views=2)
    with pytest.raises(ValueError, match="lifting.loop_heads needs remat 'full', not 'none'"):
        LiftingConfig(loop_heads=True)
    with pytest.raises(ValueError, match="lifting.refine is 'half'"):
        LiftingConfig(refine="half")
    module = Lifting(LiftingConfig(width=8, channels=(4, 4, 4, 4), features=4, remat="full", chunk_views=3))
    call = (jnp.zeros((4, 2, 4, 4, 12)), None, (2, 2), (8, 8), jnp.ones((2, 4), bool))
    with pytest.raises(ValueError, match="chunk_views is 3, which does not divide the 4 views"):
        jax.eval_shape(lambda: module.init(jax.random.key(0), *call))
