"""Semi-supervised row (ii) of the paper: text and the spatial losses, on half of the scenes.

Run: python -m experiments.train --config experiments/configs/semi_both50.py --workdir runs/semi_both50
"""

from experiments.configs.rooms_run import label_share


def get_config(arg: str | None = None):
    """The run; `semi_both50.py:25` has text for 25 % of the scenes, `:tiny` is a minute on two cores."""
    return label_share("semi_both50", arg, spatial=True, unlabelled=False)
