"""InternVL3-8B fine-tuned with depth, rays and points: the paper's recipe.

Run: python -m experiments.train --config experiments/configs/internvl3_8b.py --workdir runs/internvl3_8b \\
         --config.init_from=InternVL3-8B --config.data.sources.train.path=data/train

init_from is the folder of the published checkpoint, either layout; data/train a prepared data set.
"""

from experiments.configs.pretrained import finetune


def get_config(arg: str | None = None):
    """The phase; `internvl3_8b.py:tiny` trains a small model of the family on rooms, a minute on two cores."""
    return finetune("internvl3_8b", arg)
