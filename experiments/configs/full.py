"""The paper's equation 6: text, the three tasks, and the features of the rooms teacher to distil.

Run: python -m experiments.train --config experiments/configs/full.py --workdir runs/full"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `full.py:tiny` is a minute on two cores."""
    return ablation("full", arg, teacher=True, losses=dict(distill=1.0))
