"""Semi-supervised row (iii) of the paper: text and the spatial losses on half of the scenes, the spatial losses on the rest.

Run: python -m experiments.train --config experiments/configs/semi_plus_unlabelled.py --workdir runs/semi_plus
"""

from experiments.configs.rooms_run import label_share


def get_config(arg: str | None = None):
    """The run; `semi_plus_unlabelled.py:25` has text for 25 % of the scenes, `:tiny` is a minute on two cores."""
    return label_share("semi_plus_unlabelled", arg, spatial=True, unlabelled=True)
