"""full, with depth, cameras and features of Depth Anything 3 that runs in the training step (docs/teachers.md, "Online").

Run: python -m experiments.train --config experiments/configs/full_online.py --workdir runs/full_online \\
         --config.reuse=runs/full --config.phases.full_online.online.checkpoint=DA3-BASE

Not run with its published weights where this was developed.
"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `full_online.py:tiny` has the sizes of a minute on two cores, but for the teacher's."""
    lifting = dict(distill_features=1536)  # twice DA3-BASE's width: a tap holds a view's state beside that of all views
    online = dict(teacher="da3", checkpoint="DA3-BASE", features=3)
    config = ablation("full_online", arg, losses=dict(distill=1.0), lifting=lifting, online=online)
    config.phases.full_online.data.sources.rooms.labels = "online"
    return config
