"""Model families: one line each in BACKBONES."""

from __future__ import annotations

from typing import NamedTuple

from spatialsv_jax.backbones.base import Backbone, BackboneOutput, Decoding, default_taps
from spatialsv_jax.backbones.decoder import LanguageConfig
from spatialsv_jax.backbones.internvl3 import model as internvl3
from spatialsv_jax.backbones.llava_next_video import model as llava_next_video
from spatialsv_jax.backbones.llava_onevision1_5 import model as llava_onevision1_5
from spatialsv_jax.backbones.qwen2_5_vl import model as qwen2_5_vl
from spatialsv_jax.backbones.tiny import TinyBackbone, VisionConfig

__all__ = ["BACKBONES", "Backbone", "BackboneOutput", "Decoding", "Family", "default_taps"]


class Family(NamedTuple):
    """A model family: its module, called with the two configs, and the classes of config.vision and config.language."""

    backbone: type
    vision: type
    language: type


BACKBONES = {
    "tiny": Family(TinyBackbone, VisionConfig, LanguageConfig),
    "internvl3": Family(internvl3.InternVL3, internvl3.VisionConfig, LanguageConfig),
    "llava_next_video": Family(llava_next_video.LlavaNextVideo, llava_next_video.VisionConfig, LanguageConfig),
    "llava_onevision1_5": Family(llava_onevision1_5.LlavaOneVision15, llava_onevision1_5.VisionConfig, LanguageConfig),
    "smol": Family(TinyBackbone, VisionConfig, LanguageConfig),  # our encoder before a pretrained language model
    "qwen2_5_vl": Family(qwen2_5_vl.Qwen25VL, qwen2_5_vl.VisionConfig, LanguageConfig),
}
