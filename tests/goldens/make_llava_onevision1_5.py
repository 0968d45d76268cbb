"""Makes tests/goldens/llava_onevision1_5: a small random LLaVA-OneVision-1.5 with what it computes.

    python -m pip install torch transformers==5.23.* && python -m tests.goldens.make_llava_onevision1_5

transformers 5.23 does not have this model, but its halves: the encoder is MLCD's (one picture at a time), the
decoder Qwen3; the merger and the join are written out here. The folder is a checkpoint in the published layout, with
reference.npz: two samples (three pictures of different sizes; one) in one padded batch, and a video.
`published/` beside this file holds numbers of the published code itself, see tests/spatialsv_jax/backbones/
test_llava_onevision1_5.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.goldens import family_goldens as goldens
from tests.goldens.make_qwen2_5_vl import QUESTIONS, SIZES, SPECIAL

HERE = Path(__file__).parent / "llava_onevision1_5"
BUDGET = {"shortest_edge": 56 * 56, "longest_edge": 84 * 140}


class Model(torch.nn.Module):
    """MLCD encoder, merger, Qwen3 decoder."""

    def __init__(self, seen: transformers.MLCDVisionConfig, text: transformers.Qwen3Config, image_ids: tuple[int, ...]):
        super().__init__()
        self.tower = transformers.MLCDVisionModel._from_config(seen, attn_implementation="eager")
        self.language = transformers.Qwen3ForCausalLM._from_config(text, attn_implementation="eager")
        width = 4 * seen.hidden_size
        self.ln_q = torch.nn.LayerNorm(seen.hidden_size, eps=1e-5)
        self.up, self.down = torch.nn.Linear(width, width), torch.nn.Linear(width, text.hidden_size)
        self.image_ids = image_ids
        self.generation_config = self.language.generation_config

    def features(self, pixels: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
        """Merged tokens of all pictures and frames; patches come in the order of merge blocks."""
        found, start = [], 0
        for steps, rows, columns in grids.tolist():
            for _ in range(steps):
                cut = pixels[start : start + rows * columns]
                start += rows * columns
                blocks = cut.reshape(rows // 2, columns // 2, 2, 2, 3, 14, 14)
                picture = blocks.permute(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, rows * 14, columns * 14)
                out = self.tower(picture).last_hidden_state[0, 1:]
                out = out.reshape(rows // 2, 2, columns // 2, 2, -1).permute(0, 2, 1, 3, 4)
                merged = self.ln_q(out).reshape(rows * columns // 4, -1)
                found.append(self.down(torch.nn.functional.gelu(self.up(merged))))
        return torch.cat(found)

    def forward(self, input_ids, attention_mask, pixel_values, image_grid_thw, output_hidden_states=True, **unused):
        """hidden_states and logits."""
        x = self.language.get_input_embeddings()(input_ids)
        mask = torch.isin(input_ids, torch.tensor(self.image_ids))
        x = x.masked_scatter(mask[..., None], self.features(pixel_values, image_grid_thw).to(x.dtype))
        return self.language(inputs_embeds=x, attention_mask=attention_mask, output_hidden_states=output_hidden_states)

    @torch.no_grad()
    def generate(self, max_new_tokens, input_ids, attention_mask, **inputs) -> torch.Tensor:
        """Greedy tokens, everything recomputed for each."""
        for _ in range(max_new_tokens):
            logits = self(input_ids, attention_mask, **inputs).logits[:, -1]
            input_ids = torch.cat([input_ids, logits.argmax(-1, keepdim=True)], 1)
            attention_mask = torch.cat([attention_mask, torch.ones_like(attention_mask[:, :1])], 1)
        return input_ids


def settings(tie: bool = False) -> SimpleNamespace:
    """Sizes."""
    seen = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, layer_norm_eps=1e-5)
    text = dict(
        hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
        rms_norm_eps=1e-6, rope_theta=5e6, tie_word_embeddings=tie,
    )  # fmt: skip
    return SimpleNamespace(vision=seen, text=text)


def make(folder: Path, sizes: SimpleNamespace, seed: int = 0) -> None:
    """Writes the checkpoint and its reference."""
    torch.manual_seed(seed)
    tokenizer = goldens.byte_pairs(SPECIAL)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    sizes.text["vocab_size"] = tokenizer.get_vocab_size() + 5
    model = Model(
        transformers.MLCDVisionConfig(**sizes.vision, patch_size=14, image_size=336, hidden_act="gelu"),
        transformers.Qwen3Config(**sizes.text, bos_token_id=None, eos_token_id=None, pad_token_id=None),
        (ids["<|image_pad|>"], ids["<|video_pad|>"]),
    ).eval()
    goldens.randomise(model)
    _save(folder, model, tokenizer, sizes, ids)
    pad = ids["<|endoftext|>"]
    images = [goldens.pictures(*shown, seed=number) for number, shown in enumerate(SIZES)]
    prepare = Qwen2VLImageProcessorPil(size=BUDGET, temporal_patch_size=1)
    prepared = prepare([image for shown in images for image in shown], return_tensors="pt")
    grids = iter(prepared["image_grid_thw"].prod(-1).tolist())
    rows = [
        tokenizer.encode(_prompt([next(grids) // 4 for _ in shown], question, "<|image_pad|>")).ids
        for shown, question in zip(images, QUESTIONS, strict=True)
    ]
    longest = max(len(row) for row in rows)
    inputs = {
        "input_ids": torch.tensor([[pad] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
        **prepared,
    }
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    np.savez_compressed(
        folder / "reference.npz",
        **{f"picture_{row}_{view}": image for row, shown in enumerate(images) for view, image in enumerate(shown)},
        **goldens.numpy(inputs),
        questions=np.asarray(QUESTIONS),
        position_ids=positions.numpy().astype(np.int32),
        **goldens.states(model, inputs, _features),
        greedy=goldens.greedy(model, inputs),
        **_video(model, tokenizer, prepare),
        versions=goldens.versions(),
    )


def _features(model, inputs: dict) -> torch.Tensor:
    return model.features(inputs["pixel_values"], inputs["image_grid_thw"])


def _video(model, tokenizer, prepare) -> dict:
    frames = goldens.pictures(*[(84, 112)] * 3, seed=9)
    prepared = prepare(frames, return_tensors="pt")
    rows, columns = prepared["image_grid_thw"][0, 1:].tolist()
    ids = tokenizer.encode(_prompt([3 * rows * columns // 4], QUESTIONS[0], "<|video_pad|>")).ids
    inputs = {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values": prepared["pixel_values"],
        "image_grid_thw": torch.tensor([[3, rows, columns]]),
    }
    return {
        "video_frames": np.stack(frames),
        "video_rate": np.float32(1.0),
        **goldens.numpy(inputs, "video_"),
        "video_position_ids": np.arange(len(ids), dtype=np.int32)[None],
        **goldens.states(model, inputs, _features, "video_"),
    }


def _prompt(counts: list[int], question: str, token: str) -> str:
    pictures = "".join(f"<|vision_start|>{token * count}<|vision_end|>" for count in counts)
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"{pictures}{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def _save(folder: Path, model: Model, tokenizer, sizes: SimpleNamespace, ids: dict[str, int]) -> None:
    """The published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    renamed = (
        ("embeddings.class_embedding", "class_embedding"), ("embeddings.patch_embedding", "patch_embed.proj"),
        ("pre_layrnorm", "pre_layernorm"), ("encoder.layers.", "blocks."), ("self_attn.out_proj", "attn.proj"),
        ("layer_norm1", "norm1"), ("layer_norm2", "norm2"),
    )  # fmt: skip
    for name, value in model.tower.state_dict().items():
        name = name.removeprefix("vision_model.")
        for old, new in renamed:
            name = name.replace(old, new)
        if not name.startswith("post_layernorm"):
            tensors[f"visual.{name}"] = value
    for layer in range(sizes.vision["num_hidden_layers"]):
        for kind in ("weight", "bias"):
            parts = [tensors.pop(f"visual.blocks.{layer}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            tensors[f"visual.blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
    for name, module in (("ln_q", model.ln_q), ("mlp.0", model.up), ("mlp.2", model.down)):
        tensors |= {f"visual.merger.{name}.{kind}": getattr(module, kind).detach() for kind in ("weight", "bias")}
    text = {name: value for name, value in model.language.state_dict().items()}
    if sizes.text["tie_word_embeddings"]:
        text.pop("lm_head.weight", None)
    save_file(
        {name: value.contiguous() for name, value in (tensors | text).items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = {
        "architectures": ["LLaVAOneVision1_5_ForConditionalGeneration"], "model_type": "llavaonevision1_5",
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        "text_config": {**sizes.text, "model_type": "LLaVAOneVision1_5_text", "hidden_act": "silu"},
        "vision_config": {
            "model_type": "rice_vit", "depth": sizes.vision["num_hidden_layers"], "hidden_size": sizes.vision["hidden_size"],
            "embed_dim": sizes.vision["hidden_size"], "num_heads": sizes.vision["num_attention_heads"],
            "intermediate_size": sizes.vision["intermediate_size"], "hidden_act": "gelu", "in_channels": 3, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 1, "layer_norm_eps": 1e-5,
            "text_hidden_size": sizes.text["hidden_size"],
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    pictures = {"min_pixels": BUDGET["shortest_edge"], "max_pixels": BUDGET["longest_edge"], "patch_size": 14}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2) + "\n")
    (folder / "video_preprocessor_config.json").write_text(json.dumps(pictures, indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    make(HERE, settings())
    print(*sorted(path.name for path in HERE.iterdir()))
