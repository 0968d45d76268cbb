"""InternVL3 and InternVL3.5 (dense) in Hugging Face's format, in both published layouts.

`-hf` folders (model_type "internvl") are those of transformers; the original ones ("internvl_chat") come with
code of their own, which is not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spatialsv_jax.backbones.decoder import LanguageConfig
from spatialsv_jax.backbones.internvl3.model import VisionConfig
from spatialsv_jax.interop.config_fields import BOOKKEEPING, Fields, part, square
from spatialsv_jax.interop.conversion import FIRST, SAME, Rule, linear, norm, patches
from spatialsv_jax.interop.decoders import decoder_rules, language_config

# Prefixes of models that were saved as they are in memory.
RENAMED = {
    r"model\.(vision_tower|multi_modal_projector)\.": r"\1.",
    r"model\.language_model\.": "language_model.model.",
    r"lm_head\.": "language_model.lm_head.",
}
_VISION = Fields(
    needed=("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    read=("image_size", "patch_size", "layer_norm_eps", "attention_bias"),
    fixed={
        "model_type": ("internvl_vision",),
        "hidden_act": ("gelu",),
        "norm_type": ("layer_norm",),
        "num_channels": (3,),
        "use_absolute_position_embeddings": (True,),
        "use_mask_token": (False,),
        "use_mean_pooling": (True,),
        "use_qk_norm": (False,),
    },
    ignored=BOOKKEEPING
    | {"layer_scale_init_value", "hidden_dropout_prob", "projection_dropout", "dropout", "initializer_factor"},
)
_TOP = Fields(
    needed=(),
    read=("text_config", "vision_config", "downsample_ratio", "image_token_id", "model_type", "tie_word_embeddings"),
    fixed={
        "projector_hidden_act": ("gelu",),
        "vision_feature_layer": (-1,),
        "vision_feature_select_strategy": ("default",),
    },
    ignored=BOOKKEEPING | {"image_seq_length"},
)
_VISION_ORIGINAL = Fields(
    needed=("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    read=("image_size", "patch_size", "layer_norm_eps", "qkv_bias"),
    fixed={
        "model_type": ("intern_vit_6b",),
        "hidden_act": ("gelu",),
        "norm_type": ("layer_norm",),
        "num_channels": (3,),
        "qk_normalization": (False,),
        "use_moe": (False,),
    },
    ignored=BOOKKEEPING
    | {"drop_path_rate", "dropout", "initializer_factor", "use_flash_attn", "capacity_factor", "eval_capacity_factor",
       "laux_allreduce", "moe_coeff_ratio", "moe_intermediate_size", "moe_output_scale", "noisy_gate_policy",
       "num_experts", "num_routed_experts", "num_shared_experts", "shared_expert_intermediate_size", 
       "use_residual", "use_rts", "use_weighted_residual"},
)  # fmt: skip
_TOP_ORIGINAL = Fields(
    needed=(),
    read=("llm_config", "vision_config", "downsample_ratio", "model_type", "tie_word_embeddings", "force_image_size"),
    fixed={
        "ps_version": ("v2",),
        "select_layer": (-1,),
        "pad2square": (False,),
        "dynamic_image_size": (True,),
        "use_thumbnail": (True,),
        "template": ("internvl2_5",),
        "system_message": (None,),
    },
    ignored=BOOKKEEPING
    | {"max_dynamic_patch", "min_dynamic_patch", "use_backbone_lora", "use_llm_lora", "hidden_size", "img_context_token_id", "image_fold", "output_attentions"},
)  # fmt: skip


def read(values: Mapping[str, Any], where: str = "config.json") -> tuple[VisionConfig, LanguageConfig]:
    """Our settings from a config.json of the `-hf` layout.

    Raises:
      ConversionError: fields that are missing, unknown or have a value that is not built here.
    """
    _TOP.check(values, where)
    seen = part(values, "vision_config", where)
    _VISION.check(seen, f"{where}, vision_config")
    text = dict(part(values, "text_config", where))
    text.setdefault("tie_word_embeddings", values.get("tie_word_embeddings", False))
    return _vision(seen, values, seen.get("attention_bias", False), where), language_config(
        text, f"{where}, text_config"
    )


def read_original(values: Mapping[str, Any], where: str = "config.json") -> tuple[VisionConfig, LanguageConfig]:
    """Our settings from a config.json of the original layout.

    Raises:
      ConversionError: as `read`.
    """
    _TOP_ORIGINAL.check(values, where)
    seen = dict(part(values, "vision_config", where))
    _VISION_ORIGINAL.check(seen, f"{where}, vision_config")
    seen["image_size"] = values.get("force_image_size") or seen.get("image_size", 448)
    text = part(values, "llm_config", where)
    return _vision(seen, values, seen.get("qkv_bias", True), where), language_config(text, f"{where}, llm_config")


def _vision(seen: Mapping, values: Mapping, bias: bool, where: str) -> VisionConfig:
    return VisionConfig(
        tile_size=square(seen.get("image_size", 448), f"{where}, vision_config.image_size"),
        patch_size=square(seen.get("patch_size", 14), f"{where}, vision_config.patch_size"),
        width=seen["hidden_size"],
        layers=seen["num_hidden_layers"],
        heads=seen["num_attention_heads"],
        mlp_width=seen["intermediate_size"],
        merge=round(1 / values.get("downsample_ratio", 0.5)),
        qkv_bias=bool(bias),
        norm_eps=float(seen.get("layer_norm_eps", 1e-6)),
    )


def rules(vision: VisionConfig, language: LanguageConfig, target: str = "backbone/") -> tuple[Rule, ...]:
    """The table of the `-hf` layout; `target` is what our paths begin with."""
    theirs, ours = "vision_tower.encoder.layer.{layer}.", f"{target}vision/layers/"
    table = _embedding(
        vision, "vision_tower.embeddings.", ("cls_token", "position_embeddings", "patch_embeddings.projection"), target
    )
    table += norm(f"{theirs}layernorm_before", f"{ours}attention_norm") + norm(
        f"{theirs}layernorm_after", f"{ours}mlp_norm"
    )
    for name in ("q", "k", "v"):
        table += linear(f"{theirs}attention.{name}_proj", f"{ours}attention/{name}")[: 1 + vision.qkv_bias]
    table += linear(f"{theirs}attention.projection_layer", f"{ours}attention/o")
    table += linear(f"{theirs}mlp.fc1", f"{ours}up") + linear(f"{theirs}mlp.fc2", f"{ours}down")
    table += _scales(f"{theirs}lambda_1", f"{theirs}lambda_2", ours)
    table += _projector("multi_modal_projector.", ("layer_norm", "linear_1", "linear_2"), target)
    return (*table, *_decoder(language, target))


def rules_original(vision: VisionConfig, language: LanguageConfig, target: str = "backbone/") -> tuple[Rule, ...]:
    """The table of the original layout: q, k and v are one tensor."""
    theirs, ours = "vision_model.encoder.layers.{layer}.", f"{target}vision/layers/"
    table = _embedding(
        vision, "vision_model.embeddings.", ("class_embedding", "position_embedding", "patch_embedding"), target
    )
    table += norm(f"{theirs}norm1", f"{ours}attention_norm") + norm(f"{theirs}norm2", f"{ours}mlp_norm")
    for number, name in enumerate(("q", "k", "v")):
        table += linear(f"{theirs}attn.qkv", f"{ours}attention/{name}", (number, 3))[: 1 + vision.qkv_bias]
    table += linear(f"{theirs}attn.proj", f"{ours}attention/o")
    table += linear(f"{theirs}mlp.fc1", f"{ours}up") + linear(f"{theirs}mlp.fc2", f"{ours}down")
    table += _scales(f"{theirs}ls1", f"{theirs}ls2", ours)
    table += _projector("mlp1.", ("0", "1", "3"), target)
    return (*table, *_decoder(language, target))


def _embedding(vision: VisionConfig, prefix: str, names: tuple[str, str, str], target: str) -> list[Rule]:
    first, position, patch = (prefix + name for name in names)
    kernel = patches((vision.patch_size, vision.patch_size), channels_last=True)
    return [
        Rule(first, f"{target}vision/embedding/class", FIRST),
        Rule(position, f"{target}vision/embedding/position", FIRST),
        Rule(f"{patch}.weight", f"{target}vision/embedding/patch/kernel", kernel),
        Rule(f"{patch}.bias", f"{target}vision/embedding/patch/bias", SAME),
    ]


def _scales(first: str, second: str, ours: str) -> list[Rule]:
    return [Rule(first, f"{ours}attention_scale", SAME), Rule(second, f"{ours}mlp_scale", SAME)]


def _projector(prefix: str, names: tuple[str, str, str], target: str) -> list[Rule]:
    scale, up, down = (prefix + name for name in names)
    return (
        norm(scale, f"{target}projector/norm")
        + linear(up, f"{target}projector/up")
        + linear(down, f"{target}projector/down")
    )


def _decoder(language: LanguageConfig, target: str) -> tuple[Rule, ...]:
    return decoder_rules(language, "language_model.model.", "language_model.lm_head.weight", f"{target}language/")
