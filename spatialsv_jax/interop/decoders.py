"""The language models under the families: Qwen2, Qwen3 and Llama (Vicuna, SmolLM2) as our `Decoder`.

Sizes are read from config.json, never assumed. Every field is read, must have the one value that is
built here, or is known to change nothing; any other field is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spatialsv_jax.backbones.decoder import LanguageConfig
from spatialsv_jax.interop.config_fields import Fields
from spatialsv_jax.interop.conversion import LINEAR, SAME, Rule
from spatialsv_jax.interop.tensor_files import ConversionError

MODEL_TYPES = ("qwen2", "qwen3", "llama")
_FIELDS = Fields(
    needed=("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    read=(
        "model_type", "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings", "rope_theta",
        "rope_scaling", "rope_parameters", "layer_types",
    ),
    fixed={
        "hidden_act": ("silu",),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "use_sliding_window": (False, None),
        "pretraining_tp": (1, None),
        "moe_config": (None,),
    },
)  # fmt: skip
TEXT_FIELDS = frozenset({*_FIELDS.needed, *_FIELDS.read, *_FIELDS.fixed, *_FIELDS.ignored})
# Kind of rotary positions -> its fields. "dynamic" is the default up to max_position_embeddings tokens, and no more are
# taken.
_ROPE = {
    "default": {"rope_type", "type", "rope_theta", "mrope_section"},
    "mrope": {"rope_type", "type", "rope_theta", "mrope_section"},
    "linear": {"rope_type", "type", "rope_theta", "factor"},
    "dynamic": {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"},
}


def language_config(values: Mapping[str, Any], where: str = "config.json", kind: str = "") -> LanguageConfig:
    """Our decoder's settings from those of transformers.

    Args:
      values: a config.json, or the part of one that describes the text model.
      where: names it in messages.
      kind: which of `MODEL_TYPES` it is, where its own `model_type` is a family's.

    Raises:
      ConversionError: another model, fields that are missing, unknown or have a value that is not built here.
    """
    kind = kind or values.get("model_type")
    if kind not in MODEL_TYPES:
        raise ConversionError(f"{where}: model_type is {kind!r}; language models read here: {', '.join(MODEL_TYPES)}.")
    problems = []
    if set(values.get("layer_types") or ()) - {"full_attention"}:
        problems.append(f"layer_types has {sorted(set(values['layer_types']))}, supported: full_attention")
    theta, sections, factor = _rope(values, problems)
    _FIELDS.check(values, f"{where} ({kind})", problems)
    heads = values["num_attention_heads"]
    return LanguageConfig(
        vocab_size=values["vocab_size"],
        width=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        mlp_width=values["intermediate_size"],
        rope_theta=theta,
        rope_sections=sections,
        rope_factor=factor,
        max_length=int(factor * (values.get("max_position_embeddings") or 0)),
        norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        tie_embeddings=bool(values.get("tie_word_embeddings", False)),
    )


def _rope(values: Mapping[str, Any], problems: list[str]) -> tuple[float, tuple[int, ...], float]:
    """Base, sections and factor of the rotary positions: `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind, factor = rope.get("rope_type", rope.get("type", "default")), 1.0
    if kind not in _ROPE:
        problems.append(f"rotary positions of type '{kind}', supported: {', '.join(_ROPE)}")
    elif unknown := sorted(set(rope) - _ROPE[kind]):
        problems.append(f"unknown fields {unknown} of the rotary positions")
    if kind == "linear":
        factor = rope.get("factor")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor >= 1:
            problems.append(f"the factor of linear rotary positions is {factor!r}, expected a number from 1 on")
            factor = 1.0
    theta = float(rope.get("rope_theta", values.get("rope_theta", 1e4)))
    return theta, tuple(rope.get("mrope_section", ())), float(factor)


def decoder_rules(
    config: LanguageConfig, source: str = "model.", head: str = "lm_head.weight", target: str = ""
) -> tuple[Rule, ...]:
    """The table of a decoder.

    Args:
      config: decides which tensors there are.
      source: what their names begin with.
      head: name of the unembedding where it is a tensor of its own.
      target: what our paths begin with, such as "backbone/language/".
    """
    layer, ours = f"{source}layers.{{layer}}.", f"{target}layers/"
    rules = [
        Rule(f"{source}embed_tokens.weight", f"{target}embedding", SAME),
        Rule(f"{source}norm.weight", f"{target}norm/scale", SAME),
        Rule(f"{layer}input_layernorm.weight", f"{ours}attention_norm/scale", SAME),
        Rule(f"{layer}post_attention_layernorm.weight", f"{ours}mlp_norm/scale", SAME),
        Rule(f"{layer}self_attn.o_proj.weight", f"{ours}attention/o/kernel"),
    ]
    for name in ("q", "k", "v"):
        rules.append(Rule(f"{layer}self_attn.{name}_proj.weight", f"{ours}attention/{name}/kernel", LINEAR))
        if config.qkv_bias:
            rules.append(Rule(f"{layer}self_attn.{name}_proj.bias", f"{ours}attention/{name}/bias", SAME))
    for name in ("q", "k") if config.qk_norm else ():
        rules.append(Rule(f"{layer}self_attn.{name}_norm.weight", f"{ours}attention/{name}_norm/scale", SAME))
    rules += [Rule(f"{layer}mlp.{name}_proj.weight", f"{ours}mlp/{name}/kernel") for name in ("gate", "up", "down")]
    if not config.tie_embeddings:
        rules.append(Rule(head, f"{target}unembedding"))
    return tuple(rules)
