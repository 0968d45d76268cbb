"""Text and the point map task alone.

Run: python -m experiments.train --config experiments/configs/points_only.py --workdir runs/points_only"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `points_only.py:tiny` is a minute on two cores."""
    return ablation("points_only", arg, lifting=dict(heads=("points",)), losses=dict(depth=0.0, ray=0.0))
