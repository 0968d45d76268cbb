"""Processor of LLaVA-OneVision-1.5: text and pictures as Qwen2.5-VL's, but positions that count tokens and single frames."""

from __future__ import annotations

from collections.abc import Sequence

from spatialsv_jax.processing.base import Prefix
from spatialsv_jax.processing.pretrained import line_positions
from spatialsv_jax.processing.qwen2_5_vl import Qwen25VLProcessor


class LlavaOneVision15Processor(Qwen25VLProcessor):
    """See `processing.base.Processor` and `Qwen25VLProcessor`. Every frame of a video is a step; time is not told."""

    family = "llava_onevision1_5"
    frames = 1
    budget = (4 * 28 * 28, 1600 * 1600)

    def _prefix(self, grids: Sequence[tuple[int, int]], time_step: float | None = None) -> Prefix:
        prefix = super()._prefix(grids, time_step)
        length = len(prefix.tokens)
        return prefix._replace(positions=line_positions(length), question_start=length)
