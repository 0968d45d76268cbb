"""The paper's eight models: published sizes, taps and learning rates, and the recipe that fine-tunes them.

Sizes are those of the published config.json files; tests/experiments/test_pretrained_configs.py compares the
parameter counts. A config file of a model is a line that names its preset.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs import common
from experiments.configs.rooms_run import TINY, run

_QWEN2_5_VL = dict(
    family="qwen2_5_vl",
    vision=dict(
        image_size=(448, 448), patch_size=14, frames=2, width=1280, layers=32, heads=16, mlp_width=3420, merge=2,
        window_size=112, full_attention_layers=(7, 15, 23, 31), trainable=False,
    ),
    tiny_vision=dict(
        image_size=(56, 56), patch_size=7, width=32, layers=2, heads=2, mlp_width=48, window_size=28,
        full_attention_layers=(1,),
    ),
    tiny_language=dict(rope_sections=(2, 3, 3), qkv_bias=True),
    language_rate=2e-7,
)  # fmt: skip

_INTERNVL3 = dict(
    family="internvl3",
    vision=dict(
        tile_size=448, patch_size=14, width=1024, layers=24, heads=16, mlp_width=4096, merge=2, qkv_bias=True,
        norm_eps=1e-6, trainable=False,
    ),
    tiny_vision=dict(tile_size=56, patch_size=7, width=32, layers=2, heads=2, mlp_width=48),
    tiny_language=dict(qkv_bias=True),
    taps=(3, 9, 15, 21),
    language_rate=1e-5,
)  # fmt: skip
_LLAVA_NEXT_VIDEO = dict(
    family="llava_next_video",
    vision=dict(
        image_size=(), tile_size=336, patch_size=14, width=1024, layers=23, heads=16, mlp_width=4096, pool=2,
        activation="quick_gelu", norm_eps=1e-5, trainable=False,
    ),
    language=dict(
        vocab_size=32064, width=4096, layers=32, heads=32, kv_heads=32, head_dim=128, mlp_width=11008, rope_theta=1e4,
        norm_eps=1e-5, tie_embeddings=False,
    ),
    tiny_vision=dict(tile_size=56, patch_size=7, width=32, layers=2, heads=2, mlp_width=48),
    tiny_language=dict(kv_heads=3),
    taps=(4, 11, 18, 25),
    language_rate=1e-5,
    parameters=7_063_431_168,
    unused=12_598_272,  # the encoder's last layer and norm, which no pass reads: carried along, not loaded
)  # fmt: skip
_LLAVA_ONEVISION1_5 = dict(
    family="llava_onevision1_5",
    vision=dict(
        image_size=(448, 448), patch_size=14, width=1024, layers=24, heads=16, mlp_width=4096, merge=2, norm_eps=1e-5,
        published_slicing=False, trainable=False,
    ),
    tiny_vision=dict(image_size=(56, 56), patch_size=7, width=32, layers=2, heads=2, mlp_width=48),
    tiny_language=dict(qk_norm=True),
    taps=(4, 12, 20, 28),
    language_rate=2e-7,
)  # fmt: skip


def _qwen2_5(width: int, layers: int, heads: int, kv_heads: int, mlp_width: int, vocab_size: int, **more) -> dict:
    """A Qwen2.5 decoder."""
    return dict(
        vocab_size=vocab_size, width=width, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=width // heads,
        mlp_width=mlp_width, rope_theta=1e6, qkv_bias=True, **{"tie_embeddings": False, **more},
    )  # fmt: skip


def _qwen3(width: int, layers: int, mlp_width: int, rope_theta: float) -> dict:
    """A Qwen3 decoder of 32 heads."""
    return dict(
        vocab_size=151936, width=width, layers=layers, heads=32, kv_heads=8, head_dim=128, mlp_width=mlp_width,
        rope_theta=rope_theta, qk_norm=True, tie_embeddings=False,
    )  # fmt: skip


PRESETS: dict[str, dict] = {
    "qwen2_5_vl_3b": dict(
        **_QWEN2_5_VL,
        language=_qwen2_5(2048, 36, 16, 2, 11008, 151936, rope_sections=(16, 24, 24), tie_embeddings=True),
        taps=(4, 12, 20, 28), parameters=3_754_622_976,
    ),
    "qwen2_5_vl_7b": dict(
        **_QWEN2_5_VL, language=_qwen2_5(3584, 28, 28, 4, 18944, 152064, rope_sections=(16, 24, 24)),
        taps=(3, 10, 17, 24), parameters=8_292_166_656,
    ),
    "internvl3_1b": dict(**_INTERNVL3, language=_qwen2_5(896, 24, 14, 2, 4864, 151674), parameters=938_193_024),
    "internvl3_2b": dict(**_INTERNVL3, language=_qwen2_5(1536, 28, 12, 2, 8960, 151674), parameters=2_088_957_440),
    "internvl3_8b": dict(**_INTERNVL3, language=_qwen2_5(3584, 28, 28, 4, 18944, 151674), parameters=7_944_373_760),
    "llava_next_video_7b": _LLAVA_NEXT_VIDEO,
    "llava_onevision1_5_4b": dict(
        **_LLAVA_ONEVISION1_5, language=_qwen3(2560, 36, 9728, 5e6), parameters=4_741_610_528,
    ),
    "llava_onevision1_5_8b": dict(
        **_LLAVA_ONEVISION1_5, language=_qwen3(4096, 36, 12288, 1e6), parameters=8_527_214_624,
    ),
}  # fmt: skip


def finetune(name: str, arg: str | None = None) -> ConfigDict:
    """The paper's recipe for a preset: text, depth, rays and points, encoder frozen, AdamW, batch 16.

    Args:
      name: key of `PRESETS`.
      arg: the config file's argument: none, or "tiny" for a run on two cores: rooms and a small model of the
        family, from nothing.

    Raises:
      ValueError: another argument.
    """
    preset = PRESETS[name]
    if arg == "tiny":
        return _tiny(name, preset)
    if arg:
        raise ValueError(f"Config argument '{arg}' is unknown; use none, or 'tiny'.")
    config = recipe(name, preset["family"])
    config.vision, config.language = ConfigDict(preset["vision"]), _language(preset["language"])
    config.language.update(dtype="bfloat16", remat="full", unroll=1)
    config.lifting.taps = preset["taps"]
    config.optimizer.language = preset["language_rate"]
    return config


def recipe(name: str, family: str) -> ConfigDict:
    """Everything of the recipe but the model's sizes, its taps and the language model's learning rate."""
    config = common.get_config()
    config.name, config.family = name, family
    config.lifting.update(width=1024, channels=(256, 512, 1024, 1024), features=256, dtype="bfloat16")
    # What keeps lifting and 3D losses below a tenth of text-only fine-tuning (docs/sharding.md).
    config.lifting.update(refine="folded", remat="full", chunk_views=1, loop_heads=True)
    config.optimizer.update(name="adamw", vision=0.0, language=1e-5, adapters=1e-4, projector=1e-5, lifting=1e-5)
    config.data.sources = {"train": common.source("data/train", per_batch=16)}
    config.data.update(questions=4, question_tokens=192, answer_tokens=32, label_size=(224, 224))
    config.mesh.update(data=1, fsdp=-1)
    config.training.steps = 1875  # three epochs of 10,000 samples
    config.checkpoint.every = 250
    config.evaluation.scenes = -1
    return config


def small(config: ConfigDict) -> None:
    """Heads, batches and steps for two cores and a small model."""
    config.lifting.update(width=32, channels=(16, 32, 32, 32), features=16, dtype="float32")
    config.lifting.update(refine="full", remat="none", chunk_views=0, loop_heads=False)
    config.optimizer.update(vision=1e-3, language=1e-3, projector=1e-3, lifting=1e-3)
    config.data.sources.train.update(per_batch=2, views=2)
    config.data.update(questions=2, question_tokens=160, answer_tokens=16, views=2, label_size=(16, 16))
    config.mesh.update(data=-1, fsdp=1)
    config.training.update(steps=4, log_every=1)


def _language(values: dict) -> ConfigDict:
    return ConfigDict({**common.get_config().language.to_dict(), **values})


def _tiny(name: str, preset: dict) -> ConfigDict:
    """Rooms, and a model of the family with the smallest sizes that have all its parts."""
    config = recipe(name, preset["family"])
    small(config)
    config.vision = ConfigDict({**preset["vision"], **preset["tiny_vision"], "trainable": True})
    sizes = dict(vocab_size=0, width=48, layers=4, heads=3, kv_heads=1, head_dim=16, mlp_width=96)
    config.language = _language({**preset["language"], **sizes, **preset["tiny_language"]})
    config.data.sources.train.path = "rooms"
    result = run(name, TINY, {"finetune": config})
    result.prepare.rooms.update(scenes=4, test=2, validation=0, ood=0)
    result.evaluation.scenes = 2
    return result
