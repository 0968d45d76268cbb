"""What the scripts that make the families' goldens share: a tokenizer, pictures, random weights.

Needs torch, torchvision (`pip install --no-deps`, its resizing alone is used) and transformers.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = """Where is the red chair in the picture? The table stands left of the lamp, two metres from the wall.
How far is the door from the window? Which is nearer to the camera, the plant or the shelf? You are a helpful assistant.
A chat between a curious human and an artificial intelligence assistant. USER: ASSISTANT: system user assistant"""
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_pairs(special: list[str], merges: int = 20) -> Tokenizer:
    """A byte-level tokenizer that splits as Qwen2's does, with a few merges learned from `TEXT`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Smooth random pictures uint8[h,w,3] of the given (height, width)."""
    rng = np.random.default_rng(seed)
    made = []
    for height, width in sizes:
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 6, 6)))
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
        made.append(fine.permute(1, 2, 0).clamp(0, 255).to(torch.uint8).numpy())
    return made


def randomise(model: torch.nn.Module) -> None:
    """All parameters random: zero biases and unit norms would hide mistakes; layers add to what they get, not drown it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(0.3 * torch.randn_like(parameter) + (1.0 if "norm" in name or "ln_q" in name else 0.0))
            else:
                gain = 0.25 if any(part in name for part in (".layers.", ".layer.", ".blocks.")) else 1.0
                parameter.copy_(gain * torch.randn_like(parameter) / parameter[0].numel() ** 0.5)


def save(folder: Path, model, processor) -> None:
    """A checkpoint folder as transformers writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@torch.no_grad()
def states(model, inputs: dict, features, prefix: str = "") -> dict[str, np.ndarray]:
    """vision_tokens float32[n,D], hidden float32[L+1,B,S,D] and logits float32[B,S,N], and the same in bfloat16.

    Args:
      features: features(model, inputs) -> the pictures' tokens in the order in which they stand in the prompt.
    """
    found = {}
    for dtype, name in ((torch.float32, ""), (torch.bfloat16, "_bfloat16")):
        # A copy: a model that was bfloat16 once has rounded weights.
        cast = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        given = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
        out = cast(**given, output_hidden_states=True)
        found[f"vision_tokens{name}"] = features(cast, given)
        found[f"hidden{name}"], found[f"logits{name}"] = torch.stack(out.hidden_states), out.logits
    return {prefix + name: value.float().numpy() for name, value in found.items()}


@torch.no_grad()
def greedy(model, inputs: dict, count: int = 32) -> np.ndarray:
    """int32[B,count] most likely tokens; no token ends it."""
    length = inputs["input_ids"].shape[1]
    model.generation_config.eos_token_id = None
    made = model.generate(**inputs, do_sample=False, max_new_tokens=count, pad_token_id=0)
    return made[:, length:].numpy().astype(np.int32)


def numpy(inputs: dict, prefix: str = "") -> dict[str, np.ndarray]:
    """Tensors as arrays, whole numbers as int32."""
    return {
        prefix + name: value.numpy().astype(np.float32 if value.is_floating_point() else np.int32)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }


def versions() -> str:
    """What made a golden."""
    return json.dumps({"torch": torch.__version__, "transformers": transformers.__version__})
