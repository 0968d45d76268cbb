"""LLaVA-OneVision-1.5-8B fine-tuned with depth, rays and points: the paper's recipe.

Run: python -m experiments.train --config experiments/configs/llava_onevision1_5_8b.py --workdir runs/ov_8b \\
         --config.init_from=LLaVA-OneVision-1.5-8B-Instruct --config.data.sources.train.path=data/train

init_from is the folder of the published checkpoint; data/train a prepared data set (experiments.prepare).
"""

from experiments.configs.pretrained import finetune


def get_config(arg: str | None = None):
    """The phase; `llava_onevision1_5_8b.py:tiny` trains a small model of the family on rooms, a minute on two cores."""
    return finetune("llava_onevision1_5_8b", arg)
