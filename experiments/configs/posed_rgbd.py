"""Goes on from a trained run with your own posed RGB-D frames beside rooms, so that language is kept.

Run: python -m experiments.prepare --source posed_rgbd --raw my_scans --views 4 --out data/scans
     python -m experiments.train --config experiments/configs/posed_rgbd.py --workdir runs/scans \
         --config.init_from=runs/quickstart --config.data.sources.rooms.path=runs/quickstart/data/rooms \
         --config.data.sources.frames.path=data/scans
"""

from experiments.configs import common
from experiments.configs.rooms_run import QUICKSTART, scale_for, spatial_phase


def get_config(arg: str | None = None):
    """One phase of the objective `tasks`: two rows of rooms and two of your frames a batch."""
    config = spatial_phase(scale_for(arg, QUICKSTART), "posed_rgbd", init_from="runs/quickstart")
    config.data.sources.rooms.update(path="runs/quickstart/data/rooms", per_batch=2)
    config.data.sources.frames = common.source("data/scans", per_batch=2)
    config.training.steps = 300
    config.evaluation.scenes = -1
    return config
