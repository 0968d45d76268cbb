"""Ablation: one 3D projector shared by the four taps.

Run: python -m experiments.train --config experiments/configs/shared_projector.py --workdir runs/shared_projector"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `shared_projector.py:tiny` is a minute on two cores."""
    return ablation("shared_projector", arg, lifting=dict(shared_projector=True))
