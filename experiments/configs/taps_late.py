"""Ablation: taps in the upper half of the decoder (the paper's 'late').

Run: python -m experiments.train --config experiments/configs/taps_late.py --workdir runs/taps_late"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `taps_late.py:tiny` is a minute on two cores."""
    return ablation("taps_late", arg, lifting=dict(taps=(2, 3, 3, 4)))
