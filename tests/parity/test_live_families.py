"""Live parity of the families with transformers, on more random models than the committed ones.

python -m pip install -e ".[parity]" && python -m pytest -n 0 -m parity tests/parity/test_live_families.py
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # at the end: tests/spatialsv_jax would hide the package
import family_checks as checks

pytestmark = pytest.mark.parity


def _qwen(**changes):
    def build(settings):
        values = settings(tie=changes.pop("tie", True))
        text = changes.pop("text", {})
        values["vision_config"].update(changes)
        values["text_config"].update(text)
        return values

    return build


def _dynamic(settings):
    values = settings()
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": values["text_config"].pop("rope_theta")}
    values["text_config"]["rope_parameters"] = rope
    return values


# Script of the goldens, settings, seed.
CASES = {
    "qwen untied, wide windows": ("make_qwen2_5_vl", _qwen(tie=False, window_size=112), 1),
    "qwen full attention, more groups": (
        "make_qwen2_5_vl",
        _qwen(fullatt_block_indexes=[0, 1, 2, 3], text={"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48},
              out_hidden_size=48),
        2,
    ),
    "qwen windows alone": ("make_qwen2_5_vl", _qwen(fullatt_block_indexes=[]), 3),
    "internvl tied": ("make_internvl3", lambda settings: settings(tie=True), 4),
    "internvl dynamic positions, as published": ("make_internvl3", _dynamic, 8),
    "internvl 3.5": ("make_internvl3", lambda settings: settings(decoder="qwen3"), 5),
    "llava tied": ("make_llava_next_video", lambda settings: settings(tie=True), 6),
    "onevision tied": ("make_llava_onevision1_5", lambda settings: settings(tie=True), 7),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_family(case, tmp_path):
    """Everything that the committed goldens are checked for."""
    script, build, seed = CASES[case]
    module = importlib.import_module(f"tests.goldens.{script}")
    module.make(tmp_path / "model", build(module.settings), seed)
    with np.load(tmp_path / "model/reference.npz") as file:
        reference = dict(file)
    (tmp_path / "model/reference.npz").unlink()
    folder = tmp_path / "model"
    checks.check_tokens(folder, reference)
    for dtype in ("float32", "bfloat16"):
        checks.check_states(folder, reference, dtype)
        checks.check_states(folder, reference, dtype, "video_")
    checks.check_video_tokens(folder, reference)
    checks.check_greedy(folder, reference)
    (tmp_path / "out").mkdir()
    checks.check_export(folder, tmp_path / "out")
