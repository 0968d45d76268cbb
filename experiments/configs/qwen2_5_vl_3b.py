"""Qwen2.5-VL-3B fine-tuned with depth, rays and points: the paper's recipe.

Run: python -m experiments.train --config experiments/configs/qwen2_5_vl_3b.py --workdir runs/qwen_3b \
         --config.init_from=Qwen2.5-VL-3B-Instruct --config.data.sources.train.path=data/train

init_from is the folder of the published checkpoint; data/train a prepared data set (experiments.prepare).
"""

from experiments.configs.pretrained import finetune


def get_config(arg: str | None = None):
    """The phase; `qwen2_5_vl_3b.py:tiny` trains a small model of the family on rooms, a minute on two cores."""
    return finetune("qwen2_5_vl_3b", arg)
