"""full, with depth, cameras and features of VGGT instead of the rooms' own (docs/teachers.md says how to make its labels).

Run: python -m experiments.train --config experiments/configs/full_vggt.py --workdir runs/full_vggt \\
         --config.reuse=runs/full --config.phases.full_vggt.data.sources.rooms.labels=labels/vggt

Not run with VGGT's weights where this was developed.
"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `full_vggt.py:tiny` has the sizes of a minute on two cores."""
    lifting = dict(distill_features=2048)  # width of the last aggregated tokens
    config = ablation("full_vggt", arg, losses=dict(distill=1.0), lifting=lifting)
    config.phases.full_vggt.data.sources.rooms.labels = "labels/vggt"
    return config
