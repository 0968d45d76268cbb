"""LLaVA-NeXT-Video in Hugging Face's format: config.json and names of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spatialsv_jax.backbones.decoder import LanguageConfig
from spatialsv_jax.backbones.llava_next_video.model import VisionConfig
from spatialsv_jax.interop.config_fields import BOOKKEEPING, Fields, part, square
from spatialsv_jax.interop.conversion import SAME, Rule, Transform, linear, norm, patches
from spatialsv_jax.interop.decoders import decoder_rules, language_config
from spatialsv_jax.interop.tensor_files import ConversionError

RENAMED = {
    r"model\.(vision_tower|multi_modal_projector)\.": r"\1.",
    r"model\.image_newline": "image_newline",
    r"model\.language_model\.": "language_model.model.",
    r"lm_head\.": "language_model.lm_head.",
    r"vision_tower\.vision_model\.": "vision_tower.",  # published files have one level more than newer ones
}
# Published files leave out what is transformers' default for a Llama.
_LLAMA = dict(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    rms_norm_eps=1e-6,
)  # fmt: skip
_CLIP = dict(
    hidden_size=1024,
    image_size=336,
    intermediate_size=4096,
    num_attention_heads=16,
    num_hidden_layers=24,
    patch_size=14,
)
_VISION = Fields(
    needed=("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    read=("image_size", "patch_size", "layer_norm_eps"),
    fixed={
        "model_type": ("clip_vision_model",),
        "hidden_act": ("quick_gelu",),
        "num_channels": (3,),
    },
    ignored=BOOKKEEPING | {"projection_dim", "vocab_size", "initializer_factor", "dropout"},
)
_TOP = Fields(
    needed=(),
    read=(
        "text_config", "vision_config", "model_type", "tie_word_embeddings", "image_token_index", "video_token_index",
        "image_token_id", "video_token_id", "vision_feature_layer", "spatial_pool_stride", "image_grid_pinpoints",
    ),
    fixed={
        "projector_hidden_act": ("gelu",),
        "vision_feature_select_strategy": ("default",),
        "multimodal_projector_bias": (True,),
        "spatial_pool_mode": ("average",),
        "use_image_newline_parameter": (True,),
    },
    ignored=BOOKKEEPING
    | {"image_seq_length", "video_seq_length", "ignore_index", "spatial_pool_out_channels", "vocab_size"},
)  # fmt: skip
_CLASS = Transform("with an axis", lambda x: x[None], lambda x: x[0])  # theirs [D], ours [1, D]


def read(values: Mapping[str, Any], where: str = "config.json") -> tuple[VisionConfig, LanguageConfig]:
    """Our settings from a config.json.

    Raises:
      ConversionError: fields that are missing, unknown or have a value that is not built here.
    """
    _TOP.check(values, where)
    seen = {**_CLIP, **part(values, "vision_config", where)}
    _VISION.check(seen, f"{where}, vision_config")
    text = {**_LLAMA, **part(values, "text_config", where)}
    if text.get("model_type") != "llama":
        raise ConversionError(f"{where}, text_config: model_type is {text.get('model_type')!r}, supported: 'llama'.")
    for stray in (
        "type",
        "factor",
    ):  # the published converter put these beside `rope_scaling`, where nothing reads them
        text.pop(stray, None)
    text.setdefault("tie_word_embeddings", values.get("tie_word_embeddings", False))
    layer, depth = values.get("vision_feature_layer", -2), seen["num_hidden_layers"]
    if not isinstance(layer, int) or not -depth <= layer <= depth or layer == 0:
        raise ConversionError(f"{where}: vision_feature_layer is {layer!r}, supported: one layer of the {depth}.")
    vision = VisionConfig(
        tile_size=square(seen["image_size"], f"{where}, vision_config.image_size"),
        patch_size=square(seen["patch_size"], f"{where}, vision_config.patch_size"),
        width=seen["hidden_size"],
        layers=layer if layer > 0 else depth + 1 + layer,
        heads=seen["num_attention_heads"],
        mlp_width=seen["intermediate_size"],
        pool=values.get("spatial_pool_stride", 2),
        norm_eps=float(seen.get("layer_norm_eps", 1e-5)),
    )
    return vision, language_config(text, f"{where}, text_config")


def carried(vision: VisionConfig, language: LanguageConfig) -> tuple[str, ...]:
    """Tensors that no pass reads: layers behind the one that is used, the last norm, stored positions."""
    unused = rf"vision_tower\.encoder\.layers\.(?!({'|'.join(str(n) for n in range(vision.layers))})\.)\d+\..*"
    return (
        unused,
        r"vision_tower\.post_layernorm\..*",
        r"vision_tower\.embeddings\.position_ids",
        r"language_model\.model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    )


def rules(vision: VisionConfig, language: LanguageConfig, target: str = "backbone/") -> tuple[Rule, ...]:
    """The table of all tensors; `target` is what our paths begin with."""
    theirs, ours = "vision_tower.encoder.layers.{layer}.", f"{target}vision/layers/"
    kernel = patches((vision.patch_size, vision.patch_size), channels_last=True)
    table = [
        Rule("vision_tower.embeddings.class_embedding", f"{target}vision/embedding/class", _CLASS),
        Rule("vision_tower.embeddings.position_embedding.weight", f"{target}vision/embedding/position", SAME),
        Rule("vision_tower.embeddings.patch_embedding.weight", f"{target}vision/embedding/patch/kernel", kernel),
        Rule("image_newline", f"{target}projector/newline", SAME),
    ]
    table += norm("vision_tower.pre_layrnorm", f"{target}vision/norm")
    table += norm(f"{theirs}layer_norm1", f"{ours}attention_norm") + norm(f"{theirs}layer_norm2", f"{ours}mlp_norm")
    for name in ("q", "k", "v"):
        table += linear(f"{theirs}self_attn.{name}_proj", f"{ours}attention/{name}")
    table += linear(f"{theirs}self_attn.out_proj", f"{ours}attention/o")
    table += linear(f"{theirs}mlp.fc1", f"{ours}up") + linear(f"{theirs}mlp.fc2", f"{ours}down")
    table += linear("multi_modal_projector.linear_1", f"{target}projector/up")
    table += linear("multi_modal_projector.linear_2", f"{target}projector/down")
    decoder = decoder_rules(language, "language_model.model.", "language_model.lm_head.weight", f"{target}language/")
    return (*table, *decoder)
