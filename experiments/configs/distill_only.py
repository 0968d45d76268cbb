"""Text and coarse feature distillation from the rooms teacher (the paper's '+ distill').

Run: python -m experiments.train --config experiments/configs/distill_only.py --workdir runs/distill_only"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `distill_only.py:tiny` is a minute on two cores."""
    return ablation(
        "distill_only",
        arg,
        teacher=True,
        lifting=dict(heads=()),
        losses=dict(distill=1.0, depth=0.0, ray=0.0, points=0.0),
    )
