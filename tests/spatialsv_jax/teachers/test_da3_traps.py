"""Mistakes in Depth Anything 3 that comparing outputs hardly shows: epsilons, heads, which blocks see what.

The larger ones (rotary positions, camera token, taps, channel orders, resizes) break `test_da3_goldens.py`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
import teacher_runs as runs

from spatialsv_jax.teachers.da3.presets import PUBLISHED, published
from spatialsv_jax.teachers.layers import MultiViewAttention

PIXELS = jax.ShapeDtypeStruct((1, 3, 28, 42, 3), jnp.float32)
CAMERAS = (jnp.zeros((1, 3, 4, 4)) + jnp.eye(4)[None, None], jnp.zeros((1, 3, 3, 3)) + jnp.eye(3)[None, None])


def seen(folder, kind, **inputs):
    """path -> module, of every call of a kind of module in one call of the model; nothing is computed."""
    found, modules = runs.imported(folder), {}

    def note(call, args, options, context):
        if isinstance(context.module, kind) and context.method_name == "__call__":
            modules["/".join(context.module.path)] = context.module
        return call(*args, **options)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda pixels: found.model.apply({"params": found.params}, pixels, **inputs), PIXELS)
    return modules


@pytest.mark.parametrize("folder", ["da3", "da3_mono"])
def test_epsilons(folder):
    """1e-6 before the branches of the backbone's blocks, 1e-5 everywhere else."""
    inputs = {"cameras": CAMERAS} if folder == "da3" else {}
    small, large = set(), set()
    for path, module in seen(folder, nn.LayerNorm, **inputs).items():
        {1e-6: small, 1e-5: large}[module.epsilon].add(path)
    assert small and all(p.startswith("backbone/") and p.endswith(("attention_norm", "mlp_norm")) for p in small)
    others = {"backbone/norm"}
    if folder == "da3":
        pairs = {
            f"pairs/layers/{part}/attention/{name}" for part in ("within", "across") for name in ("q_norm", "k_norm")
        }
        trunk = {f"trunk/layers/block/{name}" for name in ("attention_norm", "mlp_norm")} | {"token_norm", "trunk_norm"}
        others |= {"head/norm", "head/ray_output/norm"}
        others |= {f"backbone/{name}" for name in pairs} | {f"camera_encoder/{name}" for name in trunk}
    assert large == others


def test_heads_and_reach_of_attention():
    """The camera encoder has 16 heads whatever the backbone has, and sees all views; of a pair only the second block does."""
    modules = seen("da3", MultiViewAttention, cameras=CAMERAS)
    found = {path: (module.config.heads, module.config.qk_norm, module.across) for path, module in modules.items()}
    assert found == {
        "backbone/plain/layers/block/attention": (2, False, False),
        "backbone/pairs/layers/within/attention": (2, True, False),
        "backbone/pairs/layers/across/attention": (2, True, True),
        "camera_encoder/trunk/layers/block/attention": (16, False, True),
    }


def test_the_mono_form_has_none_of_it():
    modules = seen("da3_mono", nn.Module)
    assert not [
        path for path in modules if any(word in path for word in ("pairs", "camera", "ray", "head/norm", "q_norm"))
    ]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_blocks(name):
    """Heads of 64, epsilons, and odd blocks from alt_start on: GIANT's first one sees all views already."""
    sizes = published(name).sizes
    for qk_norm in (False, True):
        block = sizes.block(qk_norm)
        assert (block.head_dim, block.epsilon, block.qk_epsilon, block.qk_norm) == (64, 1e-6, 1e-5, qk_norm)
    assert sizes.mlp == ("swiglu" if sizes.width == 1536 else "gelu")
    assert not sizes.any_view or sizes.alt_start == {12: 4, 24: 8, 40: 13}[sizes.layers]
