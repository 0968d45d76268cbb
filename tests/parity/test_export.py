"""What we export, in the hands of transformers and peft.

python -m pip install -e ".[parity]" && python -m pytest -n 0 -m parity tests/parity/test_export.py
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # at the end: tests/spatialsv_jax would hide the package
import family_checks as checks
import family_runs as runs

import spatialsv_jax
from experiments import export_hf, prepare
from experiments.configs import finetune
from experiments.train import train_and_evaluate

pytestmark = pytest.mark.parity
GOLDENS = Path(__file__).parents[1] / "goldens"
MODELS = {
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", {"image_size": (56, 56)}),
    "internvl3": ("InternVLForConditionalGeneration", {}),
    "llava_next_video": ("LlavaNextVideoForConditionalGeneration", {}),
}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    prepare.main(
        "--source rooms --size 64 --views 2 --scenes 4 --validation 0 --test 0 --ood 0 --workers 1 --quiet --out".split()
        + [str(folder)]
    )
    return folder


def train(family, rooms, root, **language):
    """Folder of a run of 20 steps from the golden."""
    shutil.copytree(GOLDENS / family, root / "A", ignore=shutil.ignore_patterns("reference*"))
    config = finetune.get_config("tiny")
    config.init_from = str(root / "A")
    config.vision.update(MODELS[family][1])
    config.language.update(language)
    config.data.sources.train.path = str(rooms)
    config.training.steps = 20
    train_and_evaluate(config, root / "run")
    return root / "run"


def inputs_of(family):
    """The golden's first sample as transformers reads it."""
    import torch

    with np.load(GOLDENS / family / "reference.npz") as file:
        reference = dict(file)
    _, pictures, question, real = next(checks.rows_of(reference))
    asked = {"input_ids": torch.from_numpy(reference["input_ids"][:1][:, real]).long()}
    asked["attention_mask"] = torch.ones_like(asked["input_ids"])
    if "image_grid_thw" in reference:
        count = int(reference["image_grid_thw"][: len(pictures)].prod(-1).sum())
        asked["pixel_values"] = torch.from_numpy(reference["pixel_values"][:count])
        asked["image_grid_thw"] = torch.from_numpy(reference["image_grid_thw"][: len(pictures)]).long()
        asked["mm_token_type_ids"] = torch.from_numpy(reference["mm_token_type_ids"][:1][:, real])
    elif "image_sizes" in reference:
        asked["pixel_values"] = torch.from_numpy(reference["pixel_values"][: len(pictures)])
        asked["image_sizes"] = torch.from_numpy(reference["image_sizes"][: len(pictures)]).long()
    else:
        tiles = len(runs.imported(GOLDENS / family).processor.native(pictures)[1].pixel_values)
        asked["pixel_values"] = torch.from_numpy(reference["pixel_values"][:tiles])
    return asked, pictures, question


@pytest.mark.parametrize("family", MODELS)
def test_transformers_generates_from_b_what_we_generate(family, rooms, tmp_path):
    import torch
    import transformers

    import tests.goldens  # noqa: F401 (torchvision without its operators)

    run = train(family, rooms, tmp_path)
    assert export_hf.main(["--model", str(run), "--out", str(tmp_path / "B")]) == 0
    theirs = (
        getattr(transformers, MODELS[family][0]).from_pretrained(tmp_path / "B", attn_implementation="eager").eval()
    )
    asked, pictures, question = inputs_of(family)
    theirs.generation_config.eos_token_id = None
    with torch.no_grad():
        made = theirs.generate(**asked, do_sample=False, max_new_tokens=24, pad_token_id=0)
    found = runs.imported(tmp_path / "B")
    ours = runs.greedy(found, runs.sample(found.processor, pictures, question), 24)[0]
    assert made[0, asked["input_ids"].shape[1] :].tolist() == ours.tolist()
    before = runs.greedy(runs.imported(GOLDENS / family), runs.sample(found.processor, pictures, question), 24)[0]
    assert before.tolist() != ours.tolist()


def test_peft_loads_our_adapters_and_gives_our_logits(rooms, tmp_path):
    import peft
    import torch
    import transformers

    import tests.goldens  # noqa: F401

    run = train("qwen2_5_vl", rooms, tmp_path, lora_rank=4)
    assert export_hf.main(["--model", str(run), "--out", str(tmp_path / "merged")]) == 0
    assert export_hf.main(["--model", str(run), "--out", str(tmp_path / "adapters"), "--adapters"]) == 0
    assert json.loads((tmp_path / "adapters/adapter_config.json").read_text())["r"] == 4
    base = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "A", attn_implementation="eager")
    assert not (tmp_path / "adapters/projector.safetensors").exists()  # peft alone reads everything
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapters").eval()
    asked, pictures, question = inputs_of("qwen2_5_vl")
    with torch.no_grad():
        wanted = theirs(**asked).logits[0].numpy()
    found = runs.imported(tmp_path / "merged")
    _, _, logits = runs.every_state(found, runs.sample(found.processor, pictures, question))
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    own = spatialsv_jax.load(run)
    changed = [path for path in own.params["backbone"]["language"]["layers"]["attention"] if path.endswith("_lora")]
    assert sorted(changed) == ["k_lora", "o_lora", "q_lora", "v_lora"]
