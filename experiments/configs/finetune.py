"""Fine-tunes any Hugging Face checkpoint of a known family with depth, rays and points; its sizes are read from it.

Run: python -m experiments.train --config experiments/configs/finetune.py --workdir runs/mine \
         --config.init_from=MyModel --config.data.sources.train.path=data/train

Taps follow the rule for the model's depth (docs/method.md, 3); the paper's models have configs of their own.
"""

from ml_collections import ConfigDict

from experiments.configs.pretrained import recipe, small


def get_config(arg: str | None = None):
    """The phase; `finetune.py:tiny` has heads, batches and steps for two cores and a small checkpoint."""
    config = recipe("finetune", "auto")
    # () = the family's usual picture size; families with one size of pictures take no other.
    config.vision = ConfigDict(dict(image_size=(), trainable=False))
    config.language = ConfigDict(dict(attention="auto", dtype="bfloat16", remat="full", lora_rank=0, lora_alpha=16.0))
    config.data.buckets = 4  # at most that many shapes of batches, chosen from the data; each is one compilation
    if arg == "tiny":
        small(config)
        config.language.update(dtype="float32", remat="none")
    elif arg:
        raise ValueError(f"Config argument '{arg}' is unknown; use none, or 'tiny'.")
    return config
