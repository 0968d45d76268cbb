"""Ablation: all four taps read the last layer (the paper's 'last layer').

Run: python -m experiments.train --config experiments/configs/taps_last.py --workdir runs/taps_last"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `taps_last.py:tiny` is a minute on two cores."""
    return ablation("taps_last", arg, lifting=dict(taps=(4, 4, 4, 4)))
