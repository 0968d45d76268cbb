"""SpatialMLLM: contract of predictions, inference without lifting, gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialsv_jax import spec
from spatialsv_jax.backbones.tiny import TinyBackbone
from spatialsv_jax.model import LanguageConfig, LiftingConfig, SpatialMLLM, VisionConfig, drop_lifting, gather_answers
from spatialsv_jax.partitioning import LOGICAL_AXES

VISION = VisionConfig(image_size=16, patch_size=4, width=16, layers=1, heads=2)
LANGUAGE = LanguageConfig(vocab_size=20, width=16, layers=4, heads=4, kv_heads=2, head_dim=8, mlp_width=24, unroll=1)
LIFTING = LiftingConfig(width=8, channels=(4, 4, 4, 4), features=4, distill_features=6)
SIZES = dict(B=2, V=2, H=8, W=8, P=4, S=11, Q=3, T=6, A=2, K=1, N=20, F=6)
SIZE = (8, 8)


@pytest.fixture(scope="module")
def batch():
    return spec.fake_batch(SIZES, (16, 16, 3))


@pytest.fixture(scope="module")
def params(batch):
    return build().init_params(jax.random.key(0), batch, label_hw=SIZE)


def build(**changes):
    return SpatialMLLM(VISION, LANGUAGE, LiftingConfig(**{**vars(LIFTING), **changes}))


def test_predictions_follow_the_table_and_answers_do_not_change(batch):
    model = build(heads=("depth", "ray", "points", "pose", "scale"))
    params = model.init_params(jax.random.key(0), batch, label_hw=SIZE)
    run = jax.jit(lambda p, b, lift: model.apply({"params": p}, b, label_hw=SIZE, lift=lift), static_argnums=2)
    lifted = run(params, batch, True)
    spec.check({**lifted}, spec.PREDICTIONS, required=tuple(spec.PREDICTIONS))
    assert lifted["depth"].shape == (2, 2, 8, 8) and lifted["features"].shape == (2, 2, 4, 6)
    assert all(np.isfinite(value).all() for value in lifted.values())
    for name in ("depth", "ray", "points"):  # the confidence starts near 1.05
        assert 1.0 < float(jnp.median(lifted[f"{name}_confidence"])) < 1.2
    bare = run(drop_lifting(params), batch, False)
    assert set(bare) == {"answer_logits"}
    np.testing.assert_array_equal(bare["answer_logits"], lifted["answer_logits"])  # bit for bit


def test_program_without_lifting_is_the_backbone(batch, params):
    model, backbone = build(), TinyBackbone(VISION, LANGUAGE)

    def bare(params, batch):
        variables = {"params": params["backbone"]}
        hidden = backbone.apply(variables, batch).hidden
        return {"answer_logits": backbone.apply(
            variables, gather_answers(hidden, batch["answer_positions"]), method="logits"
        )}  # fmt: skip

    def ours(params, batch):
        return model.apply({"params": params}, batch, label_hw=SIZE, lift=False)

    def program(function):
        text = jax.jit(function).lower(drop_lifting(params), batch).as_text(dialect="hlo")
        text = re.sub(r", metadata=\{[^}]*\}", "", text)
        text = text.split("\n", 1)[1]  # the first line holds the module's name
        # Numbers behind instruction names count names up over the whole process.
        seen = {}
        return re.sub(r"[\w-]+\.\d+", lambda m: seen.setdefault(m[0], f"{m[0].split('.')[0]}.{len(seen)}"), text)

    assert "dot" in program(ours)
    assert program(ours) == program(bare)


def test_logical_axes_fit_the_parameters(batch, params):
    axes = build().logical_axes(batch, label_hw=SIZE)
    is_names = lambda node: isinstance(node, tuple)
    ranks = jax.tree.map(lambda names: len(names), axes, is_leaf=is_names)
    assert ranks == jax.tree.map(lambda leaf: leaf.ndim, params)
    used = {name for names in jax.tree.leaves(axes, is_leaf=is_names) for name in names}
    assert used <= set(LOGICAL_AXES)
    layers = axes["backbone"]["language"]["layers"]
    assert layers["attention"]["q"]["kernel"] == ("layers", "embed", "heads")
    assert layers["attention"]["k"]["kernel"] == ("layers", "embed", "kv_heads")
    assert all(names[0] == "layers" for names in jax.tree.leaves(layers, is_leaf=is_names))


def test_parameters_start_with_the_declared_spread(batch, params):
    language = params["backbone"]["language"]
    assert abs(float(language["embedding"].std()) * 4 - 1) < 0.2  # 1/sqrt(16)
    kernel = language["layers"]["mlp"]["down"]["kernel"]  # fan-in 24, the stacked axis does not count
    assert abs(float(kernel.std()) * 24**0.5 - 1) < 0.1
    assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 0.1
    np.testing.assert_array_equal(params["lifting"]["ray"]["fusion"]["predict"]["bias"][:-1], 0)
    np.testing.assert_allclose(params["lifting"]["ray"]["fusion"]["predict"]["bias"][-1], np.log(0.05), rtol=1e-6)


def loss_of_maps(model, batch):
    def loss(params):
        found = model.apply({"params": params}, batch, label_hw=SIZE)
        return sum((value**2).mean() for name, value in found.items() if name != "answer_logits")

    return loss


def test_gradients_reach_the_trunk_and_the_control_stops_them(batch, params):
    for stop in (False, True):
        grads = jax.jit(jax.grad(loss_of_maps(build(heads=("depth",), stop_gradient=stop), batch)))(params)
        trunk = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads["backbone"]["language"]["layers"])]
        assert (max(trunk) == 0) if stop else (min(trunk) > 0)
        heads = {"/".join(str(key.key) for key in path): float(jnp.abs(leaf).max())
                 for path, leaf in jax.tree_util.tree_leaves_with_path(grads["lifting"])}  # fmt: skip
        assert not [name for name, value in heads.items() if value == 0 and name.split("/")[0] not in ("ray", "points")]


def test_options_change_the_tree_as_they_say(batch):
    def tree(**changes):
        model = build(**changes)
        return jax.eval_shape(lambda: model.init_params(jax.random.key(0), batch, label_hw=SIZE))["lifting"]

    plain = tree()
    assert set(plain) == {f"projector_{i}" for i in range(4)} | {"distill_projector", "depth", "ray", "points"}
    assert set(tree(shared_projector=True)) == {"projector_0", "distill_projector", "depth", "ray", "points"}
    dual = tree(dual_dpt=True)
    assert "reassembly" in dual and all(set(dual[head]) == {"fusion"} for head in ("depth", "ray", "points"))
    assert set(tree(heads=("ray",), distill_features=0)) == {f"projector_{i}" for i in range(4)} | {"ray"}
    assert set(tree(heads=())) == {"distill_projector"}


def test_text_free_batches_and_token_output(batch):
    model = build(output="token")
    pictures = {name: batch[name] for name in (
        "prefix_tokens", "prefix_mask", "prefix_positions", "question_start", "pixel_values", "image_token_index",
        "view_valid",
    )}  # fmt: skip
    found = jax.eval_shape(
        lambda: model.apply(
            {"params": model.init_params(jax.random.key(0), pictures, label_hw=(2, 2))}, pictures, label_hw=(2, 2)
        )
    )
    assert found["points"].shape == (2, 2, 2, 2, 3) and "answer_logits" not in found
    with pytest.raises(ValueError, match="token"):
        jax.eval_shape(lambda: model.init_params(jax.random.key(0), batch, label_hw=SIZE))


def test_paper_scale_shapes():
    """28 layers of width 2048, 448 px, DPT channels 256 to 1024: shapes only."""
    vision = VisionConfig(image_size=448, patch_size=14, stem="patch", width=1280, layers=32, heads=16, trainable=False)
    language = LanguageConfig(
        vocab_size=151_936, width=2048, layers=36, heads=16, kv_heads=2, head_dim=128, mlp_width=11_008,
        remat="full", dtype="bfloat16",
    )  # fmt: skip
    lifting = LiftingConfig(
        width=1024, channels=(256, 512, 1024, 1024), features=256, distill_features=2048, dtype="bfloat16"
    )
    model = SpatialMLLM(vision, language, lifting)
    assert model.taps == (4, 12, 20, 28)
    sizes = dict(B=1, V=4, P=256, S=1100, Q=2, T=64, A=4, K=1, H=224, W=224, N=151_936)
    batch = {
        name: jax.ShapeDtypeStruct(
            tuple(int(a) if a.isdigit() else sizes[a] for a in field.shape if a != "*"), field.dtype
        )
        for name, field in spec.BATCH.items()
        if name not in (*spec.OPTIONAL, "pixel_values")
    }
    batch["pixel_values"] = jax.ShapeDtypeStruct((1, 4, 448, 448, 3), jnp.float32)

    def forward(batch):
        params = model.init_params(jax.random.key(0), batch, label_hw=(224, 224))
        return params, model.apply({"params": params}, batch, label_hw=(224, 224))

    params, found = jax.eval_shape(forward, batch)
    assert found["depth"].shape == (1, 4, 224, 224) and found["features"].shape == (1, 4, 256, 2048)
    assert {value.dtype for value in found.values()} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    millions = sum(leaf.size for leaf in jax.tree.leaves(params["lifting"])) / 1e6
    assert 100 < millions < 220


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="lifting.heads"):
        LiftingConfig(heads=("depht",))
    with pytest.raises(ValueError, match="vision.stem"):
        VisionConfig(stem="convolution")
    with pytest.raises(ValueError, match="language.remat"):
        LanguageConfig(remat="all")
    with pytest.raises(ValueError, match="power of two"):
        VisionConfig(image_size=48, patch_size=6)
