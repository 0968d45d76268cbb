"""Pictures and text to model inputs, one processor per model family."""

from __future__ import annotations

import json
from pathlib import Path

from spatialsv_jax.processing.base import EncodedQuestion, ModelInputs, Pixels, Prefix, Processor
from spatialsv_jax.processing.internvl3 import InternVL3Processor
from spatialsv_jax.processing.llava_next_video import LlavaNextVideoProcessor
from spatialsv_jax.processing.llava_onevision1_5 import LlavaOneVision15Processor
from spatialsv_jax.processing.qwen2_5_vl import Qwen25VLProcessor
from spatialsv_jax.processing.smol import SmolProcessor
from spatialsv_jax.processing.tiny import SETTINGS_FILE, TinyProcessor, build_tokenizer

PROCESSORS = {
    "tiny": TinyProcessor,
    "internvl3": InternVL3Processor,
    "llava_next_video": LlavaNextVideoProcessor,
    "llava_onevision1_5": LlavaOneVision15Processor,
    "qwen2_5_vl": Qwen25VLProcessor,
    "smol": SmolProcessor,
}

__all__ = [
    "PROCESSORS",
    "EncodedQuestion",
    "ModelInputs",
    "Pixels",
    "Prefix",
    "Processor",
    "TinyProcessor",
    "build_tokenizer",
    "load_processor",
]


def load_processor(directory: str | Path) -> Processor:
    """The processor that was saved in `directory`, of whatever family.

    Raises:
      FileNotFoundError: no processor.json there.
      ValueError: its family is unknown, or a file is damaged.
    """
    path = Path(directory) / SETTINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it is written beside tokenizer.json when a run starts.")
    try:
        family = json.loads(path.read_text(encoding="utf-8")).get("family")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): it is no JSON object.") from error
    if family not in PROCESSORS:
        raise ValueError(f"{path}: family '{family}' is unknown. Known families: {', '.join(sorted(PROCESSORS))}.")
    return PROCESSORS[family].load(directory)
