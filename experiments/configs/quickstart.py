"""From nothing to a report in eight minutes on two cores: rooms, base, spatial, evaluation.

Run: python -m experiments.train --config experiments/configs/quickstart.py --workdir runs/quickstart
"""

from experiments.configs import common
from experiments.configs.rooms_run import QUICKSTART, base_phase, run, scale_for, spatial_phase

# A room in four is asked the rest: half an hour's learning, not three minutes'. All are short.
FIRST = ("colour_at", "colour_of", "where")
LATER = (
    *("name_at", "presence", "depth_at", "nearer", "left_right"),
    *("camera_distance", "object_abs_distance", "object_size"),
)


def get_config(arg: str | None = None):
    """The run; `quickstart.py:tiny` is the smoke test of continuous integration."""
    scale = scale_for(arg, QUICKSTART)
    base, spatial = base_phase(scale), spatial_phase(scale)
    spatial.optimizer.weight_decay = 0.5
    spatial.data.question_tokens = 17
    spatial.data.sources.rooms.update(types=FIRST, per_batch=scale.rows - 1)
    spatial.data.sources.others = common.source(types=LATER, per_batch=1)
    if not arg:
        spatial.training.gradient_norm_every = 0  # compiling the probe takes as long as 250 steps here
    return run("quickstart", scale, {"base": base, "spatial": spatial})
