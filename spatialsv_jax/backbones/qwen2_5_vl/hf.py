"""Qwen2.5-VL in Hugging Face's format: config.json and names of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spatialsv_jax.backbones.decoder import LanguageConfig
from spatialsv_jax.backbones.qwen2_5_vl.model import VisionConfig
from spatialsv_jax.interop.config_fields import BOOKKEEPING, Fields, part
from spatialsv_jax.interop.conversion import SAME, Rule, linear, patches
from spatialsv_jax.interop.decoders import TEXT_FIELDS, decoder_rules, language_config
from spatialsv_jax.interop.tensor_files import ConversionError

# Prefixes of models that were saved as they are in memory.
RENAMED = {r"model\.visual\.": "visual.", r"model\.language_model\.": "model."}
_VISION = Fields(
    needed=(
        "depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size", "spatial_merge_size",
        "temporal_patch_size", "window_size",
    ),
    read=("fullatt_block_indexes", "tokens_per_second", "spatial_patch_size"),
    fixed={
        "hidden_act": ("silu",),
        "in_channels": (3,),
        "in_chans": (3,),
        "model_type": ("qwen2_5_vl", "qwen2_5_vl_vision"),
        "rope_parameters": (None, {"rope_type": "axial", "rope_theta": 10000.0}),
    },
    ignored=BOOKKEEPING,
)  # fmt: skip
# Fields beside those of the text model: published files have both on one level.
_TOP = {
    "vision_config", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id",
    "vision_token_id",
}  # fmt: skip


def read(values: Mapping[str, Any], where: str = "config.json") -> tuple[VisionConfig, LanguageConfig]:
    """Our settings from a config.json.

    Raises:
      ConversionError: fields that are missing, unknown or have a value that is not built here.
    """
    seen = part(values, "vision_config", where)
    _VISION.check(seen, f"{where}, vision_config")
    if "text_config" in values:
        # Some versions of transformers wrote the text model's fields twice; then those of text_config count.
        text, own = dict(part(values, "text_config", where)), set(values) - _TOP - TEXT_FIELDS
        text.setdefault("tie_word_embeddings", values.get("tie_word_embeddings", False))
        text = {name: value for name, value in text.items() if name not in _TOP or value is not None}
        if unknown := sorted(own - {"text_config"}):
            raise ConversionError(f"{where}: unknown fields {unknown}.")
    else:
        text = {name: value for name, value in values.items() if name not in _TOP}
    language = language_config(text, where, kind="qwen2")
    if len(language.rope_sections) != 3:
        raise ConversionError(f"{where}: mrope_section is {language.rope_sections}, expected three numbers.")
    if seen["out_hidden_size"] != language.width:
        raise ConversionError(
            f"{where}: vision_config.out_hidden_size is {seen['out_hidden_size']}, the text model's hidden_size {language.width}."
        )
    vision = VisionConfig(
        patch_size=seen["patch_size"],
        frames=seen["temporal_patch_size"],
        width=seen["hidden_size"],
        layers=seen["depth"],
        heads=seen["num_heads"],
        mlp_width=seen["intermediate_size"],
        merge=seen["spatial_merge_size"],
        window_size=seen["window_size"],
        full_attention_layers=tuple(seen.get("fullatt_block_indexes", (7, 15, 23, 31))),
    )
    return vision, language


def rules(vision: VisionConfig, language: LanguageConfig, target: str = "backbone/") -> tuple[Rule, ...]:
    """The table of all tensors; `target` is what our paths begin with."""
    theirs, ours = "visual.blocks.{layer}.", f"{target}vision/layers/"
    table = [
        Rule(
            "visual.patch_embed.proj.weight",
            f"{target}vision/patch",
            patches((vision.frames, vision.patch_size, vision.patch_size), channels_last=True),
        ),
        Rule(f"{theirs}norm1.weight", f"{ours}attention_norm/scale", SAME),
        Rule(f"{theirs}norm2.weight", f"{ours}mlp_norm/scale", SAME),
        Rule("visual.merger.ln_q.weight", f"{target}projector/norm/scale", SAME),
    ]
    for number, name in enumerate(("q", "k", "v")):
        table += linear(f"{theirs}attn.qkv", f"{ours}attention/{name}", (number, 3))
    table += linear(f"{theirs}attn.proj", f"{ours}attention/o")
    for name in ("gate", "up", "down"):
        table += linear(f"{theirs}mlp.{name}_proj", f"{ours}mlp/{name}")
    table += linear("visual.merger.mlp.0", f"{target}projector/up")
    table += linear("visual.merger.mlp.2", f"{target}projector/down")
    return (*table, *decoder_rules(language, target=f"{target}language/"))
