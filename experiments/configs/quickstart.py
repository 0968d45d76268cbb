"""From nothing to a report in eight minutes on two cores: rooms, base, spatial, evaluation.

Run: python -m experiments.train --config experiments/configs/quickstart.py --workdir runs/quickstart
"""

from experiments.configs.rooms_run import QUICKSTART, base_phase, run, scale_for, spatial_phase


def get_config(arg: str | None = None):
    """The run; `quickstart.py:tiny` is the smoke test of continuous integration."""
    scale = scale_for(arg, QUICKSTART)
    return run("quickstart", scale, {"base": base_phase(scale), "spatial": spatial_phase(scale)})
