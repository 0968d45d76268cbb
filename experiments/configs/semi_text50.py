"""Semi-supervised row (i) of the paper: text alone, on half of the scenes. Row (iv), text on all of them, is text_only.py.

Run: python -m experiments.train --config experiments/configs/semi_text50.py --workdir runs/semi_text50
"""

from experiments.configs.rooms_run import label_share


def get_config(arg: str | None = None):
    """The run; `semi_text50.py:25` has text for 25 % of the scenes, `:tiny` is a minute on two cores."""
    return label_share("semi_text50", arg, spatial=False, unlabelled=False)
