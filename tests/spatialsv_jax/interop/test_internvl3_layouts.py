"""InternVL3's original layout (fused qkv, other names, no tokenizer.json) against the `-hf` one, and back."""

import json
import shutil
from pathlib import Path

import family_checks as checks
import family_runs as runs
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from spatialsv_jax.interop.hub import open_checkpoint
from spatialsv_jax.interop.tensor_files import ConversionError, TensorFolder

GOLDEN = Path(__file__).parents[2] / "goldens/internvl3"
RENAMED = (
    ("vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
    ("vision_tower.embeddings.position_embeddings", "vision_model.embeddings.position_embedding"),
    ("vision_tower.embeddings.patch_embeddings.projection", "vision_model.embeddings.patch_embedding"),
    ("vision_tower.encoder.layer.", "vision_model.encoder.layers."),
    ("attention.projection_layer", "attn.proj"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("lambda_1", "ls1"),
    ("lambda_2", "ls2"),
    ("multi_modal_projector.layer_norm", "mlp1.0"),
    ("multi_modal_projector.linear_1", "mlp1.1"),
    ("multi_modal_projector.linear_2", "mlp1.3"),
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The golden as OpenGVLab publishes its models."""
    folder = tmp_path_factory.mktemp("original")
    values = json.loads((GOLDEN / "config.json").read_text())
    seen, text = values["vision_config"], values["text_config"]
    config = {
        "model_type": "internvl_chat", "architectures": ["InternVLChatModel"], "downsample_ratio": 0.5,
        "force_image_size": 28, "max_dynamic_patch": 12, "min_dynamic_patch": 1, "ps_version": "v2", "select_layer": -1,
        "template": "internvl2_5", "use_thumbnail": True, "dynamic_image_size": True, "system_message": None, "pad2square": False, "use_backbone_lora": 0, "use_llm_lora": 0,
        "llm_config": {**text, "do_sample": False, "top_k": 50, "moe_config": None},
        "vision_config": {
            "model_type": "intern_vit_6b", "hidden_size": seen["hidden_size"], "image_size": 28, "patch_size": 7,
            "num_hidden_layers": seen["num_hidden_layers"], "num_attention_heads": seen["num_attention_heads"],
            "intermediate_size": seen["intermediate_size"], "layer_norm_eps": 1e-6, "qkv_bias": True,
            "qk_normalization": False, "norm_type": "layer_norm", "use_flash_attn": True,
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((GOLDEN / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"]))
    merges = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "added_tokens.json").write_text(json.dumps({t["content"]: t["id"] for t in tokenizer["added_tokens"]}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"crop_size": 28, "image_mean": [0.485, 0.456, 0.406]}))
    source, tensors = TensorFolder(GOLDEN), {}
    for name in source.tensors:
        new = name
        for old, spelt in RENAMED:
            new = new.replace(old, spelt)
        tensors[new] = source.read(name)
    for layer in range(seen["num_hidden_layers"]):
        prefix = f"vision_model.encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            parts = [tensors.pop(f"{prefix}attention.{part}_proj.{kind}") for part in "qkv"]
            tensors[f"{prefix}attn.qkv.{kind}"] = np.concatenate(parts)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_same_parameters(original):
    ours, theirs = (runs.imported(folder).params for folder in (original, GOLDEN))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))


def test_export_returns_the_layout_it_came_from(original, tmp_path):
    checks.check_export(original, tmp_path)


def test_the_same_tokens_without_tokenizer_json(original):
    texts = ["Where is the red chair?", "It's 2.5 m\n\n  away…  Über 12\tmetres", "  two  spaces"]
    ours, theirs = (runs.imported(folder).processor for folder in (original, GOLDEN))
    for text in texts:
        assert ours.encode_question(text).tokens.tolist() == theirs.encode_question(text).tokens.tolist()


def test_prompt_of_the_original_layout(original):
    processor = runs.imported(original).processor
    text = processor.tokenizer.decode(processor.encode_prefix(2).tokens.tolist(), skip_special_tokens=False)
    assert text.startswith("<|im_start|>system\n你是书生·万象") and "<|im_start|>user\nImage-1: <img>" in text
    assert "</img>\nImage-2: <img>" in text and text.endswith("</img>")
    assert "Image-" not in processor.tokenizer.decode(processor.encode_prefix(1).tokens.tolist())


def test_models_saved_as_they_are_in_memory(tmp_path):
    """Newer folders may have other prefixes."""
    source = TensorFolder(GOLDEN)
    spelt = {
        name.replace("language_model.model.", "model.language_model.").replace(
            "language_model.lm_head", "lm_head"
        ): name
        for name in source.tensors
    }
    spelt = {f"model.{name}" if name.startswith(("vision", "multi")) else name: old for name, old in spelt.items()}
    assert set(spelt) != set(source.tensors)
    shutil.copytree(GOLDEN, tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors", "reference*"))
    save_file({new: source.read(old) for new, old in spelt.items()}, tmp_path / "other/model.safetensors")
    found = runs.imported(tmp_path / "other")
    assert np.array_equal(found.params["backbone"]["vision"]["layers"]["up"]["bias"],
                          runs.imported(GOLDEN).params["backbone"]["vision"]["layers"]["up"]["bias"])  # fmt: skip


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ps_version": "v1"}, "ps_version is 'v1', supported: 'v2'"),
        ({"new": 1}, "unknown field 'new'"),
        ({"use_thumbnail": False, "dynamic_image_size": False}, "dynamic_image_size is False.*use_thumbnail is False"),
        ({"template": "Hermes-2"}, "template is 'Hermes-2', supported: 'internvl2_5'"),
        ({"vision_config": {"qk_normalization": True}}, "qk_normalization is True"),
        ({"llm_config": {"model_type": "internlm2"}}, "model_type is 'internlm2'"),
        ({"model_type": "chatglm"}, "model_type is 'chatglm'. Models that can be read: qwen2_5_vl"),
    ],
)
def test_what_is_not_built_is_named(original, tmp_path, change, message):
    values = json.loads((original / "config.json").read_text())
    for key, value in change.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConversionError, match=message):
        open_checkpoint(tmp_path)
