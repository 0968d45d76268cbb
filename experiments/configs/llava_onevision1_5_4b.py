"""LLaVA-OneVision-1.5-4B fine-tuned with depth, rays and points: the paper's recipe.

Run: python -m experiments.train --config experiments/configs/llava_onevision1_5_4b.py --workdir runs/ov_4b \\
         --config.init_from=LLaVA-OneVision-1.5-4B-Instruct --config.data.sources.train.path=data/train

init_from is the folder of the published checkpoint; data/train a prepared data set (experiments.prepare).
"""

from experiments.configs.pretrained import finetune


def get_config(arg: str | None = None):
    """The phase; `llava_onevision1_5_4b.py:tiny` trains a small model of the family on rooms, a minute on two cores."""
    return finetune("llava_onevision1_5_4b", arg)
