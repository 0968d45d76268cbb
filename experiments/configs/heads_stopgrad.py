"""Control that the paper lacks: the heads learn, no 3D gradient reaches the language model.

Run: python -m experiments.train --config experiments/configs/heads_stopgrad.py --workdir runs/heads_stopgrad"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `heads_stopgrad.py:tiny` is a minute on two cores."""
    return ablation("heads_stopgrad", arg, lifting=dict(stop_gradient=True))
