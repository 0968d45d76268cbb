"""Option: the three tasks share one reassembly (Depth Anything 3's dual DPT).

Run: python -m experiments.train --config experiments/configs/dual_dpt.py --workdir runs/dual_dpt"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `dual_dpt.py:tiny` is a minute on two cores."""
    return ablation("dual_dpt", arg, lifting=dict(dual_dpt=True))
