"""Control: text alone, the same data and steps as the other rows (the paper's '+ text').

Run: python -m experiments.train --config experiments/configs/text_only.py --workdir runs/text_only"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `text_only.py:tiny` is a minute on two cores."""
    return ablation("text_only", arg, lifting=dict(heads=()), losses=dict(depth=0.0, ray=0.0, points=0.0))
