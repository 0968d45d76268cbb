"""Text and the ray map (camera) task alone.

Run: python -m experiments.train --config experiments/configs/ray_only.py --workdir runs/ray_only"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `ray_only.py:tiny` is a minute on two cores."""
    return ablation("ray_only", arg, lifting=dict(heads=("ray",)), losses=dict(depth=0.0, points=0.0))
