"""Control that the paper lacks: full, with the 3D targets of another scene (same compute, no information).

Run: python -m experiments.train --config experiments/configs/full_shuffled3d.py --workdir runs/full_shuffled3d
"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `full_shuffled3d.py:tiny` is a minute on two cores."""
    config = ablation("full_shuffled3d", arg, teacher=True, losses=dict(distill=1.0))
    config.phases.full_shuffled3d.data.sources.rooms.shuffle3d = True
    return config
