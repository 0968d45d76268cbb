"""From nothing to a report in eight minutes on two cores: rooms, base, spatial, evaluation.

Run: python -m experiments.train --config experiments/configs/quickstart.py --workdir runs/quickstart
"""

from experiments.configs.rooms_run import QUICKSTART, base_phase, run, scale_for, spatial_phase

# What a small model learns first; shorter questions are also cheaper ones.
TYPES = (
    *("name_at", "colour_at", "colour_of", "where", "presence", "depth_at", "nearer", "left_right"),
    *("camera_distance", "object_abs_distance", "object_size"),
)


def get_config(arg: str | None = None):
    """The run; `quickstart.py:tiny` is the smoke test of continuous integration."""
    scale = scale_for(arg, QUICKSTART)
    base, spatial = base_phase(scale), spatial_phase(scale)
    spatial.data.question_tokens = 17
    spatial.data.sources.rooms.types = TYPES
    if not arg:
        spatial.training.gradient_norm_every = 0  # compiling the probe takes as long as 250 steps here
    return run("quickstart", scale, {"base": base, "spatial": spatial})
