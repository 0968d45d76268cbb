"""The quickstart grown up: more rooms and steps, then a teacher, its label files and the full objective.

Run: python -m experiments.train --config experiments/configs/laptop.py --workdir runs/laptop
"""

from experiments.configs.rooms_run import (
    LAPTOP,
    base_phase,
    label_phase,
    run,
    scale_for,
    spatial_phase,
    teacher_phase,
    use_teacher_labels,
)


def get_config(arg: str | None = None):
    """The run; `laptop.py:tiny` is a minute on two cores."""
    scale = scale_for(arg, LAPTOP)
    teacher = teacher_phase(scale)
    full = use_teacher_labels(spatial_phase(scale, "full"), teacher.teacher.width)
    full.losses.distill = 1.0
    phases = {
        "base": base_phase(scale),
        "spatial": spatial_phase(scale),
        "teacher": teacher,
        "label": label_phase(),
        "full": full,
    }
    return run("laptop", scale, phases)
