"""Text and the depth task alone.

Run: python -m experiments.train --config experiments/configs/depth_only.py --workdir runs/depth_only"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `depth_only.py:tiny` is a minute on two cores."""
    return ablation("depth_only", arg, lifting=dict(heads=("depth",)), losses=dict(ray=0.0, points=0.0))
