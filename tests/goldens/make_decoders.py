"""Makes tests/goldens/decoders: small random language models of transformers with what they compute.

    python -m pip install torch transformers==5.23.* && python tests/goldens/make_decoders.py

Every parameter is random (transformers starts biases at 0 and norms at 1, which would hide mistakes).
Each folder holds config.json and model.safetensors as `save_pretrained` writes them, and
reference.npz: tokens int32[B,S], mask bool[B,S] (padding on the right), hidden float32[L+1,B,S,D],
logits float32[B,S,N], logits_bfloat16 (the model in bfloat16), greedy int32[32] after the first row.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent / "decoders"
COMMON = dict(vocab_size=40, hidden_size=24, intermediate_size=40, num_hidden_layers=4, max_position_embeddings=128)
MODELS = {
    "qwen2": transformers.Qwen2Config(
        **COMMON, num_attention_heads=4, num_key_value_heads=2, rope_theta=1e6, tie_word_embeddings=True
    ),
    "qwen3": transformers.Qwen3Config(
        **COMMON, num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5, rope_theta=5e3
    ),
    "llama": transformers.LlamaConfig(**COMMON, num_attention_heads=3, num_key_value_heads=3, rms_norm_eps=1e-5),
}


def randomise(model: torch.nn.Module) -> None:
    """Biases and norms that matter; layers that add to the embeddings, as in trained models, not drown them."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(0.3 * torch.randn_like(parameter) + (1.0 if "norm" in name else 0.0))
            else:
                gain = 0.5 if ".layers." in name else 1.0
                parameter.copy_(gain * torch.randn_like(parameter) / parameter.shape[1] ** 0.5)


def main() -> None:
    """Writes all folders."""
    for number, (name, config) in enumerate(MODELS.items()):
        torch.manual_seed(number)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        randomise(model)
        folder = HERE / name
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        tokens = torch.randint(0, 40, (2, 13))
        mask = torch.ones_like(tokens)
        mask[1, 9:] = 0
        with torch.no_grad():
            out = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
            # Without a mask, tokens equal to pad_token_id would count as padding.
            asked = dict(input_ids=tokens[:1], attention_mask=mask[:1], pad_token_id=0)
            greedy = model.generate(**asked, do_sample=False, min_new_tokens=32, max_new_tokens=32)
            half = model.to(torch.bfloat16)(input_ids=tokens, attention_mask=mask).logits.float()
        np.savez_compressed(
            folder / "reference.npz",
            tokens=tokens.numpy().astype(np.int32),
            mask=mask.numpy().astype(bool),
            hidden=torch.stack(out.hidden_states).numpy(),
            logits=out.logits.numpy(),
            logits_bfloat16=half.numpy(),
            greedy=greedy[0, 13:].numpy().astype(np.int32),
            versions=json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}),
        )
        print(name, sorted(path.name for path in folder.iterdir()))


if __name__ == "__main__":
    main()
