"""Text and the three lifting tasks, no distillation: the objective that the abstract stresses.

Run: python -m experiments.train --config experiments/configs/tasks.py --workdir runs/tasks"""

from experiments.configs.rooms_run import ablation


def get_config(arg: str | None = None):
    """The run; `tasks.py:tiny` is a minute on two cores."""
    return ablation("tasks", arg)
