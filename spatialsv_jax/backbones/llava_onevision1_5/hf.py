"""LLaVA-OneVision-1.5 in Hugging Face's format (its own code's, which is not run): config.json and names of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spatialsv_jax.backbones.decoder import LanguageConfig
from spatialsv_jax.backbones.llava_onevision1_5.model import VisionConfig
from spatialsv_jax.interop.config_fields import BOOKKEEPING, Fields, part
from spatialsv_jax.interop.conversion import SAME, Rule, Transform, linear, norm, patches
from spatialsv_jax.interop.decoders import decoder_rules, language_config
from spatialsv_jax.interop.tensor_files import ConversionError

# Prefixes of models that were saved as they are in memory.
RENAMED = {r"model\.visual\.": "visual.", r"model\.language_model\.": "model."}
TEXT_TYPES = ("LLaVAOneVision1_5_text", "qwen3")
_VISION = Fields(
    needed=("depth", "hidden_size", "intermediate_size", "num_heads", "patch_size"),
    read=("spatial_merge_size", "text_hidden_size", "out_hidden_size", "layer_norm_eps", "embed_dim"),
    fixed={
        "model_type": ("rice_vit",),
        "hidden_act": ("gelu",),
        "in_channels": (3,),
        "in_chans": (3,),
        "temporal_patch_size": (1,),
    },
)
_TOP = Fields(
    needed=(),
    read=(
        "text_config", "vision_config", "model_type", "tie_word_embeddings", "image_token_id", "video_token_id",
        "vision_start_token_id", "vision_end_token_id",
    ),
    ignored=BOOKKEEPING | {"vocab_size"},
)  # fmt: skip
_CLASS = Transform("with an axis", lambda x: x[None], lambda x: x[0])  # theirs [D], ours [1, D]


def read(values: Mapping[str, Any], where: str = "config.json") -> tuple[VisionConfig, LanguageConfig]:
    """Our settings from a config.json.

    Raises:
      ConversionError: fields that are missing, unknown or have a value that is not built here.
    """
    _TOP.check(values, where)
    seen = part(values, "vision_config", where)
    _VISION.check(seen, f"{where}, vision_config")
    text = dict(part(values, "text_config", where))
    if text.get("model_type") not in TEXT_TYPES:
        raise ConversionError(
            f"{where}, text_config: model_type is {text.get('model_type')!r}, supported: {TEXT_TYPES}."
        )
    for name in ("image_token_id", "video_token_id"):
        text.pop(name, None)
    text.setdefault("tie_word_embeddings", values.get("tie_word_embeddings", False))
    text.setdefault("rope_theta", 5e6)  # the published class's own default; files hold what differs from it
    language = language_config(text, f"{where}, text_config", kind="qwen3")
    out = seen.get("text_hidden_size", seen.get("out_hidden_size", language.width))
    if out != language.width:
        raise ConversionError(
            f"{where}: vision_config.text_hidden_size is {out}, the text model's hidden_size {language.width}."
        )
    vision = VisionConfig(
        patch_size=seen["patch_size"],
        width=seen["hidden_size"],
        layers=seen["depth"],
        heads=seen["num_heads"],
        mlp_width=seen["intermediate_size"],
        merge=seen.get("spatial_merge_size", 2),
        norm_eps=float(seen.get("layer_norm_eps", 1e-5)),
    )
    return vision, language


def rules(vision: VisionConfig, language: LanguageConfig, target: str = "backbone/") -> tuple[Rule, ...]:
    """The table of all tensors; `target` is what our paths begin with."""
    theirs, ours = "visual.blocks.{layer}.", f"{target}vision/layers/"
    kernel = patches((vision.patch_size, vision.patch_size), channels_last=True)
    table = [
        Rule("visual.patch_embed.proj.weight", f"{target}vision/patch/kernel", kernel),
        Rule("visual.class_embedding", f"{target}vision/class", _CLASS),
        Rule("visual.class_pos_emb", f"{target}vision/class_angle", SAME),
    ]
    table += norm("visual.pre_layernorm", f"{target}vision/norm")
    table += norm(f"{theirs}norm1", f"{ours}attention_norm") + norm(f"{theirs}norm2", f"{ours}mlp_norm")
    for number, name in enumerate(("q", "k", "v")):
        table += linear(f"{theirs}attn.qkv", f"{ours}attention/{name}", (number, 3))
    table += linear(f"{theirs}attn.proj", f"{ours}attention/o")
    table += linear(f"{theirs}mlp.fc1", f"{ours}up") + linear(f"{theirs}mlp.fc2", f"{ours}down")
    table += norm("visual.merger.ln_q", f"{target}projector/norm")
    table += linear("visual.merger.mlp.0", f"{target}projector/up")
    table += linear("visual.merger.mlp.2", f"{target}projector/down")
    return (*table, *decoder_rules(language, target=f"{target}language/"))
